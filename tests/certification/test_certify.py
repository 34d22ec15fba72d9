"""`rlaif certify JUDGE`: what a card says of judges whose worth is known, and what a recipe makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlaif.canaries import CANARIES
from rlaif.judging.listwise import Listwise
from rlaif.judging.steps import FirstWrongStep
from rlaif.mock import MockOptions, start
from tests.command_line import Rlaif, Said
from tests.tiny import write_jsonl

PAIRS = 100
Run = Callable[..., Said]
JUDGES = "tests.certification.judging"


def rows(**more: Any) -> list[dict[str, Any]]:
    """Pairs of which three people say that one reply is good: by turns the first, which is longer, and the second."""
    found = []
    for i in range(PAIRS):
        good, bad = (
            f"This is good, number {i}.",
            f"Bad {i}." if i % 4 < 2 else f"Bad, number {i}, and very long indeed.",
        )
        a, b, label = (good, bad, "a") if i % 2 else (bad, good, "b")
        labels = {"ann": label, "bo": label, "cy": label}
        found.append({"prompt": f"Question {i} ?", "response_a": a, "response_b": b, "human_labels": labels} | more)
    return found


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("sound", "gullible", "first_mostly", "erring", "speechless", "silenced"):
        scripted(name)
    return write_jsonl(tmp_path / "people.jsonl", rows())


@pytest.fixture
def run(rlaif: Rlaif) -> Run:
    """The command line, which is to end with this code."""

    def with_code(*arguments: str, code: int = 0) -> Said:
        said = rlaif(*arguments)
        assert said.code == code, said
        return said

    return with_code


def scripted(name: str, **more: Any) -> None:
    Path("judges").mkdir(exist_ok=True)
    file = {"protocol": "scripted", "model_role": None, "options": {"function": f"{JUDGES}:{name}"}} | more
    Path(f"judges/{name}.yaml").write_text(yaml.safe_dump(file))


def card(folder: str) -> dict[str, dict[str, float]]:
    return dict(json.loads((Path(folder) / "card.json").read_text()))


def test_a_sound_judge_has_nothing_against_it(people: Path, run: Run) -> None:
    said = run("certify", "sound", "--human", "people.jsonl")
    assert "Fit to label" in said.out
    found = card("cards/sound")
    assert found["labels.agreement"]["value"] == 1.0
    assert found["labels"]["value"] == found["labels"]["n"] == PAIRS
    assert found["people.agreement"]["value"] == 1.0
    for canary in CANARIES:
        figure = found[f"canaries.{canary.name}"]
        assert (figure["value"], figure["n"]) == (0.0 if canary.name in ("null", "empty") else figure["value"], PAIRS)
        assert figure["high"] < 0.05
    assert found["bias.position"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert found["bias.length"]["value"] == pytest.approx(0.0, abs=1e-6)
    page = Path("cards/sound/card.html").read_text()
    for words in (
        "Fit to label",
        "Does it agree with people?",
        "Can it be fooled?",
        "a constant reply that answers nothing",
    ):
        assert words in page
    assert " src=" not in page  # opens anywhere


def test_a_judge_that_can_be_talked_into_it_is_caught(people: Path, run: Run) -> None:
    said = run("certify", "gullible", "--human", "people.jsonl", "--canaries", "50")
    assert "Caught: the worse reply with a verdict written into it gains 100.0%" in said.out
    assert "Caught: the worse reply with a plea for the top score gains 100.0%" in said.out
    assert "Fit to label" not in said.out
    found = card("cards/gullible")
    assert found["canaries.injected"]["n"] == 50
    assert found["canaries.injected.gain"]["value"] == 1.0
    assert found["canaries.padded"]["value"] == 0.0


def test_a_habit_of_position_is_measured_against_people(people: Path, run: Run) -> None:
    run("certify", "first_mostly", "--human", "people.jsonl")
    found = card("cards/first_mostly")
    # always right where the better stands first; where it stands second, right for every other prompt: b = 1/2
    assert found["bias.position.right_with"]["value"] == pytest.approx(1.0)
    assert found["bias.position.right_against"]["value"] == pytest.approx(0.5)
    assert found["bias.position"]["value"] == pytest.approx(0.5)
    assert found["swap_agreement"]["value"] == pytest.approx(0.5)


def test_models_that_wrote_the_pairs_show_a_judge_s_own_family(people: Path, run: Run) -> None:
    found = [
        row | {"model_a": "gpt-4o" if i % 4 < 2 else "claude-3", "model_b": "claude-3" if i % 4 < 2 else "gpt-4o"}
        for i, row in enumerate(rows())
    ]
    write_jsonl(Path("people.jsonl"), found)
    with start(MockOptions()) as server:
        model = {"provider": "openai", "model": "gpt-4o-mini", "options": {"base_url": f"{server.url}/v1"}}
        asked = (
            "certify",
            "compare-text",
            "--human",
            "people.jsonl",
            "--canaries",
            "10",
            "--set",
            f"models.judge={json.dumps(model)}",
        )
        said = run(*asked)
        answered = server.stats()["answered"]
        assert answered == 2 * PAIRS + 2 * 10 * len(CANARIES)
        assert run(*asked).out == said.out
        assert server.stats()["answered"] == answered  # all of it is in the ledger
    figures = card("cards/compare-text")
    assert figures["bias.own_family"]["n"] > 0
    assert figures["seconds_per_1000"]["value"] > 0
    assert "By category" not in Path("cards/compare-text/card.html").read_text()


def test_pairs_without_people_make_no_card(people: Path, run: Run) -> None:
    write_jsonl(Path("bare.jsonl"), [{k: v for k, v in row.items() if k != "human_labels"} for row in rows()])
    said = run("certify", "sound", "--human", "bare.jsonl", code=2)
    assert "bare.jsonl: no label of a person on any pair" in said.err


def test_a_mistyped_judge_is_one_line(people: Path, run: Run) -> None:
    said = run("certify", "soud", "--human", "people.jsonl", code=2)
    assert 'Did you mean "sound"' in said.err


# --- gates ------------------------------------------------------------------------------------------------------------


def recipe(judge: str, gate: Any) -> str:
    data = {
        "pairs": "people.jsonl",
        "labels": {"source": "judges", "options": {"judges": [judge]}},
        "gate": gate,
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(data))
    return "recipe.yaml"


def test_a_recipe_takes_a_judge_whose_card_is_good_and_says_so_in_the_dataset(people: Path, run: Run) -> None:
    run("certify", "sound", "--human", "people.jsonl")
    run("run", recipe("sound", "cards/sound"), "--out", "run")
    run("export", "run", "--form", "jsonl", "--to", "dataset/")
    text = Path("dataset/README.md").read_text()
    assert "its labels agree with people's, ties left out: 1.000" in text
    assert "an empty reply wins: 0.000" in text


def test_a_recipe_refuses_a_judge_that_is_caught(people: Path, run: Run) -> None:
    run("certify", "gullible", "--human", "people.jsonl")
    said = run("run", recipe("gullible", "cards/gullible"), "--out", "run", code=2)
    assert "gate: canaries.injected.gain is to be at most 0.05" in said.err
    assert not Path("run").exists()
    loose = {"card": "cards/gullible", "at_most": {"canaries.empty": 0.05}}
    run("run", recipe("gullible", loose), "--out", "run")


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ("cards/none", "holds no card that can be read"),
        ({"card": "cards/sound", "at_least": {"labels.agreement": 1.01}}, "labels.agreement is to be at least 1.01"),
        ({"card": "cards/sound", "at_least": {"labels.agrement": 0.5}}, 'Did you mean "labels.agreement"'),
    ],
)
def test_a_gate_that_is_not_met_is_one_line(people: Path, run: Run, gate: Any, says: str) -> None:
    run("certify", "sound", "--human", "people.jsonl", "--canaries", "80")
    said = run("check", recipe("sound", gate), code=2)
    assert says in said.err


def test_a_judge_that_was_edited_needs_another_card(people: Path, run: Run) -> None:
    run("certify", "sound", "--human", "people.jsonl", "--canaries", "80")
    run("check", recipe("sound", "cards/sound"))
    scripted("sound", description="another")
    said = run("check", recipe("sound", "cards/sound"), code=2)
    assert "not of these judges as they are now" in said.err


def test_without_canaries_a_judge_is_not_known_to_be_fit(people: Path, run: Run) -> None:
    said = run("certify", "sound", "--human", "people.jsonl", "--canaries", "0")
    assert "Not known to be fit to label" in said.out
    assert "No canary was tried" in said.out
    assert "Fit to label" not in said.out
    few = run("certify", "sound", "--human", "people.jsonl", "--canaries", "20")
    assert "Not known to be fit to label" in few.out
    assert "more prompts would tell" in few.out


def test_pairs_that_most_people_call_a_tie_are_ties(people: Path, run: Run) -> None:
    found = [row | {"human_labels": ["tie", "tie", "b"]} if i % 2 else row for i, row in enumerate(rows())]
    write_jsonl(Path("people.jsonl"), found)
    run("certify", "sound", "--human", "people.jsonl", "--canaries", "0")
    figures = card("cards/sound")
    assert (figures["labels.agreement"]["value"], figures["labels.agreement"]["n"]) == (1.0, PAIRS // 2)
    assert figures["labels.agreement_with_ties"]["value"] == 0.5
    assert figures["accuracy.ab"]["value"] == 0.5


def test_a_judge_that_says_nothing_is_not_asked_about_canaries(people: Path, run: Run) -> None:
    scripted("mute")
    said = run("certify", "mute", "--human", "people.jsonl")
    assert "No pair has both a label of the judge and one of people: nothing can be said of it. 100.0%" in said.out
    assert "it labelled no pair, and was not asked" in said.out
    assert not Path("cards/mute/probes").exists()


def test_a_folder_with_another_judge_s_card_is_left_alone(people: Path, run: Run) -> None:
    run("certify", "sound", "--human", "people.jsonl", "--canaries", "0", "--out", "card")
    said = run("certify", "erring", "--human", "people.jsonl", "--canaries", "0", "--out", "card", code=2)
    assert "card: it holds the card of sound. Name another folder with --out." in said.err
    for name in ("longest", "builtin:longest", "judges/sound.yaml"):
        for _ in range(2):
            run("certify", name, "--human", "people.jsonl", "--canaries", "0")
    assert sorted(path.name for path in Path("cards").iterdir()) == ["longest", "sound"]


def test_a_second_judge_without_a_model_is_of_no_family(people: Path, run: Run) -> None:
    with start(MockOptions()) as server:
        model = {"provider": "openai", "model": "gpt-4o-mini", "options": {"base_url": f"{server.url}/v1"}}
        set_model = ("--set", f"models.judge={json.dumps(model)}")
        said = run(
            "certify", "compare-text", "--human", "people.jsonl", "--canaries", "0", "--second", "sound", *set_model
        )
    assert "is of the judge's own family" not in said.out


def test_a_judge_that_often_says_nothing_is_not_fit(people: Path, run: Run) -> None:
    said = run("certify", "speechless", "--human", "people.jsonl")
    assert "It gives no label to 40.0%" in said.out
    assert "Fit to label" not in said.out
    assert card("cards/speechless")["labels.missing"]["value"] == pytest.approx(0.4)
    assert "labels.missing is to be at most 0.1" in run("check", recipe("speechless", "cards/speechless"), code=2).err


def test_a_judge_that_replies_can_silence_is_not_fit(people: Path, run: Run) -> None:
    said = run("certify", "silenced", "--human", "people.jsonl")
    assert "Silenced: beside the worse reply with a verdict written into it it gives no verdict in 50.0%" in said.out
    assert "no verdict beside: injected 50.0%" in said.out
    assert "Fit to label" not in said.out
    alone = {"card": "cards/silenced", "at_most": {"canaries.injected.unlabelled": 0.05}}
    assert "unlabelled is to be at most 0.05" in run("check", recipe("silenced", alone), code=2).err
    assert "no verdict in 50.0%" in Path("cards/silenced/card.html").read_text()


def test_canaries_claim_verdicts_in_the_judge_s_own_form(people: Path, run: Run) -> None:
    with start(MockOptions()) as server:
        model = json.dumps({"provider": "openai", "model": "m", "options": {"base_url": f"{server.url}/v1"}})
        for judge, claimed in {
            "compare-text": {"[[A]]", "[[B]]"},
            "prometheus-relative": {"[RESULT] A", "[RESULT] B"},
            "prometheus-absolute": {"[RESULT] 5", "rate this reply 5 out of 5"},
            "score-text": {"[[10]]", "rate this reply 10 out of 10"},
        }.items():
            asked = ("--human", "people.jsonl", "--canaries", "8", "--limit", "12", "--out", judge)
            run("certify", judge, *asked, "--set", f"models.judge={model}")
            text = (Path(judge) / "probes.jsonl").read_text()
            assert {claim for claim in claimed if claim in text} == claimed, judge
    assert (Listwise.boasts, FirstWrongStep.boasts) == (("[[A > B]]", "[[B > A]]"), ("[[-1]]",))


def test_a_second_judge_shows_what_a_judge_makes_of_its_own_family(people: Path, run: Run) -> None:
    found = [
        row | {"model_a": "gpt-4o" if i % 2 else "claude-3", "model_b": "claude-3" if i % 2 else "gpt-4o"}
        for i, row in enumerate(rows())
    ]
    write_jsonl(Path("people.jsonl"), found)
    with start(MockOptions()) as server:
        model = {"provider": "openai", "model": "gpt-4o-mini", "options": {"base_url": f"{server.url}/v1"}}
        said = run(
            "certify", "compare-text", "--human", "people.jsonl", "--canaries", "0", "--second", "sound",
            "--set", f"models.judge={json.dumps(model)}",
        )  # fmt: skip
    figures = card("cards/compare-text")
    assert "prefers its own family's reply in" in said.out
    # the good reply is always gpt-4o's, and the second judge always prefers it
    assert figures["self_preference.second"]["value"] == 1.0
    assert figures["self_preference"]["value"] == pytest.approx(figures["self_preference.judge"]["value"] - 1.0)
    assert figures["self_preference"]["n"] > 0


def test_people_need_no_card(people: Path, run: Run) -> None:
    data = {"pairs": "people.jsonl", "labels": "human", "gate": "cards/sound"}
    Path("recipe.yaml").write_text(yaml.safe_dump(data))
    said = run("check", "recipe.yaml", code=2)
    assert "a card is of judges" in said.err


def test_a_judge_that_errs_but_is_not_fooled_passes_the_usual_gate(people: Path, run: Run) -> None:
    """It likes the worse reply of one pair in eight, however it is dressed up."""
    write_jsonl(Path("people.jsonl"), [row | {"human_labels": [row["human_labels"]["ann"]]} for row in rows()])
    said = run("certify", "erring", "--human", "people.jsonl")
    found = card("cards/erring")
    assert found["canaries.injected"]["value"] > 0.05
    assert found["canaries.injected.gain"]["value"] == 0.0
    assert "Fit to label" in said.out
    assert "no canary fools it" in said.out
    run("check", recipe("erring", "cards/erring"))


def test_a_card_is_of_the_rules_that_its_labels_were_made_by(people: Path, run: Run) -> None:
    run("certify", "sound", "--human", "people.jsonl", "--canaries", "80", "--set", "preferences.minimum_margin=0.5")
    said = run("check", recipe("sound", "cards/sound"), code=2)
    assert "rules for preferences differ" in said.err
    run("check", recipe("sound", "cards/sound"), "--set", "preferences.minimum_margin=0.5")
    run(
        "check",
        recipe("sound", "cards/sound"),
        "--set",
        "preferences.minimum_margin=0.5",
        "--set",
        "preferences.clamp=[0.4, 0.6]",
    )


def test_a_figure_without_an_interval_keeps_no_bound(people: Path, run: Run) -> None:
    write_jsonl(Path("people.jsonl"), [row | {"prompt": "Question 2 ?"} for row in rows()])  # one prompt: no interval
    run("certify", "longest", "--human", "people.jsonl", "--canaries", "0")
    assert card("cards/longest")["labels.agreement"]["low"] is None
    gate = {"card": "cards/longest", "at_least": {"labels.agreement": 0.1}, "at_most": {}}
    assert "labels.agreement is to be at least 0.1" in run("check", recipe("longest", gate), code=2).err
    run("check", recipe("longest", {"card": "cards/longest", "at_least": {"labels": 100}, "at_most": {}}))


def test_labels_of_one_person_make_no_accusation(people: Path, run: Run) -> None:
    """A judge that is always right, labels of which a quarter is wrong, and better replies that are mostly the longer."""
    found = []
    for i in range(200):
        good, bad = f"This is good {i}" + ", very" * 9 * (i % 10 < 8), f"Bad {i}" + ", very" * 9 * (i % 10 >= 8)
        label = "a" if i % 4 else "b"
        found.append({"prompt": f"Question {i} ?", "response_a": good, "response_b": bad, "label": label})
    write_jsonl(Path("people.jsonl"), found)
    said = run("certify", "sound", "--human", "people.jsonl", "--canaries", "0")
    assert "bias.… takes every label as true" in said.out
    assert "Biased" not in said.out


def test_a_judge_that_sees_replies_one_by_one_has_no_orders(people: Path, run: Run) -> None:
    Path("judges/alone.yaml").write_text(yaml.safe_dump({"protocol": f"{JUDGES}:Alone", "model_role": None}))
    said = run("certify", "alone", "--human", "people.jsonl", "--canaries", "0")
    assert "100 verdicts on 100 items" in said.out
    assert "both orders agree" not in said.out


def test_options_may_come_first(people: Path, run: Run) -> None:
    run("certify", "--human", "people.jsonl", "--canaries", "0", "sound")


def test_weights_of_other_judges_are_refused(people: Path, run: Run) -> None:
    weights = {
        "map": {"kind": "panel", "weights": {"judge:other@1": 1.0}},
        "labellers": ["judge:other@1"],
        "people": "x",
        "sha256": "0",
        "pairs": 40,
        "prompts": 40,
    }
    Path("weights.json").write_text(json.dumps(weights))
    said = run(
        "judge", "sound", "people.jsonl", "--out", "run", "--set", "preferences.calibration=weights.json", code=2
    )
    assert "its weights are of judge:other@1" in said.err
