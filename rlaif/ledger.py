"""Every model reply, by request key: paid for once, never lost, never asked again.

SQLite in WAL mode with ``synchronous=NORMAL``: a reply that a caller has seen survives a killed process (not a power
cut). Replies of one moment, or of one local batch, are one transaction, committed before any caller sees
them. Two processes may share a ledger: the requests of a local batch are claimed before they are computed; a claim ends
with its process, or expires unless it is renewed.

What varies from run to run (time, tokens, cost, raw text) is kept only here; stage files refer to it by key. Prompts are
not kept: a reply's context says what was asked about, and the request is rendered again from a run's files. What many
replies have in common (model, run, judge, principle) stands once, in ``askers``.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sqlite3
import time
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlaif.errors import StorageError
from rlaif.models import Reply
from rlaif.records import canonical_json

FORMAT = 3
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS askers (  -- never deleted: other processes remember their ids
    id INTEGER PRIMARY KEY,
    model TEXT NOT NULL,          -- the identity's name
    run TEXT NOT NULL,            -- for whom it was asked, and who paid: the run folder's id
    who TEXT NOT NULL,            -- "asker" of the context, as JSON: judge and principle; '' where it has none
    UNIQUE (model, run, who)
);
CREATE TABLE IF NOT EXISTS replies (
    key BLOB PRIMARY KEY,         -- the 32 bytes of the request's key
    asker INTEGER NOT NULL,
    about TEXT NOT NULL,          -- the rest of the context, as JSON: with the run's files, enough to render the request
    reply TEXT NOT NULL,          -- rlaif.models.Reply as JSON
    prompt_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_usd REAL,                -- NULL: no price is known (local models)
    seconds REAL NOT NULL,        -- of the call; a batch's time is shared out evenly
    attempts INTEGER NOT NULL,
    created REAL NOT NULL         -- Unix time
);
CREATE TABLE IF NOT EXISTS owners (owner TEXT PRIMARY KEY, expires REAL NOT NULL);  -- processes that claim
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS purses (
    run TEXT PRIMARY KEY,
    spent_usd REAL NOT NULL,      -- for replies
    lost_usd REAL NOT NULL,       -- for calls that brought none, and may have been billed
    open_usd REAL NOT NULL,       -- the most that calls in flight can cost
    pruned_usd REAL NOT NULL DEFAULT 0  -- of what was spent, for replies that were deleted since
);
CREATE TABLE IF NOT EXISTS pots (run TEXT PRIMARY KEY, pot TEXT NOT NULL);  -- runs that have one budget together
CREATE TABLE IF NOT EXISTS jobs (  -- of the providers' batch APIs
    job TEXT PRIMARY KEY,         -- our name for it, sent along where the provider keeps it
    model TEXT NOT NULL,          -- the identity's hash
    endpoint TEXT NOT NULL,       -- the route it was submitted through, as people may see it
    name TEXT,                    -- the provider's name; NULL: not known whether the provider has accepted it
    lines INTEGER NOT NULL,       -- requests in it
    created REAL NOT NULL,        -- Unix time, just before it was submitted
    run TEXT NOT NULL,            -- who pays
    ended REAL                    -- Unix time; NULL: open
);
CREATE TABLE IF NOT EXISTS job_lines (  -- requests that an open job has not answered yet
    key TEXT PRIMARY KEY,
    job TEXT NOT NULL,
    context TEXT NOT NULL,
    reading TEXT NOT NULL,        -- what reading the reply needs of the request
    most_usd REAL NOT NULL        -- set aside for it
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS lines_of_jobs ON job_lines (job);
"""
CLAIM_SECONDS = 60.0  # that a claim holds; renewed as long as its process lives
CHECKPOINT_PAGES = 8_192  # of 4 KB, in the log before they go to the file, for which everything waits
CLAIMS_AT_ONCE = 1_000  # that are deleted together, when replies have ended them
TOGETHER_SECONDS = 0.002  # a transaction costs as much as some ten replies
MIGRATIONS = {  # by the format they start from
    1: (
        "ALTER TABLE replies ADD COLUMN run TEXT NOT NULL DEFAULT ''",
        "DROP TABLE claims",
        "CREATE TABLE purses (run TEXT PRIMARY KEY, spent_usd REAL NOT NULL, lost_usd REAL NOT NULL, open_usd REAL NOT NULL)",
    ),
    2: (
        "ALTER TABLE purses ADD COLUMN pruned_usd REAL NOT NULL DEFAULT 0",
        "ALTER TABLE replies RENAME TO old",
        "CREATE TABLE askers (id INTEGER PRIMARY KEY, model TEXT NOT NULL, run TEXT NOT NULL, who TEXT NOT NULL, "
        "UNIQUE (model, run, who))",
        "CREATE TABLE replies (key BLOB PRIMARY KEY, asker INTEGER NOT NULL, about TEXT NOT NULL, reply TEXT NOT NULL, "
        "prompt_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost_usd REAL, seconds REAL NOT NULL, "
        "attempts INTEGER NOT NULL, created REAL NOT NULL)",
        "INSERT OR IGNORE INTO askers (model, run, who) SELECT model, run, who_of(context) FROM old ORDER BY rowid",
        "INSERT INTO replies SELECT packed(key), askers.id, about_of(context), reply, prompt_tokens, output_tokens, "
        "cost_usd, seconds, attempts, created FROM old JOIN askers ON askers.model = old.model "
        "AND askers.run = old.run AND askers.who = who_of(context) ORDER BY old.rowid",
        "DROP TABLE old",
    ),
}
ENTRIES = (  # what ``entry_of`` reads
    "SELECT key, model, reply, who, about, cost_usd, seconds, attempts, created, run "
    "FROM replies JOIN askers ON askers.id = replies.asker"
)
ASKER = '{"asker":'  # how the context begins of a reply whose asker has others too
_decode = json.JSONDecoder().raw_decode
JOB_COLUMNS = "job, model, endpoint, lines, created, run, name"


@dataclass(frozen=True)
class Entry:
    """One paid reply with what it took."""

    key: str
    model: str
    reply: Reply
    context: str = "{}"
    cost_usd: float | None = None
    seconds: float = 0.0
    attempts: int = 1
    created: float = 0.0
    run: str = ""


@dataclass(frozen=True)
class JobRow:
    """A job at a provider, as far as it is recorded."""

    job: str
    model: str  # the identity's hash
    endpoint: str
    lines: int
    created: float  # Unix time
    run: str
    name: str | None = None  # the provider's; None: not known whether it has accepted the job


@dataclass(frozen=True)
class JobLine:
    """A request in a job."""

    key: str
    context: str
    reading: str
    most_usd: float


def packed(key: str) -> bytes | str:
    """A key as the file has it: 32 bytes in place of 64 digits. What is no request's key stays as it is."""
    try:
        found = bytes.fromhex(key) if len(key) == 64 else b""
    except ValueError:
        return key
    return found if found.hex() == key else key


def entry_of(row: Sequence[Any]) -> Entry:
    """The entry in a row of ``ENTRIES``."""
    key, model, reply, who, about, *took = row
    name = key.hex() if isinstance(key, bytes) else key
    return Entry(name, model, Reply.model_validate_json(reply), _joined(who, about), *took)


def _split(context: str) -> tuple[str, str]:
    """What a context says of who asked, and the rest of it."""
    if not context.startswith(ASKER):
        return "", context
    _, end = _decode(context, len(ASKER))
    return context[len(ASKER) : end], "{" + context[end:].removeprefix(",")


def _joined(who: str, about: str) -> str:
    return f"{ASKER}{who}{'}' if about == '{}' else ',' + about[1:]}" if who else about


def _from_format_2(context: str) -> str:
    """The context of a judge's question as it is written since: ids of what was shown are places among them, sorted."""
    old = json.loads(context)
    if not isinstance(old, dict) or "judge" not in old:
        return context
    asker = {name: old.pop(name) for name in ("judge", "principle") if name in old}
    if isinstance(ids := old.get("shown"), list):
        old["shown"] = [sorted(ids).index(each) for each in ids]
    if not old.get("question"):
        old.pop("question", None)
    return canonical_json({"asker": asker, **old})


def _old_who(context: str) -> str:
    return _split(_from_format_2(context))[0]


def _old_about(context: str) -> str:
    return _split(_from_format_2(context))[1]


class Waiter(Protocol):
    """Whoever is told what became of an entry: a future, or what is like one."""

    def done(self) -> bool: ...

    def set_result(self, entry: Entry, /) -> None: ...

    def set_exception(self, error: BaseException, /) -> None: ...


class Ledger:
    """Open, and close when done; safe to share between tasks of one event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner = f"{platform.node()}:{os.getpid()}:{begun(os.getpid())}-{uuid.uuid4().hex[:8]}"
        self._waiting: list[tuple[Entry, Waiter]] = []
        self._askers: dict[tuple[str, str, str], int] = {}
        self._answered: set[str] = set()  # keys whose claims replies have ended
        self.open_marks: dict[str, Callable[[], float | None]] = {}  # by run: the mark, where it is to be lowered
        self._watching: list[asyncio.Future[None]] = []  # told when those that wait are committed
        self._committed = -1.0  # when, by the event loop's clock, replies were last committed
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            self._migrate()
            self._db.executescript(SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", (str(FORMAT),))
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"{path}: the ledger cannot be opened: {error}.") from error

    def _migrate(self) -> None:
        """Bring a ledger of an older format to this one, in one transaction."""
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            return
        for name, function in (("packed", packed), ("who_of", _old_who), ("about_of", _old_about)):
            self._db.create_function(name, 1, function, deterministic=True)
        with self._transaction():
            row = self._db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
            found = row[0] if row else str(FORMAT)
            if not found.isdecimal() or int(found) > FORMAT:
                raise StorageError(f"{self.path}: ledger format {found}, this version reads up to {FORMAT}.")
            for step in range(int(found), FORMAT):
                for statement in MIGRATIONS[step]:
                    self._db.execute(statement)
            self._db.execute("UPDATE meta SET value = ? WHERE name = 'format'", (str(FORMAT),))

    def close(self) -> None:
        with suppress(StorageError), self._transaction():  # claims end with their process in any case
            for table in ("claims", "owners"):
                self._db.execute(f"DELETE FROM {table} WHERE owner = ?", (self.owner,))
        self._db.close()

    def __len__(self) -> int:
        count: int = self._db.execute("SELECT count(*) FROM replies").fetchone()[0]
        return count

    def get(self, keys: Iterable[str]) -> dict[str, Entry]:
        """The stored entries among ``keys``."""
        found: dict[str, Entry] = {}
        wanted = list(dict.fromkeys(keys))
        try:
            for start in range(0, len(wanted), 500):
                part = list(map(packed, wanted[start : start + 500]))
                marks = ",".join("?" * len(part))
                for row in self._db.execute(f"{ENTRIES} WHERE key IN ({marks})", part):
                    entry = entry_of(row)
                    found[entry.key] = entry
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: the ledger cannot be read: {error}.") from error
        return found

    def put(self, entries: Sequence[Entry], *, settled: bool = False) -> list[Entry]:
        """Commit all in one transaction; ``settled``: they are all that calls have brought so far.
        Returns what is stored: where a key was there already, the older entry; what the other cost is money
        without a reply."""
        now = time.time()
        with self._transaction():
            new = self._store(entries, now)
            for run, lowered in self.open_marks.items() if settled else ():
                if (usd := lowered()) is not None:
                    self._db.execute("UPDATE purses SET open_usd = ? WHERE run = ?", (usd, run))
            if new == len(entries):
                return list(entries)
            stored = self.get(entry.key for entry in entries)
            kept: set[str] = set()
            for entry in entries:
                if entry.key in kept or stored[entry.key].created != (entry.created or now):
                    self._lose(entry.run, entry.cost_usd or 0.0)
                kept.add(entry.key)
        return [stored[entry.key] for entry in entries]

    def _lose(self, run: str, usd: float) -> None:
        """Within a transaction: what was counted as spent brought no reply."""
        if run and usd:
            moved = "UPDATE purses SET spent_usd = spent_usd - ?, lost_usd = lost_usd + ? WHERE run = ?"
            self._db.execute(moved, (usd, usd, run))

    def _store(self, entries: Sequence[Entry], now: float) -> int:
        """Within a transaction: keep what is new of ``entries``, and count what they cost; how many are new."""
        contexts = [_split(entry.context) for entry in entries]
        askers = [(entry.model, entry.run, who) for entry, (who, _) in zip(entries, contexts, strict=True)]
        replies = [entry.reply.model_dump_json(exclude_defaults=True) for entry in entries]
        spent: dict[str, float] = {}
        for entry in entries:
            if entry.run and entry.cost_usd:
                spent[entry.run] = spent.get(entry.run, 0.0) + entry.cost_usd
        ids = self._asker_ids(askers)
        rows = (
            (
                packed(entry.key),
                ids[asker],
                about,
                reply,
                entry.reply.prompt_tokens,
                entry.reply.output_tokens,
                entry.cost_usd,
                entry.seconds,
                entry.attempts,
                entry.created or now,
            )
            for entry, asker, (_, about), reply in zip(entries, askers, contexts, replies, strict=True)
        )
        new = self._db.executemany("INSERT OR IGNORE INTO replies VALUES (?,?,?,?,?,?,?,?,?,?)", rows).rowcount
        self._answered.update(entry.key for entry in entries)
        if len(self._answered) >= CLAIMS_AT_ONCE:
            self._end_claims()
        for run, usd in spent.items():
            self._db.execute("UPDATE purses SET spent_usd = spent_usd + ? WHERE run = ?", (usd, run))
        return new

    def _asker_ids(self, wanted: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str, str], int]:
        """The ids of all askers known, those of ``wanted`` among them."""
        for asker in wanted:
            if asker not in self._askers:
                self._db.execute("INSERT OR IGNORE INTO askers (model, run, who) VALUES (?,?,?)", asker)
                row = self._db.execute("SELECT id FROM askers WHERE model = ? AND run = ? AND who = ?", asker)
                self._askers[asker] = row.fetchone()[0]
        return self._askers

    def record(self, entry: Entry, waiter: Waiter) -> None:
        """Commit together with everything else that arrives in this tick of the event loop, or within a moment. ``waiter``
        then has what is stored, or the StorageError."""
        if not self._waiting:
            self._commit_soon(asyncio.get_running_loop())
        self._waiting.append((entry, waiter))

    async def committed(self) -> None:
        """Return when what has been recorded so far is committed, or its futures have the error."""
        if self._waiting:
            told = asyncio.get_running_loop().create_future()
            self._watching.append(told)
            await told

    def _commit_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """At the end of this tick; where transactions follow each other closely, with those of the next ticks."""
        due = self._committed + TOGETHER_SECONDS
        if due > loop.time():
            loop.call_at(due, self._flush)
        else:
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._committed = asyncio.get_running_loop().time()
        waiting, self._waiting = self._waiting, []
        watching, self._watching = self._watching, []
        for told in watching:  # they wake after this, and find all of it committed, or its futures with the error
            if not told.done():
                told.set_result(None)
        try:
            stored = self.put([entry for entry, _ in waiting], settled=True)
        except BaseException as error:  # whatever it is, no caller may wait for ever
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for (_, future), entry in zip(waiting, stored, strict=True):
            if not future.done():
                future.set_result(entry)

    def claim(self, keys: Sequence[str], seconds: float) -> bool:
        """Reserve all of ``keys`` for this process, or none. False: another process is asking one of them now."""
        with self._transaction():
            elsewhere = self._claimed_elsewhere(keys)
            if elsewhere - self.get(elsewhere).keys():  # a reply ends its claim
                return False
            self._claim(keys, seconds)
        return True

    def claim_each(self, keys: Sequence[str], seconds: float) -> set[str]:
        """Reserve those of ``keys`` that no other process is asking now, or has just been answered; returns them."""
        with self._transaction():
            free = set(keys) - self._claimed_elsewhere(keys)
            self._claim(free, seconds)
        return free

    def renew(self, seconds: float) -> None:
        """All claims of this process hold for so long from now, but those that replies have ended."""
        with self._transaction():
            self._end_claims()
            self._claim((), seconds)

    def release(self, keys: Sequence[str]) -> None:
        """Give claims back after a failure, so that another process need not wait for their expiry."""
        with self._transaction():
            self._db.executemany("DELETE FROM claims WHERE key = ? AND owner = ?", [(key, self.owner) for key in keys])

    def _claimed_elsewhere(self, keys: Sequence[str]) -> set[str]:
        """Those of ``keys`` that another process holds; what dead or silent processes held is free."""
        others = self._db.execute("SELECT owner, expires FROM owners WHERE owner != ?", (self.owner,)).fetchall()
        now = time.time()
        gone = [(owner,) for owner, expires in others if is_dead(owner) or (expires < now and not is_alive(owner))]
        for table in ("claims", "owners"):
            self._db.executemany(f"DELETE FROM {table} WHERE owner = ?", gone)
        found: set[str] = set()
        for start in range(0, len(keys) if len(others) > len(gone) else 0, 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(
                f"SELECT key FROM claims WHERE owner != ? AND key IN ({marks})", (self.owner, *part)
            )
            found.update(row[0] for row in rows)
        return found

    def _end_claims(self) -> None:
        """Delete claims that replies have ended. Nobody waits for that (who finds such a claim finds the reply), and one by
        one each would change another page of the file."""
        self._db.executemany("DELETE FROM claims WHERE key = ?", [(key,) for key in sorted(self._answered)])
        self._answered.clear()

    def _claim(self, keys: Iterable[str], seconds: float) -> None:
        self._db.execute("INSERT OR REPLACE INTO owners VALUES (?,?)", (self.owner, time.time() + seconds))
        self._answered.difference_update(keys)
        self._db.executemany("INSERT OR REPLACE INTO claims VALUES (?,?)", [(key, self.owner) for key in keys])

    # --- money --------------------------------------------------------------------------------------------------------

    def open_purse(self, run: str, pot: str = "") -> float:
        """What ``run`` has spent, in US dollars. What calls of a killed process might have cost is spent. ``pot``: the budget that it
        has with other runs; "": its own."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO purses VALUES (?, 0, 0, 0, 0)", (run,))
            if pot:
                self._db.execute("INSERT OR REPLACE INTO pots VALUES (?, ?)", (run, pot))
            self._db.execute("UPDATE purses SET lost_usd = lost_usd + open_usd, open_usd = 0 WHERE run = ?", (run,))
            row = self._db.execute("SELECT spent_usd + lost_usd FROM purses WHERE run = ?", (run,)).fetchone()
        return float(row[0])

    def set_open(self, run: str, usd: float) -> None:
        """The most that the calls of ``run`` in flight can cost together."""
        with self._transaction():
            self._db.execute("UPDATE purses SET open_usd = ? WHERE run = ?", (usd, run))

    def pot_of(self, run: str) -> str:
        """The budget that a run has with others; "" where it has its own."""
        row = self._db.execute("SELECT pot FROM pots WHERE run = ?", (run,)).fetchone()
        return str(row[0]) if row else ""

    def set_aside(self, run: str, usd: float, pot: str, budget_usd: float) -> bool:
        """The same, where what all runs of ``pot`` have spent and may still spend stays within its budget; whether it does."""
        with self._transaction():
            own = "SELECT spent_usd + lost_usd FROM purses WHERE run = ?"
            spent = self._db.execute(own, (run,)).fetchone()[0] + self.jobs_usd(run)
            fits: bool = sum(self.others_usd(run, pot)) + spent + usd <= budget_usd
            if fits:
                self._db.execute("UPDATE purses SET open_usd = ? WHERE run = ?", (usd, run))
        return fits

    def others_usd(self, run: str, pot: str) -> tuple[float, float]:
        """What the other runs of ``pot`` have spent, what they have in jobs counted in full, and the most that their calls in flight can
        cost."""
        others = "run IN (SELECT run FROM pots WHERE pot = ?) AND run != ?"
        held = f"SELECT total(spent_usd + lost_usd), total(open_usd) FROM purses WHERE {others}"
        spent, in_flight = self._db.execute(held, (pot, run)).fetchone()
        jobs = f"SELECT total(most_usd) FROM job_lines JOIN jobs USING (job) WHERE {others}"
        return spent + self._db.execute(jobs, (pot, run)).fetchone()[0], in_flight

    def settle_pot(self, pot: str) -> None:
        """No run of ``pot`` is walked any more: what calls of killed processes might have cost is spent."""
        with self._transaction():
            self._db.execute(
                "UPDATE purses SET lost_usd = lost_usd + open_usd, open_usd = 0 WHERE run IN (SELECT run FROM pots WHERE pot = ?)",
                (pot,),
            )

    def charge(self, run: str, usd: float, freed_usd: float = 0.0) -> None:
        """Money of ``run`` for calls that brought no reply, of which so much was in flight until now."""
        with self._transaction():
            charged = "UPDATE purses SET lost_usd = lost_usd + ?, open_usd = max(0, open_usd - ?) WHERE run = ?"
            self._db.execute(charged, (usd, freed_usd, run))

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def open_job(self, row: JobRow, lines: Sequence[JobLine]) -> None:
        """Write down that a job is about to be submitted, and claim it: from here on its requests are asked by it alone."""
        with self._transaction():
            values = (row.job, row.model, row.endpoint, row.name, row.lines, row.created, row.run)
            self._db.execute("INSERT INTO jobs VALUES (?,?,?,?,?,?,?,NULL)", values)
            rows = [(line.key, row.job, line.context, line.reading, line.most_usd) for line in lines]
            self._db.executemany("INSERT INTO job_lines VALUES (?,?,?,?,?)", rows)
            self._db.execute("INSERT OR REPLACE INTO claims VALUES (?,?)", (row.job, self.owner))

    def name_job(self, job: str, name: str) -> None:
        """The provider has accepted a job and calls it so."""
        with self._transaction():
            self._db.execute("UPDATE jobs SET name = ? WHERE job = ?", (name, job))

    def has_jobs(self, model: str) -> bool:
        """Whether a model has open jobs, whoever sees to them."""
        return bool(self._db.execute("SELECT 1 FROM jobs WHERE model = ? AND ended IS NULL", (model,)).fetchone())

    def take_jobs(self, model: str, seconds: float, but: Container[str] = ()) -> list[JobRow]:
        """The open jobs of a model that no process sees to: they and their requests are claimed for this one."""
        mine = "job NOT IN (SELECT key FROM claims WHERE owner = ?)"
        open_jobs = f"SELECT {JOB_COLUMNS} FROM jobs WHERE model = ? AND ended IS NULL AND {mine} ORDER BY created"
        if not self._db.execute(open_jobs, (model, self.owner)).fetchone():
            return []
        with self._transaction():
            rows = [JobRow(*row) for row in self._db.execute(open_jobs, (model, self.owner)).fetchall()]
            rows = [row for row in rows if row.job not in but]
            elsewhere = self._claimed_elsewhere([row.job for row in rows])
            taken = [row for row in rows if row.job not in elsewhere]
            for row in taken:
                self._claim((row.job, *self.job_keys(row.job)), seconds)
        return taken

    def in_jobs(self, keys: Sequence[str]) -> dict[str, str]:
        """The job of each of ``keys`` that is in an open one, whoever sees to it."""
        found: dict[str, str] = {}
        if not self._db.execute("SELECT 1 FROM job_lines LIMIT 1").fetchone():
            return found
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            found.update(self._db.execute(f"SELECT key, job FROM job_lines WHERE key IN ({marks})", part))
        return found

    def job_keys(self, job: str) -> list[str]:
        """The requests that a job has not answered yet."""
        return [row[0] for row in self._db.execute("SELECT key FROM job_lines WHERE job = ?", (job,))]

    def job_lines(self, job: str, keys: Sequence[str]) -> dict[str, JobLine]:
        """Those of ``keys``, at most some hundred, that a job has not answered yet."""
        marks = ",".join("?" * len(keys))
        wanted = f"SELECT key, context, reading, most_usd FROM job_lines WHERE job = ? AND key IN ({marks})"
        return {row[0]: JobLine(*row) for row in self._db.execute(wanted, (job, *keys))}

    def job_names(self) -> set[str]:
        """What the providers call the jobs that are recorded."""
        return {row[0] for row in self._db.execute("SELECT name FROM jobs WHERE name IS NOT NULL")}

    def merge(self, row: JobRow, entries: Sequence[Entry], unanswered: Sequence[str], lost_usd: float) -> list[Entry]:
        """Commit some of what a job brought: replies, requests that it left unanswered, and what those may have cost.
        Returns what is stored."""
        with self._transaction():
            there = self.get(entry.key for entry in entries)  # paid for a second time: money without a reply
            self._store([entry for entry in entries if entry.key not in there], time.time())
            lost_usd += sum(entry.cost_usd or 0.0 for entry in entries if entry.key in there)
            done = [(key, row.job) for key in (*(entry.key for entry in entries), *unanswered)]
            self._db.executemany("DELETE FROM job_lines WHERE key = ? AND job = ?", done)
            if lost_usd:
                self._db.execute("UPDATE purses SET lost_usd = lost_usd + ? WHERE run = ?", (lost_usd, row.run))
        return [there.get(entry.key, entry) for entry in entries]

    def end_job(self, row: JobRow) -> None:
        """A job is over, or never was; what it has not answered is free."""
        with self._transaction():
            self._db.execute("DELETE FROM job_lines WHERE job = ?", (row.job,))
            self._db.execute("UPDATE jobs SET ended = ? WHERE job = ?", (time.time(), row.job))
            self._db.execute("DELETE FROM claims WHERE key = ?", (row.job,))

    def job_usd(self, job: str) -> float:
        """The most that what a job has not answered yet can cost."""
        return float(self._db.execute("SELECT total(most_usd) FROM job_lines WHERE job = ?", (job,)).fetchone()[0])

    def jobs_usd(self, run: str) -> float:
        """The most that the requests of ``run`` in open jobs can cost."""
        wanted = "SELECT total(most_usd) FROM job_lines JOIN jobs USING (job) WHERE run = ?"
        return float(self._db.execute(wanted, (run,)).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._askers.clear()  # the rows of some may not be kept
                if self._db.in_transaction:  # SQLite may have rolled back by itself, on a full disk for instance
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StorageError(
                f"{self.path}: the ledger cannot be written: {error}. Free space or permissions, then run again: "
                "everything recorded so far is kept."
            ) from error


def begun(pid: int) -> str:
    """When a process of this machine began, in ticks since the machine did; empty where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def is_dead(owner: str) -> bool:
    """Whether a claim's owner was a process of this machine that is gone."""
    node, pid, mark = owner.rsplit(":", 2)
    if node != platform.node():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    since = mark.rpartition("-")[0]
    return bool(since) and since != begun(int(pid))  # another process has its number now


def is_alive(owner: str) -> bool:
    """Whether it is a process of this machine that lives: no clock need be asked."""
    node, _, mark = owner.rsplit(":", 2)
    return node == platform.node() and bool(mark.rpartition("-")[0]) and not is_dead(owner)


@dataclass(frozen=True)
class Spent:
    """What replies took. ``cost_usd`` is of the ``priced`` ones alone: of the others no price is known."""

    asked: int  # keys that were looked for
    found: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    priced: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    first: float | None = None  # Unix time of the earliest reply
    last: float | None = None


def spent(path: Path, keys: Iterable[str]) -> Spent:
    """What the replies under ``keys`` took, each once; the ledger is only read. Raises StorageError."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            db.execute("PRAGMA temp_store = FILE")  # as many keys as a run has
            db.execute("CREATE TEMP TABLE wanted (key BLOB PRIMARY KEY) WITHOUT ROWID")
            db.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((packed(key),) for key in keys))
            asked = db.execute("SELECT count(*) FROM wanted").fetchone()[0]
            row = db.execute(
                "SELECT count(*), sum(prompt_tokens), sum(output_tokens), count(cost_usd), sum(cost_usd), sum(seconds), "
                "min(created), max(created) FROM wanted JOIN replies USING (key)"
            ).fetchone()
    except sqlite3.Error as error:
        raise StorageError(f"{path}: the ledger cannot be read: {error}.") from error
    return Spent(asked, row[0], *(value or 0 for value in row[1:6]), *row[6:])
