"""Direct preference optimisation with soft labels (Rafailov et al. 2023, 2305.18290), and its relatives.

h = β·[(log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l))] goes into the same soft loss as a reward
difference; with p in {0, 1} it is plain DPO. ``label_smoothing`` makes it conservative DPO, ``flip_rate`` robust DPO, ``loss:
ipo`` IPO, whose log-ratios are per token unless ``length_average`` is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from rlaif.models.rows import Rows
from rlaif.policy.offline import AgainstReference, OfflineTrainer, tokens_of
from rlaif.training.batching import Group
from rlaif.training.losses import ipo_loss, smoothed, soft_preference_loss, unflipped
from rlaif.training.trainer import TrainingOptions


class _Trainer(OfflineTrainer):
    options: DPO.Options

    def values(self, model: Any, rows: Rows, groups: Sequence[Group], first: int) -> torch.Tensor:
        ratios = self.log_ratios(model, rows, first)
        per_token = self.options.loss == "ipo" and self.options.length_average
        return ratios / tokens_of(groups, ratios.device) if per_token else ratios

    def total(
        self, one: torch.Tensor, other: torch.Tensor, p: torch.Tensor, weight: torch.Tensor, first: int
    ) -> torch.Tensor:
        p = smoothed(p, self.options.label_smoothing)
        if self.options.loss == "ipo":
            return ipo_loss(one - other, p, weight, self.options.beta)
        return soft_preference_loss(self.options.beta * (one - other), unflipped(p, self.options.flip_rate), weight)


class DPO(AgainstReference):
    class Options(TrainingOptions):
        learning_rate: float = Field(default=1e-6, gt=0)
        beta: float = Field(default=0.1, gt=0)  # of IPO: τ
        loss: Literal["sigmoid", "ipo"] = "sigmoid"
        label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)  # share of labels taken to be wrong
        flip_rate: float = Field(default=0.0, ge=0, lt=0.5)  # chance that a label was flipped, where it is known
        length_average: bool = True  # of IPO: log-ratios per token, as its authors computed them

        @model_validator(mode="after")
        def _one_view_of_labels(self) -> Self:
            if self.label_smoothing and self.flip_rate:
                raise ValueError("label_smoothing and flip_rate are two views of the same mistakes: set one of them")
            if self.loss == "ipo" and self.flip_rate:
                raise ValueError("flip_rate undoes flips in the sigmoid loss: with loss: ipo leave it out")
            if self.loss == "sigmoid" and "length_average" in self.model_fields_set:
                raise ValueError('"length_average" is of loss: ipo')
            return self

    name = "dpo"
    trainer = _Trainer
