"""Prompts to responses to comparisons: what fails is asked again, what is not compared is counted with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.component import Options
from rlaif.records import Comparison, Exclusion, Prompt, Response
from rlaif.sampling import Compare
from rlaif.selection import All, Baseline, Connected, List, Pairs
from rlaif.statistics.ranking import parts
from rlaif.store import RunFolder
from tests import make
from tests.runs import rlaif
from tests.tiny import write_jsonl

PROMPT = make.prompt()


def said(role: str | None, *texts: str) -> list[Response]:
    generator = f"{role}@0123456789ab" if role else None
    return [make.response(PROMPT, text, generator=generator, sample_index=number) for number, text in enumerate(texts)]


# --- the choice of pairs ----------------------------------------------------------------------------------------------

AGAINST = Baseline(Baseline.Options(model="old"), "test")


class Nothing:
    """A user's own rule, which finds no pair worth judging."""

    def pairs(self, prompt: Prompt, responses: Any) -> Pairs:
        return []


@pytest.mark.parametrize(
    ("selector", "responses", "reason"),
    [
        (All(Options(), "test"), [], "no response"),
        (All(Options(), "test"), said("new", "one"), "a single response"),
        (AGAINST, said("new", "one", "two"), "no response of old"),
        (AGAINST, said(None, "one", "two"), "no response of old"),
        (AGAINST, said("older", "one", "two"), "no response of old"),
        (AGAINST, said("old", "one", "two"), "no response but those of old"),
        (Nothing(), said("new", "one", "two"), "no pair selected"),
    ],
)
def test_a_prompt_without_a_pair_is_excluded_with_its_reason(
    selector: Any, responses: list[Response], reason: str
) -> None:
    (record,) = Compare(selector).of(PROMPT, responses)
    assert isinstance(record, Exclusion)
    assert (record.item_id, record.outcome, record.reason) == (PROMPT.id, "filtered", reason)


def test_a_list_is_one_comparison_of_all_different_responses() -> None:
    many = said("new", "one", "two", "one", "three")
    (comparison,) = Compare(List(Options(), "test")).of(PROMPT, many)
    assert isinstance(comparison, Comparison)
    assert [response.id for response in comparison.responses] == [many[i].id for i in (0, 1, 3)]
    (record,) = Compare(List(Options(), "test")).of(PROMPT, said("new", "one", "one"))
    assert isinstance(record, Exclusion)
    assert record.reason == "identical responses"


@pytest.mark.parametrize("n", [5, 6, 9, 15, 40])
def test_a_connected_choice_reaches_every_response_with_as_many_pairs_as_asked_for(n: int) -> None:
    many = said("new", *"abcdef")
    pairs = Connected(Connected.Options(n=n), "test").pairs(PROMPT, many)
    assert len(pairs) == len(set(pairs)) == min(n, 15)
    assert parts(pairs, 6) == 1  # type: ignore[arg-type]


def test_a_connected_choice_of_too_few_pairs_says_so() -> None:
    (record,) = Compare(Connected(Connected.Options(n=4), "test")).of(PROMPT, said("new", *"abcdef"))
    assert isinstance(record, Exclusion)
    assert record.reason == "4 pairs cannot connect 6 responses"


def test_lists_are_judged_and_labelled_pair_by_pair(working_folder: Path) -> None:
    """Sampling, one comparison of all, one ranking in each of two orders, and a preference for every two."""
    (working_folder / "own_lists.py").write_text(
        "from itertools import count\nnumber = count()\n"
        "def speak(request):\n"
        "    text = request.messages[-1].content\n"
        "    if 'reply A>>' not in text:\n        return 'x' * (1 + request.sample_index)\n"
        "    shown = [part.partition('>>') for part in text.split(' reply ')[1:]]\n"
        "    shown = [(name, body.split('<<')[0].strip()) for name, _, body in shown if len(name) == 1]\n"
        "    return f\"[[{' > '.join(n for n, b in sorted(shown, key=lambda s: -len(s[1])))}]]\"\n"
    )
    write_jsonl(working_folder / "prompts.jsonl", [{"prompt": "One?"}, {"prompt": "Two?"}])
    speaker = "{provider: scripted, model: own_lists:speak}"
    recipe = {
        "prompts": "prompts.jsonl", "responses": {"samples": 3}, "comparisons": "list",
        "labels": {"source": "judges", "options": {"judges": ["rank-list"]}},
    }  # fmt: skip
    (working_folder / "r.yaml").write_text(json.dumps(recipe))
    settings = ["--set", f"models.policy={speaker}", "--set", f"models.judge={speaker}"]
    rlaif(working_folder, "run", "r.yaml", *settings, "--out", "run")
    accounts = json.loads((working_folder / "run/accounts.json").read_text())
    assert accounts["comparisons"] == {"unit": "lists", "in": 2, "outcomes": {"passed on": 2}, "reasons": {}}
    assert accounts["judgements"]["outcomes"] == {"ranked": 4}
    assert accounts["preferences"]["outcomes"] == {"labelled": 6}
    run = RunFolder(working_folder / "run")
    assert {len(row.chosen[0].content) - len(row.rejected[0].content) > 0 for row in run.read("preferences")} == {True}
    metrics = json.loads((working_folder / "run/metrics.json").read_text())
    assert (metrics["judgements.cycles"]["value"], metrics["judgements.cycles"]["n"]) == (0, 2)
    assert metrics["judgements.orders_agree"]["value"] == 1


def test_every_response_meets_those_of_the_baseline_and_no_others() -> None:
    responses = [*said("new", "a", "b"), *said("old", "x", "y")]
    found = list(Compare(AGAINST).of(PROMPT, responses))
    assert all(isinstance(record, Comparison) for record in found)
    texts = [tuple(r.text for r in record.responses) for record in found if isinstance(record, Comparison)]
    assert sorted(texts) == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]


# --- failures of sampling ---------------------------------------------------------------------------------------------

MODELS = """
from pathlib import Path
from rlaif.errors import CallFailed


def note(request):
    with open("asked", "a") as file:
        file.write(request.messages[-1].content[-1])


def answer(request):
    note(request)
    if request.messages[-1].content[-1] in Path("down").read_text():
        raise CallFailed("the server is down", retryable=True)
    if request.messages[-1].content[-1] == "3":
        raise CallFailed("too long for this model")
    return f"reply {request.sample_index} to {request.messages[-1].content}"


def old(request):
    if request.messages[-1].content[-1] == "2":
        raise CallFailed("too long for this model")
    return "an old reply"
"""
RECIPE = """
models:
  policy: {provider: scripted, model: "unreliable:answer"}
  old: {provider: scripted, model: "unreliable:old"}
prompts: prompts.jsonl
responses: {models: [policy], samples: 2}
labels: {source: judges, options: {judges: [longest]}}
shard_rows: 2
"""


def prepare(folder: Path, down: str) -> None:
    (folder / "unreliable.py").write_text(MODELS)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "down").write_text(down)
    write_jsonl(folder / "prompts.jsonl", [{"prompt": f"question {i}"} for i in range(4)])


def account(run: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "accounts.json").read_text())[stage]
    return found


def contents(run: Path) -> dict[str, str]:
    return {noun: RunFolder(run).content(noun) for noun in ("responses", "comparisons", "judgements", "preferences")}


def test_responses_that_failed_for_a_while_are_asked_for_again_and_the_others_are_not(working_folder: Path) -> None:
    prepare(working_folder, down="12")
    arguments = ("run", "recipe.yaml", "--out", "run")
    rlaif(working_folder, *arguments)
    assert account(working_folder / "run", "responses") == {
        "unit": "samples",
        "in": 8,
        "outcomes": {"passed on": 2, "failed": 6},
        "reasons": {"the server is down": 4, "too long for this model": 2},
    }
    assert account(working_folder / "run", "comparisons")["outcomes"] == {"passed on": 1, "filtered": 3}
    (working_folder / "asked").unlink()

    (working_folder / "down").write_text("")
    rlaif(working_folder, *arguments)
    asked = (working_folder / "asked").read_text()
    assert sorted(asked) == list(
        "112233"
    )  # one prompt a shard: those from the first failure on; the answered one stays
    assert account(working_folder / "run", "responses")["outcomes"] == {"passed on": 6, "failed": 2}
    assert account(working_folder / "run", "comparisons")["outcomes"] == {"passed on": 3, "filtered": 1}

    rlaif(working_folder, "run", "recipe.yaml", "--out", "straight", "--set", "ledger=other.sqlite")
    assert contents(working_folder / "run") == contents(working_folder / "straight")


def test_a_run_in_which_nothing_could_be_sampled_goes_on_once_it_can(working_folder: Path) -> None:
    prepare(working_folder, down="0123")
    with pytest.raises(AssertionError, match=r"4 × no response\. Samples without a reply: 8 × the server is down"):
        rlaif(working_folder, "run", "recipe.yaml", "--out", "run")
    (working_folder / "down").write_text("")
    rlaif(working_folder, "run", "recipe.yaml", "--out", "run")
    assert account(working_folder / "run", "responses")["outcomes"] == {"passed on": 6, "failed": 2}


def test_prompts_that_the_baseline_did_not_answer_are_in_the_accounts(working_folder: Path) -> None:
    prepare(working_folder, down="")
    rlaif(
        working_folder, "run", "recipe.yaml", "--out", "run", "--set", "responses.models=[policy, old]",
        "--set", "comparisons={select: baseline, options: {model: old}}", "--set", "responses.samples=1",
    )  # fmt: skip
    # question 2: no baseline; question 3: the baseline alone
    assert account(working_folder / "run", "comparisons") == {
        "unit": "pairs",
        "in": 4,
        "outcomes": {"passed on": 2, "filtered": 2},
        "reasons": {"a single response": 2},
    }
    rlaif(
        working_folder, "run", "recipe.yaml", "--out", "more", "--set", "responses.models=[policy, old]",
        "--set", "comparisons={select: baseline, options: {model: old}}",
    )  # fmt: skip
    assert account(working_folder / "more", "comparisons")["outcomes"] == {"passed on": 8, "filtered": 2}
    reasons = {"no response of old": 1, "no response but those of old": 1}
    assert account(working_folder / "more", "comparisons")["reasons"] == reasons
