"""What ``rlaif world`` shows: prompts with their truth, annotators beside their faults, judges beside the oracle."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from random import Random
from typing import Any

from rlaif.records import Comparison, Message, Prompt, Response
from rlaif.statistics import Figure, wilson
from rlaif.world.annotators import BEATS, Annotators, manner_of, opinion
from rlaif.world.chat import Attributes, Habits, Kind, Question, ask, manner, reply
from rlaif.world.exam import WAYS, Answer, paper, sit
from rlaif.world.lessons import Label, Pair, draw_pair
from rlaif.world.oracle import prefers
from rlaif.world.principles import Wording, held_out_wordings
from rlaif.world.probe import Probe, readings, verdict_lines

ATTEMPTS = 200  # to find a question that was not drawn before

# --- prompts ----------------------------------------------------------------------------------------------------------


def questions(number: int, kinds: Sequence[Kind], *, held_out: bool, seed: int) -> list[Question]:
    """``number`` different questions, the kinds in turn. Fewer where the world has no more."""
    rng = Random(f"prompts/{seed}/{held_out}")
    found: dict[tuple[Message, ...], Question] = {}
    for place in range(number):
        for _ in range(ATTEMPTS):
            question = ask(rng, kinds[place % len(kinds)], held_out=held_out)
            if not question.unseen and question.messages not in found:
                found[question.messages] = question
                break
    return list(found.values())


def row_of(question: Question) -> dict[str, Any]:
    """A question as a row of a prompt file."""
    turns = [message.model_dump() for message in question.messages]
    asked = {"prompt": turns[0]["content"]} if len(turns) == 1 else {"messages": turns}
    return {**asked, "category": question.kind}


def shown(question: Question, seed: int) -> str:
    """A question with a reply to it and what is true of both."""
    rng = Random(f"shown/{seed}/{question.messages}")
    text, about = reply(rng, question, manner(rng, question, Habits()))
    marks = [name for name in ("reason", "offer", "asks", "warns", "sorry", "steps") if getattr(about, name)]
    manners = ["polite"] * (about.polite > 0) + ["rude"] * (about.polite < 0) + marks
    turns = "\n".join(f"{message.role}: {message.content}" for message in question.messages)
    truth = ", ".join([question.kind, question.topic, about.core, f"{about.words} words", *manners])
    return f"{turns}\nassistant: {text}\n  ({truth})"


# --- annotators -------------------------------------------------------------------------------------------------------


def annotator_rates(options: Annotators.Options, number: int, seed: int) -> dict[str, Figure]:
    """How often simulated people do what their values and their planted faults say, on random pairs."""
    people = Annotators.of(options, seed)
    rng = Random(f"annotators/{seed}")
    hits: dict[str, list[bool]] = {}
    for _ in range(number):
        pair = draw_pair(rng, held_out=False)
        comparison = comparison_of(pair)
        for who in people.asked(comparison):
            judgement = people.judge(who, comparison)
            if len(judgement.ranking) == 2 and judgement.shown:
                best = judgement.ranking[0][0]
                hits.setdefault("first shown preferred", []).append(best == judgement.shown[0])
                for name, expected in _expected(options, pair).items():
                    hits.setdefault(name, []).append((best == comparison.responses[0].id) == expected)
    return {name: wilson(sum(found), len(found)) for name, found in hits.items()}


def _expected(options: Annotators.Options, pair: Pair) -> dict[str, bool]:
    """Whether each rule is for the first reply of the pair; a rule that does not apply is left out."""
    one, two = pair.attributes
    found = {}
    values = opinion(options.values, pair.question, one, two)
    if values != 0.5:
        found["agrees with the values"] = values == 1
    if one.words != two.words:
        found["longer preferred"] = one.words > two.words
    if one.steps != two.steps:
        found["list preferred"] = one.steps
    if (one.style == options.style) != (two.style == options.style):
        found[f"{options.style} style preferred"] = one.style == options.style
    if manner_of(one) != manner_of(two):
        found["winner of the cycle preferred"] = (manner_of(one), manner_of(two)) in BEATS
    return found


def comparison_of(pair: Pair) -> Comparison:
    """A pair of the world as the road's record."""
    prompt = Prompt(messages=pair.question.messages, category=pair.question.kind)
    responses = tuple(
        Response(prompt_id=prompt.id, messages=(Message(role="assistant", content=text),), generator="practice-world")
        for text in pair.texts
    )
    return Comparison(prompt=prompt, responses=responses)


# --- judges -----------------------------------------------------------------------------------------------------------


def open_judge(folder: str) -> tuple[Any, Any]:
    """A judge's network and tokenizer, loaded as any local model is."""
    from rlaif.models.local import LocalModel, LocalOptions

    model = LocalModel(folder, LocalOptions(), where="--model", notice=print)
    return model.network, model.tokens


def check_principles(principles: Sequence[str], folder: str) -> list[str]:
    """What a person should know of how the judge reads each principle; a name stands for a constitution's own."""
    from rlaif.catalogue import Catalogue
    from rlaif.config import load_constitution

    network, tokens = open_judge(folder)
    lines = []
    for given in principles:
        named = [(given, given)]
        if " " not in given.strip():
            named = [(p.id, p.text) for p in load_constitution(Catalogue(), given, where="check").principles]
        for name, text in named:
            verdicts = asyncio.run(readings(functools.partial(_asked, network, tokens, text)))
            lines += verdict_lines(name, text, verdicts)
    return lines


async def _asked(network: Any, tokens: Any, text: str, asked: Sequence[tuple[Probe, bool]]) -> list[float]:
    """P(first shown) for (probe, whether the reply with more stands first)."""
    word = Wording(text, "", 1, False)
    nothing = Attributes("other")
    rows = []
    for probe, more_first in asked:
        texts = (probe.more, probe.less) if more_first else (probe.less, probe.more)
        rows.append((Pair(probe.question, texts, (nothing, nothing)), [Label(word, 0.5)]))
    return [answer.first for answer in sit(network, tokens, rows)]


def examine(folder: str, number: int, seed: int, with_held_out_wordings: bool) -> dict[str, Figure]:
    """A judge's share right by the way principles were worded, on ``number`` held-out pairs each."""
    network, tokens = open_judge(folder)
    found: dict[str, Figure] = {}
    for way, drawing in WAYS.items():
        answers = sit(network, tokens, paper(Random(f"exam/{seed}/{way}"), drawing, number))
        found[way] = _right(answers)
        found[f"{way}.disagree"] = wilson(sum((a.first > 0.5) != (a.second > 0.5) for a in answers), len(answers))
        found[f"{way}.first"] = wilson(sum((a.first > 0.5) + (a.second < 0.5) for a in answers), 2 * len(answers))
    if with_held_out_wordings:
        rng = Random(f"exam/{seed}/held-out wordings")
        by_kind: dict[str, list[Answer]] = {"plain": [], "negated": []}
        for word in held_out_wordings():
            answers = sit(network, tokens, _pairs_for(rng, word, max(1, number // 200)))
            by_kind["negated" if word.negated else "plain"] += answers
        found |= {f"held_out_wordings.{kind}": _right(answers) for kind, answers in by_kind.items()}
    return found


def _right(answers: Sequence[Answer]) -> Figure:
    told = [answer for answer in answers if answer.label.p != 0.5]
    return wilson(sum(answer.right for answer in told), len(told))


def _pairs_for(rng: Random, word: Wording, number: int) -> list[tuple[Pair, list[Label]]]:
    """Held-out pairs on which the wording's family has an opinion."""
    found: list[tuple[Pair, list[Label]]] = []
    while len(found) < number:
        pair = draw_pair(rng, held_out=True)
        p = prefers(word.family, word.sign, pair.question, *pair.attributes)
        if p != 0.5:
            found.append((pair, [Label(word, p)]))
    return found
