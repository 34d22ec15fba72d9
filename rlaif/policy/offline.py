"""What methods have in common that learn from preferences against a reference, without sampling.

The reference is the start model itself, an explicit folder with a hash; its log-probabilities are computed once, on the
same rows. A method says by its trainer what a response is worth and what a pair's loss is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlaif.models.local import LocalModel
from rlaif.models.rows import Rows
from rlaif.models.shared_prompt import token_logprobs
from rlaif.policy import PolicyContext, PolicyReport, Tuned
from rlaif.training.batching import Group, drawn, group_preferences, need_labels
from rlaif.training.passes import Done, kept_logprobs, sequence_logprobs, spread
from rlaif.training.trainer import PreferenceTrainer, ShownPrompts, fit


class AgainstReference(Tuned):
    """A method with an ``Options`` model and an ``OfflineTrainer``."""

    name: str
    trainer: type[OfflineTrainer]

    def __init__(self, options: Any, where: str) -> None:
        self.options = options

    def train(self, context: PolicyContext) -> PolicyReport:
        start, options = context.start, self.options
        shown = ShownPrompts(context.is_held_out)
        data = group_preferences(
            shown.of_preferences(context.watch.through(context.preferences())),
            start.tokens,
            options.room(start.context),
            keep=lambda prompt: not context.is_held_out(prompt),
            ended=context.ended,
            source_of=context.source_of,
        )
        data = drawn(data, options.labels, context.seed)
        need_labels(data, self.name, options.room(start.context))
        trained, history, samples = fit(
            self.trainer,
            start,
            data.groups,
            options,
            work=context.work,
            seed=context.seed,
            watch=context.watch,
            prompts=shown.prompts,
            kept=(context.kept, start.identity.sha256) if context.kept else None,
        )
        trained.save(context.out)
        return PolicyReport(history, account=data.account, samples=samples)


class OfflineTrainer(PreferenceTrainer):
    """Knows log π and log π_ref of every response of a micro-batch, each a sum over its tokens."""

    reference: list[list[float]]
    kept: tuple[Path, str] | None = None  # where passes of the reference are kept, and what they depend on

    def prepare(self, base: LocalModel, kept: tuple[Path, str] | None) -> None:
        bits = self.options.lora.bits if self.options.lora else None
        self.kept = (kept[0], f"{kept[1]} {self.options.precision} {self.share} {bits}") if kept else None
        network: Any = self.model
        network.eval()
        with self.options.autocast(network), self.watch.passing("reference log-probabilities", network) as done:
            self.look_at_reference(network, self.options.room(base.context), done)

    def look_at_reference(self, network: Any, max_tokens: int, done: Done = lambda groups, total: None) -> None:
        """Compute what the reference makes of the rows, once."""
        self.reference = self.by_reference(network, self.groups, done)

    def by_reference(self, network: Any, groups: Sequence[Group], done: Done) -> list[list[float]]:
        """log π_ref of every response of groups, computed once for all methods of a run that have this reference; of several
        processes each passes its share through the network."""
        return kept_logprobs(
            self.kept,
            groups,
            lambda: spread(
                groups, lambda own: sequence_logprobs(network, own, self.pad_id, share=self.share, done=done)
            ),
        )

    def log_ratios(self, model: Any, rows: Rows, first: int) -> torch.Tensor:
        """log π − log π_ref of every response, of shape (rows,)."""
        logprobs, _ = token_logprobs(model, rows, self.pad_id, share=self.share)
        policy = logprobs.sum(-1)
        stored = [value for i in self.plan.batches[first] for value in self.reference[i]]
        return policy - torch.tensor(stored, dtype=policy.dtype, device=policy.device)


def tokens_of(groups: Sequence[Group], device: Any) -> torch.Tensor:
    """The length of every response in tokens."""
    return torch.tensor([len(each) for group in groups for each in group.responses], device=device)
