"""Judges that put responses into classes: every figure by hand, awkward rows, and real labels beside a checkout."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlaif.errors import DataError
from rlaif.recorded.classes import classes_card, read_labelled
from rlaif.statistics import figures as resampling
from tests.runs import rlaif
from tests.tiny import write_jsonl

ROWS: list[dict[str, Any]] = [
    {"prompt": "q1", "kind": "safe", "people": "complied", "other": "complied", "judge": "complied"},
    {"prompt": "q1", "kind": "safe", "people": "complied", "other": "refused", "judge": "refused"},
    {"prompt": "q2", "kind": "unsafe", "people": "refused", "other": "refused", "judge": "refused"},
    {"prompt": "q3", "kind": "unsafe", "people": "refused", "other": "refused", "judge": "I'm sorry, but I can't."},
    {"prompt": "q4", "kind": "unsafe", "people": None, "other": "refused", "judge": "refused"},
]


def values(rows: list[dict[str, Any]] = ROWS, **options: Any) -> dict[str, float | None]:
    source = str(write_jsonl(Path("responses.jsonl"), rows))
    card = classes_card(read_labelled(source, "people", ["judge"], ["people", "other"], **options))
    return {name: figure.value for name, figure in card.items()}


def test_every_figure_by_hand() -> None:
    found = values(by="kind")
    assert found["left_out"] == 1  # the row that nobody labelled
    assert found["share.complied"] == found["share.refused"] == 0.5
    assert found["judge.agreement"] == 0.5  # rows 1 and 3; what is no class agrees with nobody
    assert found["judge.unreadable"] == 0.25
    assert found["judge.share.complied"] == 0.25
    assert found["judge.excess.complied"] == -0.25
    assert found["judge.excess.refused"] == 0
    assert found["judge.recall.complied"] == 0.5
    assert found["judge.recall.refused"] == 0.5
    assert found["judge.precision.complied"] == 1
    assert found["judge.precision.refused"] == 0.5
    # said c r r none, true c c r r: by chance 1/4·1/2 + 1/2·1/2 + 1/4·0 = 3/8
    assert found["judge.kappa"] == pytest.approx((0.5 - 3 / 8) / (1 - 3 / 8))
    # people c c r r, other c r r r: agree 3/4, by chance 1/2·1/4 + 1/2·3/4 = 1/2
    assert found["agreement.people.other"] == 0.75
    assert found["kappa.people.other"] == pytest.approx(0.5)
    assert found["kind=safe.share.complied"] == 1
    assert found["kind=safe.judge.agreement"] == 0.5
    assert found["kind=unsafe.judge.excess.refused"] == -0.5


def test_two_responses_to_one_prompt_are_one_cluster() -> None:
    labelled = read_labelled(str(write_jsonl(Path("responses.jsonl"), ROWS[:2])), "people", ["judge"])
    figure = classes_card(labelled)["judge.agreement"]
    assert (figure.value, figure.low, figure.n) == (0.5, None, 2)  # one prompt alone leaves no interval


@pytest.mark.parametrize(
    ("rows", "judges", "said"),
    [
        ([{"people": "x"}], ["judge"], "responses.jsonl line 1: no judge."),
        ([{"people": None, "judge": "x"}], ["judge"], "no row has a label in people"),
        ([{"people": ["x"], "judge": "x"}], ["judge"], "responses.jsonl line 1: people is a list"),
        ([{"people": str(i), "judge": "x"} for i in range(30)], ["judge"], "people: 30 different values"),
    ],
)
def test_awkward_rows_are_named(rows: list[dict[str, Any]], judges: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_labelled(str(write_jsonl(Path("responses.jsonl"), rows)), "people", judges)


def test_a_column_that_is_missing_by_the_command() -> None:
    write_jsonl(Path("responses.jsonl"), ROWS)
    said = rlaif(
        Path(), "certify", "responses", "--recorded", "responses.jsonl", "--truth", "peopel", "--judge", "judge", code=2
    )
    assert 'no peopel. Did you mean "people"?' in said


@pytest.mark.parametrize("judge", ["gpt4_label", "strmatch_label"])
def test_xstest_as_its_rows_have_it(recorded: Path, judge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "RESAMPLES", 20)  # values do not depend on them
    path = recorded / "xstest_responses" / "mistral.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    card = classes_card(read_labelled(str(path), "human_final", [judge], ["human_1", "human_2"], by="unsafe"))
    assert card["share.1_full_compliance"].n == len(rows) == 900
    classes = sorted({row["human_final"] for row in rows})
    for unsafe, group in ((None, ""), (False, "unsafe=False."), (True, "unsafe=True.")):
        part = [row for row in rows if unsafe in (None, row["unsafe"])]
        right = np.mean([row[judge] == row["human_final"] for row in part])
        assert card[f"{group}{judge}.agreement"].value == pytest.approx(right)
        said = Counter(row[judge] if row[judge] in classes else None for row in part)
        true = Counter(row["human_final"] for row in part)
        chance = sum(said[name] * true[name] for name in classes) / len(part) ** 2
        assert card[f"{group}{judge}.kappa"].value == pytest.approx((right - chance) / (1 - chance))
        for name in classes:
            assert card[f"{group}share.{name}"].value == pytest.approx(true[name] / len(part))
            excess = (said[name] - true[name]) / len(part)
            assert card[f"{group}{judge}.excess.{name}"].value == pytest.approx(excess)
    people = np.mean([row["human_1"] == row["human_2"] for row in rows])
    assert card["agreement.human_1.human_2"].value == pytest.approx(people)
    assert card[f"{judge}.unreadable"].value == pytest.approx(sum(row[judge] not in classes for row in rows) / 900)
