"""Policies of the arms of a study, prompt by prompt: as each run measured its own, and in the contests between arms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rlaif.evaluate import START
from rlaif.measures import normalised
from rlaif.statistics import Figure, wilson
from rlaif.statistics.contests import at_equal_length
from rlaif.statistics.studies import over_seeds
from rlaif.study.recipe import JUDGES, TRUTH, recipe_in

Column = dict[str, float]  # prompt -> value
Table = dict[tuple[str, str], Column]  # policy and figure -> prompt -> value

WIN, EQUAL = "win_rate", "win_rate_at_equal_length"
CONTEST = "contest.parquet"  # in each: a run's policies against those of the arm that it is held against, and against the start
ACCOUNT = "account.json"  # beside it: how many were asked about, and how many have no verdict
HEAD_TO_HEAD, AGAINST_START = "head_to_head", "win_rate"  # kinds of contests
HEAD, HEAD_EQUAL = HEAD_TO_HEAD, f"{HEAD_TO_HEAD}_at_equal_length"
HEAD_TRUE, WIN_TRUE = f"{HEAD_TO_HEAD}_by_truth", f"{AGAINST_START}_by_truth"
LENGTH = "words"


def measured(folder: Path) -> Table:
    """What a run's policies were measured to be, and the start, which is the same in all arms. Where there are verdicts, those at
    equal length too."""
    path = folder / "evaluation" / "values.parquet"
    found: Table = {}
    asked = path.is_file() and recipe_in(folder).evaluation is not None
    for row in pq.read_table(path).to_pylist() if asked else ():
        found.setdefault((row["policy"], row["figure"]), {})[row["prompt_id"]] = row["value"]
    before = found.get((START, LENGTH), {})
    for policy in [policy for policy, figure in found if figure == WIN]:
        words = found.get((policy, LENGTH), {})
        longer = {prompt: words[prompt] - before[prompt] for prompt in words.keys() & before.keys()}
        found[policy, EQUAL] = equalised(found[policy, WIN], longer)
    return found


def equalised(wins: Column, longer: Column) -> Column:
    """By prompt what the win rate at equal length is the mean of (``statistics.contests.at_equal_length``); of none where it is
    not known."""
    both = [prompt for prompt in wins if prompt in longer]
    values = at_equal_length([wins[prompt] for prompt in both], [longer[prompt] for prompt in both])
    return {} if values is None else dict(zip(both, values.tolist(), strict=True))


def contested(folder: Path, by: Sequence[str]) -> Table:
    """The contests of a run's policies with those of the arm that it is held against: won 1, tied 0.5, lost 0, by the judges, and the
    same at equal length, and by the truth; by this against the start too. ``by``: who of them is to be told."""
    found: Table = {}
    for (policy, _), rows in _contests(folder / JUDGES).items() if JUDGES in by else ():
        wins = {row["prompt_id"]: row["win"] for row in rows}
        found[policy, HEAD] = wins
        found[policy, HEAD_EQUAL] = equalised(wins, {row["prompt_id"]: row["longer_by"] for row in rows})
    for (policy, kind), rows in _contests(folder / TRUTH).items() if TRUTH in by else ():
        found[policy, f"{kind}_by_truth"] = {row["prompt_id"]: row["win"] for row in rows}
    return found


def _contests(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By policy and kind."""
    path = folder / CONTEST
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in pq.read_table(path).to_pylist() if path.is_file() else ():
        found.setdefault((row["policy"], row["kind"]), []).append(row)
    return found


def without_verdict(folders: Sequence[Path], who: str) -> dict[str, Figure]:
    """By policy the share of contests put to the judges, or to the truth, that have no verdict, over seeds."""
    found: dict[str, list[Figure]] = {}
    for path in (folder / who / ACCOUNT for folder in folders):
        told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for policy, account in told.get(HEAD_TO_HEAD, {}).items():
            found.setdefault(policy, []).append(wilson(account["outcomes"]["without verdict"], account["in"]))
    shares = {policy: over_seeds(each) for policy, each in found.items()}
    return {policy: share for policy, share in shares.items() if share.value is not None}


def is_normalised(folder: Path) -> bool:
    """Whether a run's rewards are written as standard deviations."""
    path = folder / "metrics.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return normalised({name: Figure(**figure) for name, figure in told.items()})


def meanings(folder: Path) -> Mapping[str, tuple[str, str]]:
    """What the run's own metrics are, and their units."""
    path = folder / "evaluation" / "measures.json"
    found: Mapping[str, tuple[str, str]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found
