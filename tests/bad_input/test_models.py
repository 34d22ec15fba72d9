"""Models that are damaged, lack something or cannot be had: one clear line, a fitting exit code, no traceback, finished work kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import GONE, SHORT, Rlaif, pairs, prompts, records
from tests.tiny import build, write_jsonl


def without_eos(folder: Path) -> None:
    for name, key in (("config.json", "eos_token_id"), ("generation_config.json", "eos_token_id"), ("tokenizer_config.json", "eos_token")):  # fmt: skip
        settings = json.loads((folder / name).read_text())
        settings.pop(key, None)
        (folder / name).write_text(json.dumps(settings))


def test_a_model_without_chat_template_or_end_token_runs_and_says_so(rlaif: Rlaif, tmp_path: Path) -> None:
    folder = build(tmp_path / "plain", template=None)
    without_eos(folder)
    said = rlaif(
        "sample", "--model", folder, prompts(), "--samples", "2", "--out", "out",
        "--set", "responses.sampling.max_output_tokens=4",
    )  # fmt: skip
    assert said.code == 0
    lines = said.err.splitlines()
    where = f"note: rlaif sample: models.policy: {folder}"
    assert f"{where} has no chat template; turns are written as plain 'User: …' and 'Assistant: …'." in lines
    assert f"{where} names no end-of-sequence token; samples run to max_output_tokens." in lines
    assert {(row["output_tokens"], row["finish_reason"]) for row in records("out", "responses")} == {(4, "length")}


def test_turns_a_chat_template_refuses_are_counted_and_the_rest_goes_on(rlaif: Rlaif, tmp_path: Path) -> None:
    from tests.tiny import CHATML

    alternate = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}{% endfor %}" + CHATML
    )
    folder = build(tmp_path / "strict", template=alternate)
    twice = [{"role": "user", "content": text} for text in ("one", "two")]
    write_jsonl(Path("p.jsonl"), [{"prompt": "Hi"}, {"messages": twice}])
    said = rlaif("sample", "--model", folder, "p.jsonl", "--samples", "2", "--out", "out", *SHORT)
    assert said.code == 0
    assert "2 × " in said.text
    assert "the chat template refuses turns 'user user': Roles must alternate" in said.text


def broken(folder: Path, *, drop: str = "", rename: tuple[str, str] | None = None, cut: str = "") -> None:
    for path in folder.glob(drop) if drop else ():
        path.unlink()
    if rename:
        (folder / rename[0]).rename(folder / rename[1])
    if cut:
        data = (folder / cut).read_bytes()
        (folder / cut).write_bytes(data[: len(data) // 2])


MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "no configuration": ({"drop": "config.json"}, "M has no config.json: not a Hugging Face model folder."),
    "no weights": ({"drop": "*.safetensors"}, "M has no .safetensors weights."),
    "only pytorch_model.bin": (
        {"rename": ("model.safetensors", "pytorch_model.bin")},
        "M has no .safetensors weights. It holds pytorch_model.bin: convert it to safetensors first.",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_folder_with_parts_missing_is_one_line(name: str, rlaif: Rlaif, policy_folder: Path) -> None:
    damage, message = MODELS[name]
    shutil.copytree(policy_folder, "model")
    broken(Path("model"), **damage)
    said = rlaif("sample", "--model", "model", prompts(), "--out", "out")
    assert (said.code, said.line) == (2, f"rlaif: rlaif sample: models.policy: {message.replace('M', 'model', 1)}")


@pytest.mark.parametrize(
    ("damage", "beginning"),
    {
        "no tokenizer": ({"drop": "tokenizer*"}, "rlaif: rlaif sample: models.policy: model: no usable tokenizer: "),
        "a tokenizer cut off": (
            {"cut": "tokenizer.json"},
            "rlaif: rlaif sample: models.policy: model: no usable tokenizer: ",
        ),
        "a configuration cut off": ({"cut": "config.json"}, "rlaif: rlaif sample: models.policy: model: "),
        "weights cut off": (
            {"cut": "model.safetensors"},
            "rlaif: rlaif sample: models.policy: model cannot be loaded: ",
        ),
    }.values(),
)
def test_a_damaged_model_folder_is_one_line(
    damage: dict[str, Any], beginning: str, rlaif: Rlaif, policy_folder: Path
) -> None:
    shutil.copytree(policy_folder, "model")
    broken(Path("model"), **damage)
    said = rlaif("sample", "--model", "model", prompts(), "--out", "out", *SHORT)
    assert said.code == 2
    assert said.line.startswith(beginning)


def test_a_configuration_of_other_shapes_than_the_weights_is_one_line(rlaif: Rlaif, policy_folder: Path) -> None:
    shutil.copytree(policy_folder, "model")
    config = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] // 2}))
    said = rlaif("sample", "--model", "model", prompts(), "--out", "out", *SHORT)
    assert said.code == 2
    assert said.line.startswith(
        "rlaif: rlaif sample: models.policy: model cannot be loaded: its weights have other shapes than"
    )


WRONG_MODELS = {
    "no folder": (
        ["sample", "--model", "nowhere", "prompts.jsonl"],
        "rlaif sample: models.policy: model folder nowhere does not exist (a local Hugging Face folder is expected).",
    ),
    "an unknown provider": (
        ["sample", "--model", "x", "prompts.jsonl", "--set", "models.policy.provider=lcoal"],
        '--set models.policy.provider=lcoal: provider "lcoal" is not known. Did you mean "local"? '
        "A class of your own is named package.module:Class.",
    ),
    "an unknown option": (
        ["sample", "--model", "x", "prompts.jsonl", "--set", "models.policy.options.dtpe=float32"],
        '--set models.policy.options.dtpe=float32: unknown key "dtpe". Did you mean "dtype"?',
    ),
    "a script that is not there": (
        ["judge", "compare-text", "pairs.jsonl", "--model", "scripted:own_nowhere:speak"],
        'rlaif judge: models.judge: function "own_nowhere:speak": module "own_nowhere" was not found. '
        "Install it or run where it can be imported.",
    ),
    "a table that is not there": (
        ["judge", "compare-text", "pairs.jsonl", "--model", "scripted:nowhere.jsonl"],
        f"rlaif judge: models.judge: nowhere.jsonl: {GONE}",
    ),
    "a table that is no table": (
        ["judge", "compare-text", "pairs.jsonl", "--model", "scripted:pairs.jsonl"],
        'pairs.jsonl line 1: expected {"contains": …, "reply": …}, both text.',
    ),
    "a table that is not JSON": (
        ["judge", "compare-text", "pairs.jsonl", "--model", "scripted:bad.jsonl"],
        "bad.jsonl line 1: not valid JSON: Expecting value at column 1.",
    ),
}


@pytest.mark.parametrize("name", WRONG_MODELS)
def test_a_model_that_cannot_be_had_is_one_line(name: str, rlaif: Rlaif) -> None:
    arguments, message = WRONG_MODELS[name]
    pairs()
    prompts()
    Path("bad.jsonl").write_text("yes\n")
    said = rlaif(*arguments, "--out", "out")
    assert (said.code, said.line) == (2, f"rlaif: {message}")


def test_a_policy_that_only_a_script_speaks_for_cannot_be_trained(rlaif: Rlaif) -> None:
    Path("own_policy.py").write_text("def speak(request):\n    return 'yes'\n")
    said = rlaif(
        "run", "human-preferences", "--set", f"pairs={pairs()}",
        "--set", "models.policy={provider: scripted, model: own_policy:speak}",
    )  # fmt: skip
    assert (said.code, said.line) == (
        2,
        "rlaif: --set models.policy={provider: scripted, model: own_policy:speak}: training needs a local model folder, "
        "not a scripted:own_policy:speak.",
    )
