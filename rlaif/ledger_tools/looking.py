"""What is in a ledger: models, runs, money, claims; and all that is known of one reply."""

from __future__ import annotations

import itertools
import json
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rlaif.errors import UserError
from rlaif.ledger import Entry, is_dead
from rlaif.ledger_tools import Reader, date
from rlaif.store import RunFolder

ENOUGH = 100  # replies, before an empty file's size no longer counts


@dataclass(frozen=True)
class OfModel:
    """What a model's replies took. ``cost_usd`` is of the ``priced`` ones."""

    model: str
    replies: int
    prompt_tokens: int
    output_tokens: int
    priced: int
    cost_usd: float
    first: float
    last: float


@dataclass(frozen=True)
class OfRun:
    """A run's replies and its money: for replies, for calls that brought none, and for calls in flight at the most."""

    run: str
    replies: int
    spent_usd: float
    lost_usd: float
    open_usd: float
    pruned_usd: float


@dataclass(frozen=True)
class Owner:
    """A process with claims: requests that it is asking now."""

    owner: str
    keys: int
    expires: float

    @property
    def pid(self) -> str:
        return self.owner.rsplit(":", 2)[1]

    @property
    def stale(self) -> bool:
        """Whether the next process that asks is free to take what it claims."""
        return self.expires < time.time() or is_dead(self.owner)


@dataclass(frozen=True)
class OfJob:
    """An open job of a provider's batch API; without a name it is not known whether the provider has accepted it."""

    name: str | None
    endpoint: str
    lines: int
    created: float
    left: int


@dataclass(frozen=True)
class Info:
    path: str
    format: int
    bytes: int
    models: list[OfModel]
    runs: list[OfRun]
    jobs: list[OfJob]
    owners: list[Owner]

    @property
    def replies(self) -> int:
        return sum(model.replies for model in self.models)

    def lines(self, folders: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
        """For a person. ``folders``: those of runs, by their ids."""
        each = f", {self.bytes / self.replies:,.0f} bytes each" if self.replies >= ENOUGH else ""
        yield f"{self.path}: format {self.format}, {self.bytes / 1e6:,.2f} MB, {self.replies:,} replies{each}"
        for model in self.models:
            cost = f", {model.cost_usd:.4f} USD" if model.priced else ""
            cost += f" (of {model.priced:,} with a price)" if 0 < model.priced < model.replies else ""
            yield (
                f"model {model.model}: {model.replies:,} replies, {model.prompt_tokens:,} + {model.output_tokens:,} "
                f"tokens{cost}, {date(model.first)} to {date(model.last)}"
            )
        for run in self.runs:
            lost = f", {run.lost_usd:.4f} for calls without a reply" if run.lost_usd else ""
            lost += f", {run.open_usd:.4f} at most in flight" if run.open_usd else ""
            lost += f"; {run.pruned_usd:.4f} of it for replies pruned since" if run.pruned_usd else ""
            folder = f", {folders[run.run]}" if run.run in folders else ""
            yield f"run {run.run or '(not named)'}{folder}: {run.replies:,} replies, {run.spent_usd:.4f} USD{lost}"
        for job in self.jobs:
            named = f"job {job.name}" if job.name else "a job that the provider may have"
            yield (
                f"{named}, at {job.endpoint}: {job.left:,} of {job.lines:,} requests unanswered, submitted "
                f"{date(job.created)}"
            )
        for owner in self.owners:
            node = owner.owner.rsplit(":", 2)[0]
            where = "" if node == platform.node() else f" on {node}"
            state = "gone; free to be claimed" if owner.stale else f"until {date(owner.expires)} unless renewed"
            yield f"claimed by process {owner.pid}{where}: {owner.keys:,} requests, {state}"


def info(reader: Reader) -> Info:
    """What there is, in sums."""
    size = reader.row("PRAGMA page_count")[0] * reader.row("PRAGMA page_size")[0]
    models = reader.rows(
        "SELECT model, count(*), sum(prompt_tokens), sum(output_tokens), count(cost_usd), total(cost_usd), min(created), "
        "max(created) FROM replies JOIN askers ON askers.id = replies.asker GROUP BY model ORDER BY model"
    )
    runs = reader.rows(
        "SELECT run, sum(replies), total(spent_usd), total(lost_usd), total(open_usd), total(pruned_usd) FROM ("
        "SELECT run, count(*) AS replies, 0 AS spent_usd, 0 AS lost_usd, 0 AS open_usd, 0 AS pruned_usd "
        "FROM replies JOIN askers ON askers.id = replies.asker GROUP BY run UNION ALL "
        "SELECT run, 0, spent_usd, lost_usd, open_usd, pruned_usd FROM purses) GROUP BY run ORDER BY run"
    )
    found = [OfModel(*row) for row in models], [OfRun(*row) for row in runs]
    jobs = reader.rows(
        "SELECT name, endpoint, lines, created, (SELECT count(*) FROM job_lines WHERE job_lines.job = jobs.job) "
        "FROM jobs WHERE ended IS NULL ORDER BY created"
    )
    return Info(str(reader.path), reader.format, size, *found, [OfJob(*row) for row in jobs], owners(reader))


OWNERS = (
    "SELECT claims.owner, count(*), coalesce(max(expires), 0) FROM claims LEFT JOIN owners USING (owner) "
    "WHERE NOT EXISTS (SELECT 1 FROM replies WHERE replies.key = packed(claims.key)) "  # a reply ends its claim
    "GROUP BY claims.owner ORDER BY claims.owner"
)


def owners(reader: Reader) -> list[Owner]:
    """Every process that holds claims."""
    return [Owner(*row) for row in reader.rows(OWNERS)]


def first_keys(run: RunFolder, count: int) -> list[str]:
    """The keys of the first replies that a run's judgements point to. Raises UserError where there are none."""
    keys = (key for judgement in run.read("judgements") for key in judgement.reply_keys)
    found = list(itertools.islice(keys, count))
    if not found:
        raise UserError(f"{run.path}: it has no judgements that point to a model's reply.")
    return found


def lines_of(entry: Entry) -> Iterator[str]:
    """All that is known of a reply, for a person."""
    reply = entry.reply
    cost = "no price known" if entry.cost_usd is None else f"{entry.cost_usd:.6f} USD"
    cached = f" ({reply.cached_tokens:,} from the provider's cache)" if reply.cached_tokens else ""
    yield f"key        {entry.key}"
    yield f"model      {entry.model}{f', served by {reply.served_by}' if reply.served_by else ''}"
    yield f"asked      {date(entry.created)}, {entry.seconds:.3f} s{f', {entry.attempts} attempts' if entry.attempts > 1 else ''}"
    yield f"run        {entry.run or '(not named)'}"
    yield f"took       {reply.prompt_tokens:,}{cached} + {reply.output_tokens:,} tokens, {cost}"
    context = json.loads(entry.context)
    for name, value in {**context.pop("asker", {}), **context}.items():
        yield f"{name:<11}{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
    yield f"ended      {reply.finish_reason}"
    if reply.logprobs:
        yield "logprobs   " + ", ".join(f"{token!r} {value:.4f}" for token, value in reply.logprobs)
    yield ""
    yield "=== reply"
    yield reply.text
