"""Figures of a training to TensorBoard, Weights & Biases or trackio, by ``accelerate``'s trackers."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif.errors import ConfigError

NEEDED = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}  # package by tracker
PROJECT = "rlaif"


def need_trackers(names: Sequence[str], where: str) -> None:
    """Raises ConfigError for one whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(NEEDED[name]) is None:
            raise ConfigError(f"{where}: {name} is not installed: pip install {NEEDED[name]}, or leave it out.")


class Trackers:
    """What hears of every step of one training; nothing where no tracker is named."""

    def __init__(self, names: Sequence[str], folder: Path, run: str, stage: str, options: Mapping[str, Any]) -> None:
        self.opened: list[Any] = []
        if not names:
            return
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        name = stage.replace("/", "-")
        named = {"run_name": PROJECT, "name": f"{run}/{name}", "resume": "allow"}  # a training that goes on is one run
        settings: dict[str, dict[str, Any]] = {
            "tensorboard": {"run_name": name, "logging_dir": str(folder / "logs")},
            "wandb": {**named, "id": f"{run}-{name}", "dir": str(folder / "logs")},
            "trackio": named,
        }
        for kind in names:
            tracker = LOGGER_TYPE_TO_CLASS[kind](**settings[kind])
            tracker.start()
            tracker.store_init_configuration({key: str(value) for key, value in options.items()})
            self.opened.append(tracker)

    def log(self, figures: Mapping[str, float]) -> None:
        step = int(figures["step"])
        for tracker in self.opened:
            tracker.log({name: value for name, value in figures.items() if name != "step"}, step=step)

    def say(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Conversations of a step, of which most steps have none."""
        told = {f"conversation {number}": _words(sample) for number, sample in enumerate(samples, 1)}
        for tracker in self.opened if told else ():
            tracker.log(told, step=step)

    def finish(self) -> None:
        for tracker in self.opened:
            tracker.finish()


def _words(sample: Mapping[str, Any]) -> str:
    told = [sample["prompt"], f"→ {sample['response']}"]
    if "reward" in sample:
        told.append("reward none" if sample["reward"] is None else f"reward {sample['reward']:.3f}")
    if sample.get("label"):
        told.append(sample["label"])
    return "\n\n".join(told)
