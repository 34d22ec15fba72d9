"""Prompts to responses, responses to comparisons."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.config import Sampling
from rlaif.errors import CallError, DataError
from rlaif.models import ChatRequest, Identity, Reply, sampling_text
from rlaif.models.gateway import Gateway
from rlaif.ondisk import Seen
from rlaif.pairs import Pair
from rlaif.records import Comparison, Exclusion, Message, Prompt, Record, Response, digest
from rlaif.selection import Selector, selected


@dataclass(frozen=True)
class Sampler:
    """A stage from prompts to K responses of each model, in the order of the prompts."""

    gateway: Gateway
    models: Mapping[str, Any]  # by role
    samples: int
    sampling: Sampling
    seed: int

    async def __call__(self, batches: AsyncIterator[list[Prompt]]) -> AsyncIterator[list[Record]]:
        def sample(prompts: list[Prompt]) -> Coroutine[Any, Any, list[Response | Exclusion]]:
            every = (
                self.one(role, model, prompt, index)
                for prompt in prompts
                for role, model in self.models.items()
                for index in range(self.samples)
            )
            return self.gateway.gather(self.models.values(), every)

        async for records in self.gateway.in_order(self.models.values(), batches, sample):
            yield list(records)

    async def one(self, role: str, model: Any, prompt: Prompt, index: int) -> Response | Exclusion:
        """One response, or why there is none."""
        try:
            request = self.request(prompt, index)
            _, reply = await self.gateway.ask(model, request, {"sample": prompt.id, "index": index})
        except CallError as error:
            return Exclusion(
                item_id=f"{prompt.id}/{role}/{index}",
                outcome=error.outcome,
                reason=str(error),
                retryable=error.retryable,
            )
        return self.response(role, model, prompt, index, reply)

    def request(self, prompt: Prompt, index: int) -> ChatRequest:
        return ChatRequest(messages=prompt.messages, sampling=self.sampling, seed=self.seed, sample_index=index)

    def response(self, role: str, model: Any, prompt: Prompt, index: int, reply: Reply) -> Response:
        return Response(
            prompt_id=prompt.id,
            messages=(Message(role="assistant", content=reply.text),),
            generator=generator_name(role, model.identity),
            revision=model.identity.revision,
            sampling=sampling_text(self.sampling),
            sample_index=index,
            prompt_tokens=reply.prompt_tokens,
            output_tokens=reply.output_tokens,
            token_ids=reply.token_ids,
            finish_reason="length" if reply.finish_reason == "length" else "stop",
        )


PER_PROMPT = 8  # reference samples of one prompt, at most: further ones say little of other prompts


def reference_each(wanted: int, prompts: int) -> int:
    """How many samples of each of so many prompts make ``wanted`` in all, or come near it where there are few prompts."""
    return min(PER_PROMPT, math.ceil(wanted / max(1, prompts)))


def generator_name(role: str, identity: Identity) -> str:
    """How a response names who sampled it: role and hash of the model."""
    return f"{role}@{identity.sha256[:12]}"


def grouped(prompts: Iterable[Prompt], responses: Iterable[Response]) -> Iterator[tuple[Prompt, list[Response]]]:
    """Each prompt with its responses; both streams are in the order of the prompts."""
    by_prompt = itertools.groupby(responses, key=lambda response: response.prompt_id)
    held = next(by_prompt, None)
    for prompt in prompts:
        own: list[Response] = []
        if held and held[0] == prompt.id:
            own = list(held[1])
            held = next(by_prompt, None)
        yield prompt, own
    if held:
        raise DataError(f"responses: {held[0]} is out of order or is not a prompt of this run.")


@dataclass(frozen=True)
class Compare:
    """A stage from (prompt, responses) to the comparisons a selector picks."""

    selector: Selector

    async def __call__(
        self, batches: AsyncIterator[list[tuple[Prompt, list[Response]]]]
    ) -> AsyncIterator[list[Record]]:
        async for batch in batches:
            yield [record for prompt, responses in batch for record in self.of(prompt, responses)]

    def of(self, prompt: Prompt, responses: Sequence[Response]) -> Iterator[Record]:
        pairs = selected(self.selector, prompt, responses)
        if isinstance(pairs, str):
            yield Exclusion(item_id=prompt.id, outcome="filtered", reason=pairs)
            return
        for places in pairs:
            together = {responses[i].messages: responses[i] for i in reversed(places)}  # of equal ones the first
            different = [responses[i] for i in places if together[responses[i].messages] is responses[i]]
            if len(different) < 2:
                item = "/".join([prompt.id, *(responses[i].id for i in places)])
                yield Exclusion(item_id=item, outcome="filtered", reason="identical responses")
            else:
                yield Comparison(prompt=prompt, responses=tuple(different))


class ReadPairs:
    """A stage from the rows of a pair file to its prompts, responses and comparisons, each once."""

    def __init__(self) -> None:
        self.seen = Seen()

    async def __call__(self, batches: AsyncIterator[list[Pair]]) -> AsyncIterator[list[Record]]:
        async for batch in batches:
            yield [record for pair in batch for record in self.of(pair)]

    def of(self, pair: Pair) -> Iterator[Record]:
        comparison = pair.comparison
        if isinstance(comparison, str):
            item = f"row-{digest(pair.where, length=12)}"
            yield Exclusion(item_id=item, outcome="filtered", reason=comparison)
            return
        repeated = self._repeated(comparison, pair)
        if not self.seen.add(comparison.id):
            outcome: Any = "joined" if pair.votes else "filtered"
            yield Exclusion(item_id=comparison.id, outcome=outcome, reason=repeated)
            return
        for record in (comparison.prompt, *comparison.responses):
            if self.seen.add(record.id):
                yield record
        yield comparison

    def _repeated(self, comparison: Comparison, pair: Pair) -> str:
        """What a row is that may have come before. Its votes are not lost: labels are read by comparison, from all rows."""
        if not pair.votes:
            return "another row of the same pair"
        unnamed = all(vote.labeller is None for vote in pair.votes)
        said = digest("votes", comparison.id, pair.first, [[vote.p, vote.order] for vote in pair.votes])
        if unnamed and not self.seen.add(said):
            return "the same row again, no annotator named: read as another person's votes"
        return "another row of the same pair: its votes are joined"


def draw_seed(purpose: str, seed: int) -> int:
    """The seed of the samples for a purpose: none of the draws for another, nor of those that are trained on."""
    return int(digest(purpose, seed, length=12), 16)
