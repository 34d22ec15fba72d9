"""What methods have in common that learn from preferences against a reference, without sampling.

The reference is the start model itself, an explicit folder with a hash; its log-probabilities are computed once, on the
same rows. A method says by its trainer what a response is worth and what a pair's loss is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlaif.models.shared_prompt import Rows, token_logprobs
from rlaif.policy import PolicyContext, PolicyReport, Tuned
from rlaif.training.batching import Group, group_preferences, need_labels
from rlaif.training.networks import Trained
from rlaif.training.passes import Done, kept_logprobs, sequence_logprobs
from rlaif.training.trainer import PreferenceTrainer


class AgainstReference(Tuned):
    """A method with an ``Options`` model and an ``OfflineTrainer``."""

    name: str
    trainer: type[OfflineTrainer]

    def __init__(self, options: Any, where: str) -> None:
        self.options = options

    def train(self, context: PolicyContext) -> PolicyReport:
        start, options = context.start, self.options
        data = group_preferences(
            context.watch.through(context.preferences()),
            start.tokens,
            options.room(start.context),
            keep=lambda prompt: not context.is_held_out(prompt),
            ended=context.ended,
            source_of=context.source_of,
        )
        need_labels(data, self.name, options.room(start.context))
        trained = Trained(start, options, seed=context.seed)
        network = trained.network
        trainer = self.trainer(network, data.groups, options, context.work, context.seed, context.watch)
        trainer.share, trainer.pad_id = trained.share, start.tokens.pad_id
        trainer.kept = context.kept, f"{start.identity.sha256} {options.precision} {trained.share}"
        passing = context.watch.passing("reference log-probabilities", network)
        with options.autocast(network), passing as done:
            trainer.look_at_reference(network.eval(), options.room(start.context), done)
        history = trainer.run()
        trained.save(context.out)
        return PolicyReport(
            history,
            pairs=data.pairs,
            too_long=data.too_long,
            held_out_pairs=data.left_out,
            no_label=data.no_label,
        )


class OfflineTrainer(PreferenceTrainer):
    """Knows log π and log π_ref of every response of a micro-batch, each a sum over its tokens."""

    reference: list[list[float]]
    kept: tuple[Path | None, str] = (None, "")  # where passes of the reference are kept, and what they depend on

    def look_at_reference(self, network: Any, max_tokens: int, done: Any = lambda groups, total: None) -> None:
        """Compute what the reference makes of the rows, once."""
        self.reference = self.by_reference(network, self.groups, done)

    def by_reference(self, network: Any, groups: Sequence[Group], done: Done) -> list[list[float]]:
        """log π_ref of every response of groups, computed once for all methods of a run that have this reference."""
        folder, names = self.kept
        return kept_logprobs(
            folder,
            names,
            groups,
            lambda: sequence_logprobs(network, groups, self.pad_id, share=self.share, done=done),
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
