"""What came of the arms of a study: labels, reward models and policies, and how each arm differs from the one it is held against.

Figures are flat. ``arms.ARM.NAME`` is of an arm, over its seeds; ``differences.ARM.NAME`` is its difference from the arm it is held
against, paired by prompt and seed, both taken as random (``statistics.studies``).

    labels.agreement, labels.kappa   with the labels of the arm it is held against, where both have one
    labels.missing                   share of comparisons without a label
    reward.accuracy.OF               of the reward model on the held-out labels of arm OF, ties left out
    POLICY.NAME                      of a policy: win_rate against the start, kl, length, metrics
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rlaif.evaluate import START
from rlaif.records import digest
from rlaif.statistics import Figure, cluster_mean
from rlaif.statistics.agreement import cohen_kappa, percent_agreement
from rlaif.statistics.studies import Conclusion, Difference, conclusions, crossed_difference
from rlaif.store import RunFolder
from rlaif.study.recipe import Study
from rlaif.study.walk import folder_of

TIE = "tie"
Labelled = dict[
    str, tuple[str, str | None]
]  # comparison -> its prompt, and the response preferred, in an order of their own
Table = dict[str, dict[str, float]]  # figure of a policy -> prompt -> value


@dataclass(frozen=True)
class Measured:
    """A study's figures, and what can be said of each difference that has a margin, by its name."""

    figures: dict[str, Figure]
    answers: dict[str, Conclusion]


def measure(study: Study, out: Path) -> Measured:
    """All that is to be said of a walked study."""
    figures = {**_of_labels(study, out), **_of_reward_models(study, out)}
    tables = {arm: [_table(folder_of(out, arm, seed)) for seed in study.seeds] for arm in study.arms}
    answers: dict[str, Conclusion] = {}
    names = sorted({name for each in tables.values() for table in each for name in table})
    for name in names:
        differences: dict[str, Difference] = {}
        for arm, own in tables.items():
            values = [table.get(name, {}) for table in own]
            if not all(values):
                continue
            figures[f"arms.{arm}.{name}"] = _over_seeds(values)
            against = [table.get(name, {}) for table in tables[study.baseline]]
            if arm != study.baseline and (matrix := _paired(values, against)) is not None:
                differences[arm] = crossed_difference(matrix)
        shares = all(
            0 <= value <= 1 for each in tables.values() for table in each for value in table.get(name, {}).values()
        )
        for arm, difference in differences.items():
            figures[f"differences.{arm}.{name}"] = difference.figure
        if shares and differences:
            said = conclusions(differences, study.margin)
            answers |= {f"differences.{arm}.{name}": conclusion for arm, conclusion in said.items()}
    return Measured(figures, answers)


def _over_seeds(values: list[dict[str, float]]) -> Figure:
    """The mean over seeds and prompts; its interval takes both as random, as that of a difference from nothing."""
    matrix = _paired(values, None)
    if matrix is None or matrix.shape[1] < 2:
        every = [value for each in values for value in each.values()]
        return Figure(value=fmean(every), n=len(every))
    return crossed_difference(matrix).figure


def _paired(values: list[dict[str, float]], against: list[dict[str, float]] | None) -> Any:
    """(seeds, prompts), of the prompts that every seed has in both; None where those are fewer than two."""
    common = set.intersection(*(set(each) for each in [*values, *(against or [])]))
    if len(common) < 2:
        return None
    order = sorted(common)
    rows = [[each[prompt] for prompt in order] for each in values]
    theirs = [[each[prompt] for prompt in order] for each in against] if against else 0.0
    return np.asarray(rows, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)


def _table(folder: Path) -> Table:
    """What a run's policies were measured to be, prompt by prompt; the start is the same in all arms."""
    path = folder / "evaluation" / "values.parquet"
    found: Table = {}
    if path.is_file():
        for row in pq.read_table(path).to_pylist():
            if row["policy"] != START:
                found.setdefault(f"{row['policy']}.{row['figure']}", {})[row["prompt_id"]] = row["value"]
    return found


# --- labels -----------------------------------------------------------------------------------------------------------


def _of_labels(study: Study, out: Path) -> dict[str, Figure]:
    labels = {arm: {seed: _labels(folder_of(out, arm, seed)) for seed in study.seeds} for arm in study.arms}
    theirs = labels[study.baseline]
    found: dict[str, Figure] = {}
    for arm, own in labels.items():
        missing = [float(side is None) for each in own.values() for _, side in each.values()]
        prompts = [f"{seed} {prompt}" for seed, each in own.items() for prompt, _ in each.values()]
        found[f"arms.{arm}.labels.missing"] = cluster_mean(missing, prompts)
        both = [
            (f"{seed} {prompt}", side, theirs[seed][key][1])
            for seed, each in own.items()
            for key, (prompt, side) in each.items()
            if side is not None and theirs[seed].get(key, ("", None))[1] is not None
        ]
        if arm != study.baseline and both:
            clusters, ours, others = (list(column) for column in zip(*both, strict=True))
            found[f"arms.{arm}.labels.agreement"] = percent_agreement(ours, others, clusters)
            found[f"arms.{arm}.labels.agreement_without_ties"] = percent_agreement(ours, others, clusters, without=TIE)
            found[f"arms.{arm}.labels.kappa"] = cohen_kappa(ours, others, clusters)
    return found


def _labels(folder: Path) -> Labelled:
    found: Labelled = {}
    for row in RunFolder(folder).read("preferences"):
        chosen, rejected = (digest([message.model_dump() for message in side]) for side in (row.chosen, row.rejected))
        better = "one" if chosen < rejected else "other"
        found[row.comparison_id] = (row.prompt_id, None if row.weight == 0 else TIE if row.p == 0.5 else better)
    return found


# --- reward models ----------------------------------------------------------------------------------------------------


def _of_reward_models(study: Study, out: Path) -> dict[str, Figure]:
    """Accuracy of each arm's reward model on the held-out labels of every arm: they hold the same pairs in the same order."""
    held = {arm: [_held_out(folder_of(out, arm, seed)) for seed in study.seeds] for arm in study.arms}
    found: dict[str, Figure] = {}
    for arm, own in held.items():
        for of, labels in held.items():
            right: list[float] = []
            prompts: list[str] = []
            for seed, (ours, theirs) in enumerate(zip(own, labels, strict=True)):
                if ours and theirs:
                    for told, prompt in _right(ours, theirs):
                        right.append(told)
                        prompts.append(f"{seed} {prompt}")
            if right:
                found[f"arms.{arm}.reward.accuracy.{of}"] = cluster_mean(right, prompts)
    return found


def _held_out(folder: Path) -> Mapping[str, Any] | None:
    path = folder / "training" / "reward_model.json"
    if not path.is_file():
        return None
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["held_out"]
    return found


def _right(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[float, str]]:
    columns = (ours["prompt_ids"], theirs["prompt_ids"], ours["differences"], theirs["p"], theirs["weight"])
    for prompt, same, difference, p, weight in zip(*columns, strict=True):
        assert prompt == same, "arms hold out the same pairs"
        if weight > 0 and p != 0.5:
            yield (0.5 if difference == 0 else float((difference > 0) == (p > 0.5))), prompt
