"""What a stage has to remember of a whole input, kept in a temporary file, so that memory does not grow with it."""

from __future__ import annotations

import json
import pickle
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")

CACHE_KIB = 32_768


class Seen:
    """A set of names that can only grow."""

    def __init__(self) -> None:
        self._db = _temporary("CREATE TABLE seen (name TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, name: str) -> bool:
        """Whether the name is new; from now on it is not."""
        return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (name,)).rowcount > 0


class Lists:
    """Lists of JSON values by name, in the order in which they were added."""

    def __init__(self, rows: Iterable[tuple[str, Any]]) -> None:
        self._db = _temporary("CREATE TABLE items (name TEXT NOT NULL, item TEXT NOT NULL)")
        self._db.executemany(
            "INSERT INTO items VALUES (?, ?)", ((json.dumps(name), json.dumps(item)) for name, item in rows)
        )
        self._db.execute("CREATE INDEX by_name ON items (name)")

    def __bool__(self) -> bool:
        return self._db.execute("SELECT 1 FROM items LIMIT 1").fetchone() is not None

    def of(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """The list of each name; a name without any has an empty one."""
        found: dict[str, list[Any]] = {name: [] for name in names}
        for start in range(0, len(names), 500):
            part = [json.dumps(name) for name in names[start : start + 500]]
            marks = ",".join("?" * len(part))
            for name, item in self._db.execute(
                f"SELECT name, item FROM items WHERE name IN ({marks}) ORDER BY rowid", part
            ):
                found[json.loads(name)].append(json.loads(item))
        return found


class Kept(Generic[T]):
    """A list of whatever can be pickled, which may be gone through again and again."""

    def __init__(self) -> None:
        self._db = _temporary("CREATE TABLE kept (item BLOB NOT NULL)")

    def add(self, item: T) -> None:
        self._db.execute("INSERT INTO kept VALUES (?)", (zlib.compress(pickle.dumps(item), 1),))

    def __iter__(self) -> Iterator[T]:
        for (data,) in self._db.execute("SELECT item FROM kept ORDER BY rowid"):
            item: T = pickle.loads(zlib.decompress(data))
            yield item


def _temporary(table: str) -> sqlite3.Connection:
    """A database in a file of its own that goes with the connection."""
    db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    db.execute(table)
    db.execute("BEGIN")
    return db
