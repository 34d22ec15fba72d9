"""The run folder: one Parquet folder per noun, a manifest, a copy of every file used; resume.

    runs/NAME/
      manifest.json            format, files and models with their hashes, environment, where the ledger lies from here,
                               state and signature of each stage
      config/                  copy of the pipeline and of every judge, rubric, constitution, template and set used; of
                               two with one name, the second is NAME@HASH
      prompts/ responses/ comparisons/ judgements/ preferences/ provenance/     part-00000.parquet …
      exclusions/STAGE/        items a stage did not pass on, each with its reason
      reference/responses/     samples of the policy that rewards are normalised on, where responses are not its own
      reward_model/ policies/NAME/   Hugging Face folders
      training/                what each training told: its account, loss and accuracy by step, held-out pairs
      evaluation/              samples and verdicts behind the figures
      accounts.json metrics.json report.html
      superseded/              what an edited recipe replaced; nothing is deleted

A stage takes batches of records and yields one batch of outputs per batch of inputs, in order. Each input batch is one
shard per noun, written under a temporary name and renamed; the stage's own noun comes last, so a shard that is there is
whole. Resuming skips the input batches whose shards exist. Shards hold only what is equal in two equal runs.

A stage's *signature* covers everything its output depends on: its settings, the content of its inputs, files, models
and seed. Where the stored signature differs, the old output moves to ``superseded/`` and the stage runs again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import time
import types
import typing
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from rlaif.errors import DataError, StorageError, UserError
from rlaif.records import (
    Comparison,
    Exclusion,
    Judgement,
    Preference,
    Prompt,
    Provenance,
    Record,
    Response,
    canonical_json,
    digest,
)
from rlaif.versions import Format

RECIPE = Path("config/pipelines/effective.json")  # what the last walk followed
NOTES = "notes.json"  # what a person was told, by stage
R = TypeVar("R", bound=Record)
T = TypeVar("T")
Batch = Sequence[Record]
Stage = Callable[[AsyncIterator[list[Any]]], AsyncIterator[Batch]]  # frozen: one batch out per batch in, in order

NOUNS: dict[type[Record], str] = {
    Prompt: "prompts",
    Response: "responses",
    Comparison: "comparisons",
    Judgement: "judgements",
    Preference: "preferences",
    Provenance: "provenance",
}
RECORDS = {noun: record for record, noun in NOUNS.items()}


def _from_format_1(manifest: dict[str, Any]) -> dict[str, Any]:
    """Format 1 had no id of the run, and named the ledger from the working directory of its last walk, which the folder
    does not know."""
    manifest = {**manifest, "format": 2, "id": digest(manifest.get("created"), length=16)}
    if "ledger" in manifest:
        manifest["ledger_as_named"] = manifest.pop("ledger")
    return manifest


MANIFEST = Format("run folder", (_from_format_1,))


# --- records as Arrow ------------------------------------------------------------------------------------------------


def arrow_type(annotation: Any) -> pa.DataType:
    """The Arrow type of a record field's annotation; mappings are stored as JSON text."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return arrow_type(next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        return pa.list_(arrow_type(arguments[0]))
    if origin in (dict, Mapping) or origin is typing.Literal:
        return pa.string()
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return pa.struct([pa.field(n, arrow_type(f.annotation)) for n, f in annotation.model_fields.items()])
    plain: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    return plain[annotation]


@lru_cache
def _mapping_fields(record: type[BaseModel]) -> frozenset[str]:
    return frozenset(n for n, f in record.model_fields.items() if typing.get_origin(f.annotation) is dict)


@lru_cache
def _inner_models(record: type[BaseModel]) -> Mapping[str, type[BaseModel]]:
    """The record that each field holds, alone or in a tuple."""
    inner = {n: [f.annotation, *typing.get_args(f.annotation)] for n, f in record.model_fields.items()}
    return {n: a for n, annotations in inner.items() for a in annotations if _is_model(a)}


@lru_cache
def _has_mappings(record: type[BaseModel]) -> bool:
    return bool(_mapping_fields(record)) or any(map(_has_mappings, _inner_models(record).values()))


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def to_row(record: BaseModel) -> dict[str, Any]:
    """A record as Arrow takes it: mappings as JSON text."""
    return _converted(type(record), record.model_dump(), canonical_json)


def from_row(record: type[R], row: Mapping[str, Any]) -> R:
    """The inverse of ``to_row``; the record validates itself, ids included."""
    return record.model_validate(_converted(record, row, json.loads))


def _converted(record: type[BaseModel], row: Any, convert: Callable[[Any], Any]) -> Any:
    """``row`` with every mapping, at any depth, converted. What is None stays."""
    if not _has_mappings(record):
        return row
    out = dict(row)
    for name in _mapping_fields(record):
        out[name] = None if out[name] is None else convert(out[name])
    for name, inner in _inner_models(record).items():
        if isinstance(value := out[name], Mapping):
            out[name] = _converted(inner, value, convert)
        elif value is not None:
            out[name] = [_converted(inner, item, convert) for item in value]
    return out


Maker = Callable[[Any], Any]


@lru_cache
def maker(record: type[R]) -> Callable[[dict[str, Any]], R]:
    """``from_row`` for rows that are known to be sound, at a fifth of its time: what is in them is not looked at again.
    The row becomes part of the record."""
    makers = [(name, make) for name, field in record.model_fields.items() if (make := _maker_of(field.annotation))]
    state = {
        "__pydantic_fields_set__": set(record.model_fields),
        "__pydantic_extra__": None,
        "__pydantic_private__": None,
    }
    new, put = record.__new__, object.__setattr__

    def made(row: dict[str, Any]) -> R:
        for name, make in makers:
            row[name] = make(row[name])
        found = new(record)
        put(found, "__dict__", row)
        for name, value in state.items():
            put(found, name, value)
        return found

    return made


def _maker_of(annotation: Any) -> Maker | None:
    """What makes a field's value of Arrow's; None: it is that already."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        inner = _maker_of(next(a for a in arguments if a is not type(None)))
        return None if inner is None else lambda value: None if value is None else inner(value)
    if origin is tuple:
        item = _maker_of(arguments[0])
        return tuple if item is None else lambda value: tuple(map(item, value))
    if origin is dict:
        return json.loads
    return maker(annotation) if _is_model(annotation) else None


@lru_cache
def schema_of(record: type[BaseModel]) -> pa.Schema:
    return pa.schema([pa.field(n, arrow_type(f.annotation)) for n, f in record.model_fields.items()])


# --- files -----------------------------------------------------------------------------------------------------------


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends; faults of the disk become one line."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise disk_error(path, error) from error


def disk_error(path: Path, error: OSError) -> StorageError:
    """What the operating system said against writing ``path``, and what would do."""
    remedy = "Free some space" if error.errno == errno.ENOSPC else "Choose a writable place"
    return StorageError(
        f"{path}: cannot be written: {error.strerror or error}. {remedy}, then run again: finished work is kept."
    )


def write_text(path: Path, text: str) -> None:
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


def write_shard(path: Path, record: type[Record], rows: Sequence[Record], inputs: int) -> None:
    """One Parquet file. Its metadata keep the fingerprint of each row and how many inputs it answers for."""
    prints = "".join(row.fingerprint()[:16] for row in rows)
    schema = schema_of(record).with_metadata({"rlaif.rows": prints, "rlaif.inputs": str(inputs)})
    table = pa.Table.from_pylist([to_row(row) for row in rows], schema=schema)
    with writing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """One Parquet file of columns of equal length."""
    with writing(path) as temporary:
        pq.write_table(pa.table(dict(columns)), temporary, compression="zstd")


@dataclass(frozen=True)
class StageState:
    """What the manifest keeps of a stage."""

    signature: str
    complete: bool
    content: str = ""  # digest of the stage's output records, in order
    seconds: float = 0.0
    folders: Sequence[str] = ()  # where its output lies


class RunFolder:
    """A run folder, opened or made. Raises StorageError when it cannot be written."""

    def __init__(self, path: Path, notice: Callable[[str], None] = lambda line: None) -> None:
        self.path, self.notice = path, notice
        self.walked: set[str] = set()  # stages whose signature was confirmed through this object
        self.kept: set[str] = set()  # those of them that an earlier run had finished
        self.remade = False  # whether a finished stage had to be made again
        self._sound: set[Path] = set()  # shards written or read through this object: no second look is needed
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(path, error) from error
        manifest = path / "manifest.json"
        if manifest.exists():
            self.manifest: dict[str, Any] = read_manifest(manifest)
        elif any(not _is_leftover(child) for child in path.iterdir()):
            raise UserError(f"{path}: not empty and not a run folder. Choose another --out.")
        else:
            self.manifest = {
                "format": MANIFEST.version, "id": uuid.uuid4().hex[:16], "created": _now(), "files": [], "models": {},
                "stages": {},
            }  # fmt: skip
            self.save()

    def alone(self) -> AbstractContextManager[None]:
        """Keep other processes from running in this folder meanwhile. Raises UserError when one is."""
        return alone(self.path)

    def save(self) -> None:
        write_json(self.path / "manifest.json", self.manifest)

    def describe(self, **facts: Any) -> None:
        """Add facts to the manifest: files, models, environment."""
        self.manifest.update(facts)
        self.save()

    def keep_file(self, kind: str, name: str, data: bytes) -> None:
        """A copy of a file that was used, under ``config/``. A copy with other content moves to ``superseded/``."""
        folder = f"config/{kind}s/{name}"
        path = self.path / folder
        before = path.read_bytes() if path.exists() else None
        if before != data:
            if before is not None and kind != "pipeline":  # every command writes its own recipe
                self._supersede(folder, hashlib.sha256(before).hexdigest())
            with writing(path) as temporary:
                temporary.write_bytes(data)

    def recipe(self) -> tuple[bytes | None, dict[str, Any]]:
        """What a walk writes down before it begins: the effective recipe, and the manifest's facts."""
        path = self.path / RECIPE
        facts = {key: value for key, value in self.manifest.items() if key != "stages"}
        return path.read_bytes() if path.exists() else None, facts

    def restore(self, recipe: tuple[bytes | None, dict[str, Any]]) -> None:
        """Put back what ``recipe`` found; nothing, where it found none."""
        text, facts = recipe
        if text is not None:
            with writing(self.path / RECIPE) as temporary:
                temporary.write_bytes(text)
            self.describe(**facts)

    @property
    def id(self) -> str:
        """What tells this run from others that share its ledger."""
        return str(self.manifest["id"])

    # --- stages ---

    def state(self, stage: str) -> StageState | None:
        found = self.manifest["stages"].get(stage)
        return StageState(**found) if found else None

    def is_complete(self, stage: str) -> bool:
        state = self.state(stage)
        return state is not None and state.complete

    def set_state(self, stage: str, state: StageState) -> None:
        self.manifest["stages"][stage] = state.__dict__
        self.save()

    def confirmed(self, stage: str) -> bool:
        """Whether a stage's output belongs to this walk: what an earlier recipe left is not reported beside it."""
        state = self.state(stage)
        return stage in self.walked and state is not None and state.complete

    def training_file(self, stage: str) -> str:
        """Where what a training told lies, under the run folder; it moves to ``superseded/`` with its stage."""
        return f"training/{stage.replace('/', '-')}.json"

    def trained(self, stage: str) -> dict[str, Any] | None:
        """What a training of this walk told; None where there was none."""
        path = self.path / self.training_file(stage)
        if not self.confirmed(stage) or not path.is_file():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def evaluated(self, name: str) -> Any:
        """A file of this walk's evaluation, without ``.json``; None where nothing was measured."""
        path = self.path / "evaluation" / f"{name}.json"
        if not self.confirmed("evaluation") or not path.is_file():
            return None
        return json.loads(path.read_text(encoding="utf-8"))

    def begin(self, stage: str, signature: str, folders: Iterable[str]) -> bool:
        """True when the stage is already complete under this signature. Otherwise what another signature, or another
        stage, left in ``folders`` moves to ``superseded/`` and the stage is marked as begun."""
        state = self.state(stage)
        self.walked.add(stage)
        if state and state.signature == signature:
            self.kept.update([stage] if state.complete else [])
            return state.complete
        if state and state.complete and not self.remade:
            self.remade = True
            self.notice(
                f"{stage}: what it was made from has changed since: it is made again, and so is what depends on it. What is "
                "replaced moves to superseded/."
            )
        folders = list(folders)
        stages: dict[str, Any] = self.manifest["stages"]
        for name in [name for name in stages if name == stage or set(stages[name].get("folders", ())) & set(folders)]:
            for folder in {*folders, *stages[name].get("folders", ())}:
                self._supersede(folder, stages[name]["signature"])
            del stages[name]
        self.set_state(stage, StageState(signature, complete=False, folders=folders))
        return False

    def finish(self, stage: str, content: str, seconds: float) -> None:
        state = self.state(stage)
        assert state is not None
        seconds += state.seconds
        self.set_state(stage, replace(state, complete=True, content=content, seconds=seconds))

    def note(self, stage: str, lines: Sequence[str]) -> None:
        """Keep what a person was told while a stage was made; what was told of another making of it goes."""
        state = self.state(stage)
        if state is None:
            return
        path = self.path / NOTES
        notes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        before = notes.get(stage, {})
        kept = before["lines"] if before.get("signature") == state.signature else []
        if (told := list(dict.fromkeys([*kept, *lines]))) != before.get("lines", []):
            write_json(path, notes | {stage: {"signature": state.signature, "lines": told}})

    def notes(self) -> dict[str, list[str]]:
        """What a person was told while the stages were made, by stage: those of this walk, where there is one."""
        path = self.path / NOTES
        notes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {
            stage: note["lines"]
            for stage, note in notes.items()
            if note["lines"] and (not self.walked or stage in self.walked)
        }

    def cares(self) -> list[str]:
        """Of what was told, and of what labels cannot show, that which must stand wherever the run is looked at."""
        told = (line for lines in self.notes().values() for line in lines if line.startswith("Careful: "))
        return list(dict.fromkeys([*self.manifest.get("caveats", ()), *told]))

    def _supersede(self, folder: str, signature: str) -> None:
        source = self.path / folder
        if not source.exists():
            return
        name = f"{folder.replace('/', '-')}-{signature[:8]}"
        target = self.path / "superseded" / name
        try:
            target.parent.mkdir(exist_ok=True)
            while target.exists():  # the same recipe was superseded before: both stay
                target = target.with_name(f"{target.name}+")
            source.rename(target)
        except OSError as error:
            raise disk_error(target, error) from error

    def set_aside_report(self) -> None:
        """Move a report that may be of other labels or policies to ``superseded/``."""
        self._supersede("report.html", digest(_now()))

    def ledger(self) -> Path | None:
        """The file with the replies that judgements point to; None where it is not there (any more)."""
        named = self.manifest.get("ledger_as_named")  # from a working directory that is not known: this one, or above
        places = [Path(named), *(parent / named for parent in self.path.resolve().parents)] if named else []
        if "ledger" in self.manifest:
            places = [self.path / self.manifest["ledger"]]
        return next((place for place in places if place.is_file()), None)

    def shards(self, noun: str) -> list[Path]:
        return sorted((self.path / noun).glob("part-*.parquet"))

    def read(self, noun: str) -> Iterator[Any]:
        """All records of a noun, or of one under another folder (``reference/responses``), shard by shard."""
        record: type[Record] = Exclusion if noun.startswith("exclusions/") else RECORDS[noun.rpartition("/")[2]]
        for shard in self.shards(noun):
            yield from read_shard(shard, record, sound=shard in self._sound)
            self._sound.add(shard)

    async def batches(self, noun: str, size: int, skip: int = 0) -> AsyncIterator[list[Any]]:
        """The records of a noun in batches of ``size``, without the first ``skip`` batches."""
        async for batch in cut(self.read(noun), size, skip):
            yield batch

    def content(self, noun: str) -> str:
        """Digest of a noun's records in order, however they are cut into shards."""
        whole = hashlib.sha256()
        for shard in self.shards(noun):
            whole.update(_metadata(shard, "rlaif.rows").encode())
        return whole.hexdigest()

    def rows(self, noun: str) -> int:
        return sum(pq.read_metadata(shard).num_rows for shard in self.shards(noun))

    async def run_stage(
        self,
        stage: str,
        *,
        signature: str,
        size: int,
        source: Callable[[int], AsyncIterator[list[Any]]],
        apply: Stage,
        nouns: Sequence[type[Record]],
        under: str = "",
        resumable: bool = True,
        before: Callable[[], None] = lambda: None,
        done: Callable[[int], None] = lambda inputs: None,
    ) -> None:
        """Run a streaming stage to its end, or to where it was, and mark it complete.

        ``source(n)`` yields the input batches, of ``size`` items, from the n-th on. ``nouns`` are the record types the
        stage yields, its own last; their folders lie in the run folder, or in its folder ``under``.
        ``resumable=False``: a stage with memory across batches (duplicates) starts over when it was cut off.
        ``before()`` is called where the stage has not begun under this signature, with what was there still in place.
        """
        places = places_of(stage, nouns, under)
        folders = [*(places[record] for record in nouns), places[Exclusion]]
        signature = _cut_signature(signature, size)
        state = self.state(stage)
        if state is None or state.signature != signature:
            before()
        if resumable:
            self._reopen(stage, signature, folders)
        if self.begin(stage, signature, folders):
            return
        start = time.perf_counter()
        own = places[nouns[-1]]
        finished = len(self.shards(own)) if resumable else 0
        if not resumable:
            for folder in folders:
                shutil.rmtree(self.path / folder, ignore_errors=True)
        done(sum(int(_metadata(shard, "rlaif.inputs")) for shard in self.shards(own)))
        sizes: list[int] = []

        async def counted() -> AsyncIterator[list[Any]]:
            async for batch in source(finished):
                sizes.append(len(batch))
                yield batch

        index = finished
        async for outputs in apply(counted()):
            inputs = sizes[index - finished]
            self._sound.update(write_batch(self.path, index, inputs, outputs, places))
            index += 1
            done(inputs)
        if index == 0:  # no input at all is still an answer: an empty table with the right columns
            write_batch(self.path, 0, 0, [], places)
        self.finish(stage, self.content(own), time.perf_counter() - start)

    def is_made(self, stage: str, signature: str, size: int) -> bool:
        """Whether a stage of batches of ``size`` is complete under this signature."""
        state = self.state(stage)
        return state is not None and state.complete and state.signature == _cut_signature(signature, size)

    def outdate(self, stage: str) -> None:
        """What the stage made is no longer what today's code makes of the same: its next walk makes it again."""
        if state := self.state(stage):
            self.set_state(stage, replace(state, signature=f"{state.signature[:8]} by earlier code"))

    def adopt(self, stage: str, signature: str, size: int, nouns: Sequence[type[Record]], made: Path) -> None:
        """Take shards that ``write_batch`` wrote under ``made`` for the whole output of a stage; what stood there moves to
        ``superseded/``."""
        places = places_of(stage, nouns)
        folders = [*(places[record] for record in nouns), places[Exclusion]]
        self.outdate(stage)
        self.begin(stage, _cut_signature(signature, size), folders)
        try:
            for folder in places.values():  # the stage's own noun last: shards that are there are whole
                (self.path / folder).parent.mkdir(parents=True, exist_ok=True)
                (made / folder).rename(self.path / folder)
        except OSError as error:
            raise disk_error(self.path, error) from error
        self.finish(stage, self.content(places[nouns[-1]]), 0.0)

    def _reopen(self, stage: str, signature: str, folders: Sequence[str]) -> None:
        """Drop the shards from the first failure on that asking again could mend: answered requests cost nothing."""
        state = self.state(stage)
        if state is None or state.signature != signature:
            return
        failed = [
            shard.name
            for folder in folders
            for shard in self.shards(folder)
            if "retryable" in pq.read_schema(shard).names
            and any(pq.read_table(shard, columns=["retryable"])["retryable"].to_pylist())
        ]
        if failed:
            self.set_state(stage, replace(state, complete=False))
            for folder in reversed(folders):
                for shard in self.shards(folder):
                    if shard.name >= min(failed):
                        shard.unlink()

    def account(self, stage: str, own: str) -> dict[str, Any]:
        """How many came in, went out, and were left out with which reasons."""
        reasons: Counter[str] = Counter()
        outcomes: Counter[str] = Counter()
        for exclusion in self.read(f"exclusions/{stage}"):
            outcomes[exclusion.outcome] += 1
            reasons[exclusion.reason] += 1
        return {
            "in": sum(int(_metadata(shard, "rlaif.inputs")) for shard in self.shards(own)),
            "out": self.rows(own),
            "excluded": dict(sorted(outcomes.items())),
            "reasons": dict(sorted(reasons.items())),
        }


def places_of(stage: str, nouns: Sequence[type[Record]], under: str = "") -> dict[type[Record], str]:
    """The folder of each kind of record that a stage yields."""
    places: dict[type[Record], str] = {Exclusion: f"exclusions/{stage}"}
    return places | {record: f"{under}/{NOUNS[record]}" if under else NOUNS[record] for record in nouns}


def _cut_signature(signature: str, size: int) -> str:
    """With where a shard ends, which is part of what may be resumed."""
    return digest(signature, size)


def write_batch(root: Path, index: int, inputs: int, outputs: Batch, places: Mapping[type[Record], str]) -> list[Path]:
    """One shard of each kind of record in its place under ``root``, in the order of ``places``; returns them."""
    by_type: dict[type[Record], list[Record]] = {kind: [] for kind in places}
    for output in outputs:
        by_type[type(output)].append(output)
    shards = {record: root / places[record] / f"part-{index:05d}.parquet" for record in by_type}
    for record, rows in by_type.items():
        write_shard(shards[record], record, rows, inputs)
    return list(shards.values())


def read_shard(path: Path, record: type[R], *, sound: bool = False) -> Iterator[R]:
    """The records of a shard. ``sound``: they were valid when this process saw them last."""
    try:
        with pq.ParquetFile(path) as file:  # read_table sets out for whole folders of files
            table = file.read()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}.") from error
    made = maker(record) if sound and table.schema.equals(schema_of(record)) else partial(from_row, record)
    yield from map(made, table.to_pylist())


async def cut(rows: Iterable[T], size: int, skip: int = 0) -> AsyncIterator[list[T]]:
    """Batches of ``size`` rows, without the first ``skip`` batches."""
    batch: list[T] = []
    index = 0
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            if index >= skip:
                yield batch
            batch = []
            index += 1
    if batch and index >= skip:
        yield batch


def read_manifest(path: Path) -> dict[str, Any]:
    """A run folder's manifest as this program writes it. Raises UserError when it is none, or a newer program's."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}. Choose another --out.") from error
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise UserError(f"{path}: not a run folder's manifest. Choose another --out.")
    return MANIFEST.upgrade(manifest, manifest["format"], str(path.parent))


def _is_leftover(path: Path) -> bool:
    """Whether a killed process left this file half written (see ``writing``)."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _metadata(shard: Path, name: str) -> str:
    metadata = pq.read_metadata(shard).metadata or {}
    return bytes(metadata[name.encode()]).decode()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from working in a folder meanwhile, which is made where it is not there. Raises UserError when one is."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another run is at work in this folder. Wait for it.") from error
        yield


def environment() -> dict[str, Any]:
    """Versions and thread count: what "same build" means when bytes are compared."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("rlaif", "torch", "transformers", "accelerate", "tokenizers", "pyarrow", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if "torch" in sys.modules:
        found["threads"] = sys.modules["torch"].get_num_threads()
    return found
