"""Whether a ledger is whole: the file, every row, the money, and what a run's judgements point to."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlaif.ledger_tools import Reader
from rlaif.ledger_tools.looking import owners
from rlaif.ledger_tools.rendering import Labels
from rlaif.models import Reply
from rlaif.records import Judgement
from rlaif.reread import Ahead, showings

ROUNDING = 1e-9  # of a run's costs, as a share: they are added up in another order
SLACK_SECONDS = 86_400.0  # by which another machine's clock may be ahead


@dataclass
class Checked:
    """What was looked at, what is wrong, by what it is, and what is worth a word without being wrong."""

    replies: int = 0
    judgements: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # of each fault, the first
    notes: list[str] = field(default_factory=list)

    def fault(self, what: str, where: str) -> None:
        self.wrong[what] += 1
        self.examples.setdefault(what, where)

    def lines(self) -> Iterator[str]:
        judged = f", {self.judgements:,} judgements" if self.judgements else ""
        state = f"{self.wrong.total():,} faults" if self.wrong else "sound"
        yield f"{self.replies:,} replies{judged} checked: {state}"
        for what, count in self.wrong.most_common():
            yield f"{count:>9,} × {what} (first: {self.examples[what]})"
        yield from self.notes


def check(reader: Reader) -> Checked:
    """The file and every row of it. Raises StorageError where it cannot be read at all."""
    checked = Checked()
    for (said,) in reader.rows("PRAGMA integrity_check"):
        if said != "ok":
            checked.fault("SQLite finds the file damaged", said)
    query = (
        "SELECT key, reply, about, who, prompt_tokens, output_tokens, cost_usd, seconds, attempts, created "
        "FROM replies LEFT JOIN askers ON askers.id = replies.asker"
    )
    for row in reader.rows(query):
        checked.replies += 1
        for what in _faults(*row):
            checked.fault(what, row[0].hex() if isinstance(row[0], bytes) else repr(row[0]))
    _check_money(reader, checked)
    stale = [owner for owner in owners(reader) if owner.stale]
    if stale:
        keys = sum(owner.keys for owner in stale)
        checked.notes.append(f"note: {keys:,} requests are claimed by processes that are gone; the next run frees them")
    return checked


def _faults(
    key: Any,
    reply: Any,
    about: Any,
    who: Any,
    prompt: Any,
    output: Any,
    cost: Any,
    seconds: Any,
    attempts: Any,
    created: Any,
) -> Iterator[str]:
    """What is wrong with one row."""
    if not isinstance(key, bytes) or len(key) != 32:
        yield "a key that is none of a request"
    if who is None:
        yield "a reply of a model that is not known"
    for text in (about, who or "{}"):
        try:
            json.loads(text)
        except (TypeError, ValueError):
            yield "a context that cannot be read"
    try:
        read = Reply.model_validate_json(reply)
    except ValidationError:
        yield "a reply that cannot be read"
    else:
        if (read.prompt_tokens, read.output_tokens) != (prompt, output):
            yield "tokens that are not those of the reply"
    if not all(_is_amount(value) for value in (seconds, prompt, output, 0 if cost is None else cost)):
        yield "a cost, time or number of tokens that is none"
    if not isinstance(attempts, int) or attempts < 1:
        yield "a number of attempts that is none"
    if not _is_amount(created) or not 0 < created < time.time() + SLACK_SECONDS:
        yield "a date in the future, or none"


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _check_money(reader: Reader, checked: Checked) -> None:
    """What each run has spent is what its replies cost, those that were pruned included."""
    cost = dict(
        reader.rows(
            "SELECT run, total(cost_usd) FROM replies JOIN askers ON askers.id = replies.asker WHERE run != '' "
            "GROUP BY run HAVING count(cost_usd)"
        )
    )
    for run, spent, pruned, lost, held in reader.rows(
        "SELECT run, spent_usd, pruned_usd, lost_usd, open_usd FROM purses"
    ):
        if not all(_is_amount(value) for value in (spent, pruned, lost, held)):
            checked.fault("money of a run that is no amount", run)
        elif run and not math.isclose(spent, cost.get(run, 0.0) + pruned, rel_tol=ROUNDING, abs_tol=ROUNDING):
            said = f"run {run}: {spent:.6f} USD spent, and its replies cost {cost.get(run, 0.0) + pruned:.6f}"
            checked.fault("a run whose money is not what its replies cost", said)
        cost.pop(run, None)
    for run, usd in cost.items():
        if usd:
            checked.fault("a run whose money is not what its replies cost", f"run {run}: {usd:.6f} USD, and no purse")


async def check_run(reader: Reader, folder: Path, checked: Checked) -> None:
    """Whether every reply that a run's judgements point to is there, and is the reply to what the run would ask again."""
    labels = Labels(folder, reader)
    stood = Ahead(labels.run.read("judgements"), lambda row: row.comparison_id)
    async for batch in labels.again():
        now = Ahead(batch, lambda row: row.comparison_id)
        for name in dict.fromkeys(judgement.comparison_id for judgement in batch):
            _compare(reader, checked, stood(name), now(name))
    await labels.gateway.close()


def _compare(reader: Reader, checked: Checked, stood: list[Judgement], now: list[Judgement]) -> None:
    again = dict(zip(showings(now), now, strict=True))
    for showing, judgement in zip(showings(stood), stood, strict=True):
        checked.judgements += 1
        asked = again[showing].reply_keys if showing in again else ()
        for key in judgement.reply_keys:
            if not reader.has(key):
                checked.fault("a judgement whose reply is not there", key)
            elif key not in asked:
                checked.fault("a judgement whose request, rendered again, has another key", key)
