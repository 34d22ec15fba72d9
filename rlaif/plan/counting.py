"""What is counted of requests that are rendered and not asked: those that the ledger answers, tokens, and what they bound."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rlaif.config import Sampling
from rlaif.errors import ConfigError
from rlaif.ledger import Ledger
from rlaif.models import ChatRequest, Reply, request_key
from rlaif.models.prices import is_paid
from rlaif.models.spending import MILLION, Price
from rlaif.records import Message

T = TypeVar("T")
COUNTED = 200  # requests that a tokenizer counts
CHARACTERS = 4  # of a token, as English has it


class Draw(Generic[T]):
    """The ``size`` items with the lowest draws, and how many there were."""

    def __init__(self, size: int) -> None:
        self.size, self.count = size, 0
        self._heap: list[tuple[float, int, T]] = []  # the highest draw first

    def add(self, draw: float, item: T) -> None:
        self.count += 1
        entry = (-draw, self.count, item)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        elif entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    @property
    def items(self) -> list[T]:
        """By their draws, the lowest first."""
        return [item for _, _, item in sorted(self._heap, key=lambda entry: -entry[0])]

    @property
    def share(self) -> float:
        """How many items each of those drawn stands for."""
        return self.count / max(1, len(self._heap))


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is not paid for, and how many calls like it there will be."""

    characters: int
    bound: tuple[int, int] | None  # tokens of the prompt and of the reply, at most
    least: int
    most: int

    @property
    def expected(self) -> float:
        """Calls like it: the middle, where nobody knows."""
        return (self.least + self.most) / 2


@dataclass
class Tally:
    """What one stage asks of one model, as far as it is rendered: it stands for ``share`` times as much."""

    stage: str
    judge: str
    role: str
    model: Any
    sampling: Sampling
    unit: str
    share: float
    items: int = 0
    asked: list[Asked] = field(default_factory=list)
    examples: list[ChatRequest] = field(default_factory=list)
    prefixes: dict[str, tuple[tuple[Message, ...], int]] = field(default_factory=dict)  # by principle, with their calls
    paid: int = 0
    paid_output_tokens: int = 0
    objections: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)  # keys of requests
    tuned: bool = False  # by a model that this run is to train: the ledger cannot know its replies
    common: bool = (
        False  # equal requests of another run of the study are the same call: nothing a trained model says is in them
    )

    def pay(self, reply: Reply) -> None:
        self.paid += 1
        self.paid_output_tokens += reply.output_tokens

    def ask(self, request: ChatRequest, least: int = 1, most: int = 1, principle: str = "") -> None:
        """Count a request that would have to be made, and others like it: together so many calls."""
        model = self.model
        objection = model.objection(request) if is_paid(model) and hasattr(model, "objection") else None
        if objection:
            self.objections[objection] += 1
            return
        bound = model.upper_bound(request) if hasattr(model, "upper_bound") else None
        self.asked.append(Asked(characters_of(request), bound, least, most))
        if len(self.examples) < COUNTED:
            self.examples.append(request)
        before, calls = self.prefixes.get(principle, (request.messages[:-1], 0))
        same = next((i for i, (a, b) in enumerate(zip(before, request.messages, strict=False)) if a != b), len(before))
        self.prefixes[principle] = before[:same], calls + most

    @property
    def only_letters(self) -> bool:
        """Whether only log-probabilities are asked for: one token is written."""
        return bool(self.examples) and all(request.options for request in self.examples)

    def bounds(self) -> list[tuple[int, int, float]] | None:
        """(tokens of the prompt, of the reply, how often) of every request, at most; None where nothing bounds them."""
        found = [(*asked.bound, self.share * asked.most) for asked in self.asked if asked.bound]
        return found if len(found) == len(self.asked) else None

    def prefix(self, price: Price | None, per_character: float) -> tuple[float, float]:
        """(tokens of the shortest beginning that all requests under a principle share, US dollars that caching these
        beginnings saves): whole messages, and what the model's options let a provider cache."""
        sizes = [
            (sum(len(message.content) for message in messages) * per_character, calls * self.share)
            for messages, calls in self.prefixes.values()
        ]
        shortest = min((tokens for tokens, _ in sizes), default=0.0)
        marked = getattr(getattr(self.model, "options", None), "cache", True)
        if price is None or price.cached_input is None or price.cached_from is None or not marked:
            return shortest, 0.0
        saved = price.input - price.cached_input
        written = (price.input if price.cache_write is None else price.cache_write) - price.input
        cached = [(tokens, calls) for tokens, calls in sizes if tokens >= price.cached_from]
        usd = sum(tokens * ((calls - 1) * saved - written) for tokens, calls in cached) / MILLION
        return shortest, max(0.0, usd)


@dataclass(frozen=True)
class Others:
    """What the plans of other runs of a study have counted already: keys of requests, and of those about responses within a ``scope``,
    where such as are still to be sampled look alike and will not be."""

    keys: set[tuple[str, str]]
    scope: str

    def first(self, key: str, tally: Tally) -> bool:
        """Whether none has asked that before; from now on one has."""
        before = len(self.keys)
        self.keys.add((self.scope if tally.judge else "", key))
        return len(self.keys) > before


class Known:
    """Replies that the ledger holds."""

    def __init__(self, ledger: Ledger, others: Others | None = None) -> None:
        self.ledger, self.any, self.others = ledger, len(ledger) > 0, others

    def look(self, request: ChatRequest, tally: Tally) -> tuple[Reply | None, bool]:
        """The reply, if it is there, and whether the stage asks this for the first time: equal requests are one call."""
        key = request_key(request, tally.model.identity)
        first = key not in tally.seen
        tally.seen.add(key)
        if first and tally.common and self.others:
            first = self.others.first(key, tally)
        entry = self.ledger.get([key]).get(key) if self.any and not tally.tuned else None
        return (entry.reply if entry else None), first


def token_counter(model: Any) -> Callable[[ChatRequest], int] | None:
    """Counts the tokens of a request by the tokenizer that the model's options name."""
    folder = getattr(getattr(model, "options", None), "tokenizer", None)
    if not folder:
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{model.where}: options.tokenizer: no tokenizer is found at {folder}. Name a folder that holds one "
            "(tokenizer.json), or leave it out."
        ) from error

    def count(request: ChatRequest) -> int:
        turns = [{"role": message.role, "content": message.content} for message in request.messages]
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        else:
            text = "\n".join(turn["content"] for turn in turns)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    return count


def most_usd_of(price: Price | None, bounds: Sequence[tuple[int, int, float]] | None, batch: bool) -> float | None:
    """The most that requests of at most so many tokens, each so often, cost."""
    if price is None or (bounds is None and price.dearest(1, 1)):
        return None
    return sum(price.most(prompt, output, batch) * times for prompt, output, times in bounds or ())


def characters_of(request: ChatRequest) -> int:
    return sum(len(message.content) for message in request.messages) + len(request.prefill) + len(request.json_schema)
