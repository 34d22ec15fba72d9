"""The judge mind: reads what a prompt asks to be judged, and gives every option a probability.

A reply has a quality in [0, 1]: the number in a mark ``quality=0.73`` in its text, else its length or a number keyed by its
text. A judge of skill s sees s parts of it and 1 - s parts of its own opinion, which is keyed by model, instructions and
reply. Opinions belong to replies, not to places, so that the two orders of a pair differ by the position bias alone.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from rlaif.mock.options import MockOptions
from rlaif.mock.schema import choices_in
from rlaif.mock.talk import Question, mixed, text_hash, uniform

NOUN = r"(?:reply|response|answer|output|assistant|completion|candidate|option)"
FENCED = re.compile(rf"<<(\w+) {NOUN}(?: \w{{1,2}})?>>", re.IGNORECASE)
ONLY = re.compile(NOUN, re.IGNORECASE)  # the head of a reply that is shown alone
LABELLED = re.compile(
    rf"(\W*)(?:[a-z]+\W+){{0,5}}?{NOUN}\W{{0,3}}([a-z]|[1-9])\b(?:'s)?(?:\W+[a-z]+){{0,3}}\W*", re.IGNORECASE
)
CLOSING = re.compile(r"\bend\b|^\W*</", re.IGNORECASE)
END = re.compile(r"\W*end\W*", re.IGNORECASE)
ASKING = re.compile(r"\[\[|\[RESULT\]|\b[A-Z1-9]\b\W{0,3} or \W{0,3}[A-Z1-9]\b")
LONGEST_MARKER = 60  # characters of a line that opens a reply
BRACKETED = re.compile(r"\[\[\s*(\w{1,12})\s*\]\]")
EITHER = re.compile(r"\b([A-Z]|[1-9])\b[\"')\]]{0,2} or [\"'(\[]{0,2}([A-Z]|[1-9])\b")
SCALE = re.compile(r"\b(\d{1,2})\s?(?:to|-|–|and)\s?(\d{1,2})\b")
SCORING = re.compile(r"\b(?:scale|scor|rat(?:e|ing)|grade)", re.IGNORECASE)
TIE = re.compile(r"\btie\b", re.IGNORECASE)
QUALITY = re.compile(r"quality=(0(?:\.\d+)?|1(?:\.0+)?)(?!\d|\.\d)")
ALONE = "{verdict}"
FORMS = (("[[", "{reason}\n[[{verdict}]]"), ("[RESULT]", "Feedback: {reason} [RESULT] {verdict}"))  # by a sign of it
TURNS_OF_A_PAIR = 4  # prompt, two replies and the question, each a user turn of its own
HALF_LENGTH = 200  # characters of a reply whose length stands for quality 0.5


@dataclass(frozen=True, slots=True)
class Asked:
    """What the instructions offer: the options, whether the last of them is a tie, and the form of a verdict."""

    options: tuple[str, ...]
    tie: bool = False
    scale: bool = False
    form: str = ALONE


@dataclass(frozen=True, slots=True)
class Task:
    """Replies to be judged, in the order shown (none where they cannot be told apart), and what is asked of them."""

    asked: Asked
    replies: tuple[str, ...]
    instructions: str


def read_task(question: Question) -> Task | None:
    """What a conversation asks a judge; None where it asks for no judgement."""
    users = [text for role, text in question.turns if role != "assistant"]
    before, last = "\n".join(users[:-1]), users[-1] if users else ""
    instructions, replies = _material(before, last)
    labels = tuple(replies)
    texts = tuple(replies.values())
    if not labels and len(users) == TURNS_OF_A_PAIR and all(role == "user" for role, _ in question.turns[:4]):
        labels, texts, instructions = ("A", "B"), (users[1], users[2]), last
    asked = asked_for(instructions, labels)
    if question.schema and (words := choices_in(question.schema)):
        if set(labels) <= set(words):
            words = (*labels, *(word for word in words if word not in labels))
        asked = Asked(words, tie=len(words) == max(len(labels), 2) + 1)
    if asked is None:
        return None
    return Task(asked, texts if len(texts) > 1 or asked.scale else (), instructions)


def _material(before: str, last: str) -> tuple[str, dict[str, str]]:
    """(what is said about them, the labelled replies) of the last turn and those before it."""
    if match := FENCED.search(last):
        fence = match[1]
        start, *parts = last.split(f"<<{fence} ")
        replies, rest = {}, [before.replace(fence, ""), start]
        for part in parts:
            head, _, text = part.partition(">>")
            if ONLY.fullmatch(head):
                replies["1"] = text.strip()
            elif len(head.split()) == 2:
                replies[head.rpartition(" ")[2]] = text.strip()
            elif head == "end" or not head.isalnum():  # a line that only speaks of the fence
                rest.append(text)
        return "\n".join(rest), replies
    return _by_headings(before, last)


def _by_headings(before: str, last: str) -> tuple[str, dict[str, str]]:
    """The same where replies stand under lines that name them. One that nobody closes ends before the last paragraph, if
    that asks for a verdict."""
    rest: list[str] = [before]
    replies: dict[str, str] = {}
    label, prefix = "", ""
    for line in last.split("\n"):
        match = LABELLED.fullmatch(line) if len(line) <= LONGEST_MARKER else None
        if match:
            label, prefix = ("" if CLOSING.search(line) else match[2].upper()), match[1].strip()
            if label:
                replies[label] = ""
        elif label and not END.fullmatch(line) and not (prefix and line.startswith(prefix)):
            replies[label] += line + "\n"
        else:
            label = ""
            rest.append(line)
    if label:
        reply, _, asks = replies[label].rpartition("\n\n")
        if reply and ASKING.search(asks):
            replies[label] = reply
            rest.append(asks)
    return "\n".join(rest), {key: text.strip() for key, text in replies.items()}


@lru_cache(maxsize=4096)
def asked_for(instructions: str, labels: tuple[str, ...]) -> Asked | None:
    """The options that instructions offer: the replies' labels, words in [[ ]], "A or B", or a scale of numbers."""
    form = next((form for sign, form in FORMS if sign in instructions), ALONE)
    words = tuple(dict.fromkeys(BRACKETED.findall(instructions)))
    if len(labels) > 1:
        others = [word for word in words if word not in labels and word.lower() not in ("rating", "score")]
        if not others and TIE.search(instructions):
            others = ["tie"]
        return Asked((*labels, *others[:1]), tie=bool(others), form=form)
    match = SCALE.search(instructions)
    if match and int(match[1]) < int(match[2]) and SCORING.search(instructions):
        numbers = tuple(str(number) for number in range(int(match[1]), int(match[2]) + 1))
        return Asked(numbers, scale=True, form=form)
    if len(words) > 1:
        return Asked(words, tie=len(words) > 2, form=form)
    if match := EITHER.search(instructions):
        return Asked((match[1], match[2]), form=form)
    return None


def masses(task: Task, question: Question, options: MockOptions) -> list[float]:
    """The probability of every option of the task; they add up to 1."""
    asked, view = task.asked, _view(options.seed, question.model, task.instructions)
    if asked.scale:
        seen = _seen(task.replies[0] if task.replies else question.turns[-1][1], view, options)
        return _on_a_scale(len(asked.options), seen, options.sharpness)
    count = len(asked.options) - asked.tie
    texts = task.replies or tuple(f"{option}\n{question.turns[-1][1]}" for option in asked.options[:count])
    logits = [options.sharpness * _seen(text, view, options) for text in texts[:count]]
    logits += [0.0] * (count - len(logits))
    logits[0] += options.position_bias
    p = _softmax(logits)
    if not asked.tie:
        return p
    *_, second, first = sorted(p)
    tie = options.ties * 4 * first * second / (first + second) ** 2
    return [*[value * (1 - tie) for value in p], tie]


@lru_cache(maxsize=4096)
def _view(seed: int, model: str, instructions: str) -> int:
    """What a model's own opinions hang on, beside the reply."""
    return mixed(seed, text_hash(model), text_hash(instructions))


def _seen(text: str, view: int, options: MockOptions) -> float:
    """A reply's quality as the judge of this view sees it."""
    hashed = text_hash(text)
    own = uniform(mixed(hashed ^ view))
    return options.skill * quality(text, hashed, options) + (1 - options.skill) * own


def quality(text: str, hashed: int, options: MockOptions) -> float:
    """The planted truth of a reply, in [0, 1]; ``hashed`` is its ``text_hash``."""
    mark = text.find("quality=")
    if mark >= 0 and (match := QUALITY.match(text, mark)):
        return float(match[1])
    if options.truth == "length":
        return len(text) / (len(text) + HALF_LENGTH)
    return uniform(mixed(hashed, options.seed))


def _on_a_scale(count: int, seen: float, sharpness: float) -> list[float]:
    centre = seen * (count - 1)
    return _softmax([-2 * sharpness * abs(place - centre) / (count - 1) for place in range(count)])


def _softmax(logits: list[float]) -> list[float]:
    highest = max(logits)
    weights = [math.exp(logit - highest) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]
