"""A server that samples from a policy while it is tuned, behind the gateway: retries, limits and the ledger are as for any model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.errors import CallError, RlaifError
from rlaif.models import ChatRequest, Reply
from rlaif.models.gateway import Gateway
from rlaif.models.served import ServedPolicy


class Serving:
    def __init__(self, model: ServedPolicy, gateway: Gateway) -> None:
        self.model, self.gateway = model, gateway

    async def take(self, folder: Path) -> None:
        await self.model.take(folder)

    async def answer(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        return await self.gateway.gather([self.model], map(self._one, requests))

    async def _one(self, request: ChatRequest) -> Reply:
        try:
            model: Any = self.model
            return (await self.gateway.ask(model, request, {"sampled by": self.model.adapter}))[1]
        except CallError as error:
            raise RlaifError(
                f"{self.model.where}: a sample of the policy failed: {error}. Run it again once the server answers: training "
                "goes on from its last checkpoint, and what was sampled since is in the ledger."
            ) from error
