"""From a question to its answers: the script, the judge mind or the chat mind, and what a fault makes of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from rlaif.mock.chat import chat
from rlaif.mock.faults import Fault
from rlaif.mock.judge import Task, masses, read_task
from rlaif.mock.options import MockOptions
from rlaif.mock.schema import Filler
from rlaif.mock.script import Script
from rlaif.mock.talk import Answer, Finish, Question, keyed, mixed, pieces, text_hash

REASONS = (
    "One keeps closer to what was asked.",
    "The difference is small, but it is there.",
    "One is clearer and invents less.",
    "Both are readable; one says more that is of use.",
    "One answers, the other talks around it.",
)
NEITHER = "Both have their merits, and I would rather not put one before the other."
DECLINES = "I'm sorry, but I can't help with that."
UNSETTLED = 0.02  # of its mass that an option keeps where a judge settles on none
HUGE = 10_000_000  # characters
PADDING = "All the same, it has to be said. "
FEWEST_REASONING = 64  # tokens; at most twice as many


@dataclass(frozen=True, slots=True)
class Thought:
    """What a mind says, before limits, stop sequences and faults."""

    text: str
    options: tuple[tuple[str, float], ...] = ()
    verdict: str | None = None  # the word of the text that is the verdict
    reason: str = ""  # the part of the text that could be longer


class Minds:
    """Answers questions. The same question under the same key is answered in the same words."""

    def __init__(self, options: MockOptions) -> None:
        self._options = options
        self._script = Script(options.script) if options.script else None

    def answers(self, question: Question, request: int, attempt: int, fault: Fault | None) -> list[Answer]:
        """``n`` answers. Without a seed in the question, what is sampled is keyed by request and attempt."""
        said = self._script.reply(question.turns[-1][1]) if self._script else None
        task = read_task(question) if said is None else None
        p = masses(task, question, self._options) if task else []
        found = []
        for index in range(question.n):
            key = self._key(question, request, attempt, index)
            thought = Thought(said) if said is not None else self._thought(question, task, p, key)
            found.append(_answer(question, thought, key, fault.name if fault else ""))
        return found

    def _key(self, question: Question, request: int, attempt: int, index: int) -> int:
        """What the draws of an answer hang on, a 64-bit hash: at temperature 0 what was said last."""
        if self._temperature(question) == 0:
            return mixed(self._options.seed, text_hash(question.turns[-1][1]))
        if question.seed is None:
            return mixed(self._options.seed, request, attempt, index)
        content = text_hash("\x1f".join([question.model, *[text for _, text in question.turns]]))
        return mixed(self._options.seed, content, question.seed, index)

    def _thought(self, question: Question, task: Task | None, p: list[float], key: int) -> Thought:
        if task is None:
            text = chat(question.turns[-1][1], key)
            return Thought(_json(question, None, text, key), reason=text) if question.schema else Thought(text)
        verdict = task.asked.options[self._choose(p, question, key)]
        options = tuple(zip(task.asked.options, p, strict=True))
        reason = REASONS[int(keyed("reason", key) * len(REASONS))]
        if question.schema:
            return Thought(_json(question, verdict, reason, key), options, verdict, reason)
        text = task.asked.form.format(reason=reason, verdict=verdict)
        return Thought(f" {text}" if question.turns[-1][0] == "assistant" else text, options, verdict)

    def _temperature(self, question: Question) -> float:
        if question.reasoning or question.temperature is None:
            return self._options.temperature
        return question.temperature

    def _choose(self, p: Sequence[float], question: Question, key: int) -> int:
        """The likeliest option at temperature 0; else one drawn, at temperature 1 with exactly its probability."""
        temperature = self._temperature(question)
        if temperature == 0:
            return max(range(len(p)), key=p.__getitem__)
        weights = p if temperature == 1 else [value ** (1 / temperature) for value in p]
        left = keyed("vote", key) * sum(weights)
        for place, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return place
        return len(p) - 1


def _json(question: Question, verdict: str | None, reason: str, key: int) -> str:
    assert question.schema is not None
    return orjson.dumps(Filler(question.schema, verdict, reason, key).fill()).decode()


def _answer(question: Question, thought: Thought, key: int, fault: str) -> Answer:
    """What is left of a thought: a fault may change it, reasoning takes its tokens first, and limits cut it."""
    if fault == "neither" and thought.options:
        thought = Thought(NEITHER, tuple((word, mass * UNSETTLED) for word, mass in thought.options))
    elif fault == "refusal":
        thought = Thought(DECLINES)
    elif fault in ("empty", "content-filter"):
        thought = Thought("")
    reasoning = FEWEST_REASONING + int(keyed("reasoning", key) * FEWEST_REASONING) if question.reasoning else 0
    most = None if question.max_tokens is None else question.max_tokens - reasoning
    if most is not None and most <= 0:
        return Answer("", (), "length", reasoning=question.max_tokens or 0)
    answer = _cut(thought, question.stop, most, halved=fault == "length")
    answer.reasoning = reasoning
    answer.declined = fault == "refusal"
    if fault == "content-filter":
        answer.finish = "content_filter"
    if fault == "huge":
        answer.text = answer.text.replace(thought.reason, PADDING * (HUGE // len(PADDING) + 1) + thought.reason, 1)
    return answer


def _cut(thought: Thought, stop: Sequence[str], most: int | None, halved: bool) -> Answer:
    """The answer as stop sequences, a limit in pieces and the fault *length* leave it."""
    text, stopped_by = thought.text, None
    finish: Finish = "stop"
    for word in stop:
        if word and (place := text.find(word)) >= 0:
            text, finish, stopped_by = text[:place], "stop_sequence", word
    parts = pieces(text)
    most = len(parts) // 2 if halved else most
    if halved or (most is not None and most < len(parts)):
        parts = parts[:most]
        text, finish, stopped_by = "".join(parts), "length", None
    return Answer(text, parts, finish, stopped_by, _place(parts, thought), thought.options)


def _place(parts: Sequence[str], thought: Thought) -> int | None:
    """Where among the pieces the verdict stands; the first piece where a judge should have given one and did not."""
    if not thought.options or not parts:
        return None
    if thought.verdict is None:
        return 0
    return next((place for place in range(len(parts) - 1, -1, -1) if parts[place].strip() == thought.verdict), None)
