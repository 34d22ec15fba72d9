"""Judge protocols: how one showing of a comparison becomes a verdict.

A protocol is a class with an ``Options`` model and ``judge(showing, ask)``. It does no I/O: ``ask`` puts one question
to whatever model the pipeline bound, and retries, the ledger, costs and both orders are the caller's. Name it here, or
write ``package.module:Class`` in a judge's YAML.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import field_validator

from rlaif.catalogue import Catalogue, Entry, Kind
from rlaif.config import Principle, Sampling
from rlaif.models import Reply
from rlaif.prompting import Template
from rlaif.records import Message, Prompt, Record, Response, Score

PROTOCOLS = {
    "critique-then-verdict": "rlaif.judging.critique:CritiqueThenVerdict",
    "first-wrong-step": "rlaif.judging.steps:FirstWrongStep",
    "listwise": "rlaif.judging.listwise:Listwise",
    "pairwise-cot-logprobs": "rlaif.judging.pairwise_cot_logprobs:PairwiseCotLogprobs",
    "pairwise-logprobs": "rlaif.judging.pairwise_logprobs:PairwiseLogprobs",
    "pairwise-text": "rlaif.judging.pairwise_text:PairwiseText",
    "pairwise-votes": "rlaif.judging.pairwise_votes:PairwiseVotes",
    "pointwise": "rlaif.judging.pointwise:Pointwise",
    "propositions": "rlaif.judging.propositions:Propositions",
    "reference-guided": "rlaif.judging.reference:ReferenceGuided",
    "scripted": "rlaif.judging.scripted:Scripted",
}

SUM_TOLERANCE = 1e-6  # by which the probabilities of a verdict may miss 1


@dataclass(frozen=True)
class Showing:
    """One comparison as one labeller sees it once: responses in this order, under this principle."""

    prompt: Prompt
    responses: tuple[Response, ...]
    principle: Principle | None
    rubric: str
    fence: str

    def about(self) -> dict[str, str]:
        """The values of a template's placeholders that say nothing of any response."""
        return {
            "rubric": self.rubric,
            "principle": self.principle.text if self.principle else "",
            "prompt": self.prompt.text,
            "fence": self.fence,
        }

    def unfenced(self, text: str) -> str:
        """What a model wrote that was shown the fence, and may have been talked into writing it down, without it."""
        return text.replace(self.fence, "…") if self.fence else text

    def texts(self) -> dict[str, str]:
        """The values a template's placeholders take. Labels are 1, 2, … in the order shown."""
        values = self.about()
        for number, response in enumerate(self.responses, 1):
            values[f"response_{number}"] = response.text
        return values


class Question(Record):
    """What a protocol asks: messages, a beginning of the reply, and the words whose probability is wanted.

    Equal questions of one showing get one reply; another ``sample_index`` draws another. With ``json_schema``, the
    canonical JSON of a schema, the text of the reply is JSON that should follow it.
    """

    messages: tuple[Message, ...]
    prefill: str = ""
    options: tuple[str, ...] = ()
    sample_index: int = 0
    json_schema: str = ""


class Verdict(Record):
    """What a protocol makes of the replies: ``p[i]``, the probability that the i-th shown response is best.

    Or a ``ranking`` instead: groups of places among the responses shown, the best group first. Both are left out when
    the replies could not be read; ``reason`` then says why. A tie is ``p`` with equal numbers, or two places in a group.
    """

    p: tuple[float, ...] | None = None
    ranking: tuple[tuple[int, ...], ...] = ()
    probabilistic: bool = False  # p was measured, not set to 0, 1 or a tie by a word
    p_tie: float | None = None  # where a tie is offered: its probability, of which p counts half for either reply
    scores: tuple[Score, ...] = ()  # of a protocol that scores: one value per response shown
    option_mass: float | None = None  # probability of the options together, or the share of votes that could be read
    reason: str | None = None

    @field_validator("p")
    @classmethod
    def _probabilities(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and not (all(0 <= p <= 1 for p in value) and abs(sum(value) - 1) <= SUM_TOLERANCE):
            raise ValueError(f"p is {value}: expected numbers from 0 to 1 that add up to 1, one for each reply shown")
        return value

    @property
    def readable(self) -> bool:
        return self.p is not None or bool(self.ranking)

    def groups(self, shown: int) -> tuple[tuple[int, ...], ...]:
        """Places among so many responses shown, the best group first. Raises ValueError for a verdict on another number
        of them."""
        if self.p is not None and len(self.p) == shown:
            levels = sorted(set(self.p), reverse=True)
            return tuple(tuple(i for i, q in enumerate(self.p) if q == level) for level in levels)
        if self.p is None and sorted(place for group in self.ranking for place in group) == list(range(shown)):
            return self.ranking
        said = len(self.p) if self.p is not None else sum(map(len, self.ranking))
        raise ValueError(f"a verdict of {said} numbers on {shown} replies")


Ask = Callable[[Question], Awaitable[Reply]]


class JudgeProtocol(Protocol):
    """What a protocol offers. Its constructor takes (options, context).

    One that reads a file of its own keeps the file's hash as ``source``: an edited file is then judged again; ``inputs``, the
    hash by the file's name, puts it into the manifest. ``questions`` is how many questions a showing takes at most, 1 where
    it is not there: progress and plans count with it. With ``each_alone`` it sees the responses one by one, so that there
    is no order: a comparison is shown once, its questions counting for a pair.
    ``boasts`` are verdicts in its own form that a reply may claim for itself, and ``highest`` the best score: certification
    writes them into replies, "[[A]]", "[[B]]" and 10 where they are not there. ``scale``, the lowest and the highest score of one
    that scores, puts scores onto −1 to 1 where they are rewards. One with
    ``async rehearse(principles, show)`` may try the principles before the first comparison, each with
    ``await show(comparison, principle, responses in the order shown)``, and returns lines for the person.
    """

    async def judge(self, showing: Showing, ask: Ask) -> Verdict: ...


@dataclass(frozen=True)
class ProtocolContext:
    """What a protocol may look at while it is built: the judge's file, and the catalogue for templates."""

    where: str
    catalogue: Catalogue
    from_builtin: bool
    rubric: str
    sampling: Sampling  # how every question will be sampled
    templates: list[str] = field(default_factory=list)  # hashes of files handed out: part of the labels' signature
    by_turns: dict[str, Template] = field(default_factory=dict)  # by name, those that keep judged text apart by turns

    def entry(self, kind: Kind, name: str) -> Entry:
        """A file of the catalogue that the judge's verdicts depend on. Raises ConfigError."""
        entry = self.catalogue.find(kind, name, where=self.where, from_builtin=self.from_builtin)
        self.templates.append(entry.sha256)
        return entry

    def template(self, name: str, allowed: tuple[str, ...], required: tuple[str, ...]) -> Template:
        """The named template, checked. Raises ConfigError."""
        entry = self.entry("template", name)
        template = Template.parse(entry.text, where=str(entry.path), allowed=allowed, required=required, judged=JUDGED)
        if template.by_turns:
            self.by_turns[name] = template
        return template


ABOUT_PLACEHOLDERS = ("rubric", "principle", "prompt", "fence")
PAIR_REQUIRED = ("prompt", "response_1", "response_2")
PAIR_PLACEHOLDERS = (*ABOUT_PLACEHOLDERS, "response_1", "response_2")
ALONE_REQUIRED = ("prompt", "response")
ALONE_PLACEHOLDERS = (*ABOUT_PLACEHOLDERS, "response")
# what a template keeps apart from its own words: text to be judged, and what a model wrote after reading it
JUDGED = (*PAIR_REQUIRED, "response", "responses", "steps", "reference", "critique_1", "critique_2")
