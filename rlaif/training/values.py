"""A value network beside the policy: what reward is still to be expected before each token.

It begins as the reward model, where that reads the policy's tokens, else as the start model, with a head of zeros (Ouyang et
al. 2022, 2203.02155 App. C.4; Huang et al. 2024, 2403.17031), and shares no weights with the policy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from rlaif.models.local import LocalModel, load_network
from rlaif.models.shared_prompt import hidden_self_test, sharing_works, token_hidden
from rlaif.training.networks import by_head, checkpoint, decaying_groups
from rlaif.training.online import OnlineOptions, OnlineTrainer
from rlaif.training.passes import rows_of
from rlaif.training.rollouts import Rollouts


class ValueOptions(OnlineOptions):
    value_learning_rate: float | None = Field(default=None, gt=0)  # None: the policy's
    value_weight: float = Field(default=0.1, gt=0)  # of its loss beside the policy's


class ValueTrainer(OnlineTrainer):
    by_group = False
    options: ValueOptions

    def open_more(self, value_folder: Path | None) -> None:
        start = self.start
        folder = value_folder if value_folder and reads_alike(value_folder, start) else None
        if value_folder and not folder:
            start.notice(
                f"the value network begins as the start model: the reward model in {value_folder.name} does not read the policy's "
                "tokens, or not as many of them."
            )
        network = load_network(
            folder or start.folder,
            start.options,
            "float32",
            start.where,
            adapter=None if folder else start.adapter,
            head=True,
        )
        torch.nn.init.zeros_(network.score.weight)
        if self.options.gradient_checkpointing:
            checkpoint(network)
        self.value: Any = network.eval()
        self.value_shares, _ = sharing_works(self.value, self.pad_id, test=hidden_self_test)

    def networks(self) -> dict[str, Any]:
        return {**super().networks(), "value": self.value}

    def parameter_groups(self) -> list[dict[str, Any]]:
        rate = self.options.value_learning_rate or self.options.learning_rate
        return [*super().parameter_groups(), *decaying_groups(self.value, lr=rate)]

    def look(self, rollouts: Rollouts) -> None:
        rollouts.values = self.values(rollouts)

    def values(self, rollouts: Rollouts) -> Tensor:
        """V before each token, of shape (rows, longest response)."""
        share = self.share and self.value_shares
        hidden = token_hidden(self.value, rows_of(rollouts.groups), self.pad_id, share=share)
        return by_head(self.value, hidden)


def reads_alike(folder: Path, start: LocalModel) -> bool:
    """Whether a value network of this start begins as the reward model of a folder: whether that reads the policy's tokens, and as many."""
    from transformers import AutoConfig, AutoTokenizer

    settings: Any = {"local_files_only": True, "trust_remote_code": start.options.trust_remote_code}
    own = AutoTokenizer.from_pretrained(str(folder), **settings)
    text = AutoConfig.from_pretrained(str(folder), **settings).get_text_config()
    room = getattr(text, "max_position_embeddings", start.context)
    return own.get_vocab() == start.tokens.hf.get_vocab() and room >= start.context
