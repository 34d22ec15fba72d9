"""The records every stage speaks in: the vocabulary of everything else.

    prompt -> response -> comparison -> judgement -> preference

All are frozen and refuse unknown fields. Where a record has an ``id`` it is derived from the record's content, so
equal content has equal ids in every run and on every machine; a wrong id is refused. Nothing here varies between
two equal runs: dates, retries, costs and raw replies live in the ledger, which judgements name by key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

Role = Literal["system", "user", "assistant", "tool"]
Outcome = Literal["ranked", "no label", "unreadable", "refused", "failed", "over budget"]
Json = str | int | float | bool | None
NO_LABEL: Literal["no label"] = (
    "no label"  # the outcome where nobody gave an opinion: a blank in a file, or no row for the comparison
)


def _encoder() -> Callable[[Any], str]:
    """``json.dumps`` as ``canonical_json`` needs it, with the C encoder made once instead of at every call."""
    settings = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return settings.encode
    encode = make(None, settings.default, json.encoder.encode_basestring, None, ":", ",", True, False, False)
    return lambda value: "".join(encode(value, 0))


_encode = _encoder()


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8 kept; NaN and infinity are refused."""
    return _encode(value)


def digest(*parts: Any, length: int = 64) -> str:
    """SHA-256 in hex (first ``length`` digits) of the canonical JSON of ``parts``."""
    return hashlib.sha256(canonical_json(parts).encode("utf-8", "surrogatepass")).hexdigest()[:length]


def uniform(*parts: Any) -> float:
    """A number in (0, 1) that is a pure function of ``parts``: the keyed draw behind every small random choice."""
    return (int(digest(*parts, length=13), 16) + 0.5) / 16**13


class Record(BaseModel):
    """Base of all records: frozen, and unknown fields are refused.

    Ids, keys and digests leave out fields that have their default, so that a record can gain an optional field without
    changing any of them. A default itself therefore never changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    hashed: ClassVar[frozenset[str] | None] = None  # the fields a stage's content stands for; None: all

    def fingerprint(self) -> str:
        """Digest of what a stage's content stands for in this record."""
        fields = set(self.hashed) if self.hashed else None
        return digest(self.model_dump(mode="json", include=fields, exclude_defaults=True))


class ContentRecord(Record):
    """A record whose ``id`` is a digest of the fields named in ``identity``."""

    identity: ClassVar[tuple[str, ...]]
    prefix: ClassVar[str]
    id: str = ""

    def model_post_init(self, context: Any) -> None:
        """Derive the id. Not by a validator: that would run again wherever the record becomes part of another."""
        expected = f"{self.prefix}-{digest(self.prefix, self.content(), length=20)}"
        if not self.id:
            object.__setattr__(self, "id", expected)
        elif self.id != expected:
            raise ValueError(f"id {self.id!r} does not belong to this content (expected {expected!r})")

    def content(self) -> dict[str, Any]:
        """The part of the record its id stands for."""
        return self.model_dump(mode="json", include=set(self.identity), exclude_defaults=True)


class Message(Record):
    """One turn of a conversation."""

    role: Role
    content: str


class Prompt(ContentRecord):
    """The conversation a response answers: an optional system message, then turns, the last one not the assistant's."""

    identity: ClassVar = ("messages",)
    prefix: ClassVar = "p"

    messages: tuple[Message, ...]
    category: str | None = None  # as the source file named it; reports group by it
    metadata: dict[str, Json] = {}  # other scalar columns of the source row

    @model_validator(mode="after")
    def _answerable(self) -> Self:
        if not self.messages or self.messages[-1].role == "assistant":
            raise ValueError("a prompt ends with a turn that is not the assistant's")
        return self

    @property
    def text(self) -> str:
        """All turns as plain text, for eyes and for near-duplicate search."""
        return transcript(self.messages)

    @property
    def excerpt(self) -> str:
        """The beginning of the last turn on one line and in quotes: which prompt this is, in a message."""
        words = " ".join(self.messages[-1].content[:200].split())
        return f'"{words if len(words) <= 50 else words[:49] + "…"}"'


class Response(ContentRecord):
    """What one model, or an unnamed author in a file, answered to one prompt: usually one assistant turn.

    The id covers who said it and which draw it was, so two equal texts from two draws stay two responses, while the
    same row of a file read twice is one.
    """

    identity: ClassVar = ("prompt_id", "messages", "generator", "sample_index")
    prefix: ClassVar = "r"

    prompt_id: str
    messages: tuple[Message, ...]
    generator: str | None = None  # "role@hash of the model", None where a file does not say
    revision: str | None = None  # the model's own revision or version, where it has one
    sampling: str | None = None  # canonical JSON of the sampling parameters
    sample_index: int | None = None  # 0..K-1
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    token_ids: tuple[int, ...] | None = None  # exactly as sampled, end-of-turn token included
    finish_reason: Literal["stop", "length"] | None = None

    @model_validator(mode="after")
    def _spoken(self) -> Self:
        if not self.messages or self.messages[-1].role != "assistant":
            raise ValueError("a response ends with an assistant turn")
        return self

    @property
    def text(self) -> str:
        """The assistant's words; further turns, where there are any, as a transcript."""
        return self.messages[0].content if len(self.messages) == 1 else transcript(self.messages)


class Comparison(ContentRecord):
    """Two or more different responses to one prompt, carried whole so that a stage needs no join.

    The id does not depend on the order of the responses: showing them the other way round is the same comparison.
    """

    identity: ClassVar = ("prompt", "responses")
    prefix: ClassVar = "c"

    prompt: Prompt
    responses: tuple[Response, ...]

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        if len(self.responses) < 2:
            raise ValueError("a comparison needs at least two responses")
        if any(response.prompt_id != self.prompt.id for response in self.responses):
            raise ValueError("a comparison's responses must answer its prompt")
        if len({response.messages for response in self.responses}) < len(self.responses):
            raise ValueError("a comparison's responses must differ")
        return self

    def content(self) -> dict[str, Any]:
        return {"prompt": self.prompt.id, "responses": sorted(response.id for response in self.responses)}


class Score(Record):
    """A measure that was taken of every response by itself: a score, an aspect's, the number of a step."""

    name: str
    values: tuple[float, ...]


class Judgement(Record):
    """What one labeller said of one comparison, in the order it was shown.

    ``ranking`` exists exactly when the outcome is *ranked*; a tie is an opinion (responses sharing a group), the other
    outcomes are failures to measure. ``p[i]`` is the probability that the i-th response of the ranking, read from best
    to worst, is best: it needs no order of showing, which for people is often not known. Of two responses, a tie counts
    half for either in ``p``. The values of a score are in the order of the ranking too.
    """

    comparison_id: str
    labeller: str  # "judge:helpful-pairwise@3f9c…" or "human:ann-07"
    principle_id: str | None = None  # "id@hash of its text", where one was put to the labeller
    weight: float = 1.0  # of this judgement within its labeller's opinion: the principle's weight
    shown: tuple[str, ...] | None  # response ids, first shown first; None: not recorded, or each was seen alone
    outcome: Outcome
    ranking: tuple[tuple[str, ...], ...] = ()  # best group first
    p: tuple[float, ...] | None = None
    p_tie: float | None = None  # beside a measured p, where a tie was offered: its probability
    scores: tuple[Score, ...] = ()  # of a labeller that scores: the score that ranks first, then what it is made of
    option_mass: float | None = None  # probability the model put on the offered options, or share of votes on them
    reason: str | None = None  # why there is no ranking
    retryable: bool = False  # of a failure: asking again could help, and a rerun does
    reply_keys: tuple[str, ...] = ()  # ledger rows: raw replies, tokens, cost, time

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.outcome == "ranked") != bool(self.ranking):
            raise ValueError("a ranking exists exactly when the outcome is 'ranked'")
        if (self.outcome == "ranked") == bool(self.reason):
            raise ValueError("a reason exists exactly when the outcome is not 'ranked'")
        if self.p is not None:
            if self.outcome != "ranked" or len(self.p) != len(self.ranked):
                raise ValueError("p needs a ranking, and one number per ranked response")
            if any(not 0 <= q <= 1 for q in self.p) or abs(sum(self.p) - 1) > 1e-6:
                raise ValueError(f"p must be a probability for each ranked response, got {self.p}")
        if self.p_tie is not None and (self.p is None or not 0 <= self.p_tie <= 1):
            raise ValueError("p_tie is a probability beside p")
        if any(len(score.values) != len(self.ranked) for score in self.scores):
            raise ValueError("a score has one value per ranked response")
        if len(set(self.ranked)) < len(self.ranked):
            raise ValueError("a response stands in the ranking twice")
        if self.weight <= 0:
            raise ValueError("a judgement's weight is positive")
        return self

    @property
    def ranked(self) -> tuple[str, ...]:
        """Response ids from best to worst, ties side by side."""
        return tuple(response for group in self.ranking for response in group)


class Preference(Record):
    """What training consumes. The same row whoever labelled: nothing here says where the label came from."""

    hashed: ClassVar = frozenset({"prompt", "chosen", "rejected", "p", "weight"})

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    p: float  # probability in [0.5, 1] that chosen is better
    weight: float  # >= 0; 0 where there is no label or a rule set it aside
    prompt_id: str
    comparison_id: str

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are the same")
        if not 0.5 <= self.p <= 1 or self.weight < 0:
            raise ValueError("p must lie in [0.5, 1] and weight must not be negative")
        return self


class Provenance(Record):
    """Where a preference came from: one row beside each preference, never read by training."""

    comparison_id: str
    chosen_id: str
    rejected_id: str
    outcome: Literal["labelled", "tie", "no label", "unreadable", "refused", "failed", "over budget", "filtered"]
    reason: str | None = None
    labellers: tuple[str, ...] = ()
    principle_ids: tuple[str, ...] = ()
    votes: tuple[float, ...] = ()  # each labeller's probability that chosen is better
    p_by_order: tuple[float, ...] = ()  # each judgement's, where the order shown is known
    orders_agree: bool | None = None  # None where only one order was shown
    reply_keys: tuple[str, ...] = ()


class Exclusion(Record):
    """An item that a stage did not pass on, and why. Written beside the stage's output and counted in its account."""

    item_id: str
    outcome: Literal[
        "unreadable", "refused", "failed", "over budget", "filtered", "joined"
    ]  # joined: to an earlier item
    reason: str
    retryable: bool = False  # of a failure: asking again could help, and a rerun does


def transcript(messages: tuple[Message, ...]) -> str:
    """A conversation as plain text: one turn alone is its words, several are labelled by role."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in messages)
