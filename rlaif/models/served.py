"""A policy that is being tuned, at a server that loads LoRA adapters while it runs: vLLM, or another that speaks as it does.

Before a step the policy's adapters are written to a folder that the server sees, and it is told to load them; what is sampled is
asked of it by that name, call by call, as any model behind an API is. Its identity holds the hash of the adapters: a reply of
one version of the policy is no reply of another, and a training that goes on finds what it had sampled in the ledger.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

from rlaif.errors import ConfigError, ModelError
from rlaif.models import ChatRequest, Identity, Reply
from rlaif.models.openai_chat import OpenAIModel, chat_body, read_chat
from rlaif.models.transports import Address

ADAPTER_WEIGHTS = "adapter_model.safetensors"
LOAD, UNLOAD = "load_lora_adapter", "unload_lora_adapter"
TRIES, LOAD_SECONDS = 5, 300.0
WHOLE = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}  # the policy's own distribution, whatever the server's defaults
START = "start vLLM with --enable-lora, --max-lora-rank, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"


class ServedPolicy(OpenAIModel):
    """The base that a recipe names, with the adapters that were loaded last."""

    adapter = ""  # their name at the server

    @classmethod
    def of(cls, model: Any, where: str) -> ServedPolicy:
        """One at the place of a recipe's model. Raises ConfigError where that is no server of this kind."""
        if not isinstance(model, OpenAIModel) or model.base_url == model.home:
            raise ConfigError(
                f"{where}: sampling is by a server that loads adapters, so by a model of provider openai with a base_url of its own."
            )
        extra = {**model.options.extra_body, **WHOLE, "return_token_ids": True}
        options = model.options.model_copy(update={"extra_body": extra, "batch": None})
        return cls(model.model, options, where=where, notice=lambda line: None)

    def body(self, request: ChatRequest) -> dict[str, Any]:
        return chat_body(request, self.adapter, self.options)

    def reply(self, value: dict[str, Any], request: ChatRequest) -> Reply:
        return read_chat(value, request, may_be_empty=True)

    async def take(self, folder: Path) -> None:
        """Have the server go on with the adapters of a folder, also where it has lost them. Raises ModelError."""
        found, path = await asyncio.to_thread(_adapters, folder)
        name, before = f"rlaif-{found[:12]}", self.adapter
        for route in self.routes:
            await self._tell(route.address, LOAD, {"lora_name": name, "lora_path": path})
        if before != name:
            await self.release()
        facts = (*(fact for fact in self.identity.facts if fact[0] != "adapter"), ("adapter", found))
        self.identity = Identity(self.identity.name, None, facts)
        self.adapter = name

    async def release(self) -> None:
        """Have the server drop the adapters that it has."""
        if self.adapter:
            for route in self.routes:
                await self._tell(route.address, UNLOAD, {"lora_name": self.adapter})
        self.adapter = ""

    async def _tell(self, address: Address, what: str, body: dict[str, str]) -> None:
        import httpx
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

        tried = AsyncRetrying(
            retry=retry_if_exception_type(httpx.HTTPError),
            stop=stop_after_attempt(TRIES),
            wait=wait_exponential(min=0.2, max=10),
            reraise=True,
        )
        try:
            async with httpx.AsyncClient(timeout=LOAD_SECONDS, headers=self._headers(address)) as client:
                async for attempt in tried:
                    with attempt:
                        found = await _post(client, address.base_url, what, body)
        except httpx.HTTPError as error:
            raise ModelError(f"{self.where}: {address.host}: {what}: {type(error).__name__}: {error}") from error
        there = found.status_code == 200 or (what == LOAD and "already" in found.text)
        gone = what == UNLOAD and found.status_code in (400, 404)  # a server that was started anew
        if not there and not gone:
            words = address.hide(" ".join(found.text.split()))[:200]
            raise ModelError(
                f"{self.where}: {address.host} does not do {what} ({found.status_code}: {words}). What would do: {START}; the "
                "folder of the run must be one that the server sees too."
            )


def _adapters(folder: Path) -> tuple[str, str]:
    """Their hash, and where they lie."""
    with (folder / ADAPTER_WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), str(folder.resolve())


async def _post(client: Any, base_url: str, what: str, body: dict[str, str]) -> Any:
    """The answer of the server, below its ``/v1`` or, where there is no such thing, beside it. Raises for what may pass."""
    answers = []
    for root in (base_url, base_url.removesuffix("/v1")):
        answers.append(found := await client.post(f"{root}/{what}", json=body))
        if found.status_code >= 500:
            found.raise_for_status()
        if found.status_code != 404:
            return found
    return max(
        answers, key=lambda answer: len(answer.text)
    )  # one says what was not found, the other that it has no such path
