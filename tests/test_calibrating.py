"""From a judged run and people's labels to a calibration, and from there to other preferences."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

from rlaif.calibration import Calibration
from rlaif.judging import Ask, Showing, Verdict
from rlaif.store import RunFolder
from tests.runs import rlaif, start
from tests.tiny import write_jsonl

SLOPE = 3.0  # the judge's logits are so many times the truth's


class TooSure:
    """Reads the quality that stands in a reply, and makes too much of it."""

    def __init__(self, options: object, context: object) -> None:
        pass

    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        one, two = (float(re.search(r"-?\d+\.\d+", r.text)[0]) for r in showing.responses)  # type: ignore[index]
        p = 1 / (1 + math.exp(-SLOPE * (one - two)))
        return Verdict(p=(p, 1 - p), probabilistic=True)


class Certain(TooSure):
    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        verdict = await super().judge(showing, ask)
        assert verdict.p
        return Verdict(p=(1.0, 0.0) if verdict.p[0] > 0.5 else (0.0, 1.0))


def prepare(folder: Path, pairs: int, judge: str = "TooSure") -> None:
    rng = random.Random(pairs)
    rows: list[dict[str, Any]] = []
    for i in range(pairs):
        a, b = round(rng.gauss(0, 1), 3), round(rng.gauss(0, 1), 3)
        likes_a = rng.random() < 1 / (1 + math.exp(b - a))
        rows.append(
            {"prompt": f"Question {i}?", "response_a": f"a {a:.3f}", "response_b": f"b {b:.3f}", "label": "ba"[likes_a]}
        )
    write_jsonl(folder / "pairs.jsonl", rows)
    (folder / "sure.yaml").write_text(f"protocol: tests.test_calibrating:{judge}\nmodel_role: null\n")


def preferences(run: Path) -> dict[str, float]:
    return {row.comparison_id: row.p for row in RunFolder(run).read("preferences")}


def test_a_judge_that_is_too_sure_is_set_right_and_the_labels_follow(tmp_path: Path) -> None:
    prepare(tmp_path, 400)
    rlaif(tmp_path, "judge", "sure.yaml", "pairs.jsonl", "--out", "run")
    before = preferences(tmp_path / "run")
    printed = rlaif(tmp_path, "calibrate", "run")
    assert "400 pairs of 400 prompts with a label of judge:sure@" in printed
    found = Calibration.model_validate_json((tmp_path / "calibration.json").read_text())
    assert found.map.kind in ("temperature", "platt")
    figures = found.figures
    own = found.map.kind
    assert figures[f"{own}.calibration_error"]["value"] < 0.5 * figures["as it is.calibration_error"]["value"]
    assert figures[f"{own}.gain"]["low"] > 0
    arguments = ("pairs.jsonl", "--out", "set-right", "--set", "preferences.calibration=calibration.json")
    rlaif(tmp_path, "judge", "sure.yaml", *arguments)
    after = preferences(tmp_path / "set-right")
    assert after == {name: pytest.approx(found.map.of(p)) for name, p in before.items()}
    (tmp_path / "calibration.json").unlink()  # the run folder holds what it needs of it
    rlaif(tmp_path, "judge", "sure.yaml", "--out", "set-right")
    assert preferences(tmp_path / "set-right") == after


def test_a_run_labelled_again_is_mapped_too(tmp_path: Path) -> None:
    prepare(tmp_path, 60)
    rlaif(tmp_path, "judge", "sure.yaml", "pairs.jsonl", "--out", "run")
    before = preferences(tmp_path / "run")
    rlaif(tmp_path, "calibrate", "run", "--kind", "temperature")
    found = Calibration.model_validate_json((tmp_path / "calibration.json").read_text())
    rlaif(tmp_path, "reread", "run", "--set", "preferences.calibration=calibration.json")
    assert preferences(tmp_path / "run") == {name: pytest.approx(found.map.of(p)) for name, p in before.items()}


def test_verdicts_without_probabilities_are_smoothed(tmp_path: Path) -> None:
    prepare(tmp_path, 200, "Certain")
    rlaif(tmp_path, "judge", "sure.yaml", "pairs.jsonl", "--out", "run")
    rlaif(tmp_path, "calibrate", "run")
    found = Calibration.model_validate_json((tmp_path / "calibration.json").read_text())
    assert found.map.kind == "verdicts"
    assert found.figures["verdicts.log_loss"]["value"] < found.figures["one half.log_loss"]["value"]


def test_an_arm_of_a_study_with_a_calibration_differs_in_its_probabilities_alone(tmp_path: Path) -> None:
    prepare(tmp_path, 60)
    rlaif(tmp_path, "judge", "sure.yaml", "pairs.jsonl", "--out", "run")
    rlaif(tmp_path, "calibrate", "run", "--kind", "temperature")
    found = Calibration.model_validate_json((tmp_path / "calibration.json").read_text())
    labels = {"source": "judges", "options": {"judges": ["sure.yaml"]}}
    (tmp_path / "recipe.yaml").write_text(json.dumps({"pairs": "pairs.jsonl", "labels": labels}))
    arms = {
        "plain": {"labels": labels},
        "mild": {"labels": labels, "set": ["preferences.calibration=calibration.json"]},
    }
    (tmp_path / "study.yaml").write_text(json.dumps({"recipe": "recipe.yaml", "seeds": [0], "arms": arms}))
    said = rlaif(tmp_path, "compare", "study.yaml", "--out", "out")
    assert "mild: the same label as plain in 100.0%" in said
    plain, mild = (preferences(tmp_path / "out" / arm / "seed0") for arm in arms)
    assert mild == {name: pytest.approx(found.map.of(p)) for name, p in plain.items()}
    assert mild != plain


def test_a_calibration_of_another_judge_is_pointed_at_and_a_file_that_is_none_refused(tmp_path: Path) -> None:
    prepare(tmp_path, 40)
    rlaif(tmp_path, "judge", "sure.yaml", "pairs.jsonl", "--out", "run")
    rlaif(tmp_path, "calibrate", "run", "--kind", "temperature", "--to", "t.json")
    arguments = ("pairs.jsonl", "--out", "other", "--set", "preferences.calibration=t.json")
    said = rlaif(tmp_path, "judge", "longest", *arguments)
    assert "Careful: preferences.calibration was fitted on judge:sure@" in said
    (tmp_path / "log").unlink()
    (tmp_path / "t.json").write_text(json.dumps({"map": {"kind": "temperature", "a": -1}}))
    process = start(tmp_path, "judge", "longest", "pairs.jsonl", "--out", "third", *arguments[3:])
    process.join(60)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert process.exitcode == 2
    assert "preferences.calibration=t.json: t.json: " in line


def test_too_few_prompts_are_said(tmp_path: Path) -> None:
    prepare(tmp_path, 10)
    rlaif(tmp_path, "judge", "sure.yaml", "pairs.jsonl", "--out", "run")
    (tmp_path / "log").unlink()
    process = start(tmp_path, "calibrate", "run")
    process.join(60)
    assert process.exitcode == 2
    assert "10 prompts have a label of the run and one of a person" in (tmp_path / "log").read_text()


def test_a_panel_is_weighed_and_its_labels_follow(tmp_path: Path) -> None:
    prepare(tmp_path, 200)
    both = ("--set", 'labels.options.judges=["sure.yaml", "random"]')
    rlaif(tmp_path, "judge", "sure.yaml", "pairs.jsonl", "--out", "run", *both)
    said = rlaif(tmp_path, "calibrate", "run", "--kind", "panel")
    assert "mistakes of sure and random go together" in said
    found = Calibration.model_validate_json((tmp_path / "calibration.json").read_text())
    sure, coin = (next(w for name, w in found.map.weights.items() if each in name) for each in ("sure", "random"))
    assert sure > 3 * coin
    assert found.figures["panel.log_loss"]["value"] < found.figures["as it is.log_loss"]["value"]
    rlaif(
        tmp_path,
        "judge",
        "sure.yaml",
        "pairs.jsonl",
        "--out",
        "run",
        *both,
        "--set",
        "preferences.calibration=calibration.json",
    )
    provenance = list(RunFolder(tmp_path / "run").read("provenance"))
    labels = list(RunFolder(tmp_path / "run").read("preferences"))
    for row, label in zip(provenance, labels, strict=True):
        opinions = dict(zip(row.labellers, row.votes, strict=True))
        p = found.map.of_panel(opinions)
        assert label.p == pytest.approx(max(p, 1 - p))


def test_one_labeller_is_no_panel(tmp_path: Path) -> None:
    prepare(tmp_path, 40)
    rlaif(tmp_path, "judge", "sure.yaml", "pairs.jsonl", "--out", "run")
    (tmp_path / "log").unlink()
    process = start(tmp_path, "calibrate", "run", "--kind", "panel")
    process.join(60)
    assert process.exitcode == 2
    assert "one labeller is no panel" in (tmp_path / "log").read_text()


def test_an_arm_of_a_study_may_have_its_labels_set_right(tmp_path: Path) -> None:
    """By a calibration of its own: the same sides, and less sure of them."""
    prepare(tmp_path, 200)
    rlaif(tmp_path, "judge", "sure.yaml", "pairs.jsonl", "--out", "run")
    rlaif(tmp_path, "calibrate", "run")
    judge = {"source": "judges", "options": {"judges": ["sure.yaml"]}}
    study = {
        "recipe": "recipe.yaml",
        "seeds": [0],
        "arms": {
            "people": "human",
            "judge": {"labels": judge},
            "set-right": {"labels": judge, "set": ["preferences.calibration=calibration.json"]},
        },
    }
    (tmp_path / "recipe.yaml").write_text("pairs: pairs.jsonl\nlabels: human\n")
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    said = rlaif(tmp_path, "compare", "study.yaml", "--out", "out")
    assert "set-right: labels as people" in said
    figures = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert figures["arms.set-right.labels.agreement"] == figures["arms.judge.labels.agreement"]
    plain, right = (preferences(tmp_path / "out" / arm / "seed0") for arm in ("judge", "set-right"))
    assert plain.keys() == right.keys()
    assert all(0.5 <= right[name] <= plain[name] for name in plain)
    assert sum(right.values()) < sum(plain.values()) - 0.05 * len(plain)
