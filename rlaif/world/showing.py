"""What ``rlaif world`` shows: prompts with their truth, annotators beside their faults, judges and policies beside the
oracle."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from rlaif.config import Sampling
from rlaif.errors import ConfigError, ModelError, did_you_mean
from rlaif.models import ChatRequest, Reply
from rlaif.records import Comparison, Message, Prompt, Response
from rlaif.statistics import Figure, cluster_mean, wilson
from rlaif.world.annotators import BEATS, Annotators, manner_of, opinion
from rlaif.world.chat import KINDS, Attributes, Habits, Kind, Question, ask, manner, reply
from rlaif.world.exam import verdicts
from rlaif.world.lessons import Label, Pair, draw_pair
from rlaif.world.oracle import attributes, prefers, rates
from rlaif.world.principles import Wording
from rlaif.world.probe import PAIRS, Shown, concerns, readings, replies_in_order, verdict_lines, words

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


RATES = {  # what the options call it, and what is printed
    "values": "agrees with the values",
    "position": "first shown preferred",
    "length": "longer preferred",
    "lists": "list preferred",
    "own_style": "own style preferred",
    "cycle": "winner of the cycle preferred",
}
TIES, AGREE, AGREE_CLEARLY = "ties", "two votes agree", "two votes agree, without ties"


class Rate(NamedTuple):
    """What simulated people did, and what their options imply on the same pairs."""

    measured: Figure
    implied: float


class Vote(NamedTuple):
    """What one person says of a pair: 1 for its first reply, 0 for its second, 0.5 for a tie."""

    said: float
    chances: dict[float, float]  # of saying each, as the options imply
    rules: dict[str, bool]


class Row(NamedTuple):
    """What one label, or two people's labels of one pair, add to a rate."""

    hit: bool
    counts: bool  # False where the rate leaves them out, being ties
    hit_chance: float  # of a hit that counts
    counts_chance: float


def drawn_pairs(number: int, seed: int, held_out: bool = False) -> Iterator[Pair]:
    """Random pairs, of prompts that no model has seen with ``held_out``."""
    rng = Random(f"annotators/{seed}")
    for _ in range(number):
        yield draw_pair(rng, held_out=held_out)


def labelled_pairs(options: Annotators.Options, number: int, seed: int, held_out: bool) -> Iterator[dict[str, Any]]:
    """Those pairs with simulated people's labels, as rows of a file of pairs."""
    people = Annotators.of(options, seed)
    for pair in drawn_pairs(number, seed, held_out):
        comparison = comparison_of(pair.question, pair.texts)
        a, b = comparison.responses
        labels = {}
        for who in people.asked(comparison):
            said = people.judge(who, comparison)
            ranking = said.ranking[0]
            labels[said.labeller.removeprefix("human:")] = (
                "tie" if len(ranking) > 1 else "a" if ranking[0] == a.id else "b"
            )
        yield {
            "messages": [turn.model_dump() for turn in comparison.prompt.messages],
            "response_a": a.text,
            "response_b": b.text,
            "human_labels": labels,
            "category": pair.question.kind,
        }


def annotator_rates(options: Annotators.Options, number: int, seed: int, held_out: bool = False) -> dict[str, Rate]:
    """How often simulated people do what their values and their planted faults say, on random pairs.

    Rates of what is preferred leave ties out. What the options imply is computed from the chance that a bias, a taste,
    the values or noise decide a label, given the pair and the order it was shown in: the measured rates differ from it
    by those draws alone.
    """
    people = Annotators.of(options, seed)
    rows: dict[str, list[tuple[int, Row]]] = {name: [] for name in (TIES, *RATES.values(), AGREE, AGREE_CLEARLY)}
    for place, pair in enumerate(drawn_pairs(number, seed, held_out)):
        comparison = comparison_of(pair.question, pair.texts)
        votes = [_vote(people, who, pair, comparison) for who in people.asked(comparison)]
        for name, row in _rows(votes):
            rows[name].append((place, row))
    several = options.votes > 1  # labels of one pair are not independent then
    return {name: _rate(found, several) for name, found in rows.items() if any(row.counts for _, row in found)}


def _vote(people: Annotators, who: int, pair: Pair, comparison: Comparison) -> Vote:
    judgement = people.judge(who, comparison)
    first = comparison.responses[0].id
    assert judgement.shown
    rules = _rules(people.options, pair, judgement.shown[0] == first)
    said = 0.5 if len(judgement.ranking) == 1 else float(judgement.ranking[0][0] == first)
    return Vote(said, _chances(people, who, pair, rules), rules)


def _rows(votes: Sequence[Vote]) -> Iterator[tuple[str, Row]]:
    """What the votes on one pair add to the rates of each name."""
    for said, chances, rules in votes:
        yield TIES, Row(said == 0.5, True, chances[0.5], 1.0)
        for rule, first in rules.items():
            yield RATES[rule], Row(said == first, said != 0.5, chances[float(first)], 1 - chances[0.5])
    for one, two in itertools.combinations(votes, 2):
        same = {said: one.chances[said] * two.chances[said] for said in one.chances}
        clear = (1 - one.chances[0.5]) * (1 - two.chances[0.5])
        alike = one.said == two.said
        yield AGREE, Row(alike, True, sum(same.values()), 1.0)
        yield AGREE_CLEARLY, Row(alike, 0.5 not in (one.said, two.said), same[0.0] + same[1.0], clear)


def _rate(rows: Sequence[tuple[int, Row]], several: bool) -> Rate:
    hits = [float(row.hit) for _, row in rows if row.counts]
    pairs = [place for place, row in rows if row.counts]
    measured = cluster_mean(hits, pairs) if several else wilson(sum(hits), len(hits))
    return Rate(measured, sum(row.hit_chance for _, row in rows) / sum(row.counts_chance for _, row in rows))


def _rules(options: Annotators.Options, pair: Pair, shown_first: bool) -> dict[str, bool]:
    """Whether each rule is for the first reply of the pair; a rule that does not apply is left out.

    ``shown_first``: whether that reply was shown first.
    """
    one, two = pair.attributes
    found = {}
    values = opinion(options.values, pair.question, one, two)
    if values != 0.5:
        found["values"] = values == 1
    found["position"] = shown_first
    if one.words != two.words:
        found["length"] = one.words > two.words
    if one.steps != two.steps:
        found["lists"] = one.steps
    if (one.style == options.style) != (two.style == options.style):
        found["own_style"] = one.style == options.style
    if manner_of(one) != manner_of(two):
        found["cycle"] = (manner_of(one), manner_of(two)) in BEATS
    return found


def _chances(people: Annotators, who: int, pair: Pair, rules: Mapping[str, bool]) -> dict[float, float]:
    """The probability that a person prefers the pair's first reply (1), its second (0), or neither (0.5)."""
    of, biases = people.options, dict(rules)
    values = float(biases.pop("values", 0.5))
    chances, left = {1.0: 0.0, 0.0: 0.0, 0.5: 0.0}, 1.0
    for bias, first in biases.items():
        size = getattr(of, bias)
        chances[float(first == (size > 0))] += abs(size)
        left -= abs(size)
    family, sign = people.taste(who)
    taste = prefers(family, sign, pair.question, *pair.attributes)
    chances[values if taste == 0.5 else taste] += left * of.disagreement
    chances[values] += left * (1 - of.disagreement)
    return {said: (1 - of.noise) * chance + of.noise * chances[1 - said] for said, chance in chances.items()}


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
    if not words(given):
        raise ConfigError(f'check: "{given}" has no words. Give a principle in quotes, or the name of a constitution.')
    if len(given.split()) == 1:
        meant = did_you_mean(given, catalogue.names("constitution"))
        raise ConfigError(f'check: "{given}" is no constitution, and no sentence.{meant}')
    return [(given, given)]


def check_principles(principles: Sequence[str], folder: str) -> Iterator[str]:
    """What a person should know of how the judge reads each principle; a name stands for a constitution's own."""
    named = [one for given in principles for one in principles_of(given)]
    network, tokens = open_judge(folder)
    yield f"p: mean probability of that reply on {PAIRS} pairs that differ in it as far as can be, in both orders"
    read = []
    for name, text in named:
        found = asyncio.run(readings(functools.partial(_asked, network, tokens, text)))
        read.append((name, text, found))
        yield from verdict_lines(*read[-1])
    yield from concerns(read)
    if all(each.unread == PAIRS for _, _, found in read for each in found):
        raise ModelError(f"--model: {folder} is no judge of the practice world: not one probe could be read.")


async def _asked(network: Any, tokens: Any, text: str, shown: Sequence[Shown]) -> list[float | None]:
    """P(first shown) of each probe; None where the judge says neither."""
    label, nothing = Label(Wording(text, "", 1, False), 0.5), Attributes("other")
    pairs = [Pair(probe.question, replies_in_order((probe, first)), (nothing, nothing)) for probe, first in shown]
    return verdicts(network, tokens, [(pair, [label]) for pair in pairs])


# --- policies ---------------------------------------------------------------------------------------------------------


def sampled(folder: str, asked: Sequence[Question], seed: int = 0) -> Iterator[tuple[Question, Reply]]:
    """A policy's reply to each question, at temperature 1; the questions come as the model batches them."""
    from rlaif.models.local import LocalModel, LocalOptions

    model = LocalModel(folder, LocalOptions(), where="--model", notice=print)
    sampling = Sampling(temperature=1.0, max_output_tokens=96)
    requests = [ChatRequest(messages=question.messages, sampling=sampling, seed=seed) for question in asked]
    for batch in model.plan(requests):
        replies = model.complete_batch([requests[place] for place in batch])
        yield from zip((asked[place] for place in batch), replies, strict=True)


def policy_rates(folder: str, number: int, seed: int) -> dict[str, Figure]:
    """What is true of a policy's replies to ``number`` held-out prompts of each kind: the oracle's rates, the words of a
    reply, and the share that ends by itself."""
    seen: dict[str, list[float]] = {}
    asked = questions(number * len(KINDS), KINDS, held_out=True, seed=seed)
    for question, said in sampled(folder, asked, seed):
        about = attributes(question, said.text)
        ends = float(said.finish_reason == "stop")
        for name, value in {**rates(question, about), "words": float(about.words), "ends_by_itself": ends}.items():
            seen.setdefault(name, []).append(value)
    return {name: cluster_mean(values, range(len(values))) for name, values in sorted(seen.items())}
