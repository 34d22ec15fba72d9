"""Look into a ledger, take from it, and keep it in order. Reading never changes it.

A ledger is named by its file, or by a run folder whose replies it holds.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rlaif.config import Pipeline
from rlaif.errors import DataError, StorageError, UserError, did_you_mean
from rlaif.ledger import ENTRIES, FORMAT, Entry, Ledger, entry_of, packed
from rlaif.store import RunFolder

WAIT_SECONDS = 30.0  # for another process that holds the file
KEY = re.compile(r"[0-9a-f]{1,64}")


def ledger_of(named: Path | None) -> Path:
    """The ledger that a path names: its file, or a run folder's; the working folder's without one. Raises UserError."""
    path = named or Path(Pipeline.model_fields["ledger"].default)
    if path.is_dir():
        found = run_folder(path).ledger()
        if found is None:
            raise UserError(f"{path}: its ledger is not there (any more). Name the file.")
        return Path(os.path.relpath(found.resolve()))
    if not path.is_file():
        remedy = "Name a ledger's file or a run folder." if named else "Name one, or go to the folder that has one."
        raise UserError(f"{path}: there is no ledger here. {remedy}")
    return path


def run_folder(path: Path) -> RunFolder:
    """A run folder that is there. Raises UserError."""
    if not (path / "manifest.json").is_file():
        raise UserError(f"{path}: not a run folder (it has no manifest.json).")
    return RunFolder(path)


@contextmanager
def one_line(path: Path, doing: str) -> Iterator[None]:
    """What SQLite says against a file becomes one line."""
    try:
        yield
    except sqlite3.Error as error:
        held = " Another process holds it: wait for it to end." if "locked" in str(error) else ""
        raise StorageError(f"{path}: the ledger cannot be {doing}: {error}.{held}") from error


class Reader:
    """A ledger that is only read; one of an older format is brought up to date first. Raises UserError where the file is
    none, or a newer program's."""

    def __init__(self, path: Path, wait_seconds: float = WAIT_SECONDS) -> None:
        self.path = path
        self._connect(wait_seconds)
        if self.format < FORMAT:
            self.db.close()
            Ledger(path).close()  # brings it up to date
            self._connect(wait_seconds)
        if self.format > FORMAT:
            raise UserError(
                f"{path}: ledger format {self.format}, this version reads up to {FORMAT}. A newer rlaif wrote it: upgrade "
                "rlaif to read it."
            )

    def _connect(self, wait_seconds: float) -> None:
        with one_line(self.path, "read"):
            self.db = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True, timeout=wait_seconds)
            self.db.create_function("packed", 1, packed, deterministic=True)
            self.format = self._format()

    def _format(self) -> int:
        tables = {name for (name,) in self.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        row = self.db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone() if "meta" in tables else None
        if row is None or "replies" not in tables or not str(row[0]).isdecimal():
            raise UserError(f"{self.path}: a database, and not a ledger of replies.")
        return int(row[0])

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.db.close()

    def rows(self, query: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """The rows of a query, one by one."""
        with one_line(self.path, "read"):
            yield from self.db.execute(query, values)

    def row(self, query: str, values: Sequence[Any] = ()) -> Any:
        return next(self.rows(query, values))

    def get(self, keys: Iterable[str]) -> dict[str, Entry]:
        """The stored entries among ``keys``, as ``Ledger.get``."""
        found = (next(self.rows(f"{ENTRIES} WHERE key = ?", (packed(key),)), None) for key in dict.fromkeys(keys))
        entries = [entry_of(row) for row in found if row]
        return {entry.key: entry for entry in entries}

    def has(self, key: str) -> bool:
        return next(self.rows("SELECT 1 FROM replies WHERE key = ?", (packed(key),)), None) is not None

    def entry(self, prefix: str) -> Entry:
        """The entry whose key begins so. Raises UserError where none does, or several do: these are listed."""
        wanted = prefix.lower().rstrip("…")
        if not KEY.fullmatch(wanted):
            raise UserError(f"{prefix}: a reply's key is up to 64 digits of 0-9 and a-f, as judgements name it.")
        low, high = bytes.fromhex(wanted.ljust(64, "0")), bytes.fromhex(wanted.ljust(64, "f"))
        rows = list(self.rows(f"{ENTRIES} WHERE key BETWEEN ? AND ? ORDER BY key LIMIT 6", (low, high)))
        if not rows:
            raise UserError(f"{self.path}: no reply has a key that begins with {wanted}.")
        entries = [entry_of(row) for row in rows]
        if len(entries) > 1:
            names = ", ".join(entry.key[: max(16, len(wanted) + 4)] for entry in entries[:5])
            more = " and more" if len(entries) > 5 else ""
            raise UserError(f"{prefix}: several replies have a key that begins so: {names}{more}.")
        return entries[0]


@dataclass(frozen=True)
class Selection:
    """Some of a ledger's replies, as a condition in SQL on ``replies JOIN askers``."""

    condition: str = "1"
    values: tuple[Any, ...] = ()

    def also(self, condition: str, *values: Any) -> Selection:
        return Selection(f"{self.condition} AND {condition}", (*self.values, *values))


def selected(
    reader: Reader,
    *,
    model: str | None = None,
    run: str | None = None,
    since: str | None = None,
    before: str | None = None,
) -> Selection:
    """The replies of a model (with or without its provider's name), of a run (its folder, or the beginning of its id),
    from one date on, before another. Raises UserError for a name that is not in the ledger, or no date."""
    found = Selection()
    if model is not None:
        found = found.also("askers.model = ?", _model(reader, model))
    if run is not None:
        found = found.also("askers.run = ?", _run(reader, run))
    if since is not None:
        found = found.also("created >= ?", moment(since))
    if before is not None:
        found = found.also("created < ?", moment(before))
    return found


def _model(reader: Reader, wanted: str) -> str:
    known = [name for (name,) in reader.rows("SELECT DISTINCT model FROM askers ORDER BY model")]
    fits = [name for name in known if wanted in (name, name.partition(":")[2], Path(name).name)]
    return _one(fits, f"--model {wanted}: no model is called so.{did_you_mean(wanted, known)}")


def _run(reader: Reader, wanted: str) -> str:
    if Path(wanted).is_dir():
        return run_folder(Path(wanted)).id
    known = [name for (name,) in reader.rows("SELECT DISTINCT run FROM askers WHERE run != '' ORDER BY run")]
    fits = [name for name in known if wanted and name.startswith(wanted)]
    return _one(fits, f"--of-run {wanted}: no run folder, and no run's id begins so.{did_you_mean(wanted, known)}")


def _one(fits: list[str], otherwise: str) -> str:
    """The only one. Raises UserError where there is none, or several."""
    if not fits:
        raise UserError(otherwise)
    if len(fits) > 1:
        more = f" and {len(fits) - 5} more" if len(fits) > 5 else ""
        raise UserError(f"{otherwise.partition(': ')[0]}: several are meant by that: {', '.join(fits[:5])}{more}.")
    return fits[0]


def moment(text: str) -> float:
    """Unix time of a date (UTC where it names no zone), or of so many days ago: ``30d``. Raises DataError."""
    if match := re.fullmatch(r"(\d{1,6})d", text):
        return (datetime.now(UTC) - timedelta(days=int(match[1]))).timestamp()
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(f"{text}: not a date: 2026-01-31, 2026-01-31T12:00 or 30d (days ago).") from error
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def date(created: float) -> str:
    """Unix time as a person reads it, in UTC."""
    return datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
