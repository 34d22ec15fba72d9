"""The second order only where the first leaves doubt: a habit recovered, money saved, and a judge that may not be spared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.labels.second_order import First, Offset, audited, changed, measured_offset, p_of_first
from rlaif.mock import MockOptions, start
from rlaif.records import Judgement
from rlaif.store import RunFolder
from tests import make
from tests.runs import rlaif
from tests.runs import start as start_cli
from tests.test_api_runs import pairs

SPARING = "labels.options.second_order={measured_in: pilot, margin: 0.25}"


def by_api(url: str, out: str, *arguments: str) -> list[str]:
    model = json.dumps({"provider": "openai", "model": "mock-judge", "options": {"base_url": f"{url}/v1"}})
    judge = ["judge", "compare-logprobs-api", "pairs.jsonl", "--set", f"models.judge={model}", "--out", out]
    return [*judge, *arguments]


def judged(folder: Path) -> tuple[list[Judgement], dict[str, float]]:
    """A run's judgements, and the p of each comparison's label by the id of its chosen reply."""
    run = RunFolder(folder)
    chosen = {row.comparison_id: row.chosen_id for row in run.read("provenance")}
    labels = {f"{p.comparison_id}/{chosen[p.comparison_id]}": p.p for p in run.read("preferences")}
    return list(run.read("judgements")), labels


def test_a_known_habit_is_taken_off_and_half_the_calls_are_saved(tmp_path: Path) -> None:
    """The mock judge adds 1.5 to the logit of what stands first, and is mostly sure otherwise."""
    folder = pairs(tmp_path / "a", 300)
    with start(MockOptions(position_bias=1.5, sharpness=20.0, skill=1.0)) as server:
        rlaif(folder, *by_api(server.url, "pilot", "--limit", "120"))
        rlaif(folder, *by_api(server.url, "whole"))
        asked = server.stats()["answered"]
        (folder / ".rlaif" / "ledger.sqlite").unlink()  # else all of it is known already
        rlaif(folder, *by_api(server.url, "spared", "--set", SPARING))
        asked = server.stats()["answered"] - asked
    labeller = next(iter(RunFolder(folder / "pilot").read("judgements"))).labeller
    offset = measured_offset(str(folder / "pilot"), labeller, "", "here", ())
    assert offset.n == 120
    assert offset.logit == pytest.approx(1.5, abs=0.25)
    judgements, labels = judged(folder / "spared")
    _, both = judged(folder / "whole")
    assert len(judgements) == asked < 0.85 * 600
    assert len(labels) == 300
    assert len(set(labels) & set(both)) >= 0.96 * 300  # the same reply is chosen
    assert abs(sum(labels.values()) - sum(both[key] for key in labels if key in both)) / 300 < 0.05


def test_a_judge_whose_habit_has_changed_is_asked_in_both_orders_after_all(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "a", 200)
    with start(MockOptions(position_bias=0.0, sharpness=20.0)) as server:
        rlaif(folder, *by_api(server.url, "pilot"))
        port = int(server.url.rpartition(":")[2])
    (folder / ".rlaif" / "ledger.sqlite").unlink()
    with start(MockOptions(position_bias=6.0, sharpness=2.0, port=port)) as server:
        said = rlaif(folder, *by_api(server.url, "spared", "--set", SPARING))
        assert server.stats()["answered"] == 400
    assert "audited labels that the first order settled, the second changed" in said


@pytest.mark.parametrize(
    ("pilot", "words"),
    [
        (None, "nowhere is not a run folder"),
        ("20", "holds 20 comparisons that judge:compare-logprobs-api@"),
    ],
)
def test_what_no_offset_can_be_measured_in_is_refused(tmp_path: Path, pilot: str | None, words: str) -> None:
    folder = pairs(tmp_path / "a", 30)
    with start(MockOptions()) as server:
        if pilot:
            rlaif(folder, *by_api(server.url, "pilot", "--limit", pilot))
        setting = SPARING if pilot else SPARING.replace("pilot", "nowhere")
        process = start_cli(folder, *by_api(server.url, "spared", "--set", setting))
        process.join(60)
    text = (folder / "log").read_text()
    assert process.exitcode == 2
    assert words in text
    assert "Traceback" not in text


def test_an_offset_of_a_judge_that_was_asked_something_else_is_refused(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "a", 120)
    constitution = folder / "own.yaml"
    constitution.write_text("principles:\n  - {id: a, text: Prefer the better reply.}\n")
    with start(MockOptions()) as server:
        rlaif(folder, *by_api(server.url, "pilot", "--constitution", "own.yaml"))
        constitution.write_text("principles:\n  - {id: a, text: Prefer the worse reply.}\n")
        process = start_cli(folder, *by_api(server.url, "spared", "--constitution", "own.yaml", "--set", SPARING))
        process.join(60)
    assert process.exitcode == 2
    assert 'pilot was not judged by this constitution "own' in (folder / "log").read_text()


# --- by hand ----------------------------------------------------------------------------------------------------------

COMPARISONS = [make.comparison("Yes.", "No.", question=f"question {i}") for i in range(500)]


def judgement(first: float | None, **fields: Any) -> Judgement:
    """One that gives what it was shown first this probability; None: it could not be read."""
    base: dict[str, Any] = {"comparison_id": "c", "labeller": "judge:j@0", "shown": ("a", "b"), **fields}
    if first is None:
        return Judgement(**base, outcome="unreadable", reason="no")
    one, two = base["shown"]
    ranking = ((one, two),) if first == 0.5 else ((one,), (two,)) if first > 0.5 else ((two,), (one,))
    return Judgement(**base, outcome="ranked", ranking=ranking, p=(max(first, 1 - first), min(first, 1 - first)))


def test_a_corrected_p_by_hand() -> None:
    """logit(0.8) = ln 4; less ln 2 that is ln 2, p = 2/3. Less ln 16 it is -ln 4, p = 0.2: the other reply is better."""
    import math

    assert p_of_first(Offset(math.log(2), 100).corrected(judgement(0.8))) == pytest.approx(2 / 3)
    turned = Offset(math.log(16), 100).corrected(judgement(0.8))
    assert p_of_first(turned) == pytest.approx(0.2)
    assert turned.ranking == (("b",), ("a",))
    assert p_of_first(Offset(0.0, 100).corrected(judgement(1.0))) == pytest.approx(1.0, abs=1e-5)
    assert Offset(1.0, 100).corrected(judgement(None)) == judgement(None)


def test_a_failure_asks_for_no_second_order_and_doubt_does() -> None:
    assert First(judgement(None), judgement(None), audited=False).settles(0.3)
    assert First(judgement(0.9), judgement(0.85), audited=False).settles(0.3)
    assert not First(judgement(0.9), judgement(0.7), audited=False).settles(0.3)


def test_changed_labels_by_hand() -> None:
    def first(p: float) -> First:
        return First(judgement(p), judgement(p), audited=True)

    seconds = [judgement(p, shown=("b", "a")) for p in (0.1, 0.95, 0.9, 0.2)]
    firsts = [first(0.9), first(0.9), first(0.9), first(0.6)]
    # with the second order, the mean p of "a": 0.9, 0.475, 0.5, and the last was never settled
    assert changed(firsts, seconds, 0.3) == (2, 3)


def test_a_tenth_is_audited_and_it_is_drawn_by_content() -> None:
    drawn = audited(COMPARISONS)
    assert len(drawn) == 50
    assert audited(COMPARISONS[::-1]) == drawn
    assert len(audited(COMPARISONS[:60])) == 20
    assert len(audited(COMPARISONS[:7])) == 7
