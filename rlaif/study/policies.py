"""Policies of the arms of a study, prompt by prompt: as each run measured its own, and in the contests between arms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from rlaif.evaluate import START
from rlaif.statistics import Figure, wilson
from rlaif.statistics.contests import at_equal_length
from rlaif.statistics.studies import over_seeds
from rlaif.study.recipe import recipe_in

Column = dict[str, float]  # prompt -> value
Table = dict[tuple[str, str], Column]  # policy and figure -> prompt -> value

WIN, EQUAL = "win_rate", "win_rate_at_equal_length"
CONTEST = "contest.parquet"  # in a folder of its own: a run's policies against those of the arm that it is held against
ACCOUNT = "account.json"  # beside it: how many were asked about, and how many have no verdict
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


def contested(folder: Path) -> Table:
    """The contests of a run's policies with those of the arm that it is held against: won 1, tied 0.5, lost 0, and the same at
    equal length."""
    path = folder / CONTEST
    found: Table = {}
    if path.is_file():
        rows = pq.read_table(path).to_pylist()
        for policy in dict.fromkeys(row["policy"] for row in rows):
            own = [row for row in rows if row["policy"] == policy]
            wins = {row["prompt_id"]: row["win"] for row in own if row["win"] is not None}
            longer = {row["prompt_id"]: row["longer_by"] for row in own if row["longer_by"] is not None}
            found[policy, WIN] = wins
            found[policy, EQUAL] = equalised(wins, longer)
    return found


def without_verdict(folders: Sequence[Path]) -> dict[str, Figure]:
    """By policy the share of contests put to the judges that have no verdict, over seeds."""
    found: dict[str, list[Figure]] = {}
    for path in (folder / ACCOUNT for folder in folders):
        for policy, account in json.loads(path.read_text(encoding="utf-8")).items() if path.is_file() else ():
            found.setdefault(policy, []).append(wilson(account["without_verdict"], account["asked"]))
    shares = {policy: over_seeds(each) for policy, each in found.items()}
    return {policy: share for policy, share in shares.items() if share.value is not None}


def meanings(folder: Path) -> Mapping[str, tuple[str, str]]:
    """What the run's own metrics are, and their units."""
    path = folder / "evaluation" / "measures.json"
    found: Mapping[str, tuple[str, str]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found
