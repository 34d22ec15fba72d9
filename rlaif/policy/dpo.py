"""Direct preference optimisation with soft labels (Rafailov et al. 2023, 2305.18290; RECIPES §6).

h = β·[(log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l))] goes into the same soft loss as a reward
difference; with p in {0, 1} it is plain DPO. The reference is the start model itself, an explicit folder with a hash;
its log-probabilities are computed once, on the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from rlaif.models.local import load_network
from rlaif.models.shared_prompt import Rows, sharing_works, token_logprobs
from rlaif.policy import PolicyContext, PolicyReport, Reward, Sample
from rlaif.records import Prompt, Response
from rlaif.training.batching import Group, group_preferences, need_labels
from rlaif.training.checkpoints import save_whole
from rlaif.training.losses import dpo_difference
from rlaif.training.passes import pair_index, sequence_logprobs
from rlaif.training.trainer import PreferenceTrainer, TrainingOptions, choose_attention


class DPO:
    class Options(TrainingOptions):
        learning_rate: float = Field(default=1e-6, gt=0)
        beta: float = Field(default=0.1, gt=0)

    needs_reward = False
    writes_weights = True

    def __init__(self, options: Options, where: str) -> None:
        self.options = options

    def train(self, context: PolicyContext) -> PolicyReport:
        start = context.start
        data = group_preferences(
            context.watch.through(context.preferences()),
            start.tokens,
            self.options.room(start.context),
            keep=lambda prompt: not context.is_held_out(prompt),
            ended=context.ended,
        )
        need_labels(data, "dpo", self.options.room(start.context))
        network = load_network(start.folder, start.options, "float32", start.where, adapter=start.adapter)
        choose_attention(network, self.options, start.options.attention)
        pad_id = start.tokens.pad_id
        share, why = sharing_works(network, pad_id)
        if not share:
            start.notice(f"{start.where}: prompts are not shared between rows of this model ({why}).")
        passing = context.watch.passing("reference log-probabilities", network)
        with self.options.autocast(network), passing as done:
            reference = sequence_logprobs(network.eval(), data.groups, pad_id, share=share, done=done)
        trainer = _Trainer(network, data.groups, self.options, context.work, context.seed, context.watch)
        trainer.reference, trainer.share, trainer.pad_id, trainer.beta = reference, share, pad_id, self.options.beta
        history = trainer.run()
        save_whole(network, start, context.out)
        return PolicyReport(
            history,
            pairs=data.pairs,
            too_long=data.too_long,
            held_out_pairs=data.left_out,
            no_label=data.no_label,
        )

    async def respond(
        self, prompts: Sequence[Prompt], model: Any, sample: Sample, reward: Reward | None
    ) -> list[Response | None]:
        return [many[0] if many else None for many in await sample(model, prompts, 1)]

    def kl_bound(self) -> float | None:
        return None


class _Trainer(PreferenceTrainer):
    reference: list[list[float]]
    share: bool
    pad_id: int
    beta: float

    def differences(self, model: Any, rows: Rows, groups: Sequence[Group], first: int) -> torch.Tensor:
        logprobs, _ = token_logprobs(model, rows, self.pad_id, share=self.share)
        policy = logprobs.sum(-1)
        stored = [value for i in self.plan.batches[first] for value in self.reference[i]]
        reference = torch.tensor(stored, dtype=policy.dtype, device=policy.device)
        a, b = pair_index(groups, policy.device)
        return dpo_difference(policy[a], policy[b], reference[a], reference[b], self.beta)
