"""What ``rlaif world`` shows: prompts with their truth, annotators beside their faults, judges beside the oracle."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from rlaif.errors import ConfigError, ModelError
from rlaif.records import Comparison, Message, Prompt, Response
from rlaif.statistics import Figure, wilson
from rlaif.world.annotators import BEATS, Annotators, manner_of, opinion
from rlaif.world.chat import Attributes, Habits, Kind, Question, ask, manner, reply
from rlaif.world.exam import verdicts
from rlaif.world.lessons import Label, Pair, draw_pair
from rlaif.world.principles import Wording
from rlaif.world.probe import Shown, readings, replies_in_order, verdict_lines

TURNS = ("<|user|>", "<|assistant|>", "<|end|>")
ATTEMPTS = 200  # to find a question that was not drawn before

# --- prompts ----------------------------------------------------------------------------------------------------------


def questions(number: int, kinds: Sequence[Kind], *, held_out: bool, seed: int) -> list[Question]:
    """``number`` different questions, the kinds in turn. Fewer where the world has no more."""
    rng = Random(f"prompts/{seed}/{held_out}")
    found: dict[tuple[Message, ...], Question] = {}
    for place in range(number):
        for _ in range(ATTEMPTS):
            question = ask(rng, kinds[place % len(kinds)], held_out=held_out)
            if question.messages not in found:
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
        comparison = comparison_of(pair.question, pair.texts)
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


def comparison_of(question: Question, texts: Sequence[str]) -> Comparison:
    """Replies to a question of the world as the road's record."""
    prompt = Prompt(messages=question.messages, category=question.kind)
    responses = tuple(
        Response(prompt_id=prompt.id, messages=(Message(role="assistant", content=text),), generator="practice-world")
        for text in texts
    )
    return Comparison(prompt=prompt, responses=responses)


# --- judges -----------------------------------------------------------------------------------------------------------


def open_judge(folder: str) -> tuple[Any, Any]:
    """A judge's network and tokenizer, loaded as any local model is. Raises ModelError for one of another world."""
    from rlaif.models.local import LocalModel, LocalOptions

    model = LocalModel(folder, LocalOptions(), where="--model", notice=print)
    known = model.tokens.hf.get_vocab()
    if missing := [turn for turn in TURNS if turn not in known]:
        raise ModelError(f"--model: {folder} is no judge of the practice world: it has no token {missing[0]}.")
    return model.network, model.tokens


def principles_of(given: str) -> list[tuple[str, str]]:
    """(name, text) of a principle in quotes, or of those of a constitution: a YAML file, or a name of the catalogue."""
    from rlaif.catalogue import Catalogue
    from rlaif.config import load_constitution

    catalogue = Catalogue()
    if given.endswith((".yaml", ".yml")) or given.removeprefix("builtin:") in catalogue.names("constitution"):
        return [(p.id, p.text) for p in load_constitution(catalogue, given, where="check").principles]
    if not given.strip():
        raise ConfigError("check: an empty principle. Give its text in quotes, or the name of a constitution.")
    return [(given, given)]


def check_principles(principles: Sequence[str], folder: str) -> Iterator[str]:
    """What a person should know of how the judge reads each principle; a name stands for a constitution's own."""
    named = [one for given in principles for one in principles_of(given)]
    network, tokens = open_judge(folder)
    for name, text in named:
        yield from verdict_lines(name, text, asyncio.run(readings(functools.partial(_asked, network, tokens, text))))


async def _asked(network: Any, tokens: Any, text: str, shown: Sequence[Shown]) -> list[float | None]:
    """P(first shown) of each probe; None where the judge says neither."""
    label, nothing = Label(Wording(text, "", 1, False), 0.5), Attributes("other")
    pairs = [Pair(probe.question, replies_in_order((probe, first)), (nothing, nothing)) for probe, first in shown]
    return verdicts(network, tokens, [(pair, [label]) for pair in pairs])
