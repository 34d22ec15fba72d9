"""A server that samples from a policy while it is tuned: it is given every version, what it says is what is learnt from, and what
it has said once is asked of it no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlaif.config import Sampling
from rlaif.errors import ConfigError, ModelError, RlaifError
from rlaif.ledger import Ledger
from rlaif.models import ChatRequest, Reply
from rlaif.models.gateway import Gateway
from rlaif.models.local import LocalModel, LocalOptions
from rlaif.models.openai_chat import OpenAIModel, OpenAIOptions
from rlaif.models.served import ServedPolicy
from rlaif.policy import PolicyReport
from rlaif.policy.ppo import PPO
from rlaif.policy.rloo import RLOO
from rlaif.policy.serving import Serving
from rlaif.records import Message
from rlaif.training.online import OnlineOptions
from tests.runs import rlaif
from tests.test_online import Given, context_of, method_of, train

LORA = {"rank": 4, "alpha": 8}


def with_adapters(base: LocalModel, adapter: str) -> LocalModel:
    options = LocalOptions(device="cpu", adapter=adapter)
    return LocalModel(str(base.folder), options, where="server", notice=lambda line: None)


class Beside:
    """The server's part in this process, answering the very requests."""

    def __init__(self, base: LocalModel) -> None:
        self.base, self.taken = base, 0
        self.model = base

    async def take(self, folder: Path) -> None:
        self.model, self.taken = with_adapters(self.base, str(folder)), self.taken + 1

    async def release(self) -> None:
        self.model = self.base

    async def answer(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        found: dict[int, Reply] = {}
        for batch in self.model.plan(requests):
            found.update(zip(batch, self.model.complete_batch([requests[i] for i in batch]), strict=True))
        return [found[i] for i in range(len(requests))]


@pytest.mark.parametrize("kind", [RLOO, PPO])
def test_what_a_server_samples_is_what_the_policy_would_have_said(kind: Any, base: LocalModel, tmp_path: Path) -> None:
    """Every version of the policy is published before it is asked: the same draws give the same training."""
    settings = {"lora": LORA, "learning_rate": 5e-3, "epochs": 2, "accumulation": 2}
    own = train(method_of(kind, **settings), context_of(base, tmp_path / "own", Given()))
    beside = Beside(base)
    given = replace(context_of(base, tmp_path / "served", Given()), served=beside)
    theirs = train(method_of(kind, sampler="server", **settings), given)
    assert beside.taken == len(own.history) + 1 == 7  # the last version is looked at, and not learnt from
    for mine, its in zip(own.history, theirs.history, strict=True):
        assert its == pytest.approx(mine, rel=1e-4, abs=1e-5)
    assert [each["response"] for each in own.samples] == [each["response"] for each in theirs.samples]
    assert not list((tmp_path / "served" / "work" / "served").iterdir())[1:]  # those before are gone


class Server:
    """vLLM's part: completions by loaded adapters."""

    def __init__(self, base: LocalModel) -> None:
        self.base = base
        self.loaded: dict[str, LocalModel] = {}
        self.told: list[tuple[str, str]] = []
        self.asked: list[str] = []
        self.shift = 0  # of its draws
        self.forgets: set[int] = set()  # before which answers it is started anew
        self.ids, self.broken, self.loads = True, False, True

    async def tell(self, request: web.Request) -> web.Response:
        if not self.loads:
            return web.Response(status=404)
        body, what = await request.json(), request.path.rpartition("/")[2]
        self.told.append((what, body["lora_name"]))
        if what == "unload_lora_adapter":
            if self.loaded.pop(body["lora_name"], None) is None:
                return web.json_response({"error": {"message": "No adapter found."}}, status=404)
        else:
            self.loaded[body["lora_name"]] = with_adapters(self.base, body["lora_path"])
        return web.Response(text="Success")

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.broken:
            return web.json_response({"error": {"message": "out of memory"}}, status=400)
        assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0, 1)  # no cuts of the server's own
        self.asked.append(body["model"])
        if len(self.asked) in self.forgets:
            self.loaded.clear()
        if body["model"] not in self.loaded:
            del self.asked[-1]
            self.forgets -= {len(self.asked) + 1}
            return web.json_response({"error": {"message": f"The model {body['model']} does not exist."}}, status=404)
        asked = ChatRequest(
            messages=tuple(Message(**message) for message in body["messages"]),
            sampling=Sampling(temperature=body["temperature"], max_output_tokens=body["max_tokens"]),
            seed=body["seed"] + self.shift,
        )
        (reply,) = self.loaded[body["model"]].complete_batch([asked])
        choice: dict[str, Any] = {
            "message": {"role": "assistant", "content": reply.text},
            "finish_reason": reply.finish_reason,
        }
        if self.ids:
            assert body["return_token_ids"] is True
            choice["token_ids"] = reply.token_ids
        usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.output_tokens}
        return web.json_response({"model": body["model"], "choices": [choice], "usage": usage})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application()
        for what in ("load_lora_adapter", "unload_lora_adapter"):
            app.router.add_post(f"/v1/{what}", self.tell)
        app.router.add_post("/v1/chat/completions", self.complete)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        await runner.cleanup()


def tuned_by(server: Server, base: LocalModel, ledger: Path, folder: Path, **settings: Any) -> PolicyReport:
    async def run() -> PolicyReport:
        async with server.serving() as url:
            model = OpenAIModel(
                "base", OpenAIOptions(base_url="http://127.0.0.1:1/v1"), where="models.server", notice=print
            )
            served = ServedPolicy.of(model, "policies.0.options.sampler")
            at = model.options.model_copy(update={"base_url": url})
            elsewhere = ServedPolicy.of(OpenAIModel("base", at, where="models.server", notice=print), "sampler")
            elsewhere.identity = served.identity  # another port each time, the same server to the ledger
            gateway = Gateway(Ledger(ledger))
            context = replace(context_of(base, folder, Given()), served=Serving(elsewhere, gateway))
            try:
                return await method_of(RLOO, lora=LORA, sampler="server", learning_rate=5e-3, **settings).train(context)
            finally:
                await gateway.close()

    return asyncio.run(run())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "policy" / "model.safetensors")


def test_every_version_is_loaded_asked_and_dropped_and_nothing_is_asked_twice(base: LocalModel, tmp_path: Path) -> None:
    server = Server(base)
    first = tuned_by(server, base, tmp_path / "ledger", tmp_path / "first")
    assert len(first.history) == 3
    names = list(dict.fromkeys(server.asked))
    assert [server.asked.count(name) for name in names] == [16, 16, 16, 16]  # four prompts four times, at the end too
    told = server.told
    loads = [("load_lora_adapter", name) for name in names]
    drops = [("unload_lora_adapter", name) for name in names]
    assert told == [loads[0], loads[1], drops[0], loads[2], drops[1], loads[3], drops[2], drops[3]]
    again = Server(base)
    again.shift = 10_000  # it would say other things, if it were asked
    second = tuned_by(again, base, tmp_path / "ledger", tmp_path / "second")
    assert not again.asked
    assert second.history == first.history
    one, other = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    changed = tuned_by(again, base, tmp_path / "ledger", tmp_path / "third", max_gradient_norm=0.1)
    assert len(again.asked) == 48  # the first version is the same, the others are not
    assert changed.history[0]["reward"] == first.history[0]["reward"]


def test_a_server_that_was_started_anew_is_given_the_policy_again(base: LocalModel, tmp_path: Path) -> None:
    straight = tuned_by(Server(base), base, tmp_path / "straight-ledger", tmp_path / "straight", accumulation=4)
    server = Server(base)
    server.forgets = {20, 30}
    report = tuned_by(server, base, tmp_path / "ledger", tmp_path / "again", accumulation=4)
    assert [what for what, _ in server.told].count("load_lora_adapter") == 6  # four versions, and after each loss
    assert report.history == straight.history


def test_a_server_that_gives_no_token_ids_is_read_by_its_text(base: LocalModel, tmp_path: Path) -> None:
    server = Server(base)
    server.ids = False
    report = tuned_by(server, base, tmp_path / "ledger", tmp_path)
    assert len(report.history) == 3
    assert report.history[0]["kl"] == pytest.approx(0.0, abs=1e-5)  # the start's, by the tokens of its own text
    assert any(each["response"] for each in report.samples)


def test_a_server_that_fails_or_loads_no_adapters_is_one_line(base: LocalModel, tmp_path: Path) -> None:
    server = Server(base)
    server.loads = False
    with pytest.raises(ModelError, match=r"does not do load_lora_adapter \(404.*--enable-lora"):
        tuned_by(server, base, tmp_path / "ledger", tmp_path)
    server.loads, server.broken = True, True
    with pytest.raises(RlaifError, match=r"a sample of the policy failed: .*out of memory"):
        tuned_by(server, base, tmp_path / "ledger", tmp_path)
    server.broken = False
    assert len(tuned_by(server, base, tmp_path / "ledger", tmp_path).history) == 3


def test_what_cannot_sample_is_said_before_anything_is_asked(base: LocalModel) -> None:
    with pytest.raises(ValidationError, match="set lora, without bits"):
        OnlineOptions(sampler="server")
    with pytest.raises(ConfigError, match="provider openai with a base_url of its own"):
        ServedPolicy.of(base, "policies.0.options.sampler")


def test_a_recipe_names_its_server_among_its_models(tmp_path: Path, policy_folder: Path) -> None:
    (tmp_path / "policy").symlink_to(policy_folder)
    recipe = """
models:
  policy: policy
  server: {provider: openai, model: base, options: {base_url: "http://127.0.0.1:9/v1"}}
prompts: "set:first-questions"
policies:
  - {name: rloo, options: {lora: {rank: 4}, sampler: SAMPLER, rewards: [{source: judge, options: {judge: longest}}]}}
"""
    (tmp_path / "one.yaml").write_text(recipe.replace("SAMPLER", "server"))
    (tmp_path / "other.yaml").write_text(recipe.replace("SAMPLER", "serve"))
    text = rlaif(tmp_path, "check", "other.yaml", code=2)
    assert 'other.yaml: policies.0.options.sampler: no model "serve" under models. Did you mean "server"?' in text
    network = AutoModelForCausalLM.from_pretrained(policy_folder)
    get_peft_model(network, LoraConfig(r=2, target_modules="all-linear")).save_pretrained(str(tmp_path / "mine"))
    (tmp_path / "log").unlink()
    adapted = f"models.policy={{model: {policy_folder}, options: {{adapter: mine}}}}"
    text = rlaif(tmp_path, "check", "one.yaml", "--set", adapted, code=2)
    assert "a folder in which that is merged, for both" in text
    (tmp_path / "log").unlink()
    rlaif(tmp_path, "check", "one.yaml")
    (tmp_path / "log").unlink()
    text = rlaif(tmp_path, "plan", "one.yaml")
    assert "samples of rloo (server): 40 samples, 40 calls of models.server" in text
