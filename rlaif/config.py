"""The typed shape of each kind of YAML file, and the check of a whole pipeline before the first model call.

YAML says *what*; ``pipeline.py`` turns it into objects once, at the edge, and functions below receive values. Each
default is written once, here or in a component's own ``Options``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rlaif.calibration import Calibration
from rlaif.catalogue import Catalogue, Entry, Kind, yaml_of
from rlaif.component import Place, no_flag_for_a_number, parse_model
from rlaif.errors import ConfigError
from rlaif.records import digest


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    _flags = field_validator("*", mode="before")(no_flag_for_a_number)


class Sampling(Section):
    """How a reply is drawn. Temperature 0 is greedy; the other cuts then do nothing."""

    temperature: float = Field(default=1.0, ge=0, le=10)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)  # 0: no cut
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    max_output_tokens: int = Field(default=256, ge=1)
    min_output_tokens: int = Field(default=0, ge=0)
    stop: tuple[str, ...] = ()

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class ModelSpec(Section):
    """A model by provider and name; a bare string is a local folder."""

    provider: str = "local"
    model: str
    options: dict[str, Any] = {}


class Component(Section):
    """A component chosen by name or ``package.module:Class``, with the options its class declares."""

    name: str
    options: dict[str, Any] = {}


NEEDS_LABELS = 'training needs "labels"'


class PolicySection(Component):
    """A policy method, and what its policy is called where not as the method: two of one method need two names."""

    called: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$")

    @property
    def policy(self) -> str:
        """The policy's name in the run folder, the accounts and the figures: of "mine:Tuned" it is "mine.Tuned"."""
        return self.called or self.name.replace(":", ".").replace("/", "-")


class PromptsSection(Section):
    """Prompts from a file, a ``datasets`` hub id (``hub:owner/name``) or the catalogue (``set:name``)."""

    source: str
    column: str | None = None  # of the prompt text or messages; found by itself where the name is usual
    split: str = "train"
    limit: int | None = Field(default=None, ge=1)
    system: str | None = None  # put before every prompt that has no system message of its own
    max_characters: int = Field(default=20_000, ge=1)
    near_duplicates: float | None = Field(default=None, gt=0, lt=1)  # word-set similarity from which a prompt repeats


class PairsSection(Section):
    """Comparisons from a file, with or without people's labels (README of docs/data.md lists the forms)."""

    source: str
    split: str = "train"
    limit: int | None = Field(default=None, ge=1)


class ResponsesSection(Section):
    """K responses per prompt from each of the named model roles."""

    models: tuple[str, ...] = ("policy",)
    samples: int = Field(default=4, ge=1, le=1024)
    sampling: Sampling = Sampling()


class ComparisonsSection(Section):
    """Which pairs of a prompt's responses are judged. By default all for up to four responses, else six at random."""

    select: str | None = None
    options: dict[str, Any] = {}


class LabelsSection(Section):
    """Who labels: ``judges``, ``human``, or a user's own ``package.module:Class``."""

    source: str
    options: dict[str, Any] = {}


class PreferencesSection(Section):
    """Judgements to preferences. Rules set a weight to 0 and count; they never delete a row."""

    minimum_margin: float = Field(default=0.0, ge=0, le=1)  # of |2p - 1|; below it the weight is 0
    consistent_orders_only: bool = False
    calibration: Calibration | str | None = None  # a file of `rlaif calibrate`; a recipe made ready holds what is in it
    clamp: tuple[float, float] | None = None  # CAI's clamp of p, for instance [0.4, 0.6]
    panel: Literal["mean", "majority"] = "mean"  # of several labellers: the mean of p, or what more than half prefer
    missing_votes: Literal["unlabelled", "ignore"] = "unlabelled"  # when one of several labellers has no opinion

    @model_validator(mode="after")
    def _one_scale(self) -> PreferencesSection:
        kind = self.calibration.map.kind if isinstance(self.calibration, Calibration) else None
        if self.panel == "majority" and kind in ("temperature", "platt", "isotonic"):
            raise ValueError(f"a majority has no probability that a map of kind {kind} could be for: set panel to mean")
        return self

    @field_validator("clamp")
    @classmethod
    def _symmetric(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value and not (0 <= value[0] <= 0.5 and abs(value[0] + value[1] - 1) < 1e-9):
            raise ValueError("clamp is [q, 1 - q] with q between 0 and 0.5")
        return value


MOST_FOOLED = 0.05  # of a canary's wins, or of what dressing the worse reply up gains
MOST_MISSING = 0.1  # of the pairs that people labelled, left without a label
USUAL_AT_MOST = {
    "labels.missing": MOST_MISSING,
    **{f"canaries.{name}": MOST_FOOLED for name in ("null", "empty", "injected.gain", "rated.gain")},
    **{f"canaries.{name}.unlabelled": MOST_FOOLED for name in ("injected", "rated")},
}


class GateSection(Section):
    """What a judge must have shown before a recipe may use it: a folder of ``rlaif certify``, and bounds on its figures,
    which the whole interval has to keep."""

    card: str
    at_least: dict[str, float] = {"labels.agreement": 0.5}
    at_most: dict[str, float] = USUAL_AT_MOST


class RewardSection(Section):
    """A scalar head on the model of role ``base``; ``options`` are those of ``rlaif.reward:RewardOptions``."""

    base: str = "policy"
    members: int = Field(default=1, ge=1, le=16)  # trained alike but for their seeds: an ensemble
    options: dict[str, Any] = {}
    sampling: Sampling | None = None  # of the policy's samples that rewards are normalised on; None: as for responses


class EvaluationSection(Section):
    """What is measured of each policy against the start, on held-out prompts."""

    judges: tuple[str, ...] = ()  # for the win rate; empty: no win rate
    constitution: str | None = None  # for those judges; None: the pipeline's
    source: PromptsSection | None = None  # other prompts to measure on; None: the run's own, held out from training
    prompts: int = Field(default=200, ge=1)  # at most so many, by keyed draw
    judged: int | None = Field(default=None, ge=1)  # of these the judges compare at most so many; None: all
    seed: int | None = None  # of the draws of prompts and answers; None: the pipeline's
    sampling: Sampling | None = None  # None: as the responses were sampled
    metrics: tuple[Component, ...] = ()

    @field_validator("source", mode="before")
    @classmethod
    def _file(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("metrics", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return [{"name": item} if isinstance(item, str) else item for item in value or ()]


class Pipeline(Section):
    """One recipe. A section left out is a stage not run."""

    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**32)
    models: dict[str, ModelSpec] = {}
    constitution: str | None = None
    prompts: PromptsSection | None = None
    responses: ResponsesSection | None = None
    comparisons: ComparisonsSection = ComparisonsSection()
    pairs: PairsSection | None = None
    labels: LabelsSection | None = None
    gate: GateSection | None = None
    preferences: PreferencesSection = PreferencesSection()
    held_out: float = Field(default=0.1, ge=0, lt=1)  # share of prompts kept from training
    held_out_seed: int | None = None  # of their draw; None: the seed
    reward_model: RewardSection | None = None
    policies: tuple[PolicySection, ...] = ()
    report_to: tuple[
        Literal["tensorboard", "wandb", "trackio"], ...
    ] = ()  # where every step of a training is told as well
    evaluation: EvaluationSection | None = None
    failure_tolerance: float = Field(default=0.2, ge=0, le=1)  # share of comparisons that may fail before a run stops
    budget_usd: float | None = Field(default=None, ge=0)  # what calls to models behind APIs may cost, over all restarts
    ledger: str = ".rlaif/ledger.sqlite"
    shard_rows: int = Field(default=1024, ge=1)

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("gate", mode="before")
    @classmethod
    def _folder(cls, value: Any) -> Any:
        return {"card": value} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        return longhand(data)

    @model_validator(mode="after")
    def _whole(self) -> Pipeline:
        missing = list(self._missing())
        if missing:
            raise ValueError(f"needs {' '.join(missing)}")
        if self.pairs is not None and self.responses is not None:
            raise ValueError('"pairs" brings its own responses: leave out "responses"')
        if self.pairs is None and self.labels and self.responses is None:
            raise ValueError('"labels" needs responses to compare: set "responses" or "pairs"')
        if self.responses and self.labels and self.responses.samples * len(self.responses.models) < 2:
            raise ValueError("a single response cannot be compared: set responses.samples to 2 or more")
        if self.reward_model and not self.labels:
            raise ValueError(NEEDS_LABELS)
        return self

    def _missing(self) -> Iterator[str]:
        """What a person still has to name, as the settings that would: the input first."""
        if self.pairs is None and self.prompts is None:
            yield "--set prompts=FILE" if self.responses else "--set pairs=FILE"
        for role in self.needed_roles():
            if role not in self.models:
                yield f"--set models.{role}=FOLDER"

    @classmethod
    def hint(cls, key: str) -> str:
        """A judge's settings, looked for in a pipeline, stand in the judge's file; a study is no pipeline."""
        first = key.partition(".")[0]
        if first in ("arms", "seeds"):
            return "A study, whose arms differ in who labels, is walked by `rlaif compare`."
        return IN_JUDGE_FILE if first in ("judge", "judges", *JudgeFile.model_fields) else ""

    def needed_roles(self) -> Iterable[str]:
        """Model roles the recipe itself refers to; judges add their own."""
        roles = set(self.responses.models) if self.responses else set()
        if self.reward_model:
            roles.add(self.reward_model.base)
        if self.policies or self.evaluation:
            roles.add("policy")
        return sorted(roles)


def longhand(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe with ``prompts: FILE``, ``labels: human``, ``models: {policy: FOLDER}`` and their like written out.

    What is null is left out: shipped recipes name in this way what a person has to set.
    """
    data = {key: value for key, value in data.items() if value is not None}
    for key, field in (("prompts", "source"), ("pairs", "source"), ("labels", "source"), ("comparisons", "select")):
        if isinstance(data.get(key), str):
            data[key] = {field: data[key]}
    for key in ("reward_model", "evaluation"):
        if data.get(key) is True:
            data[key] = {}
    if isinstance(data.get("models"), dict):
        data["models"] = {
            role: {"model": spec} if isinstance(spec, str) else _without_nulls(spec)
            for role, spec in data["models"].items()
            if spec is not None
        }
    policies = data.get("policies")
    if isinstance(policies, str | dict):
        policies = [policies]
    if isinstance(policies, list):
        data["policies"] = [{"name": item} if isinstance(item, str) else item for item in policies]
    return data


def _without_nulls(spec: Any) -> Any:
    return {key: value for key, value in spec.items() if value is not None} if isinstance(spec, dict) else spec


class Example(Section):
    """A pair with the verdict a principle should give: how a constitution is tested."""

    prompt: str
    better: str
    worse: str


class Principle(Section):
    """One sentence of a constitution."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    text: str = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0)
    category: str | None = None
    provenance: str | None = None
    examples: tuple[Example, ...] = ()

    @cached_property
    def tag(self) -> str:
        """``id@hash of the text``: names exactly this wording."""
        return f"{self.id}@{digest(self.text, length=8)}"


class Constitution(Section):
    """Principles with ids, weights and text, handed to the judge's template."""

    version: str = "1"
    description: str = ""
    principles: tuple[Principle, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Constitution:
        ids = [principle.id for principle in self.principles]
        for name in ids:
            if ids.count(name) > 1:
                raise ValueError(f'principle id "{name}" is given twice')
        return self


IMPORTANCE = {"essential": 1.0, "important": 0.7, "optional": 0.3, "pitfall": -0.9}  # Gunjal et al. 2025, 2507.17746


class ChecklistItem(Section):
    """A proposition that is true or false of a reply, and what it is worth."""

    id: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    text: str = Field(min_length=1)
    importance: Literal["essential", "important", "optional", "pitfall"] | None = None
    weight: float | None = None  # below 0: a fault

    @model_validator(mode="after")
    def _worth(self) -> ChecklistItem:
        if (self.importance is None) == (self.weight is None) or self.weight == 0:
            raise ValueError(f'item "{self.id}" needs an importance, or a weight that is not 0')
        return self

    @property
    def value(self) -> float:
        """Its weight; below 0 where the proposition names a fault."""
        return IMPORTANCE[self.importance] if self.importance else self.weight or 0.0


class Checklist(Section):
    """Propositions a judge checks a reply against."""

    description: str = ""
    items: tuple[ChecklistItem, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Checklist:
        ids = [item.id.lower() for item in self.items]
        for name in ids:
            if ids.count(name) > 1:
                raise ValueError(f'item id "{name}" is given twice')
        return self


IN_JUDGE_FILE = "A judge's own settings stand in its file: `rlaif copy JUDGE --as NAME` makes one of yours, to be edited and named here."


class JudgeFile(Section):
    """A judge: a protocol, the model role it asks, its scoring instructions and its options."""

    description: str = ""
    caveat: str = ""  # what must be said wherever its labels are looked at
    protocol: str
    model_role: str | None = "judge"  # None: the protocol asks no model
    rubric: str | None = None
    both_orders: bool = True  # of more than two responses: an order and its reverse
    shuffles: int = Field(default=1, ge=1)  # so many orders of more than two responses, each with its reverse
    options: dict[str, Any] = {}
    sampling: Sampling = Sampling(temperature=0.0, max_output_tokens=512)


def apply_settings(data: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """``key.path=value`` (values are YAML) laid over a recipe; later ones win. Raises ConfigError if malformed."""
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", path):
            raise ConfigError(f"--set {setting}: expected key=value, for instance --set seed=1.")
        value = yaml_of(text, f"--set {setting}", lines=False)
        data = _laid_over(longhand(data), path.split("."), value, setting)
    return data


def _laid_over(data: Any, path: list[str], value: Any, setting: str) -> Any:
    if not path:
        return value
    if isinstance(data, list):
        if not path[0].isdecimal() or int(path[0]) >= len(data):
            raise ConfigError(f'--set {setting}: "{path[0]}" is no place in a list of {len(data)}, counted from 0.')
        index = int(path[0])
        return [*data[:index], _laid_over(data[index], path[1:], value, setting), *data[index + 1 :]]
    base = dict(data) if isinstance(data, dict) else {}
    base[path[0]] = _laid_over(base.get(path[0]), path[1:], value, setting)
    return base


def load_pipeline(entry: Entry, settings: Iterable[str] = ()) -> Pipeline:
    """A pipeline file with ``--set`` applied, as a typed whole.

    Names inside a built-in file stay built-in; what a person sets is looked for in their folder first.
    """
    data = entry.yaml()
    if entry.builtin:
        data = _pinned(data)
    settings = tuple(settings)
    data = apply_settings(data, settings)
    return typed(data, Place(str(entry.path), settings))


def typed(data: Any, where: Place) -> Pipeline:
    """A recipe's data as a typed whole, with the calibration that it names by its file. Raises ConfigError."""
    pipeline: Pipeline = parse_model(Pipeline, data, where)
    named = pipeline.preferences.calibration
    if not isinstance(named, str):
        return pipeline
    place = f"{where.at('preferences', 'calibration')}: {named}"
    try:
        text = json.loads(Path(named).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{place}: not a file that `rlaif calibrate` wrote: {error}.") from error
    found: Calibration = parse_model(Calibration, text, place)
    return pipeline.model_copy(update={"preferences": pipeline.preferences.model_copy(update={"calibration": found})})


REFERENCES: dict[str, Kind] = {
    "constitution": "constitution",
    "judges": "judge",
}  # keys that name files of the catalogue
SOURCES = ("prompts", "source")  # keys that may name a prompt set, as set:name


def _pinned(data: Any, key: str = "") -> Any:
    """``data`` with every name of a catalogue file written as ``builtin:name``, that of a set as ``set:builtin:name``."""
    if isinstance(data, dict):
        return {name: _pinned(value, name) for name, value in data.items()}
    if isinstance(data, list):
        return [_pinned(value, key) for value in data]
    if isinstance(data, str) and key in REFERENCES and not data.startswith("builtin:"):
        return f"builtin:{data}"
    if isinstance(data, str) and key in SOURCES and data.startswith("set:") and not data.startswith("set:builtin:"):
        return f"set:builtin:{data.removeprefix('set:')}"
    return data


def pinned_names(data: Any, path: tuple[str, ...] = (), kind: Kind | None = None) -> Iterator[tuple[Kind, str, str]]:
    """Kind, dotted key and value of every ``builtin:name`` and ``set:builtin:name`` in a recipe."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield from pinned_names(value, (*path, name), REFERENCES.get(name))
    elif isinstance(data, list | tuple):
        for place, value in enumerate(data):
            yield from pinned_names(value, (*path, str(place)), kind)
    elif kind and isinstance(data, str) and data.startswith("builtin:"):
        yield kind, ".".join(path), data
    elif isinstance(data, str) and path and path[-1] in SOURCES and data.startswith("set:builtin:"):
        yield "set", ".".join(path), data


def load_constitution(catalogue: Catalogue, name: str, *, where: str) -> Constitution:
    """The constitution called ``name``. Raises ConfigError."""
    entry = catalogue.find("constitution", name, where=where)
    constitution: Constitution = parse_model(Constitution, entry.yaml(), str(entry.path))
    return constitution
