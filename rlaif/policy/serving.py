"""A server that samples from a policy while it is tuned, behind the gateway: retries, limits and the ledger are as for any model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlaif.errors import CallError, ModelError, RlaifError
from rlaif.models import ChatRequest, Reply
from rlaif.models.gateway import Gateway
from rlaif.models.served import ServedPolicy


class Serving:
    def __init__(self, model: ServedPolicy, gateway: Gateway) -> None:
        self.model, self.gateway = model, gateway
        self.folder: Path | None = None  # of the adapters that the server was given last

    async def take(self, folder: Path) -> None:
        self.folder = folder
        await self.model.take(folder)

    async def release(self) -> None:
        with suppress(ModelError):  # a server that is gone has none
            await self.model.release()

    async def answer(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        try:
            return await self._all(requests)
        except (
            RlaifError
        ):  # a server that was started anew has lost the adapters; those that were answered are in the ledger
            assert self.folder
            await self.model.take(self.folder)
            return await self._all(requests)

    async def _all(self, requests: Sequence[ChatRequest]) -> list[Reply]:
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
