"""Reward models of the arms of a study, on held-out labels of every arm."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scipy.special import expit

from rlaif.accounts import held_out_by, reward_stages
from rlaif.recorded.replay import WORTH
from rlaif.statistics import Figure, calibration_figure, log_loss
from rlaif.statistics.studies import over_seeds
from rlaif.store import RunFolder
from rlaif.study.labelled import Labels
from rlaif.study.recipe import recipe_in

Held = Mapping[str, Any]  # what a reward model said of held-out pairs, as ``rlaif.reward:HeldOut`` has it


def held_of(folder: Path) -> Held | None:
    """Of a run's reward model; None of one that has none."""
    return held_out_by(_told(folder))


def only(held: Held | None, counts: Callable[[str], bool]) -> Held | None:
    """Of the pairs of the prompts that count."""
    if held is None:
        return None
    places = [i for i, prompt in enumerate(held["prompt_ids"]) if counts(prompt)]
    return {name: [column[i] for i in places] for name, column in held.items()}


def learnt_from(folder: Path) -> int:
    """How many labels a run's reward model learnt from."""
    told = _told(folder)
    return int(told[0]["account"]["outcomes"]["trained on"]) if told else 0


def own_loss(held: Held | None) -> float:
    """The mean loss in nats of a reward model on its own held-out labels; infinite where there is none."""
    total = sum(held["weight"]) if held else 0.0
    if held is None or not total:
        return math.inf
    losses = log_loss(expit(held["differences"]), held["p"])
    return float(sum(weight * loss for weight, loss in zip(held["weight"], losses, strict=True)) / total)


def _told(folder: Path) -> list[dict[str, Any]]:
    """What the trainings of a run's reward model told, of an ensemble each of its members'."""
    run = RunFolder(folder)
    paths = [folder / run.training_file(stage) for stage in reward_stages(recipe_in(folder))]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def accuracy_by_prompt(held: Held, labels: Labels) -> dict[str, float]:
    """For each held-out prompt how many of its pairs the reward model ranks as ``labels`` do; ties of labels are left out, and one
    of rewards counts half."""
    right: dict[str, list[float]] = {}
    for key, prompt, difference in zip(held["pair_ids"], held["prompt_ids"], held["differences"], strict=True):
        said = labels.choices.get(key)
        if said in ("a", "b"):
            right.setdefault(prompt, []).append(0.5 if difference == 0 else float((difference > 0) == (said == "a")))
    return {prompt: sum(values) / len(values) for prompt, values in right.items()}


def calibration(held: Mapping[int, Held], labels: Mapping[int, Labels]) -> Figure:
    """Expected calibration error of each seed's reward model against the held-out labels, ties counting half, over seeds."""
    return over_seeds(_calibration(own, labels[seed]) for seed, own in held.items())


def _calibration(held: Held, labels: Labels) -> Figure:
    rows = [
        (float(expit(difference)), WORTH[choice], prompt)
        for key, prompt, difference in zip(held["pair_ids"], held["prompt_ids"], held["differences"], strict=True)
        if (choice := labels.choices.get(key))
    ]
    p, said, prompts = ([row[i] for row in rows] for i in range(3))
    return calibration_figure(p, said, prompts)
