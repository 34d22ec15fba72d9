"""Delete replies that nobody needs. A deleted reply is paid for again by whoever asks its request again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from rlaif.errors import UserError
from rlaif.ledger import packed
from rlaif.ledger_tools import WAIT_SECONDS, Selection, one_line, run_folder
from rlaif.ledger_tools.looking import OWNERS, Owner
from rlaif.store import RunFolder

BATCH = 10_000


@dataclass(frozen=True)
class Pruned:
    """What was deleted, or would be: by model and run. ``kept``: selected replies that a named run folder needs."""

    replies: int
    kept: int
    cost_usd: float
    of: list[tuple[str, str, int]]  # model, run, replies
    freed_bytes: int = 0

    def lines(self, done: bool) -> Iterator[str]:
        cost = f" that cost {self.cost_usd:.4f} USD" if self.cost_usd else ""
        kept = f"; {self.kept:,} that the named runs point to stay" if self.kept else ""
        yield f"{self.replies:,} replies{cost} {'deleted' if done else 'would be deleted'}{kept}"
        for model, run, count in self.of:
            yield f"{'':<4}{count:>9,} × model {model}, run {run or '(not named)'}"
        if done and self.replies:
            yield f"{self.freed_bytes / 1e6:,.2f} MB freed"


def prune(
    path: Path,
    selection: Selection,
    keep: Sequence[Path] | None,
    *,
    dry_run: bool = True,
    wait_seconds: float = WAIT_SECONDS,
) -> Pruned:
    """Delete the selected replies but for those that the run folders ``keep`` point to; with None, those too that some
    run's judgements point to. Raises UserError while a process is asking, StorageError."""
    runs = [run_folder(folder) for folder in keep or ()]
    before = path.stat().st_size
    with one_line(path, "pruned"), closing(sqlite3.connect(path, timeout=wait_seconds, isolation_level=None)) as db:
        db.create_function("packed", 1, packed, deterministic=True)
        db.execute("PRAGMA temp_store = FILE")
        db.execute("CREATE TEMP TABLE needed (key PRIMARY KEY) WITHOUT ROWID")
        db.execute("BEGIN")
        db.executemany("INSERT OR IGNORE INTO needed VALUES (?)", ((name,) for run in runs for name in _needed(run)))
        db.execute("COMMIT")
        db.execute("BEGIN IMMEDIATE")
        if busy := [owner for owner in (Owner(*row) for row in db.execute(OWNERS)) if not owner.stale]:
            raise UserError(f"{path}: process {busy[0].pid} is asking models now. Wait for it to end.")
        found = _select(db, selection)
        if dry_run or not found.replies:
            db.execute("ROLLBACK")
            return found
        db.execute(
            "UPDATE purses SET pruned_usd = pruned_usd + (SELECT total(cost_usd) FROM replies JOIN askers "
            "ON askers.id = replies.asker WHERE askers.run = purses.run AND key IN (SELECT key FROM doomed))"
        )
        db.execute("DELETE FROM replies WHERE key IN (SELECT key FROM doomed)")
        db.execute("COMMIT")
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Pruned(found.replies, found.kept, found.cost_usd, found.of, before - path.stat().st_size)


def _select(db: sqlite3.Connection, selection: Selection) -> Pruned:
    """What is to go, in the table ``doomed``. A sample is needed where its prompt is."""
    db.execute("CREATE TEMP TABLE doomed (key PRIMARY KEY) WITHOUT ROWID")
    chosen = f"FROM replies JOIN askers ON askers.id = replies.asker WHERE {selection.condition}"
    needed = "(key IN (SELECT key FROM needed) OR json_extract(about, '$.sample') IN (SELECT key FROM needed))"
    kept = db.execute(f"SELECT count(*) {chosen} AND {needed}", selection.values).fetchone()[0]
    db.execute(f"INSERT INTO doomed SELECT key {chosen} AND coalesce(NOT {needed}, 1)", selection.values)
    of = db.execute(
        "SELECT model, run, count(*), total(cost_usd) FROM replies JOIN askers ON askers.id = replies.asker "
        "WHERE key IN (SELECT key FROM doomed) GROUP BY model, run ORDER BY count(*) DESC"
    ).fetchall()
    counted = [(model, run, count) for model, run, count, _ in of]
    return Pruned(sum(row[2] for row in of), kept, sum(row[3] for row in of), counted)


def _needed(run: RunFolder) -> Iterator[bytes | str]:
    """Keys of the replies that a run folder's judgements point to, superseded ones and a win rate's included, and ids of
    the prompts that it has samples of."""
    for shard in sorted(run.path.rglob("part-*.parquet")):
        names = pq.read_schema(shard).names
        if "reply_keys" in names:
            for keys in pq.read_table(shard, columns=["reply_keys"])["reply_keys"].to_pylist():
                yield from map(packed, keys)
        elif "sample_index" in names:
            yield from pq.read_table(shard, columns=["prompt_id"])["prompt_id"].to_pylist()
        elif shard.parent.name == "prompts" and "id" in names:
            yield from pq.read_table(shard, columns=["id"])["id"].to_pylist()
