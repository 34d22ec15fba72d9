"""Real recorded judges, where a checkout has them beside it: what their sources published, from the rows themselves."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlaif.recorded.card import card_of
from rlaif.recorded.differences import differences
from rlaif.recorded.readers import find_reader
from rlaif.recorded.replay import replay
from rlaif.recorded.winrate import figures_of, probability, read_contest
from rlaif.statistics import figures as resampling

PUBLISHED = {
    "acc_ab": "accuracy.ab",
    "acc_ba": "accuracy.ba",
    "acc_avg": "accuracy.avg",
    "acc_both": "accuracy.both",
    "swap_agreement": "swap_agreement",
    "kappa_ab_ba": "kappa.ab_ba",
}


def rows(path: Path) -> Iterator[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values do not depend on them."""
    monkeypatch.setattr(resampling, "RESAMPLES", 20)


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("reader", [None, "llmbar"])
def test_every_line_that_llmbar_published(recorded: Path, reader: str | None) -> None:
    folder = recorded / "llmbar"
    lines = list(rows(folder / "published.jsonl"))
    assert len(lines) == 33
    for line in lines:
        if reader and line["method"] == "Rating":
            continue  # scores, no raw replies
        found = replay(
            str(folder / "items.jsonl.gz"),
            str(folder / "judgements.jsonl.gz"),
            judge=line["judge"],
            method=line["method"],
            subset=line["subset"],
            reader=find_reader(reader) if reader else None,
        )
        card, _ = card_of(found)
        for theirs, ours in PUBLISHED.items():
            value = card[ours].value
            assert value is not None
            percent = 1 if theirs.startswith("kappa") else 100
            assert value * percent == pytest.approx(line[theirs], abs=1e-6), (line, ours)


def test_the_sources_rule_reads_every_raw_reply_as_it_was_recorded(recorded: Path) -> None:
    found = differences(str(recorded / "llmbar" / "judgements.jsonl.gz"), find_reader("llmbar"), None)
    assert found.read.total() == found.alike.total() == 4064
    assert not found.rows


def test_our_own_reader_differs_where_the_sources_rule_takes_the_first_form_it_finds(recorded: Path) -> None:
    found = differences(str(recorded / "llmbar" / "judgements.jsonl.gz"), find_reader("own"), None)
    assert found.alike.total() / found.read.total() > 0.98
    # The source read PaLM2 by opening lines: "Output (b) is better.\n\nOutput (a) is long." counts for (a) there.
    palm = ("PaLM2", "CoT")
    alike, read = (counts.total() - counts[palm] for counts in (found.alike, found.read))
    assert alike / read > 0.99
    assert len(found.rows) == found.read.total() - found.alike.total()
    # Where the two differ, the last sentence with a verdict is ours; one reply breaks off before it, one contradicts itself.
    last = [row["completion"].rstrip().rpartition("is better")[0].rpartition("Output (")[2][:1] for row in found.rows]
    ours = [row["reader"] and "ab"[row["order"].index(row["reader"])] for row in found.rows]
    assert sum(one == other for one, other in zip(last, ours, strict=True)) >= len(found.rows) - 2


def test_equal_scores_are_read_as_the_source_read_them(recorded: Path) -> None:
    from rlaif.recorded.replay import readings_of

    count = 0
    for row in rows(recorded / "llmbar" / "judgements.jsonl.gz"):
        if row["order"] == "each-alone":
            count += 1
            alone = {name: value for name, value in row.items() if name != "choice_pair"}
            assert [reading.choice for reading in readings_of("here", alone, None)] == row["choice_pair"]
    assert count == 193


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("judge", ["gpt-3.5-turbo", "pandalm-7b"])
def test_pandalm_row_by_row(recorded: Path, judge: str) -> None:
    folder = recorded / "pandalm"
    found = replay(str(folder / "items.jsonl.gz"), str(folder / "judgements.jsonl.gz"), judge=judge)
    card, unsaid = card_of(found)
    labels = {row["id"]: row for row in rows(folder / "items.jsonl.gz")}
    said = [
        (row["choice"], labels[row["item_id"]]) for row in rows(folder / "judgements.jsonl.gz") if row["judge"] == judge
    ]
    assert len(said) == 500
    right = np.mean([choice == item["label"] for choice, item in said])
    assert card["accuracy.ab"].value == pytest.approx(right)
    assert card["agreement_with_ties.judge"].value == pytest.approx(right)
    assert card["accuracy.ab"].n == card["items"].value == 500  # the 37 that repeat another's pair are rows too
    assert card["missing.ba"].value == 500
    shares = [Counter(values) for values in zip(*((c, item["label"]) for c, item in said), strict=True)]
    chance = sum(shares[0][name] * shares[1][name] for name in shares[1]) / 500**2
    assert card["kappa.label"].value == pytest.approx((right - chance) / (1 - chance))
    # three labels each: all the same 437 times, else two of three
    people = [Counter(item["human_labels"]) for item in labels.values()]
    unanimous = sum(len(counts) == 1 for counts in people)
    assert unanimous == 437
    assert card["people.agreement_with_ties"].value == pytest.approx((unanimous * 3 + (500 - unanimous)) / 1500)
    by_chance = sum((sum(counts[name] for counts in people) / 1500) ** 2 for name in ("a", "b", "tie"))
    observed = (unanimous + (500 - unanimous) / 3) / 500
    assert card["people.fleiss"].value == pytest.approx((observed - by_chance) / (1 - by_chance))
    assert card["alt_test.omega.crowd"].n == 3
    assert not unsaid


@pytest.mark.parametrize(
    ("model", "baseline"),
    [
        ("alpaca-farm-ppo-human", "gpt4_1106_preview"),
        ("alpaca-farm-ppo-human", "text_davinci_003"),
        ("alpaca-farm-ppo-sim-gpt4-20k", "gpt4_1106_preview"),
    ],
)
def test_alpaca_eval_win_rates(recorded: Path, model: str, baseline: str) -> None:
    folder = recorded / "alpaca_eval"
    card = figures_of(read_contest(str(folder / "judgements.jsonl.gz"), model, baseline=baseline))
    p = [
        row["p_b"]
        for row in rows(folder / "judgements.jsonl.gz")
        if (row["model_a"], row["model_b"]) == (baseline, model)
    ]
    assert len(p) == card["win_rate"].n == 303
    assert card["win_rate"].value == pytest.approx(100 * np.mean(p), abs=1e-9)
    assert card["win_rate.se"].value == pytest.approx(100 * np.std(p, ddof=1) / 303**0.5, abs=1e-9)
    wins = sum(x > 0.5 for x in p) + sum(x == 0.5 for x in p) / 2
    assert card["win_rate.discrete"].value == pytest.approx(100 * wins / 303, abs=1e-9)
    assert card["length_controlled"].value is not None


def test_alpaca_eval_probabilities_follow_from_the_first_tokens_logprobs(recorded: Path) -> None:
    count = 0
    for row in rows(recorded / "alpaca_eval" / "judgements.jsonl.gz"):
        if row.get("order"):
            count += 1
            alone = {name: value for name, value in row.items() if name not in ("p_b", "preference")}
            assert probability("here", alone) == pytest.approx(row["p_b"], abs=1e-6)
    assert count == 602
