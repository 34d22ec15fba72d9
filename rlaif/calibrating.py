"""A run's labels against people's: maps fitted and compared on prompts that they did not see, the best of them written."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlaif.calibration import PANEL, Calibration, Kind
from rlaif.config import PreferencesSection
from rlaif.constitutions.runs import JudgedRun, finished_run, people_of
from rlaif.errors import UserError
from rlaif.preferences import side, votes
from rlaif.records import digest
from rlaif.statistics import (
    Figure,
    calibration_figure,
    cluster_mean,
    error_correlation,
    log_loss,
    paired_difference,
)
from rlaif.statistics.calibrators import BARE, FOLDS, fit, fit_panel, unseen, unseen_panel

LEAST_PROMPTS = 30  # below so many, folds would have a handful each
ISOTONIC = 1000  # labels from which a map of that kind is offered
AS_IT_IS, COIN, CLAMP = "as it is", "one half", "clamped to 0.4 to 0.6"


@dataclass(frozen=True)
class Calibrated:
    """What was fitted, and why it was taken."""

    calibration: Calibration
    figures: dict[str, Figure]  # "NAME.log_loss", "NAME.calibration_error" of each map; "NAME.gain" over no map
    names: tuple[str, ...]

    @property
    def helps(self) -> bool:
        """Whether the map's log-loss on prompts it did not see is surely below that of the labels as they are, and below that
        of a coin. Surely: the best of several maps beats the labels by chance often enough."""
        own, gain = (
            self.figures[f"{self.calibration.map.kind}.log_loss"].value,
            self.figures[f"{self.calibration.map.kind}.gain"],
        )
        coin = self.figures[f"{COIN}.log_loss"].value
        return own is not None and own < (coin or 0.0) and gain.low is not None and gain.low > 0

    def lines(self) -> Iterator[str]:
        """For a person."""
        chosen = self.calibration
        yield (
            f"{chosen.pairs:,} pairs of {chosen.prompts:,} prompts with a label of {', '.join(chosen.labellers)} and of "
            f"people; each map is measured on prompts that it was not fitted on ({FOLDS} folds)"
        )
        yield f"{'':<24}{'log-loss, nats':<28}{'less than as it is':<28}{'calibration error':<24}"
        for name in self.names:
            loss, gain, error = (
                self.figures.get(f"{name}.{each}") for each in ("log_loss", "gain", "calibration_error")
            )
            yield f"{name:<24}{_shown(loss):<28}{_shown(gain):<28}{_shown(error):<24}".rstrip()
        if chosen.map.kind == PANEL:
            yield "weights: " + ", ".join(f"{bare(name)} {weight:.2f}" for name, weight in chosen.map.weights.items())
        for name, figure in self.figures.items():
            if name.startswith("error_correlation."):
                one, other = name.split(".")[1:]
                yield f"mistakes of {one} and {other} go together: {_shown(figure)} (1 always, 0 by chance)"
        if not self.helps:
            yield f"{chosen.map.kind}: not shown to be better than the labels as they are, or no better than a coin: it is written, and not worth using."


def _shown(figure: Figure | None) -> str:
    if figure is None or figure.value is None:
        return "-"
    interval = "" if figure.low is None else f" ({figure.low:.3f} to {figure.high:.3f})"
    return f"{figure.value:.3f}{interval}"


async def calibrate(path: Path, people: str | None, kind: Kind | None) -> Calibrated:
    """Fit a run's probabilities to people's labels of the same pairs. Raises UserError where there are too few."""
    run = finished_run(path)
    both = await _both(run, people)
    p, target, prompts, labellers = both.p, both.target, both.prompts, both.labellers
    if len(set(prompts)) < LEAST_PROMPTS:
        raise UserError(
            f"{path}: {len(set(prompts))} prompts have a label of the run and one of a person: a calibration needs at least "
            f"{LEAST_PROMPTS}. Name people's labels of its pairs with --people."
        )
    if kind == PANEL and len(labellers) < 2:
        raise UserError(f"{path}: one labeller is no panel: leave --kind out.")
    offered = (*_offered(p), *((PANEL,) if len(labellers) > 1 else ())) if kind is None else (kind,)
    found: dict[str, Any] = {AS_IT_IS: p, COIN: np.full(len(p), 0.5), CLAMP: np.clip(p, 0.4, 0.6)}
    for each in offered:
        found[each] = (
            unseen_panel(both.opinions, target, prompts) if each == PANEL else unseen(each, p, target, prompts)
        )
    figures: dict[str, Figure] = {}
    for name, q in found.items():
        loss = log_loss(q, target)
        figures[f"{name}.log_loss"] = cluster_mean(loss, prompts)
        figures[f"{name}.calibration_error"] = calibration_figure(q, target, prompts)
        if name != AS_IT_IS:
            figures[f"{name}.gain"] = paired_difference(log_loss(p, target), loss, prompts)
    best = min(offered, key=lambda each: figures[f"{each}.log_loss"].value or 0.0)
    calibration = Calibration(
        map=fit_panel(both.opinions, target) if best == PANEL else fit(best, p, target),
        labellers=labellers,
        people=people or "the run's own file of pairs",
        sha256=digest([list(row) for row in zip(prompts, p.tolist(), target.tolist(), strict=True)]),
        pairs=len(p),
        prompts=len(set(prompts)),
        figures={name: figure.model_dump() for name, figure in figures.items()},
    )
    figures |= _correlations(both)
    return Calibrated(calibration, figures, tuple(found))


def _offered(p: np.ndarray) -> tuple[Kind, ...]:
    """The kinds that make sense of such probabilities, whoever's they are."""
    if set(np.unique(p)) <= BARE:
        return ("verdicts",)
    kinds: tuple[Kind, ...] = ("temperature", "platt")
    return (*kinds, "isotonic") if len(p) >= ISOTONIC else kinds


def _correlations(both: _Both) -> dict[str, Figure]:
    """Of every two labellers: how their mistakes go together, on pairs of which people clearly prefer one reply."""
    found = {}
    for one, other in itertools.combinations(both.labellers, 2):
        rows = [
            (abs(side(said[one]) - side(t)), abs(side(said[other]) - side(t)), prompt)
            for said, t, prompt in zip(both.opinions, both.target.tolist(), both.prompts, strict=True)
            if one in said and other in said and t != 0.5
        ]
        found[f"error_correlation.{_dotless(one)}.{_dotless(other)}"] = error_correlation(
            [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
        )
    return found


def _dotless(labeller: str) -> str:
    """As a part of a figure's name."""
    return bare(labeller).replace(".", "_")


def bare(labeller: str) -> str:
    """Who it is, without the hash of a judge's file."""
    kind, _, name = labeller.partition(":")
    return name.rpartition("@")[0] if kind == "judge" else name or kind


@dataclass(frozen=True)
class _Both:
    """Pairs with a label of the run and one of people."""

    p: np.ndarray  # the run's
    target: np.ndarray  # people's
    prompts: list[str]
    labellers: tuple[str, ...]
    opinions: list[dict[str, float]]  # of each of the run's labellers


async def _both(run: JudgedRun, people: str | None) -> _Both:
    plain = PreferencesSection(missing_votes=run.rules.missing_votes)
    said = await people_of(run, people)
    rows = []
    labellers: dict[str, None] = {}
    for pair in run.pairs():
        human, own = said.get(pair.key), pair.label(plain)
        if human and own:
            opinions, _ = votes(pair.judgements, pair.a.id, pair.b.id)
            rows.append((own.p, human.p, pair.prompt, opinions))
            labellers |= {judgement.labeller: None for judgement in pair.judgements}
    p, target = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    return _Both(p, target, [row[2] for row in rows], tuple(labellers), [row[3] for row in rows])
