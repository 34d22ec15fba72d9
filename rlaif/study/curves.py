"""Learning curves of the arms of a study: how well reward models do that learnt from more and more labels, and what a label of one
arm is worth in labels of another.

    arms.ARM.curve.250.accuracy    on held-out labels of the truth, or of the arm that the others are held against
    arms.ARM.curve.250.labels      how many there were to learn from, the mean over seeds; ``all`` is the arm's own reward model
    exchange.ARM.250               labels of ARM that do what one does of the arm it is held against, where that has 250
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from rlaif.statistics import Figure
from rlaif.statistics.exchange import LearningCurve, exchange_rate
from rlaif.statistics.studies import crossed_difference
from rlaif.study.labelled import Labels
from rlaif.study.policies import Column
from rlaif.study.recipe import TRUTH, Study
from rlaif.study.trained import accuracy_by_prompt, learnt_from
from rlaif.study.walk import curve_folder, folder_of, measured_by

ALL = "all"


@dataclass(frozen=True)
class Point:
    """Reward models of one arm that learnt from so many labels, one a seed."""

    name: str  # the number asked for, or "all"
    labels: float  # the mean number there was
    right: list[Column]  # by seed


def curves_of(study: Study, out: Path, labels: Mapping[str, Mapping[int, Labels]]) -> dict[str, list[Point]]:
    """The curve of each arm that has one, from the fewest labels to all."""
    truth = labels[TRUTH if study.truth else study.baseline]
    found: dict[str, list[Point]] = {}
    for arm in study.arms:
        for name in [*map(str, study.sizes(arm)), ALL] if study.sizes(arm) else []:
            folders = {
                seed: folder_of(out, arm, seed) if name == ALL else curve_folder(out, arm, seed, int(name))
                for seed in study.seeds
            }
            held = {seed: measured_by(study, folder) for seed, folder in folders.items()}
            right = [accuracy_by_prompt(told, truth[seed]) for seed, told in held.items() if told]
            count = fmean(learnt_from(folder) for folder in folders.values())
            own = found.setdefault(arm, [])
            if not own or count > own[-1].labels:  # all labels are no more than the last number asked for
                own.append(Point(name, count, right))
    return found


def figures_of(study: Study, curves: Mapping[str, list[Point]]) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    common = _common(curves)
    if len(set().union(*common)) < 2 or not all(common):
        return figures
    arrays = {arm: np.stack([_matrix(point, common) for point in points]) for arm, points in curves.items()}
    for arm, points in curves.items():
        for point, values in zip(points, arrays[arm], strict=True):
            head = f"arms.{arm}.curve.{point.name}"
            figures[f"{head}.accuracy"] = crossed_difference(values).of_shares.share
            figures[f"{head}.labels"] = Figure(value=point.labels, n=len(study.seeds))
    if study.baseline in curves:
        whole = {arm: LearningCurve([point.labels for point in points], arrays[arm]) for arm, points in curves.items()}
        for arm in curves:
            if arm != study.baseline:
                for place, point in enumerate(curves[study.baseline]):
                    rate = exchange_rate(whole[study.baseline], whole[arm], place)
                    figures[f"exchange.{arm}.{point.name}"] = rate
    return figures


def _common(curves: Mapping[str, list[Point]]) -> list[set[str]]:
    """By seed the prompts that every reward model was measured on."""
    columns = zip(*(point.right for points in curves.values() for point in points), strict=True)
    return [set.intersection(*map(set, of_seed)) for of_seed in columns]


def _matrix(point: Point, common: Sequence[set[str]]) -> np.ndarray:
    """(seeds, prompts), NaN where a seed lacks a prompt."""
    names = sorted(set().union(*common))
    return np.array(
        [
            [column[name] if name in there else math.nan for name in names]
            for column, there in zip(point.right, common, strict=True)
        ]
    )
