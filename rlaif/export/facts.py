"""What a run folder knows of how its labels were made: its recipe, the files it kept, and who said what."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rlaif.component import parse_model
from rlaif.config import Constitution, JudgeFile, Pipeline
from rlaif.errors import StorageError, UserError
from rlaif.labels.human import is_unnamed
from rlaif.ledger import Spent, spent
from rlaif.statistics import Figure
from rlaif.store import RECIPE, RunFolder

STAGES = ("prompts", "pairs", "responses", "comparisons", "judgements", "preferences")  # those that make labels
GIVEN = ("judge", "constitution", "rubric", "template")  # kinds of files that judges are given
FIGURES = ("judgements.", "agreement", "preferences.")  # of a run's figures, those of its labels


@dataclass(frozen=True)
class Kept:
    """The run folder's copy of a file that was used."""

    kind: str
    name: str
    sha256: str
    path: Path

    @property
    def tag(self) -> str:
        return f"{self.name}@{self.sha256[:8]}"

    def yaml(self) -> dict[str, Any]:
        value: dict[str, Any] = yaml.safe_load(self.path.read_text(encoding="utf-8-sig"))
        return value


@dataclass
class Tally:
    """Who labelled, and who answered: counted in one pass over the rows."""

    labellers: Counter[str] = field(default_factory=Counter)  # comparisons that each was asked about
    principles: Counter[str] = field(default_factory=Counter)  # by id@hash: comparisons judged by it
    generators: Counter[str] = field(default_factory=Counter)  # responses of each model; "" where nobody says
    prompt_tokens: int = 0  # of the responses that say so
    output_tokens: int = 0


class Facts:
    """A finished run folder, read once."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.manifest = run.manifest

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The settings of the last walk that differ from the defaults."""
        path = self.run.path / RECIPE
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found

    @cached_property
    def pipeline(self) -> Pipeline:
        pipeline: Pipeline = parse_model(Pipeline, self.recipe, str(self.run.path / RECIPE))
        return pipeline

    @cached_property
    def kept(self) -> list[Kept]:
        """Copies of what judges were given, by the hashes that the manifest keeps."""
        copies: dict[str, Path] = {}
        for kind in GIVEN:
            for path in sorted((self.run.path / "config" / f"{kind}s").rglob("*")):
                if path.is_file():
                    copies[hashlib.sha256(path.read_bytes()).hexdigest()] = path
        files = [file for file in self.manifest["files"] if file["kind"] in GIVEN and file["sha256"] in copies]
        return [Kept(file["kind"], file["name"], file["sha256"], copies[file["sha256"]]) for file in files]

    @cached_property
    def constitution(self) -> Kept | None:
        """What the labels were made under; None where people labelled, or nothing was named."""
        named = self.recipe.get("constitution")
        if not named or not self.pipeline.labels or self.pipeline.labels.source == "human":
            return None
        bare = Path(str(named).removeprefix("builtin:")).name.removesuffix(".yaml")
        there = [file for file in self.kept if file.kind == "constitution"]
        return next((file for file in there if Path(file.name).name == bare), None)

    @property
    def constitution_tag(self) -> str | None:
        return self.constitution.tag if self.constitution else None

    @cached_property
    def principles(self) -> Constitution | None:
        file = self.constitution
        return parse_model(Constitution, file.yaml(), str(file.path)) if file else None

    @cached_property
    def tally(self) -> Tally:
        tally = Tally()
        for row in self.run.read("provenance"):
            tally.labellers.update(row.labellers)
            tally.principles.update(row.principle_ids)
        for response in self.run.read("responses"):
            tally.generators[response.generator or ""] += 1
            tally.prompt_tokens += response.prompt_tokens or 0
            tally.output_tokens += response.output_tokens or 0
        return tally

    @cached_property
    def judges(self) -> list[tuple[Kept, JudgeFile]]:
        """The files of the judges that labelled."""
        tags = {who.removeprefix("judge:") for who in self.tally.labellers if who.startswith("judge:")}
        there = [file for file in self.kept if file.kind == "judge" and file.tag in tags]
        return [(file, parse_model(JudgeFile, file.yaml(), str(file.path))) for file in there]

    @cached_property
    def people(self) -> int:
        """How many people labelled under a name."""
        return sum(who.startswith("human:") and not is_unnamed(who) for who in self.tally.labellers)

    @cached_property
    def unnamed(self) -> int:
        """Votes that a file gives without saying whose: of how many people is not known."""
        return sum(count for who, count in self.tally.labellers.items() if is_unnamed(who))

    @cached_property
    def accounts(self) -> dict[str, Any]:
        """The accounts of the stages that make labels. Raises UserError where they were not written yet."""
        found = self._json("accounts.json")
        return {stage: found[stage] for stage in STAGES if stage in found}

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """What the run measured of its labels, by dotted name."""
        found = self._json("metrics.json")
        return {name: Figure(**figure) for name, figure in found.items() if name.startswith(FIGURES)}

    def _json(self, name: str) -> dict[str, Any]:
        path = self.run.path / name
        if not path.is_file():
            raise UserError(f"{self.run.path}: no {name} yet. Run it again to its end, then export.")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    @cached_property
    def spent(self) -> Spent | None:
        """What the replies behind the judgements took; None where the ledger is not there, or cannot be read."""
        path = self.run.ledger()
        try:
            return spent(path, self._reply_keys()) if path else None
        except StorageError:
            return None

    def _reply_keys(self) -> Iterator[str]:
        for judgement in self.run.read("judgements"):
            yield from judgement.reply_keys

    def content(self, stage: str) -> str:
        """The hash of a stage's records."""
        state = self.run.state(stage)
        return state.content if state else ""

    def input_hash(self, source: str) -> str | None:
        """The hash of a file of rows, by the name that the recipe gives it."""
        return next((each["sha256"] for each in self.manifest.get("inputs", []) if each["source"] == source), None)
