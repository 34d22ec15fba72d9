"""A model folder in this process: sampling, scoring, planning, identity, and folders that cannot be used."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.config import Sampling
from rlaif.errors import ModelError
from rlaif.models import ChatRequest, Reply
from rlaif.models.local import LocalModel, LocalOptions, _kept, cluster
from rlaif.records import Message
from tests.tiny import build

ENDS = [4, *range(20, 600, 9)]  # many end-of-sequence ids, so that samples of a random model end early and unevenly
WORDS = [
    "how",
    "many",
    "people",
    "use",
    "water",
    "in",
    "the",
    "long",
    "day",
    "and",
    "what",
    "would",
    "they",
    "say",
    "about",
    "it",
    "when",
    "there",
    "is",
    "no",
    "more",
]
Open = Callable[..., LocalModel]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A model folder, built once for each set of settings, with weights large enough that context matters."""
    root = tmp_path_factory.mktemp("models")

    @functools.cache
    def make(kind: str = "llama", ends: tuple[int, ...] = (), **settings: Any) -> Path:
        name = "-".join([kind, str(len(ends)), *map(str, settings.values())])
        return sharpen(build(root / name, kind, eos=list(ends) or None, hidden=32, **settings))

    return make


def sharpen(folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = {name: tensor * 4 if tensor.dim() > 1 else tensor for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def open_model(folder: Path, notices: list[str] | None = None, **options: Any) -> LocalModel:
    listen = (lambda line: None) if notices is None else notices.append
    return LocalModel(str(folder), LocalOptions(device="cpu", **options), where="models.policy", notice=listen)


def ask(text: str, *, seed: int = 0, index: int = 0, options: tuple[str, ...] = (), **sampling: Any) -> ChatRequest:
    return ChatRequest(
        messages=(Message(role="user", content=text),),
        options=options,
        sampling=Sampling(**{"max_output_tokens": 12, **sampling}),
        seed=seed,
        sample_index=index,
    )


def answer(model: LocalModel, requests: Sequence[ChatRequest]) -> list[Reply]:
    """Replies in order, through the plan, as the gateway asks."""
    found: dict[int, Reply] = {}
    for batch in model.plan(requests):
        found.update(zip(batch, model.complete_batch([requests[i] for i in batch]), strict=True))
    return [found[i] for i in range(len(requests))]


def texts(count: int) -> list[str]:
    """Prompts of very unequal length."""
    return [" ".join(WORDS[i % 7 :][: 1 + 3 * i]) for i in range(count)]


# --- sampling ---------------------------------------------------------------------------------------------------------

KINDS = ["llama", "qwen3", "gemma3", "gpt2", "mistral", "bloom"]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_sampling_is_what_generate_does(kind: str, folder_of: Callable[..., Path]) -> None:
    model = open_model(folder_of(kind, ends=(4, 30, 300)))
    requests = [ask(text, temperature=0, max_output_tokens=20) for text in texts(5)]
    for request, reply in zip(requests, answer(model, requests), strict=True):
        ids = torch.tensor([model.tokens.prompt_ids(request.messages)])
        out = model.network.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20)
        assert list(reply.token_ids or ()) == out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("setting", [{"repetition_penalty": 1.5}, {"min_output_tokens": 15}])
def test_processed_greedy_sampling_is_what_generate_does(
    setting: dict[str, Any], folder_of: Callable[..., Path]
) -> None:
    model = open_model(folder_of("llama", ends=tuple(ENDS)))
    requests = [ask(text, temperature=0, max_output_tokens=20, **setting) for text in texts(6)]
    theirs = {"min_output_tokens": "min_new_tokens"}
    extra = {theirs.get(key, key): value for key, value in setting.items()}
    for request, reply in zip(requests, answer(model, requests), strict=True):
        ids = torch.tensor([model.tokens.prompt_ids(request.messages)])
        mask = torch.ones_like(ids)
        out = model.network.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=20, **extra)
        assert list(reply.token_ids or ()) == out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_a_sample_does_not_depend_on_its_batch(kind: str, folder_of: Callable[..., Path]) -> None:
    """Rows end at uneven times and leave the batch; alone or in batches of any size, each says the same."""
    folder = folder_of(kind, ends=tuple(ENDS))
    requests = [ask(text, index=k, max_output_tokens=24) for text in texts(6) for k in range(4)]
    together = answer(open_model(folder), requests)
    assert len({reply.output_tokens for reply in together}) > 5
    small = open_model(folder, batch_tokens=200)
    assert len(small.plan(requests)) > 3
    assert answer(small, requests) == together
    assert [answer(small, [request])[0] for request in requests] == together
    assert answer(small, requests[::-1])[::-1] == together


def test_without_sharing_samples_and_scores_stay(folder_of: Callable[..., Path]) -> None:
    folder = folder_of("llama", ends=tuple(ENDS))
    requests = [ask(text, index=k, max_output_tokens=10) for text in texts(4) for k in range(3)]
    questions = [ask(text, options=("A", "B")) for text in texts(4)]
    model = open_model(folder)
    samples, scores = answer(model, requests), answer(model, questions)
    model.share = model.caches = False
    assert answer(model, requests) == samples
    for one, other in zip(answer(model, questions), scores, strict=True):
        assert [t for t, _ in one.logprobs] == [t for t, _ in other.logprobs]
        assert [v for _, v in one.logprobs] == pytest.approx([v for _, v in other.logprobs], abs=1e-5)


def test_model_whose_cache_cannot_be_trusted_is_noticed_and_still_right(
    folder_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ignores the cache: prompts are not shared, and every step computes its rows whole."""
    from transformers import LlamaModel

    folder = folder_of("llama", ends=tuple(ENDS))
    requests = [ask(text, index=k, max_output_tokens=6) for text in texts(3) for k in range(2)]
    expected = answer(open_model(folder), requests)
    plain = LlamaModel.forward

    def forgetful(self: Any, input_ids: Any, attention_mask: Any, position_ids: Any, **rest: Any) -> Any:
        rest.pop("past_key_values", None)
        return plain(self, input_ids, attention_mask[:, -input_ids.shape[1] :], position_ids, **rest)

    monkeypatch.setattr(LlamaModel, "forward", forgetful)
    notices: list[str] = []
    model = open_model(folder, notices)
    assert answer(model, requests) == expected
    assert len(notices) == 1
    assert notices[0].startswith(
        "models.policy: prompts are not shared between rows that this model samples (rows after a cache"
    )


def test_seed_and_sample_index_key_the_draw(folder_of: Callable[..., Path]) -> None:
    model = open_model(folder_of())
    ids = [r.token_ids for r in answer(model, [ask("how are you", seed=s, index=k) for s in (0, 1) for k in range(4)])]
    assert len(set(ids)) == 8
    assert [r.token_ids for r in answer(model, [ask("how are you", seed=1, index=2)])] == [ids[6]]


def first_token_logits(model: LocalModel, request: ChatRequest) -> torch.Tensor:
    with torch.no_grad():
        return model.network(torch.tensor([model.tokens.prompt_ids(request.messages)])).logits[0, -1].double()


def first_tokens(model: LocalModel, count: int, **sampling: Any) -> Counter[int]:
    requests = [ask("how are you", index=k, max_output_tokens=1, **sampling) for k in range(count)]
    return Counter(reply.token_ids[0] for reply in answer(model, requests) if reply.token_ids)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_first_tokens_follow_the_softmax(temperature: float, folder_of: Callable[..., Path]) -> None:
    """Chi-square over the 20 likeliest tokens and the rest: 20 degrees of freedom, 60 would be one in 10⁵."""
    model, count = open_model(folder_of(), batch_tokens=200_000), 3000
    found = first_tokens(model, count, temperature=temperature)
    probabilities = (first_token_logits(model, ask("how are you")) / temperature).softmax(-1)
    top = probabilities.topk(20)
    expected = [*(float(p) * count for p in top.values), float(1 - top.values.sum()) * count]
    seen = [found[int(i)] for i in top.indices]
    seen.append(count - sum(seen))
    assert sum((s - e) ** 2 / e for s, e in zip(seen, expected, strict=True)) < 60


@pytest.mark.parametrize("setting", [{"top_k": 3}, {"top_p": 0.3}, {"min_p": 0.5}])
def test_cuts_leave_only_likely_tokens(setting: dict[str, Any], folder_of: Callable[..., Path]) -> None:
    model = open_model(folder_of(), batch_tokens=200_000)
    probabilities, order = first_token_logits(model, ask("how are you")).softmax(-1).sort(descending=True)
    if "top_k" in setting:
        size = 3
    elif "top_p" in setting:  # the fewest whose sum reaches it
        size = int((probabilities.cumsum(0) < 0.3).sum()) + 1
    else:
        size = int((probabilities >= 0.5 * probabilities[0]).sum())
    assert 1 < size < 300
    found = first_tokens(model, 400 if size < 20 else 800, **setting)
    assert set(found) <= set(order[:size].tolist())
    assert len(found) > 0.5 * size


def test_repetition_penalty_makes_repeats_rare(folder_of: Callable[..., Path]) -> None:
    model = open_model(folder_of("llama"))

    def repeats(penalty: float) -> int:
        sampling = {"repetition_penalty": penalty, "temperature": 0.5, "max_output_tokens": 30}
        replies = answer(model, [ask("how are you", index=k, **sampling) for k in range(6)])
        return sum(len(reply.token_ids or ()) - len(set(reply.token_ids or ())) for reply in replies)

    assert repeats(5.0) < repeats(1.0)


def test_every_end_of_sequence_id_ends_a_sample(folder_of: Callable[..., Path]) -> None:
    model = open_model(folder_of("llama", ends=tuple(ENDS)))
    replies = answer(model, [ask("how are you", index=k, max_output_tokens=40) for k in range(60)])
    for reply in replies:
        ids = reply.token_ids or ()
        assert not set(ids[:-1]) & set(ENDS)
        assert (ids[-1] in ENDS) == (reply.finish_reason == "stop")
        assert reply.output_tokens == len(ids) <= 40
        assert reply.finish_reason == "stop" or len(ids) == 40
    assert len({(reply.token_ids or ())[-1] for reply in replies if reply.finish_reason == "stop"}) > 10


def test_longest_and_shortest_outputs(folder_of: Callable[..., Path]) -> None:
    model = open_model(folder_of("llama", ends=tuple(ENDS)))
    requests = [ask("how are you", index=k, min_output_tokens=7, max_output_tokens=9) for k in range(30)]
    lengths = {reply.output_tokens for reply in answer(model, requests)}
    assert lengths <= {8, 9}
    (reply,) = answer(model, [ask("how are you", max_output_tokens=1)])
    assert (reply.output_tokens, reply.prompt_tokens) == (1, len(model.tokens.prompt_ids(requests[0].messages)))


def test_stop_words_cut_the_text(folder_of: Callable[..., Path]) -> None:
    model = open_model(folder_of())
    free = answer(model, [ask("how are you", index=k, max_output_tokens=30) for k in range(8)])
    stop = free[0].text[8:10]
    stopped = answer(model, [ask("how are you", index=k, max_output_tokens=30, stop=(stop, "\x00")) for k in range(8)])
    assert stopped[0].text == free[0].text[: free[0].text.index(stop)]
    assert stopped[0].finish_reason == "stop"
    assert stopped[0].output_tokens < free[0].output_tokens
    for one, other in zip(stopped, free, strict=True):
        assert stop not in one.text
        assert other.text.startswith(one.text)
        assert (one.text != other.text) == (stop in other.text)


def test_model_without_any_end_runs_to_the_limit(tmp_path: Path) -> None:
    build(tmp_path / "endless", hidden=32, template=None)
    for name in ("generation_config.json", "config.json", "tokenizer_config.json"):
        path = tmp_path / "endless" / name
        settings = json.loads(path.read_text())
        settings.pop("eos_token_id", None)
        settings.pop("eos_token", None)
        path.write_text(json.dumps(settings))
    notices: list[str] = []
    model = open_model(tmp_path / "endless", notices)
    (reply,) = answer(model, [ask("hi")])
    assert (reply.finish_reason, reply.output_tokens) == ("length", 12)
    assert any("no end-of-sequence token" in line for line in notices)


# --- scoring ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3", "gpt2"])
def test_option_logprobs_are_those_of_a_pass_by_itself(kind: str, folder_of: Callable[..., Path]) -> None:
    """Twelve questions in one batch: principles last, so that six share a beginning."""
    model = open_model(folder_of(kind))
    stems = [" ".join(WORDS), " ".join(WORDS[::-1])]
    requests = [
        ask(f"{stem} {end}", options=("A", "B"))
        for stem in stems
        for end in ("safe", "help", "long work", "no", "be", "one two")
    ]
    replies = answer(model, requests)
    for request, reply in zip(requests, replies, strict=True):
        table = first_token_logits(model, request).log_softmax(-1)
        found = dict(reply.logprobs)
        for option in ("A", " A", "B", " B"):
            (token,) = model.tokens.hf(option, add_special_tokens=False)["input_ids"]
            assert found[option] == pytest.approx(float(table[token]), abs=2e-5)
        assert reply.logprobs[0][1] == pytest.approx(float(table.max()), abs=2e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert (reply.output_tokens, reply.token_ids) == (0, None)


def test_questions_that_begin_alike_share_the_beginning(folder_of: Callable[..., Path]) -> None:
    model = open_model(folder_of())
    stems = [" ".join(WORDS), " ".join(WORDS[::-1])]
    requests = [ask(f"{stem} {end}", options=("A",)) for end in ("safe", "help", "no") for stem in stems]
    rows, ids, members = model._rows(requests)
    assert len(rows.prefixes) == 2
    assert sorted(Counter(rows.owner).values()) == [3, 3]
    for row, member in enumerate(members):
        assert (*rows.prefixes[rows.owner[row]], *rows.suffixes[row]) == ids[member]
        assert len(rows.suffixes[row]) < 0.5 * len(ids[member])


def test_prefill_moves_the_question(folder_of: Callable[..., Path]) -> None:
    model = open_model(folder_of())
    plain = ask("how are you", options=("A", "B"))
    (reply,) = answer(model, [plain.model_copy(update={"prefill": "The better reply"})])
    ids = model.tokens.prompt_ids(plain.messages, "The better reply")
    with torch.no_grad():
        table = model.network(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    (token,) = model.tokens.hf(" A", add_special_tokens=False)["input_ids"]
    assert dict(reply.logprobs)[" A"] == pytest.approx(float(table[token]), abs=2e-5)


def test_rows_that_go_on_move_into_the_gaps() -> None:
    assert _kept([False, True, False, True, False, False]) == [0, 4, 2, 5]
    assert _kept([True, True]) == []
    assert _kept([False, False]) == [0, 1]


def test_rows_cluster_by_common_beginning() -> None:
    ids = [(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 5), (7,), (7, 8, 9, 9, 9), (8, 8)]
    found = [(c.members, c.prefix) for c in cluster(ids, equal=False)]
    assert found == [((0, 1, 2), 3), ((3,), 0), ((4,), 4), ((5,), 1)]
    found = [(c.members, c.prefix) for c in cluster(ids, equal=True)]
    assert found == [((0,), 3), ((1, 2), 3), ((3,), 0), ((4,), 4), ((5,), 1)]


# --- planning ---------------------------------------------------------------------------------------------------------


def test_plan_depends_on_the_requests_alone(folder_of: Callable[..., Path]) -> None:
    folder = folder_of()
    requests = [ask(text, index=k) for text in texts(6) for k in range(3)]
    requests += [ask(text, options=("A", "B")) for text in texts(4)]
    requests += [ask("hi", temperature=0.5)]
    model = open_model(folder, batch_tokens=300)
    plan = model.plan(requests)
    assert sorted(i for batch in plan for i in batch) == list(range(len(requests)))
    assert plan == open_model(folder, batch_tokens=300).plan(requests)
    answer(model, requests)
    assert plan == model.plan(requests)
    for batch in plan:
        assert len({(bool(requests[i].options), requests[i].sampling) for i in batch}) == 1
    with_samples_together = [batch for batch in plan if 0 in batch]
    assert {0, 1, 2} <= set(with_samples_together[0])


def test_batches_keep_to_their_budget(folder_of: Callable[..., Path]) -> None:
    model = open_model(folder_of(), batch_tokens=400)
    requests = [ask(text, index=k) for text in texts(8) for k in range(2)]
    for batch in model.plan(requests):
        lengths = [len(model.tokens.prompt_ids(requests[i].messages)) + 12 for i in batch]
        assert len(batch) <= 2 or len(batch) * max(lengths) <= 2 * 400


def test_prompt_beyond_the_context_is_objected_to(folder_of: Callable[..., Path]) -> None:
    model = open_model(folder_of("llama", context=64))
    assert model.objection(ask("how are you", max_output_tokens=20)) is None
    long = ask(" ".join(WORDS * 5), max_output_tokens=20)
    assert model.objection(long) == "prompt and 20 new tokens exceed the model's context of 64 tokens"
    question = ask("how are you", options=("A",), max_output_tokens=500)
    assert model.objection(question) is None


def test_a_schema_is_objected_to_for_nothing_here_would_enforce_it(folder_of: Callable[..., Path]) -> None:
    model = open_model(folder_of())
    wanted = ask("how are you").model_copy(update={"json_schema": '{"type":"object"}'})
    assert "cannot be held to a JSON schema: set options.structured to false" in str(model.objection(wanted))


# --- identity and loading ---------------------------------------------------------------------------------------------


def adapter(folder: Path, out: Path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(str(folder)), settings).save_pretrained(str(out))
    return out


def test_reading_the_weights_for_their_hash_is_followed_to_its_end(
    folder_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of("llama")
    files = [*folder.glob("*.safetensors"), folder / "config.json"]
    size = sum(path.stat().st_size for path in files)
    known = open_model(folder).identity
    monkeypatch.setattr("rlaif.models.local.HASH_BLOCK", 10_000)
    heard: list[tuple[int, int]] = []
    model = open_model(folder)
    assert model.identify(lambda read, total: heard.append((read, total))) == known
    assert heard[-1] == (size, size)
    assert [read for read, _ in heard] == sorted({read for read, _ in heard})
    assert len(heard) >= size // 10_000
    model.identify(lambda read, total: pytest.fail("the weights are read once"))
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    assert ("weights", whole.hexdigest()) in known.facts


def test_a_run_tells_of_reading_its_models(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    from rlaif.checking import open_road
    from rlaif.pipeline import Watcher
    from rlaif.progress import Progress

    (tmp_path / "recipe.yaml").write_text(f"models: {{policy: {folder_of('llama')}}}\nprompts: set:first-questions\n")
    heard: list[Progress] = []
    open_road("recipe.yaml", out=tmp_path / "run", watcher=Watcher(listen=heard.append)).gateway.ledger.close()
    own = [progress for progress in heard if progress.stage == "reading models.policy, MB"]
    assert own[-1].finished
    assert own[-2].done == own[-2].total


def test_identity_changes_with_everything_that_changes_a_reply(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    folder = folder_of()
    same = shutil.copytree(folder, tmp_path / "same")
    plain = open_model(folder).identity.sha256
    assert open_model(same).identity.sha256 == plain
    assert open_model(same, batch_tokens=100).identity.sha256 == plain
    template = shutil.copytree(folder, tmp_path / "template")
    path = template / "chat_template.jinja"
    path.write_text(path.read_text().replace("user", "user") + "{# other #}")
    found = {
        "plain": plain,
        "weights": open_model(folder_of("llama", seed=7)).identity.sha256,
        "template": open_model(template).identity.sha256,
        "dtype": open_model(folder, dtype="bfloat16").identity.sha256,
        "adapter": open_model(folder, adapter=str(adapter(folder, tmp_path / "adapter"))).identity.sha256,
        "ends": open_model(folder_of("llama", ends=(4, 5))).identity.sha256,
    }
    assert len(set(found.values())) == len(found)


def test_adapter_is_laid_over_the_weights(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = folder_of()
    lora = adapter(folder, tmp_path / "adapter")
    model = open_model(folder, adapter=str(lora))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        ours = model.network(ids).logits
        base = AutoModelForCausalLM.from_pretrained(str(folder)).eval()
        assert float((ours - base(ids).logits).abs().max()) > 1e-2
        theirs = PeftModel.from_pretrained(base, str(lora)).eval()(ids).logits
    assert float((ours - theirs).abs().max()) < 1e-4


def test_half_precision_folder_is_read_as_float32_on_a_cpu(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    half = shutil.copytree(folder_of(), tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(str(half), dtype=torch.bfloat16).save_pretrained(str(half))
    assert json.loads((half / "config.json").read_text())["dtype"] == "bfloat16"
    assert open_model(half).network.dtype == torch.float32
    assert open_model(half, dtype="bfloat16").network.dtype == torch.bfloat16


def test_dropout_is_off(tmp_path: Path) -> None:
    folder = build(tmp_path / "dropout", "gpt2", hidden=32)
    assert json.loads((folder / "config.json").read_text())["resid_pdrop"] > 0
    network = open_model(folder).network.train()
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(network(ids).logits, network(ids).logits)


def test_unloaded_model_answers_again(folder_of: Callable[..., Path]) -> None:
    model = open_model(folder_of())
    before = answer(model, [ask("hi")])
    model.unload()
    assert answer(model, [ask("hi")]) == before


def test_padding_side_of_the_tokenizer_changes_nothing(folder_of: Callable[..., Path]) -> None:
    requests = [ask(text, index=k) for text in texts(3) for k in range(2)]
    left, right = (answer(open_model(folder_of("llama", padding=side)), requests) for side in ("left", "right"))
    assert left == right


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("no folder", lambda f: shutil.rmtree(f), "does not exist (a local Hugging Face folder is expected)."),
        ("no config", lambda f: (f / "config.json").unlink(), "has no config.json: not a Hugging Face model folder."),
        ("no weights", lambda f: (f / "model.safetensors").unlink(), "has no .safetensors weights."),
        (
            "pickled weights",
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "has no .safetensors weights. It holds pytorch_model.bin: convert it to safetensors first.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "." not in value else "",
)
def test_unusable_folder_is_one_clear_line(
    name: str, change: Callable[[Path], Any], message: str, folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folder_of(), tmp_path / "model")
    change(folder)
    with pytest.raises(ModelError) as caught:
        open_model(folder)
    assert str(caught.value).startswith("models.policy: ")
    assert str(caught.value).endswith(message)


def test_damaged_weights_are_one_clear_line(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of(), tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"^models.policy: .* cannot be loaded: ") as caught:
        _ = open_model(folder).network
    assert "\n" not in str(caught.value)


def test_adapter_that_is_none(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a PEFT adapter folder"):
        open_model(folder_of(), adapter=str(tmp_path))


def test_package_that_is_not_installed() -> None:
    with pytest.raises(ModelError, match=r'package "nowhere_at_all" is not installed'):
        open_model(Path("package:nowhere_at_all"))
