"""A study's recipe: one pipeline, several seeds, and arms that differ in who labels.

    recipe: quickstart
    seeds: [0, 1, 2]
    arms:
      human: human
      ai: {labels: {source: judges, options: {judges: [compare-local]}}}
    against: human

An arm may say who labels, and by which calibration; whatever else it sets is refused, for then more than labels would differ.
``truth`` labels too, and nothing learns from it: arms are measured by it. ``curves`` trains reward models on fewer labels.
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rlaif.catalogue import Catalogue
from rlaif.checking import open_road
from rlaif.component import Place, parse_model
from rlaif.config import LabelsSection, Pipeline, Section, apply_settings, load_pipeline
from rlaif.errors import ConfigError, UserError, did_you_mean
from rlaif.labels.judges import JudgeLabels
from rlaif.pipeline import Road
from rlaif.store import RECIPE

CALIBRATION = "preferences.calibration"
MAY_DIFFER = ("labels", CALIBRATION)  # keys of a recipe in which arms differ
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*$")
OF_REWARD_MODELS = "reward_model.options."
OWN = {"labels": "arms", "seed": "seeds"}  # keys of a recipe that are the study's
SHARED, TRUTH, CURVES = "shared", "truth", "curves"  # folders beside those of the arms, as the next
CONTESTS, TUNING = "contests", "tuning"
JUDGES = "judges"  # of the recipe's evaluation: who judges contests, and a folder of their verdicts
STUDY_FILE = "study.json"  # in a study's folder: the study as it is walked, with every setting


class Arm(Section):
    """Who labels in one arm, and what else is laid over the recipe for it."""

    labels: LabelsSection
    set: tuple[str, ...] = ()  # key=value, as on the command line
    noise_like: str = ""  # of these labels so many are turned round as the people of that arm slip; "": none
    usd_per_label: float | None = Field(default=None, ge=0)  # where no ledger knows what a label costs: people's pay
    seconds_per_label: float | None = Field(default=None, ge=0)

    @field_validator("labels", mode="before")
    @classmethod
    def _source(cls, value: Any) -> Any:
        return _named(value)

    @field_validator("set")
    @classmethod
    def _of_labels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for setting in value:
            if setting.partition("=")[0] != CALIBRATION:
                raise ValueError(
                    f'set: "{setting}": arms differ in labels, and may in {CALIBRATION}. What all share goes into the study\'s own set'
                )
        return value

    def settings(self, rate: float | None) -> tuple[str, ...]:
        """``rate``: how many labels are turned round, where that is by another arm's."""
        labels = self.labels.model_dump(mode="json")
        if rate is not None:
            labels = {"source": "noisy", "options": {"of": labels, "rate": rate}}
        return (f"labels={json.dumps(labels)}", *self.set)


def _named(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


class Curves(Section):
    """Reward models of some arms, trained on so many labels: what a label is worth."""

    labels: tuple[int, ...] = Field(min_length=2)
    arms: tuple[str, ...] = ()  # (): all

    @field_validator("labels")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if value[0] < 1 or any(one >= other for one, other in itertools.pairwise(value)):
            raise ValueError("labels: rising numbers of labels are expected, such as [250, 500, 1000]")
        return value


class Study(Section):
    """Arms of one recipe, each walked with every seed."""

    description: str = ""
    recipe: str
    set: tuple[str, ...] = ()  # laid over the recipe in every arm
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    arms: dict[str, Arm] = Field(min_length=2)
    at_once: int = Field(default=1, ge=1, le=64)  # runs walked side by side, each in a process of its own
    against: str = ""  # the arm that the others are held against; "": the first
    truth: LabelsSection | None = None  # labels that nothing learns from
    contests: tuple[Literal["judges", "truth"], ...] = ("judges",)  # who judges policies of arms against each other
    curves: Curves | None = None
    tune: tuple[tuple[str, ...], ...] = ()  # settings of reward models that every arm tries; (): the recipe's, for all
    margin: float = Field(default=0.05, gt=0, lt=1)  # of a share: differences within it count as none
    label_margin: float = Field(default=0.03, gt=0, lt=1)  # of a share of labels

    @field_validator("set")
    @classmethod
    def _of_all(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for setting in value:
            if (key := setting.partition("=")[0].partition(".")[0]) in OWN:
                raise ValueError(f'set: "{setting}": {key} is what the study sets in each run, by {OWN[key]}')
        return value

    @field_validator("arms", mode="before")
    @classmethod
    def _sources(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: {"labels": arm} if isinstance(arm, str) else arm for name, arm in value.items()}

    @field_validator("truth", mode="before")
    @classmethod
    def _source(cls, value: Any) -> Any:
        return _named(value)

    @field_validator("tune", mode="before")
    @classmethod
    def _candidates(cls, value: Any) -> Any:
        return (
            [[each] if isinstance(each, str) else each for each in value] if isinstance(value, list | tuple) else value
        )

    @field_validator("tune")
    @classmethod
    def _of_reward_models(cls, value: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        for setting in itertools.chain.from_iterable(value):
            if setting.startswith(f"{OF_REWARD_MODELS}labels="):
                raise ValueError(f'tune: "{setting}": every arm learns from as many labels as it has')
            if not setting.startswith(OF_REWARD_MODELS) or "=" not in setting:
                raise ValueError(
                    f'tune: "{setting}": settings of reward models are tried, such as {OF_REWARD_MODELS}learning_rate=1e-4'
                )
        if len(value) == 1:
            raise ValueError("tune: one candidate leaves no choice: put it into set")
        return value

    @model_validator(mode="after")
    def _sound(self) -> Study:
        if taken := [name for name in (SHARED, TRUTH, CURVES, CONTESTS, TUNING, "start") if name in self.arms]:
            raise ValueError(f'arms: "{taken[0]}" is taken by the study itself: give the arm another name')
        asked = {name: arm.noise_like for name, arm in self.arms.items() if arm.noise_like}
        asked |= {f"curves.arms, {name}": name for name in (self.curves.arms if self.curves else ())}
        for where, name in asked.items():
            if name not in self.arms:
                raise ValueError(f'{where}: there is no arm "{name}".{did_you_mean(name, self.arms)}')
            if where in self.arms and self.arms[name].noise_like:
                raise ValueError(f"{where}: noise_like names an arm of people, and {name} has its noise from another")
        if TRUTH in self.contests and not self.truth:
            raise ValueError("contests: truth is to judge policies, and the study names none: write `truth`")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one is named twice")
        if self.against and self.against not in self.arms:
            raise ValueError(f'against: there is no arm "{self.against}".{did_you_mean(self.against, self.arms)}')
        if self.curves and self.curves.arms and self.baseline not in self.curves.arms:
            raise ValueError(f"curves.arms: what a label is worth is told in labels of {self.baseline}: name it too")
        return self

    @property
    def baseline(self) -> str:
        return self.against or next(iter(self.arms))

    def sizes(self, arm: str) -> tuple[int, ...]:
        """Numbers of labels that reward models of an arm learn from, besides all."""
        asked = self.curves and (not self.curves.arms or arm in self.curves.arms)
        return self.curves.labels if self.curves and asked else ()

    def settings(self, arm: str, seed: int, rate: float | None = None) -> list[str]:
        """What is laid over the recipe for one run."""
        own: tuple[str, ...]
        if arm == TRUTH:
            assert self.truth
            own = (f"labels={json.dumps(self.truth.model_dump(mode='json'))}",)
        else:
            own = self.arms[arm].settings(0.0 if rate is None and self.arms[arm].noise_like else rate)
        return [*self.set, f"seed={seed}", *own]


def study_of(name: str, settings: tuple[str, ...], catalogue: Catalogue) -> Study | None:
    """The study of this name or path; None of a file that is none. Raises UserError where it is none that could be walked."""
    known = name.removeprefix("builtin:") in catalogue.names("pipeline") or Path(name).is_file()
    if not known or "arms" not in catalogue.find("pipeline", name, where="rlaif").yaml():
        return None
    return load_study(Path(name), settings, catalogue)


def check_study(name: str, settings: tuple[str, ...], catalogue: Catalogue) -> str | None:
    """One line saying that a study is sound; None of a file that is none. Raises UserError otherwise."""
    study = study_of(name, settings, catalogue)
    if study is None:
        return None
    check_arms(study)
    path = catalogue.find("pipeline", name, where="check").path
    return f"{path}: sound; {len(study.arms)} arms, {len(study.seeds)} seeds."


def check_arms(study: Study) -> None:
    """Raises UserError where something that an arm refers to is not there, or a setting to be tried is none, before anything is asked."""
    for arm in [*study.arms, *([TRUTH] if study.truth else [])]:
        labels = _opened(study, arm, TRUTH if arm == TRUTH else f"arms.{arm}").labels
        likes = [name for name, each in study.arms.items() if each.noise_like == arm]
        if likes and isinstance(labels, JudgeLabels):
            raise ConfigError(
                f"arms.{likes[0]}.noise_like: {arm} is labelled by judges, and people's slips are known from what two of them say of a "
                "pair. Name an arm of people, or give this one labels of source noisy, with a rate."
            )
    for number, candidate in enumerate(study.tune):
        _opened(study, study.baseline, f"tune.{number}", candidate)


def _opened(study: Study, arm: str, where: str, more: Sequence[str] = ()) -> Road:
    """An arm's recipe with everything it refers to. Raises UserError, which says ``where`` in the study it is asked for: the settings
    that are laid over the recipe for it nobody wrote."""
    own = study.settings(arm, study.seeds[0])
    with tempfile.TemporaryDirectory() as nowhere:
        try:
            road = open_road(study.recipe, [*own, *more, f"ledger={nowhere}/ledger.sqlite"], out=Path(nowhere))
        except UserError as error:
            line = str(error)
            for setting in own:
                line = line.replace(
                    f"--set {setting}: ", "labels: " if setting.startswith("labels=") else f"{setting}: "
                )
            raise type(error)(f"{where}: {line}") from error
        road.gateway.ledger.close()
    return road


def recipe_of(study: Study, catalogue: Catalogue) -> Pipeline:
    """The recipe that a study's arms walk, as the arm has it that the others are held against."""
    entry = catalogue.find("pipeline", study.recipe, where="rlaif compare")
    return load_pipeline(entry, study.settings(study.baseline, study.seeds[0]))


def recipe_in(folder: Path) -> Pipeline:
    """The recipe that a run was last walked by: what an earlier one left in its folder is not told."""
    return Pipeline(**json.loads((folder / RECIPE).read_text(encoding="utf-8")))


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
    judged = whole.evaluation and whole.evaluation.judges
    if "contests" in study.model_fields_set and JUDGES in study.contests and whole.policies and not judged:
        raise ConfigError(
            f"{where.at('contests')}: judges are to judge policies, and {study.recipe} names none in evaluation.judges: name one, or leave "
            "judges out."
        )
    for key, wanted in (("curves", study.curves), ("tune", study.tune)):
        if wanted and whole.reward_model is None:
            raise ConfigError(
                f"{where.at(key)}: {study.recipe} trains no reward model. Leave {key} out, or name another recipe."
            )
    for seed in study.seeds:
        first, *others = [(name, load_pipeline(recipe, study.settings(name, seed))) for name in study.arms]
        for name, pipeline in others:
            if keys := list(differing(first[1], pipeline, MAY_DIFFER)):
                raise ConfigError(
                    f"{where.at('arms')}: {first[0]} and {name} differ in {', '.join(keys)}: arms may differ in "
                    f"{' and '.join(MAY_DIFFER)} alone. What all arms share goes into the study's own `set`."
                )
    return study


def differing(one: Pipeline, other: Pipeline, may: Sequence[str] = ()) -> Iterator[str]:
    """Keys in which two recipes differ, other than those in which they may."""
    yield from _differing(one.model_dump(mode="json"), other.model_dump(mode="json"), (), may)


def _differing(one: Any, other: Any, key: tuple[str, ...], may: Sequence[str]) -> Iterator[str]:
    if ".".join(key) in may or one == other:
        return
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys((*one, *other)):
            yield from _differing(one.get(name), other.get(name), (*key, name), may)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for n, pair in enumerate(zip(one, other, strict=True)):
            yield from _differing(*pair, (*key, str(n)), may)
    else:
        yield ".".join(key)
