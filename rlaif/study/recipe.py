"""A study's recipe: one pipeline, several seeds, and arms that differ in who labels.

    recipe: quickstart
    seeds: [0, 1, 2]
    arms:
      human: human
      ai: {labels: {source: judges, options: {judges: [compare-local]}}}
    against: human

An arm may say who labels, and by which calibration; whatever else it sets is refused, for then more than labels would differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from rlaif.catalogue import Catalogue
from rlaif.component import Place, parse_model
from rlaif.config import LabelsSection, Pipeline, Section, apply_settings, load_pipeline
from rlaif.errors import ConfigError, did_you_mean

MAY_DIFFER = ("labels", "preferences.calibration")  # keys of a recipe in which arms differ
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*$")


class Arm(Section):
    """Who labels in one arm, and what else is laid over the recipe for it."""

    labels: LabelsSection
    set: tuple[str, ...] = ()  # key=value, as on the command line

    @field_validator("labels", mode="before")
    @classmethod
    def _source(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @property
    def settings(self) -> tuple[str, ...]:
        return (f"labels={json.dumps(self.labels.model_dump(mode='json'))}", *self.set)


class Study(Section):
    """Arms of one recipe, each walked with every seed."""

    description: str = ""
    recipe: str
    set: tuple[str, ...] = ()  # laid over the recipe in every arm
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    arms: dict[str, Arm] = Field(min_length=2)
    against: str = ""  # the arm that the others are held against; "": the first
    margin: float = Field(default=0.05, gt=0, lt=1)  # of a share: differences within it count as none

    @field_validator("arms", mode="before")
    @classmethod
    def _sources(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: {"labels": arm} if isinstance(arm, str) else arm for name, arm in value.items()}

    @model_validator(mode="after")
    def _sound(self) -> Study:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one is named twice")
        if self.against and self.against not in self.arms:
            raise ValueError(f'against: there is no arm "{self.against}".{did_you_mean(self.against, self.arms)}')
        return self

    @property
    def baseline(self) -> str:
        return self.against or next(iter(self.arms))

    def settings(self, arm: str | None, seed: int) -> list[str]:
        """What is laid over the recipe for one run; without an arm, for what all arms share."""
        own = self.arms[arm].settings if arm else ()
        return [*self.set, f"seed={seed}", *own]


def load_study(path: Path, settings: tuple[str, ...], catalogue: Catalogue) -> Study:
    """A study file with ``--set`` laid over it. Raises ConfigError where arms differ in more than labels."""
    entry = catalogue.find("pipeline", str(path), where="rlaif compare")
    where = Place(str(entry.path), settings)
    study: Study = parse_model(Study, apply_settings(entry.yaml(), settings), where)
    for name in study.arms:
        if not NAME.match(name):
            raise ConfigError(f'{where.at("arms", name)}: a name of letters, digits, "-" and "_" is expected.')
    recipe = catalogue.find("pipeline", study.recipe, where=str(where.at("recipe")))
    whole = load_pipeline(recipe, study.settings(study.baseline, study.seeds[0]))
    alike = ["held_out_seed"] if whole.held_out_seed is None else []  # all seeds are measured on the same prompts
    alike += ["evaluation.seed"] if whole.evaluation and whole.evaluation.seed is None else []
    study = study.model_copy(update={"set": (*study.set, *(f"{key}={study.seeds[0]}" for key in alike))})
    for seed in study.seeds:
        first, *others = [(name, load_pipeline(recipe, study.settings(name, seed))) for name in study.arms]
        for name, pipeline in others:
            if keys := list(differing(first[1], pipeline)):
                raise ConfigError(
                    f"{where.at('arms')}: {first[0]} and {name} differ in {', '.join(keys)}: arms may differ in "
                    f"{' and '.join(MAY_DIFFER)} alone. What all arms share goes into the study's own `set`."
                )
    return study


def differing(one: Pipeline, other: Pipeline) -> Iterator[str]:
    """Keys in which two recipes differ, other than those in which arms may."""
    yield from _differing(one.model_dump(mode="json"), other.model_dump(mode="json"), ())


def _differing(one: Any, other: Any, key: tuple[str, ...]) -> Iterator[str]:
    if ".".join(key) in MAY_DIFFER or one == other:
        return
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys((*one, *other)):
            yield from _differing(one.get(name), other.get(name), (*key, name))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for n, pair in enumerate(zip(one, other, strict=True)):
            yield from _differing(*pair, (*key, str(n)))
    else:
        yield ".".join(key)
