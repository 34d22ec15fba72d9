"""How well a judge reads: its verdicts against the oracle on held-out prompts, both orders averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from rlaif.models.chat_tokens import ChatTokenizer
from rlaif.statistics import Figure, cluster_mean, wilson
from rlaif.world.chat import ask
from rlaif.world.learning import hidden_states
from rlaif.world.lessons import CHOICES, Label, Pair, draw_pair, label_of, pair_about, read_pair, telling
from rlaif.world.oracle import FAMILIES
from rlaif.world.principles import Wording, draw, held_out_wordings

MINIMUM_MASS = 0.5  # of the two options, as the judge files of this world ask for; below it nothing is read


@dataclass(frozen=True)
class Answer:
    """A judge's verdict on one question of an exam."""

    pair: Pair
    label: Label
    first: float | None  # P(first) as shown; None where the judge says neither
    second: float | None  # P(first) with the order swapped

    @property
    def p(self) -> float | None:
        """P(the pair's first reply), both orders averaged."""
        if self.first is None or self.second is None:
            return None
        return (self.first + 1 - self.second) / 2

    @property
    def right(self) -> bool:
        """What cannot be read is not right."""
        return self.p is not None and (self.p > 0.5) == (self.label.p > 0.5)


Questions = Sequence[tuple[Pair, Sequence[Label]]]


def sit(model: Any, tokens: ChatTokenizer, questions: Questions, batch: int = 16) -> list[Answer]:
    """Every principle of every pair, in both orders."""
    answers = []
    for start in range(0, len(questions), batch):
        part = questions[start : start + batch]
        one = verdicts(model, tokens, part)
        two = verdicts(model, tokens, [(pair.swapped(), labels) for pair, labels in part])
        flat = [(pair, label) for pair, labels in part for label in labels]
        answers += [Answer(pair, label, p, q) for (pair, label), p, q in zip(flat, one, two, strict=True)]
    return answers


def verdicts(model: Any, tokens: ChatTokenizer, questions: Questions) -> list[float | None]:
    """P(the first reply), pair by pair and principle by principle; None below the minimum mass of the options."""
    choices = [min(tokens.option_ids("<|assistant|>", choice)) for choice in CHOICES]
    with torch.inference_mode():
        hidden = hidden_states(model, [read_pair(tokens, *question) for question in questions], tokens.pad_id)[2]
        shares = model.get_output_embeddings()(hidden).float().softmax(-1)[:, choices]
        return [float(one) / float(one + two) if one + two >= MINIMUM_MASS else None for one, two in shares]


Drawing = Callable[[Random, str], Wording]

WAYS: dict[str, Drawing] = {
    "seen": lambda rng, family: draw(rng, family, negation=0.0),
    "seen_negated": lambda rng, family: draw(rng, family, negation=1.0),
    "new_phrase": lambda rng, family: draw(rng, family, negation=0.5, new_phrase=True),
    "new_frame": lambda rng, family: draw(rng, family, negation=0.0, new_frame=True),
    "new_negated_frame": lambda rng, family: draw(rng, family, negation=1.0, new_frame=True),
}


def paper(rng: Random, way: Drawing, number: int, ties: float = 0.0) -> list[tuple[Pair, list[Label]]]:
    """``number`` pairs with one question each, families in turn."""
    questions: list[tuple[Pair, list[Label]]] = []
    while len(questions) < number:
        pair = draw_pair(rng, held_out=True)
        wanted = FAMILIES[len(questions) % len(FAMILIES)]
        if (wanted in telling(pair)) == (rng.random() >= ties):
            questions.append((pair, [label_of(pair, way(rng, wanted))]))
    return questions


# --- what the answers come to -----------------------------------------------------------------------------------------


def right(answers: Sequence[Answer]) -> Figure:
    """Share of the verdicts that the oracle shares, ties aside. A frame succeeds or fails as a whole: the interval
    resamples frames, or wordings that have none."""
    told = [answer for answer in answers if answer.label.p != 0.5]
    return cluster_mean([a.right for a in told], [a.label.wording.frame or a.label.wording.text for a in told])


def first_shown(answers: Sequence[Answer]) -> Figure:
    """How often the reply shown first was preferred, over both orders; the interval resamples pairs."""
    read = [(a.first, a.second) for a in answers if a.first is not None and a.second is not None]
    return cluster_mean([((one > 0.5) + (two > 0.5)) / 2 for one, two in read], range(len(read)))


def disagreement(answers: Sequence[Answer]) -> Figure:
    """How often the two orders prefer different replies."""
    read = [(a.first, a.second) for a in answers if a.first is not None and a.second is not None]
    return wilson(sum((one > 0.5) == (two > 0.5) for one, two in read), len(read))


def from_one_half(answers: Sequence[Answer]) -> Figure:
    """Mean distance of p from one half where the oracle sees no difference."""
    away = [abs(a.p - 0.5) for a in answers if a.label.p == 0.5 and a.p is not None]
    return cluster_mean(away, range(len(away)))


# --- the whole exam ---------------------------------------------------------------------------------------------------


def examine(model: Any, tokens: ChatTokenizer, number: int, seed: int, *, held_out: bool) -> dict[str, Figure]:
    """What the documentation says of a judge, each on ``number`` held-out pairs.

    ``WAY``: share right by how principles were worded; ``WAY.first`` and ``WAY.disagree``: how often the reply shown
    first was preferred, and how often the two orders prefer different replies. ``family.NAME``: share right by family.
    ``unseen_facts``: the same on facts that no training text tells. ``ties``: mean distance of p from one half where the
    oracle sees no difference; ``ties.first``: how often it lies on the side of the reply shown first, by however
    little. ``opposite.flips``: how often the verdict turns with a principle's sign. ``other.judge`` and ``other.oracle``: how often two families prefer the same reply, to the judge and to the oracle. ``unread``: share
    of questions answered by neither option. ``held_out`` adds the wordings that nobody drew from the grammar, and the
    share of them that is right on fewer than half of its pairs.
    """
    found: dict[str, Figure] = {}
    everything: list[Answer] = []
    for way, drawing in WAYS.items():
        answers = sit(model, tokens, paper(Random(f"exam/{seed}/{way}"), drawing, number))
        everything += answers
        found |= {way: right(answers), f"{way}.first": first_shown(answers), f"{way}.disagree": disagreement(answers)}
    for family in FAMILIES:
        found[f"family.{family}"] = right([a for a in everything if a.label.wording.family == family])
    found["unseen_facts"] = right(sit(model, tokens, unseen_facts(Random(f"exam/{seed}/unseen"), number)))
    found["unread"] = wilson(sum(a.p is None for a in everything), len(everything))
    ties = sit(model, tokens, paper(Random(f"exam/{seed}/ties"), WAYS["seen"], number, ties=1.0))
    found |= {"ties": from_one_half(ties), "ties.first": first_shown(ties)}
    turned = _two_by_two(model, tokens, opposites(Random(f"exam/{seed}/opposite"), number))
    found["opposite.flips"] = wilson(sum(not _same(a, b) for a, b in turned), len(turned))
    mixed = _two_by_two(model, tokens, strangers(Random(f"exam/{seed}/other"), number))
    found["other.judge"] = wilson(sum(_same(a, b) for a, b in mixed), len(mixed))
    found["other.oracle"] = wilson(sum(a.label.p == b.label.p for a, b in mixed), len(mixed))
    return found | (_held_out_wordings(model, tokens, number, seed) if held_out else {})


def _held_out_wordings(model: Any, tokens: ChatTokenizer, number: int, seed: int) -> dict[str, Figure]:
    rng = Random(f"exam/{seed}/held-out wordings")
    by_kind: dict[str, list[Answer]] = {"plain": [], "negated": []}
    inverted = []
    for word in held_out_wordings():
        answers = sit(model, tokens, [(pair, [label]) for pair, label in pairs_for(rng, word, max(1, number // 200))])
        by_kind["negated" if word.negated else "plain"] += answers
        inverted.append(sum(answer.right for answer in answers) < len(answers) / 2)
    found = {f"held_out_wordings.{kind}": right(answers) for kind, answers in by_kind.items()}
    return {**found, "held_out_wordings.inverted": wilson(sum(inverted), len(inverted))}


def _same(one: Answer, two: Answer) -> bool:
    """Whether two verdicts on a pair prefer the same reply; what cannot be read agrees with nothing."""
    return one.p is not None and two.p is not None and (one.p > 0.5) == (two.p > 0.5)


def unseen_facts(rng: Random, number: int) -> list[tuple[Pair, list[Label]]]:
    """Pairs about facts that no training text tells, under principles of truth."""
    found: list[tuple[Pair, list[Label]]] = []
    while len(found) < number:
        pair = pair_about(rng, ask(rng, "fact", held_out=True, unseen=True))
        if "correct" in telling(pair):
            found.append((pair, [label_of(pair, WAYS["seen"](rng, "correct"))]))
    return found


def pairs_for(rng: Random, word: Wording, number: int) -> list[tuple[Pair, Label]]:
    """Held-out pairs on which the wording's family has an opinion, with it."""
    found: list[tuple[Pair, Label]] = []
    while len(found) < number:
        pair = draw_pair(rng, held_out=True)
        label = label_of(pair, word)
        if label.p != 0.5:
            found.append((pair, label))
    return found


def opposites(rng: Random, number: int) -> list[tuple[Pair, list[Label]]]:
    """Pairs, each under two wordings of one family and of opposite signs."""
    found = []
    for place in range(number):
        family = FAMILIES[place % len(FAMILIES)]
        ((pair, label),) = pairs_for(rng, draw(rng, family, negation=0.5, sign=1), 1)
        found.append((pair, [label, label_of(pair, draw(rng, family, negation=0.5, sign=-1))]))
    return found


def strangers(rng: Random, number: int) -> list[tuple[Pair, list[Label]]]:
    """Pairs, each under wordings of two families that both have an opinion on it."""
    found: list[tuple[Pair, list[Label]]] = []
    while len(found) < number:
        pair = draw_pair(rng, held_out=True)
        families = telling(pair)
        if len(families) > 1:
            words = [draw(rng, family, negation=0.5) for family in rng.sample(families, 2)]
            found.append((pair, [label_of(pair, word) for word in words]))
    return found


def _two_by_two(model: Any, tokens: ChatTokenizer, questions: Questions) -> list[tuple[Answer, Answer]]:
    answers = sit(model, tokens, questions)
    return list(zip(answers[::2], answers[1::2], strict=True))
