"""Records made in one line, and hypothesis strategies for every record type."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from rlaif.pairs import Pair
from rlaif.records import Comparison, Exclusion, Judgement, Message, Preference, Prompt, Provenance, Record, Response


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def system(text: str) -> Message:
    return Message(role="system", content=text)


def sound(pair: Pair) -> Comparison:
    """What a pair that could be read holds."""
    assert isinstance(pair.comparison, Comparison), pair.comparison
    return pair.comparison


def prompt(text: str = "How do magnets work?", **fields: Any) -> Prompt:
    return Prompt(messages=(user(text),), **fields)


def response(to: Prompt, text: str, **fields: Any) -> Response:
    return Response(prompt_id=to.id, messages=(assistant(text),), **fields)


def comparison(*texts: str, question: str = "How do magnets work?") -> Comparison:
    to = prompt(question)
    return Comparison(prompt=to, responses=tuple(response(to, text) for text in texts or ("first", "second")))


def judgement(of: Comparison, p_first: float | None, *, flipped: bool = False, **fields: Any) -> Judgement:
    """One showing of a pair. ``p_first``: probability that ``of.responses[0]`` is better; None: unreadable.

    ``flipped``: the second response was shown first.
    """
    ids = tuple(r.id for r in of.responses)
    shown, ranking, p = (ids[::-1] if flipped else ids), (), None
    if p_first is not None:
        best, worst = ids if p_first >= 0.5 else ids[::-1]
        ranking = ((best, worst),) if p_first == 0.5 else ((best,), (worst,))
        p = (max(p_first, 1 - p_first), min(p_first, 1 - p_first))  # from best to worst
    values: dict[str, Any] = {
        "comparison_id": of.id,
        "labeller": "judge:j@1",
        "shown": shown,
        "outcome": "unreadable" if p_first is None else "ranked",
        "reason": "no verdict in the reply" if p_first is None else None,
        "ranking": ranking,
        "p": p,
    }
    return Judgement(**{**values, **fields})


# --- strategies -------------------------------------------------------------------------------------------------------

AWKWARD = [
    "",
    " ",
    "\x00",
    "\ufeff",
    "\u202eabc",
    "e\u0301 \u00e9",
    "\U0001f469\u200d\U0001f52c",
    "[[A]]",
    "{{x}}",
    "\r\n",
    "null",
    "'\"\\",
]
texts = st.sampled_from(AWKWARD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
probabilities = st.floats(0, 1)
small = st.integers(0, 2**40)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def tuples(strategy: st.SearchStrategy[Any], least: int = 0, most: int = 3) -> st.SearchStrategy[Any]:
    return st.lists(strategy, min_size=least, max_size=most).map(tuple)


messages = st.builds(Message, role=st.sampled_from(["system", "user", "assistant", "tool"]), content=texts)
questions = st.builds(
    lambda before, last: (*before, last), tuples(messages), st.builds(Message, role=st.just("user"), content=texts)
)
answers = st.builds(lambda before, last: (*before, last), tuples(messages, most=1), texts.map(assistant))
scalars = (
    texts | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
)

prompts = st.builds(
    Prompt, messages=questions, category=maybe(texts), metadata=st.dictionaries(texts, scalars, max_size=3)
)


@st.composite
def responses(draw: st.DrawFn, to: Prompt | None = None) -> Response:
    return Response(
        prompt_id=(to or draw(prompts)).id,
        messages=draw(answers),
        generator=draw(maybe(texts)),
        revision=draw(maybe(texts)),
        sampling=draw(maybe(texts)),
        sample_index=draw(maybe(small)),
        prompt_tokens=draw(maybe(small)),
        output_tokens=draw(maybe(small)),
        token_ids=draw(maybe(tuples(small))),
        finish_reason=draw(st.sampled_from([None, "stop", "length"])),
    )


@st.composite
def comparisons(draw: st.DrawFn, size: int | None = None) -> Comparison:
    to = draw(prompts)
    count = size or draw(st.integers(2, 4))
    found = draw(st.lists(responses(to), min_size=count, max_size=count, unique_by=lambda r: r.messages))
    return Comparison(prompt=to, responses=tuple(found))


@st.composite
def judgements(draw: st.DrawFn) -> Judgement:
    of = draw(comparisons(size=2))
    fields = {
        "labeller": draw(texts),
        "principle_id": draw(maybe(texts)),
        "weight": draw(st.floats(1e-6, 1e6)),
        "option_mass": draw(maybe(probabilities)),
        "reply_keys": draw(tuples(texts)),
    }
    p = draw(maybe(probabilities))
    if p is None:
        fields |= {"outcome": draw(st.sampled_from(["unreadable", "refused", "failed"])), "reason": draw(texts) or "?"}
    return judgement(of, p, flipped=draw(st.booleans()), **fields)


@st.composite
def preferences(draw: st.DrawFn) -> Preference:
    chosen, rejected = draw(st.lists(answers, min_size=2, max_size=2, unique=True))
    return Preference(
        prompt=draw(questions),
        chosen=chosen,
        rejected=rejected,
        p=draw(st.floats(0.5, 1)),
        weight=draw(st.floats(0, 10)),
        prompt_id=draw(texts),
        comparison_id=draw(texts),
    )


provenances = st.builds(
    Provenance,
    comparison_id=texts,
    outcome=st.sampled_from(["labelled", "tie", "unreadable", "refused", "failed", "filtered"]),
    reason=maybe(texts),
    labellers=tuples(texts),
    principle_ids=tuples(texts),
    votes=tuples(probabilities),
    p_by_order=tuples(probabilities),
    orders_agree=maybe(st.booleans()),
    reply_keys=tuples(texts),
)
exclusions = st.builds(
    Exclusion,
    item_id=texts,
    outcome=st.sampled_from(["unreadable", "refused", "failed", "over budget", "filtered"]),
    reason=texts,
)
RECORDS: dict[type[Record], st.SearchStrategy[Any]] = {
    Prompt: prompts,
    Response: responses(),
    Comparison: comparisons(),
    Judgement: judgements(),
    Preference: preferences(),
    Provenance: provenances,
    Exclusion: exclusions,
}
