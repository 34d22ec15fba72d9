"""Prompts and replies of the practice world, each with the latent attributes it was made from.

Everything is drawn from one ``random.Random``, so equal generators give equal text. Held out of every training, of what
is asked: a fifth of the combinations of verb and object, of facts and ways to ask, and of sums; three frames, two
openings; and a tenth of the facts altogether.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal

import yaml

from rlaif.records import Message, uniform

Kind = Literal["benign", "borderline", "harmful", "fact", "sum"]
Core = Literal["help", "refuse", "evade", "off_topic", "correct", "false", "unsure", "other"]
KINDS: tuple[Kind, ...] = ("benign", "borderline", "harmful", "fact", "sum")
ARTICLES = ("a ", "an ", "the ", "my ", "some ")
TOPICAL: tuple[Kind, ...] = ("benign", "borderline", "harmful")


@functools.cache
def english() -> dict[str, Any]:
    """What can be said: ``english.yaml``."""
    text = importlib.resources.files("rlaif.world").joinpath("english.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


@dataclass(frozen=True)
class Question:
    """What a person asks, and what is true of it."""

    kind: Kind
    topic: str  # of a how-to request; the type of a fact; "sum"
    messages: tuple[Message, ...]
    held_out: bool
    verb: str = ""
    object: str = ""
    noun: str = ""
    subject: str = ""  # of a fact
    answer: str = ""  # of a fact or a sum
    terms: tuple[int, ...] = ()  # of a sum: the numbers with their signs
    unseen: bool = False  # a fact that stands in no training text

    @property
    def harmful(self) -> bool:
        return self.kind == "harmful"


@dataclass(frozen=True)
class Attributes:
    """What is true of a reply to a given question. The oracle reads the same from the text alone."""

    core: Core
    reason: bool = False  # a refusal that says why
    offer: bool = False  # a refusal that offers something else
    polite: int = 0  # 1 polite, 0 plain, -1 rude
    words: int = 0
    asks: bool = False
    warns: bool = False
    sorry: bool = False
    steps: bool = False  # laid out as a numbered list
    style: str = ""  # alpha or beta: the family of its author; empty where nothing tells
    first_error: int | None = None  # of a sum: the first wrong step, counted from 0


@dataclass(frozen=True)
class Manner:
    """How a reply is given, before it is put into words."""

    core: Core
    style: str = "alpha"
    reason: bool = False
    offer: bool = False
    polite: int = 0
    asks: bool = False
    warns: bool = False
    sorry: bool = False
    steps: bool = False
    intro: bool = False
    length: int = 3  # steps of an instruction
    filler: int = 0  # sentences that say nothing
    first_error: int | None = None


@dataclass(frozen=True)
class Habits:
    """How often an author does what: probabilities of cores by kind of request, and of each manner."""

    cores: dict[str, dict[Core, float]] = field(
        default_factory=lambda: {
            "benign": {"help": 0.62, "refuse": 0.12, "evade": 0.16, "off_topic": 0.1},
            "borderline": {"help": 0.56, "refuse": 0.26, "evade": 0.12, "off_topic": 0.06},
            "harmful": {"help": 0.58, "refuse": 0.36, "evade": 0.06},
            "fact": {"correct": 0.66, "false": 0.16, "unsure": 0.12, "evade": 0.06},
            "sum": {"correct": 0.7, "false": 0.3},
        }
    )
    alpha: float = 0.7
    polite: float = 0.25
    rude: float = 0.2
    asks: float = 0.15
    warns: float = 0.15
    sorry: float = 0.15
    steps: float = 0.25
    intro: float = 0.3
    reason: float = 0.5
    offer: float = 0.4
    filler: tuple[float, ...] = (0.6, 0.22, 0.12, 0.06)  # of 0, 1, 2, 3 sentences


# --- questions --------------------------------------------------------------------------------------------------------


def bare(thing: str) -> tuple[str, str]:
    """An object as it is asked for, and its bare noun."""
    asked, bar, noun = thing.partition("|")
    if bar:
        return asked, noun
    return asked, next((asked[len(article) :] for article in ARTICLES if asked.startswith(article)), asked)


def kept_apart(*parts: Any) -> bool:
    """Whether this combination is one of the fifth that no training sees."""
    return uniform("held out", *parts) < 0.2


def ask(rng: Random, kind: Kind, *, held_out: bool, turns: float = 0.15, unseen: bool = False) -> Question:
    """A question of a kind; ``turns`` is the share that comes after an earlier exchange. ``unseen`` asks for a fact that
    no training text tells: nobody who learnt there can know it."""
    while True:
        question = {"fact": _fact, "sum": _sum}.get(kind, _how_to)(rng, kind, held_out)
        if question.held_out == held_out and question.unseen == unseen:
            break
    if rng.random() < turns:
        earlier = [
            Message(role=role, content=text) for role, text in zip(("user", "assistant"), _talk(rng), strict=True)
        ]
        question = replace(question, messages=(*earlier, *question.messages))
    return question


def _talk(rng: Random) -> tuple[str, str]:
    words = rng.choice(english()["small_talk"])
    return words[0], words[1]


def _opened(rng: Random, text: str, held_out: bool) -> str:
    """The question after a word of greeting; of what is held out, some come after one that no training sees."""
    if held_out and rng.random() < 0.2:
        return f"{rng.choice(english()['held_out_openings'])} {text}"
    return f"{rng.choice(english()['openings'])} {text}".strip()


def _how_to(rng: Random, kind: Kind, held_out: bool) -> Question:
    topic = rng.choice(list(english()[kind]))
    about = english()[kind][topic]
    verb = rng.choice(about["verbs"])
    thing, noun = bare(rng.choice(about["objects"]))
    new_frame = held_out and rng.random() < 0.3
    frames = english()["held_out_frames"] if new_frame else [*english()["frames"], *english()["follow_ups"]]
    frame = rng.choice(frames)
    text = _opened(rng, frame.replace("{v}", verb).replace("{o}", thing), held_out)
    apart = new_frame or kept_apart(topic, verb, thing)
    return Question(kind, topic, (Message(role="user", content=text),), apart, verb=verb, object=thing, noun=noun)


def sentence(text: str) -> str:
    """``text`` as a question or a request, with a capital."""
    end = "." if text.startswith(("name ", "tell ")) else "?"
    return text[0].upper() + text[1:] + end


def _fact(rng: Random, kind: Kind, held_out: bool) -> Question:
    topic = rng.choice(list(english()["facts"]))
    about = english()["facts"][topic]
    subject = rng.choice(list(about["pairs"]))
    answer = about["pairs"][subject]
    frame = rng.choice(about["ask"] if rng.random() < 0.6 else about["claim"])
    claimed = answer if frame.startswith("is it true") and rng.random() < 0.5 else wrong_answer(rng, topic, subject)
    asked = sentence(frame.replace("{s}", subject).replace("{a}", claimed))
    text = _opened(rng, asked, held_out)
    unseen = uniform("unseen fact", topic, subject) < 0.1
    apart = unseen or kept_apart(topic, subject, frame)
    messages = (Message(role="user", content=text),)
    return Question(kind, topic, messages, apart, subject=subject, answer=answer, unseen=unseen)


def wrong_answer(rng: Random, topic: str, subject: str) -> str:
    pairs = english()["facts"][topic]["pairs"]
    return str(rng.choice(sorted(set(pairs.values()) - {pairs[subject]})))


SUM_FRAMES = ("What is {x}?", "Compute {x}.", "How much is {x}?", "Please work out {x} step by step.")


def _sum(rng: Random, kind: Kind, held_out: bool) -> Question:
    terms = [rng.randint(1, 9)]
    for _ in range(rng.choice((1, 2, 2, 3))):
        total = sum(terms)
        down = rng.random() < 0.4 and total > 2
        terms.append(-rng.randint(1, min(total - 1, 9)) if down else rng.randint(1, 9))
    asked = rng.choice(SUM_FRAMES).replace("{x}", written(terms))
    text = _opened(rng, asked, held_out)
    apart = kept_apart("sum", terms)
    messages = (Message(role="user", content=text),)
    return Question(kind, "sum", messages, apart, answer=str(sum(terms)), terms=tuple(terms))


def written(terms: Sequence[int]) -> str:
    """12, 7, -3 as ``12 + 7 - 3``."""
    return str(terms[0]) + "".join(f" {'-' if term < 0 else '+'} {abs(term)}" for term in terms[1:])


# --- replies ----------------------------------------------------------------------------------------------------------


def manner(rng: Random, question: Question, habits: Habits) -> Manner:
    """How an author of these habits answers this question."""
    cores = habits.cores[question.kind]
    core = rng.choices(list(cores), list(cores.values()))[0]
    refuses = core == "refuse"
    mood = rng.random()
    return Manner(
        core=core,
        style="alpha" if rng.random() < habits.alpha else "beta",
        reason=refuses and rng.random() < habits.reason,
        offer=refuses and rng.random() < habits.offer,
        polite=1 if mood < habits.polite else -1 if mood < habits.polite + habits.rude else 0,
        asks=rng.random() < habits.asks,
        warns=rng.random() < habits.warns,
        sorry=rng.random() < habits.sorry,
        steps=core in ("help", "off_topic") and rng.random() < habits.steps,
        intro=core in ("help", "off_topic") and rng.random() < habits.intro,
        length=rng.choice((2, 2, 3, 3, 4, 5)),
        filler=rng.choices(range(len(habits.filler)), habits.filler)[0],
        first_error=rng.randrange(len(question.terms) - 1) if question.kind == "sum" and core == "false" else None,
    )


def reply(rng: Random, question: Question, how: Manner) -> tuple[str, Attributes]:
    """The words of a reply, and what is true of it."""
    say = english()["styles"][how.style]
    pick = lambda key: rng.choice(say[key])  # noqa: E731
    parts = []
    both = rng.random() < 0.3  # good or bad manners at both ends
    opens = both or rng.random() < 0.5
    if how.polite and opens:
        parts.append(pick("polite_open" if how.polite > 0 else "rude_open"))
    if how.sorry:
        parts.append(pick("sorry"))
    parts += _core(rng, question, how, say)
    if how.reason:
        parts.append(pick("reason" if question.harmful else "over_reason"))
    if how.offer:
        parts.append(pick("offer"))
    parts += rng.sample(say["filler"], how.filler)
    if how.warns:
        parts.append(pick("warn"))
    if how.asks:
        parts.append(pick("ask"))
    if how.polite and (both or not opens):
        parts.append(pick("polite_close" if how.polite > 0 else "rude_close"))
    text = " ".join(parts)
    silent = len(parts) == 1 and (how.steps or (question.kind == "fact" and how.core in ("correct", "false")))
    return text, Attributes(
        core=how.core,
        reason=how.reason,
        offer=how.offer,
        polite=how.polite,
        words=len(text.split()),
        asks=how.asks,
        warns=how.warns,
        sorry=how.sorry,
        steps=how.steps,
        style="" if silent else how.style,
        first_error=how.first_error,
    )


def _core(rng: Random, question: Question, how: Manner, say: dict[str, Any]) -> list[str]:
    if how.core in ("refuse", "evade", "unsure"):
        return [rng.choice(say[how.core])]
    if question.kind == "fact":
        right = how.core == "correct"
        answer = question.answer if right else wrong_answer(rng, question.topic, question.subject)
        told = rng.choice(english()["facts"][question.topic]["say"])
        told = told.replace("{s}", question.subject).replace("{a}", answer)
        return [told[0].upper() + told[1:] + "."]
    if question.kind == "sum":
        return _worked(rng, question.terms, how.first_error, say)
    topic, verb, thing, noun = question.topic, question.verb, question.object, question.noun
    kind: str = question.kind
    if how.core == "off_topic":
        kind = "benign"
        topic = rng.choice([t for t in english()["benign"] if t != question.topic])
        verb = rng.choice(english()["benign"][topic]["verbs"])
        thing, noun = bare(rng.choice(english()["benign"][topic]["objects"]))
    steps = english()[kind][topic]["steps"]
    chosen = [step.replace("{n}", noun) for step in rng.sample(steps, min(how.length, len(steps)))]
    intro = [rng.choice(say["intro"]).replace("{v}", verb).replace("{o}", thing)] if how.intro else []
    return [*intro, _listed(chosen) if how.steps else _running(rng, chosen, say)]


def _listed(steps: Sequence[str]) -> str:
    return " ".join(f"{number}. {step[0].upper()}{step[1:]}." for number, step in enumerate(steps, 1))


def _running(rng: Random, steps: Sequence[str], say: dict[str, Any]) -> str:
    text = rng.choice(say["first"]).replace("{s}", steps[0])
    for step in steps[1:-1]:
        text += rng.choice(say["next"]).replace("{s}", step)
    return text + str(rng.choice(say["last"])).replace("{s}", steps[-1])


def _worked(rng: Random, terms: Sequence[int], first_error: int | None, say: dict[str, Any]) -> list[str]:
    """A sum worked out step by step; from ``first_error`` on every step follows from a wrong one."""
    total, parts = terms[0], []
    for number, term in enumerate(terms[1:]):
        result = total + term
        if number == first_error:
            result += rng.choice([off for off in (-3, -2, -1, 1, 2, 3) if result + off >= 0])
        parts.append(f"{total} {'-' if term < 0 else '+'} {abs(term)} = {result}.")
        total = result
    return [*parts, rng.choice(say["sum"]).replace("{a}", str(total))]


# --- critiques --------------------------------------------------------------------------------------------------------


def fault(question: Question, how: Manner) -> str:
    """The worst fault of a reply, as ``critique.faults`` of english.yaml names it."""
    if question.harmful and how.core == "help":
        return "complied"
    if how.core == "refuse" and not question.harmful:
        return "refused_harmless"
    if how.core == "false":
        return "untrue"
    if how.polite < 0:
        return "rude"
    if how.core in ("evade", "off_topic") and not question.harmful:
        return "evasive"
    if how.core == "refuse" and not how.reason:
        return "curt"
    return "none"


def mended(rng: Random, question: Question, how: Manner) -> Manner:
    """The same reply without its faults."""
    right: Core = "refuse" if question.harmful else "help" if question.kind in TOPICAL else "correct"
    refuses = right == "refuse"
    return replace(
        how,
        core=right,
        polite=max(how.polite, 0),
        reason=refuses,
        offer=refuses,
        steps=how.steps and right == "help",
        intro=how.intro and right == "help",
        first_error=None,
    )


def criticised(rng: Random, question: Question, how: Manner, text: str) -> tuple[Message, ...]:
    """Question, reply, critique and revision as one conversation."""
    words = english()["critique"]
    better, _ = reply(rng, question, mended(rng, question, how))
    return (
        *question.messages,
        Message(role="assistant", content=text),
        Message(role="user", content=rng.choice(words["ask"])),
        Message(role="assistant", content=words["faults"][fault(question, how)]),
        Message(role="user", content=rng.choice(words["revise"])),
        Message(role="assistant", content=better),
    )
