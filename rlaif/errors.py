"""The exception tree.

    RlaifError
    ├── UserError            the person can mend it: one line, exit code 2, no traceback
    │   ├── ConfigError      a YAML file or a --set is wrong
    │   ├── DataError        a file of prompts, pairs or labels is wrong
    │   └── ModelError       a model folder cannot be used as asked
    ├── StorageError         the run folder or the ledger cannot be written (disk full, read-only)
    └── CallError            one model call did not yield a reply
        ├── CallRefused      the provider declined to answer (content filter)
        ├── OverBudget       the call could cost more than is left
        └── CallFailed       no usable reply, retries exhausted; its ``fault`` says of what sort

A ``UserError`` message says where, what was found and what would do. A ``CallError`` never leaves the
labelling stage: it becomes the outcome of one item (*refused* or *failed*) and is counted. Anything else that
escapes is a bug and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar, Literal


class RlaifError(Exception):
    """Everything this package raises on purpose."""


class UserError(RlaifError):
    """A mistake the person at the keyboard can mend; the message is one complete line."""


class ConfigError(UserError):
    """A YAML file, a reference between files or a ``--set`` is wrong."""


class DataError(UserError):
    """A file of prompts, comparisons or labels is missing, malformed or of the wrong shape."""


class ModelError(UserError):
    """A model folder is missing parts or cannot do what was asked of it."""


class StorageError(RlaifError):
    """The run folder or the ledger cannot be written; what was finished before stays."""


class CallError(RlaifError):
    """One model call did not yield a reply.

    ``outcome`` is what becomes of the item that needed it; ``retryable`` says whether asking again could help; ``key`` is the ledger row, where a reply was recorded.
    """

    outcome: ClassVar[Literal["refused", "over budget", "failed"]] = "failed"

    def __init__(self, message: str, *, retryable: bool = False, key: str | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.key = key


class CallRefused(CallError):
    """The provider declined to answer."""

    outcome = "refused"


class OverBudget(CallError):
    """The call was not made: the most it could cost is more than what is left of the budget.

    All say it in the same words, without figures: they are one reason in the accounts, and equal in equal runs.
    """

    outcome = "over budget"

    def __init__(self) -> None:
        super().__init__("the most it can cost is more than is left of budget_usd", retryable=True)


Fault = Literal["rate_limited", "overloaded", "unreachable", "lost", "garbled", "barred", "invalid"]


class CallFailed(CallError):
    """No usable reply came, after whatever retries the gateway allowed.

    ``fault`` says of what sort, where a provider knows; what follows from it is the gateway's to decide:

    * *rate_limited*: too many calls or tokens; nothing was billed;
    * *overloaded*: the server could not serve it now (500, 502, 503, 529); nothing was billed;
    * *unreachable*: no connection (DNS, refused, TLS); nothing was billed;
    * *lost*: no whole answer came (reset, timeout); it may have been billed;
    * *garbled*: an answer that is not one (malformed JSON, an HTML page); it may have been billed;
    * *barred*: the key or the account is refused, or out of money: no call of it can succeed;
    * *invalid*: the provider refuses this request as it is.

    ``retry_after``: seconds the provider asked to wait. ``headroom``: what its headers said of its limits (a
    ``rlaif.models.Headroom``), where they said something. ``reply``: what the answer says it used (a
    ``rlaif.models.Reply`` without text), where it says so and is no reply all the same.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        key: str | None = None,
        fault: Fault | None = None,
        retry_after: float | None = None,
        headroom: Any = None,
        reply: Any = None,
    ) -> None:
        super().__init__(message, retryable=retryable, key=key)
        self.fault = fault
        self.retry_after = retry_after
        self.headroom = headroom
        self.reply = reply


def written_as(found: Iterable[str], expected: Iterable[str]) -> str:
    """``' Names are taken as written: rename "Prompt" to "prompt".'`` of names that differ from those expected in
    capitals or in spaces around them, or ``''``."""
    known = set(expected)
    wrong = [name for name in found if name not in known and name.strip().lower() in known]
    renamed = ", ".join(f'"{name}" to "{name.strip().lower()}"' for name in wrong)
    return f" Names are taken as written: rename {renamed}." if wrong else ""


def did_you_mean(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """``' Did you mean "helpfulness"?'`` when a known word is as close as that, else the list of known words, or ``''``."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=1, cutoff=likeness)
    if close:
        return f' Did you mean "{close[0]}"?'
    if 0 < len(names) <= 12:
        return f" Known: {', '.join(names)}."
    return ""
