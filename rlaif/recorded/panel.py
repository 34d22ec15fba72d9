"""What a second order, calibration and a panel each gain, from recorded verdicts on the same items.

Every figure is on items with a label that is no tie and with verdicts of every member. A verdict that is right counts 1, a
tie ½, a wrong or unreadable one 0; so two orders averaged are right exactly as often as one alone, and what they gain is to
say where the judge is sure.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rlaif.errors import DataError
from rlaif.preferences import panel_vote, side
from rlaif.recorded.card import number
from rlaif.recorded.replay import ORDERS, Item, Replay
from rlaif.statistics import (
    Figure,
    cluster_mean,
    error_correlation,
    log_loss,
    paired_difference,
    points,
    resampled,
    share,
)
from rlaif.statistics.calibrators import BARE, FOLDS, folds, unseen, unseen_panel

RULES = ("majority", "mean", "weighted")


@dataclass(frozen=True)
class Panel:
    """Members by name, and every figure."""

    names: list[str]
    items: int
    figures: dict[str, Figure]

    def lines(self) -> Iterator[str]:
        yield f"{self.items:,} items with a label that is no tie and verdicts of all {len(self.names)} members"
        for name in self.names:
            yield f"{name}: right {self._share(f'{name}.single')}{self._orders(name)}{self._calibrated(name)}"
        if len(self.names) > 1:
            for rule in (each for each in RULES if f"panel.{each}" in self.figures):
                yield (
                    f"panel, {rule}: right {self._share(f'panel.{rule}')}; than its average member "
                    f"{points(self.figures[f'panel.{rule}.over_average'])}, than its best "
                    f"{points(self.figures[f'panel.{rule}.over_best'])}"
                )
            told = [(name, f) for name, f in self.figures.items() if name.startswith("error_correlation.")]
            for name, figure in told:
                yield f"mistakes of {' and '.join(name.split('.')[1:])} go together: {_number(figure)} (1 always, 0 by chance)"

    def _orders(self, name: str) -> str:
        if f"{name}.decided" not in self.figures:
            return ""
        return (
            f"; both orders agree on {self._share(f'{name}.decided_share')} and are right there "
            f"{self._share(f'{name}.decided')}: {points(self.figures[f'{name}.decided_gain'])}"
        )

    def _calibrated(self, name: str) -> str:
        gain = self.figures[f"{name}.calibration_gain"]
        if gain.value is None:
            return ""
        return f"; log-loss of its verdicts, smoothed, {_number(self.figures[f'{name}.log_loss'])}: better than a coin's by {_number(gain)}"

    def _share(self, name: str) -> str:
        return share(self.figures[name])


def panel_of(replays: Sequence[Replay]) -> Panel:
    """The members' figures and the panel's. Raises DataError where they share no items, or a name."""
    names = [f"{each.judge} {each.method}".strip().replace(".", "_") for each in replays]
    if len(set(names)) < len(names):
        raise DataError(f"panel: {Counter(names).most_common(1)[0][0]} is named twice.")
    items = [
        item
        for item in replays[0].items
        if item.label in ("a", "b") and all(each.readings.get(item.id) for each in replays)
    ]
    if not items:
        raise DataError("panel: no item has a label that is no tie and a verdict of every member.")
    prompts = [item.prompt for item in items]
    label = np.array([float(item.label == "a") for item in items])
    opinions: list[dict[str, float]] = [{} for _ in items]
    figures: dict[str, Figure] = {}
    single = {}
    for name, replay in zip(names, replays, strict=True):
        single[name] = np.array([_right(replay, item) for item in items])
        figures[f"{name}.single"] = cluster_mean(single[name], prompts)
        p = [replay.opinion(item) for item in items]
        for row, value in zip(opinions, p, strict=True):
            if value is not None:
                row[name] = value
        figures |= _orders(name, replay, items)
        figures |= _calibration(name, p, label, prompts)
    if len(names) > 1:
        figures |= _together(names, opinions, label, prompts, single)
    return Panel(names, len(items), figures)


def _right(replay: Replay, item: Item) -> float:
    """Of the item's verdicts, how many are right."""
    said = [reading.choice for reading in replay.readings[item.id]]
    return sum(0.5 if choice == "tie" else float(choice == item.label) for choice in said) / len(said)


def _orders(name: str, replay: Replay, items: Sequence[Item]) -> dict[str, Figure]:
    """Where both orders were asked: how often they agree, and how often they are right there."""
    both = [item for item in items if set(replay.choices(item)) == set(ORDERS)]
    if not both:
        return {}
    chosen = [[replay.choices(item)[order] for order in ORDERS] for item in both]
    agree = np.array([a == b and a in ("a", "b") for a, b in chosen])
    right = np.array([float(a == item.label) for (a, _), item in zip(chosen, both, strict=True)])
    prompts = [item.prompt for item in both]
    decided = [prompt for prompt, kept in zip(prompts, agree, strict=True) if kept]
    average = np.array([_right(replay, item) for item in both])
    found = {
        f"{name}.decided_share": cluster_mean(agree.astype(float), prompts),
        f"{name}.decided": cluster_mean(right[agree], decided),
    }
    return found | {f"{name}.decided_gain": _gain(right, agree, average, prompts)}


def _gain(right: np.ndarray, agree: np.ndarray, average: np.ndarray, prompts: Sequence[str]) -> Figure:
    """Right where the orders agree, less right over all."""
    rows = np.column_stack([right * agree, agree, average, np.ones(len(right))])
    return resampled(lambda s: s[..., 0] / s[..., 1] - s[..., 2] / s[..., 3], rows, prompts, n=len(right))


def _calibration(name: str, p: Sequence[float | None], label: np.ndarray, prompts: Sequence[str]) -> dict[str, Figure]:
    """Verdicts given the probability that they turned out to deserve on other prompts, beside a coin's."""
    kept = [i for i, value in enumerate(p) if value is not None]
    said = np.array([p[i] for i in kept], dtype=float)
    target, own = label[kept], [prompts[i] for i in kept]
    if len(set(own)) < FOLDS:
        return {f"{name}.log_loss": Figure(value=None, n=0), f"{name}.calibration_gain": Figure(value=None, n=0)}
    kind = "verdicts" if set(said) <= BARE else "temperature"
    loss, coin = log_loss(unseen(kind, said, target, own), target), np.full(len(kept), np.log(2))  # type: ignore[arg-type]
    return {
        f"{name}.log_loss": cluster_mean(loss, own),
        f"{name}.calibration_gain": paired_difference(coin, loss, own),
    }


def _together(
    names: Sequence[str],
    opinions: Sequence[dict[str, float]],
    label: np.ndarray,
    prompts: Sequence[str],
    single: dict[str, np.ndarray],
) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    missing = [Counter(name for name in names if name not in row) for row in opinions]
    verdicts: dict[str, list[float | None]] = {
        rule: [
            panel_vote(row, gone, "ignore" if rule == "majority" else "unlabelled", rule)
            for row, gone in zip(opinions, missing, strict=True)
        ]
        for rule in ("majority", "mean")
    }
    if len(set(prompts)) >= FOLDS:
        weighted = unseen_panel(opinions, label, prompts)
        verdicts["weighted"] = [None if gone else p for p, gone in zip(weighted, missing, strict=True)]
    average, best = np.mean(list(single.values()), axis=0), _best(single, prompts)
    for rule, said in verdicts.items():
        right = np.array([0.0 if p is None else 1 - abs(side(p) - t) for p, t in zip(said, label, strict=True)])
        figures[f"panel.{rule}"] = cluster_mean(right, prompts)
        figures[f"panel.{rule}.over_average"] = paired_difference(right, average, prompts)
        figures[f"panel.{rule}.over_best"] = paired_difference(right[: len(best)], best, prompts[: len(best)])
    for one, other in itertools.combinations(names, 2):
        figures[f"error_correlation.{one}.{other}"] = error_correlation(1 - single[one], 1 - single[other], prompts)
    return figures


def _best(single: dict[str, np.ndarray], prompts: Sequence[str]) -> np.ndarray:
    """How right the best member is: on each fold of prompts the one that is best on the others. The best on the same items
    would have been chosen for its luck on them. Nothing for fewer prompts than folds."""
    found = np.zeros(len(prompts) if len(set(prompts)) >= FOLDS else 0)
    if len(found):
        for held in folds(prompts):
            found[held] = max(single.values(), key=lambda right: right[~held].mean())[held]
    return found


def _number(figure: Figure) -> str:
    return "–" if figure.value is None else number(figure)
