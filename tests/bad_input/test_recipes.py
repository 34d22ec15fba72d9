"""Recipes, names and command lines that are wrong: one clear line, a fitting exit code, no traceback, finished work kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import Rlaif, pairs

WRONG_RECIPES: dict[str, tuple[dict[str, str], list[str], str]] = {
    "nothing set": (
        {},
        ["run", "ai-preferences"],
        "B/pipelines/ai-preferences.yaml: needs --set prompts=FILE --set models.policy=FOLDER",
    ),
    "no model set": (
        {},
        ["run", "human-preferences", "--set", "pairs=pairs.jsonl"],
        "B/pipelines/human-preferences.yaml: needs --set models.policy=FOLDER",
    ),
    "an unknown pipeline": (
        {},
        ["run", "human-preference"],
        'rlaif run: pipeline "human-preference" not found in ./pipelines or the built-ins. '
        'Did you mean "human-preferences"?',
    ),
    "an unknown key": (
        {"own.yaml": "pairs: pairs.jsonl\nlables: human\n"},
        ["run", "own.yaml"],
        'own.yaml: unknown key "lables". Did you mean "labels"?',
    ),
    "not YAML": (
        {"own.yaml": "pairs: [\n"},
        ["run", "own.yaml"],
        "own.yaml: line 2: not valid YAML: expected the node content, but found '<stream end>'.",
    ),
    "an unknown judge": (
        {},
        ["judge", "longst", "pairs.jsonl"],
        'rlaif judge: judge "longst" not found in ./judges or the built-ins. Did you mean "longest"?',
    ),
    "an unknown constitution": (
        {},
        ["judge", "longest", "pairs.jsonl", "--constitution", "concize"],
        'rlaif judge: constitution "concize" not found in ./prompts/constitutions or the built-ins. '
        'Did you mean "concise"?',
    ),
    "a missing rubric": (
        {"judges/own.yaml": "protocol: pairwise-text\nrubric: helpful-safe\n"},
        ["judge", "own", "pairs.jsonl", "--model", "scripted:own:speak"],
        'judges/own.yaml: rubric "helpful-safe" not found in ./prompts/rubrics or the built-ins. '
        'Did you mean "helpful-and-safe"?',
    ),
    "a judge without a model": (
        {},
        ["judge", "compare-local", "pairs.jsonl"],
        'rlaif judge: judge "compare-local" asks the model of role "judge": set models.judge '
        "(--set models.judge=FOLDER).",
    ),
    "a malformed setting": (
        {},
        ["judge", "longest", "pairs.jsonl", "--set", "seed"],
        "--set seed: expected key=value, for instance --set seed=1.",
    ),
    "a method's option set wrong": (
        {},
        ["run", "human-preferences", "--set", "pairs=pairs.jsonl", "--set", "models.policy=POLICY",
         "--set", "policies.0.options.bet=1"],
        '--set policies.0.options.bet=1: unknown key "bet". Did you mean "beta"?',
    ),
    "a model folder set wrong": (
        {},
        ["run", "human-preferences", "--set", "pairs=pairs.jsonl", "--set", "models.policy=nowhere"],
        "--set models.policy=nowhere: model folder nowhere does not exist (a local Hugging Face folder is expected).",
    ),
    "a judge's option on the pipeline": (
        {},
        ["judge", "longest", "pairs.jsonl", "--set", "labels.options.minimum_mass=0"],
        "--set labels.options.minimum_mass=0: unknown key \"minimum_mass\". A judge's own settings stand in its file: "
        "`rlaif copy JUDGE --as NAME` makes one of yours, to be edited and named here.",
    ),
    "a judge set wrong": (
        {},
        ["judge", "longest", "pairs.jsonl", "--set", "labels.options.judges=[longst]"],
        '--set labels.options.judges=[longst]: judge "longst" not found in ./judges or the built-ins. Did you mean '
        '"longest"?',
    ),
    "a constitution set wrong": (
        {},
        ["judge", "longest", "pairs.jsonl", "--set", "constitution=concize"],
        '--set constitution=concize: constitution "concize" not found in ./prompts/constitutions or the built-ins. '
        'Did you mean "concise"?',
    ),
    "a policy method no one knows": (
        {},
        ["run", "human-preferences", "--set", "pairs=pairs.jsonl", "--set", "models.policy=POLICY", "--set", "policies=dop"],
        '--set policies=dop: policy method "dop" is not known. Did you mean "dpo"? '
        "A class of your own is named package.module:Class.",
    ),
    "neither a file nor a folder": (
        {},
        ["judge", "longest"],
        "judge: name a file of pairs, or a run folder with --out.",
    ),
    "a kind that is none": ({}, ["list", "judgs"], 'list: unknown kind "judgs". Did you mean "judge"?'),
    "a name that is none": ({}, ["show", "longst"], '"longst" is not in the catalogue. Did you mean "longest"?'),
    "a copy over a file": (
        {"judges/longest.yaml": "protocol: scripted\n"},
        ["copy", "longest"],
        "judges/longest.yaml: exists already. Give the copy another name with --as.",
    ),
    "a copy below a file": (
        {"judges": ""},
        ["copy", "longest"],
        "judges/longest.yaml: cannot be written: File exists. Choose a writable place, then run again: "
        "finished work is kept.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_RECIPES)
def test_a_wrong_recipe_or_name_is_one_line_before_anything_is_asked(
    name: str, rlaif: Rlaif, policy_folder: Path
) -> None:
    from rlaif.catalogue import builtin_root

    files, arguments, message = WRONG_RECIPES[name]
    pairs()
    files = {"own.py": "def speak(request):\n    raise AssertionError('asked')\n", **files}
    for file, text in files.items():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(text)
    said = rlaif(*(argument.replace("POLICY", str(policy_folder)) for argument in arguments))
    message = message.replace("B/", f"{builtin_root()}/", 1)
    assert (said.code, said.line, said.out) == (2, f"rlaif: {message}", "")
    assert not Path("runs").exists()


COMMAND_LINES = {
    "an unknown command": (["jugde"], "No such command 'jugde'."),
    "an unknown option": (["judge", "longest", "--inn", "x"], "No such option: --inn"),
    "an option without its value": (["judge", "longest", "--out"], "Option '--out' requires an argument."),
    "a missing argument": (["judge"], "Missing argument 'JUDGE'."),
    "a missing option": (["sample", "x"], "Missing option '--model'."),
    "a limit of nothing": (["judge", "longest", "x", "--limit", "0"], "Invalid value for '--limit': "),
    "a limit that is a word": (["judge", "longest", "x", "--limit", "all"], "Invalid value for '--limit': "),
}


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_a_command_line_that_cannot_be_understood_is_one_line(name: str, rlaif: Rlaif) -> None:
    arguments, message = COMMAND_LINES[name]
    said = rlaif(*arguments)
    assert said.code == 2
    assert said.line.startswith(f"rlaif: {message}")


def test_no_command_prints_the_help(rlaif: Rlaif) -> None:
    said = rlaif()
    assert said.code == 2
    assert said.err.startswith("Usage: rlaif")
    assert rlaif("--help").code == 0
    assert rlaif("--version").out.startswith("rlaif ")
