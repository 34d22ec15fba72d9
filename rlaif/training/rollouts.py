"""What a policy says while it is tuned: sampled with the weights as they are, kept token for token.

A draw is keyed by seed, prompt, sample index and the policy's version (how many steps it has made), so that a training that goes
on from a checkpoint samples again what it had sampled.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rlaif.config import Sampling
from rlaif.models import ChatRequest, Reply
from rlaif.models.local import LocalModel
from rlaif.policy import Rewarded
from rlaif.records import Message, Prompt, Response, digest
from rlaif.training.batching import Group

ALWAYS = -1  # in the place of a version, of draws that no version changes
TENSORS = ("old", "reference", "values", "advantages", "returns")


@dataclass
class Rollouts:
    """Prompts of one step that go through the network together, each with the responses it was given.

    Tensors by token are of shape (rows, longest response), rows in the order of the responses, 0 past a row's end.
    """

    prompts: list[Prompt]
    groups: list[Group]  # token ids
    responses: list[list[Response]]
    rewarded: list[list[Rewarded]] = field(default_factory=list)
    old: Tensor | None = None  # log π of each token as it was sampled
    reference: Tensor | None = None  # log π_ref of each
    values: Tensor | None = None  # V before each
    advantages: Tensor | None = None  # (rows,) or by token
    returns: Tensor | None = None  # what V should have been
    number: int = 0  # of a micro-batch whose shares lie in several processes
    shares: tuple[int, ...] = ()  # and how many of its prompts each has

    @property
    def ended(self) -> list[bool]:
        """Of each row whether it ended by itself."""
        return [response.finish_reason != "length" for many in self.responses for response in many]

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for group in self.groups for ids in group.responses]

    def items(self) -> list[tuple[Prompt, list[Response]]]:
        return list(zip(self.prompts, self.responses, strict=True))

    def to(self, device: Any) -> Rollouts:
        """The same with its tensors there."""
        return replace(
            self, **{name: values.to(device) for name in TENSORS if (values := getattr(self, name)) is not None}
        )

    def best(self) -> Rollouts:
        """Of each prompt the response of the highest advantage alone."""
        assert self.advantages is not None
        places = self.advantages.reshape(len(self.groups), -1).argmax(1)
        rows = places + torch.arange(len(self.groups), device=places.device) * (
            len(self.advantages) // len(self.groups)
        )
        each = list(enumerate(places.tolist()))
        groups = [
            Group(self.groups[i].prompt_id, self.groups[i].prompt, [self.groups[i].responses[k]]) for i, k in each
        ]
        width = max(len(group.responses[0]) for group in groups)
        return Rollouts(
            self.prompts,
            groups,
            [[self.responses[i][k]] for i, k in each],
            [[self.rewarded[i][k]] for i, k in each],
            old=None if self.old is None else self.old[rows, :width],
            reference=None if self.reference is None else self.reference[rows, :width],
            advantages=self.advantages[rows],
        )

    def totals(self) -> tuple[Tensor, Tensor]:
        """Rewards of shape (groups, K) as float32, 0 where there is none, and which there are."""
        values = [[reward.total for reward in many] for many in self.rewarded]
        known = torch.tensor([[value is not None for value in many] for many in values])
        return torch.tensor([[value or 0.0 for value in many] for many in values]), known


def joined(parts: Sequence[Rollouts]) -> Rollouts:
    """Parts as one, in their order."""
    whole = Rollouts(
        [prompt for part in parts for prompt in part.prompts],
        [group for part in parts for group in part.groups],
        [many for part in parts for many in part.responses],
    )
    found: dict[str, Any] = {name: stacked([getattr(part, name) for part in parts]) for name in TENSORS}
    return replace(whole, **found)


def stacked(values: Sequence[Tensor | None]) -> Tensor | None:
    """Rows of tensors below one another, with zeros up to the longest; None where one is."""
    known = [each for each in values if each is not None]
    if len(known) < len(values) or not known:
        return None
    width = max(each.shape[-1] for each in known)
    return torch.cat(
        [torch.nn.functional.pad(each, (0, width - each.shape[-1])) if each.dim() > 1 else each for each in known]
    )


class PolicySampler:
    """Samples from a network that is being tuned, as ``LocalModel`` does from one that is not."""

    def __init__(
        self, start: LocalModel, network: Any, *, caches: bool, sampling: Sampling, samples: int, seed: int
    ) -> None:
        self.model = copy.copy(start)
        self.model._network, self.model.caches = network, caches
        self.sampling, self.samples, self.seed = sampling, samples, seed

    def _request(self, prompt: Prompt, version: int, index: int) -> ChatRequest:
        seed = int(digest("rollout", self.seed, version, length=12), 16)
        return ChatRequest(messages=prompt.messages, sampling=self.sampling, seed=seed, sample_index=index)

    def requests(self, prompts: Sequence[Prompt], version: int, samples: int | None = None) -> list[ChatRequest]:
        """What is asked of the policy for so many responses to each prompt (None: as many as a step takes)."""
        count = samples or self.samples
        return [self._request(prompt, version, index) for prompt in prompts for index in range(count)]

    def sample(
        self,
        prompts: Sequence[Prompt],
        version: int,
        samples: int | None = None,
        replies: Sequence[Reply] | None = None,
    ) -> Rollouts:
        """So many responses to each prompt, by the policy's present version; ``replies``: those that another gave to the
        same requests."""
        count = samples or self.samples
        if replies is None:
            replies = self._answered(self.requests(prompts, version, samples))
        responses = [
            [self._response(prompt, index, version, replies[n * count + index]) for index in range(count)]
            for n, prompt in enumerate(prompts)
        ]
        groups = [
            Group(prompt.id, tuple(self.model.tokens.prompt_ids(prompt.messages)), [r.token_ids or () for r in many])
            for prompt, many in zip(prompts, responses, strict=True)
        ]
        return Rollouts(list(prompts), groups, responses)

    def _answered(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        for batch in self.model.plan(requests):
            replies.update(zip(batch, self.model.complete_batch([requests[i] for i in batch]), strict=True))
        return [replies[i] for i in range(len(requests))]

    def _response(self, prompt: Prompt, index: int, version: int, reply: Reply) -> Response:
        said = (Message(role="assistant", content=reply.text),)
        ended, tokens = reply.finish_reason != "length", self.model.tokens
        ids = tokens.response_ids(prompt.messages, said, ended=ended) if reply.token_ids is None else reply.token_ids
        return Response(
            prompt_id=prompt.id,
            messages=said,
            generator=f"policy after {version} steps" if version >= 0 else "policy looked at",
            sample_index=index,
            output_tokens=len(ids),
            token_ids=tuple(ids if not ended else tokens.ended(ids)),
            finish_reason="stop" if ended else "length",
        )
