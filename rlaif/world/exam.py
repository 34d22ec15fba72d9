"""How well a judge reads: its verdicts against the oracle on held-out prompts, both orders averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from rlaif.models.chat_tokens import ChatTokenizer
from rlaif.statistics import Figure, cluster_mean, wilson
from rlaif.world.learning import hidden_states
from rlaif.world.lessons import CHOICES, Label, Pair, Reading, draw_pair, read_pair
from rlaif.world.oracle import FAMILIES, prefers
from rlaif.world.principles import Wording, draw, held_out_wordings


@dataclass(frozen=True)
class Answer:
    """A judge's verdict on one question of an exam."""

    pair: Pair
    label: Label
    first: float  # P(first) as shown
    second: float  # P(the same reply) with the order swapped

    @property
    def p(self) -> float:
        return (self.first + self.second) / 2

    @property
    def right(self) -> bool:
        return (self.p > 0.5) == (self.label.p > 0.5)


def sit(
    model: Any, tokens: ChatTokenizer, questions: Sequence[tuple[Pair, Sequence[Label]]], batch: int = 16
) -> list[Answer]:
    """Every principle of every pair, in both orders."""
    choices = [min(tokens.option_ids("<|assistant|>", choice)) for choice in CHOICES]
    answers = []
    for start in range(0, len(questions), batch):
        part = questions[start : start + batch]
        shown = [read_pair(tokens, pair, labels) for pair, labels in part]
        swapped = [read_pair(tokens, pair.swapped(), labels) for pair, labels in part]
        one = _probabilities(model, tokens, shown, choices)
        two = _probabilities(model, tokens, swapped, choices)
        flat = [(pair, label) for pair, labels in part for label in labels]
        answers += [Answer(pair, label, p, 1 - q) for (pair, label), p, q in zip(flat, one, two, strict=True)]
    return answers


def _probabilities(
    model: Any, tokens: ChatTokenizer, readings: Sequence[Reading], choices: Sequence[int]
) -> list[float]:
    with torch.inference_mode():
        hidden = hidden_states(model, readings, tokens.pad_id)[2]
        logits = model.get_output_embeddings()(hidden)[:, choices]
        return [float(p) for p in logits.softmax(-1)[:, 0]]


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
        split = prefers(wanted, 1, pair.question, *pair.attributes) != 0.5
        if split == (rng.random() >= ties):
            wording = way(rng, wanted)
            questions.append((pair, [Label(wording, prefers(wanted, wording.sign, pair.question, *pair.attributes))]))
    return questions


def figures(answers: Sequence[Answer]) -> dict[str, float]:
    """Share right, mean distance of ties from one half, first-position rate, and disagreement of the two orders."""
    told = [a for a in answers if a.label.p != 0.5]
    ties = [a for a in answers if a.label.p == 0.5]
    found = {"right": sum(a.right for a in told) / max(1, len(told))}
    found["first"] = sum((a.first > 0.5) + (a.second < 0.5) for a in answers) / (2 * len(answers))
    found["disagree"] = sum((a.first > 0.5) != (a.second > 0.5) for a in told) / max(1, len(told))
    if ties:
        found["tie"] = sum(abs(a.p - 0.5) for a in ties) / len(ties)
    return found


# --- the whole exam ---------------------------------------------------------------------------------------------------


def examine(model: Any, tokens: ChatTokenizer, number: int, seed: int, *, held_out: bool) -> dict[str, Figure]:
    """What the documentation says of a judge, each on ``number`` held-out pairs.

    ``WAY``: share right by how principles were worded; ``WAY.first`` and ``WAY.disagree``: how often the reply shown
    first was preferred, and how often the two orders prefer different replies. ``family.NAME``: share right by family.
    ``ties``: mean distance of p from one half where the oracle sees no difference. ``opposite.flips``: how often the
    verdict turns with a principle's sign. ``other.judge`` and ``other.oracle``: how often two families prefer the same
    reply, to the judge and to the oracle. ``held_out`` adds the wordings that nobody drew from the grammar.
    """
    found: dict[str, Figure] = {}
    everything: list[Answer] = []
    for way, drawing in WAYS.items():
        answers = sit(model, tokens, paper(Random(f"exam/{seed}/{way}"), drawing, number))
        everything += answers
        found[way] = right(answers)
        found[f"{way}.first"] = wilson(sum((a.first > 0.5) + (a.second < 0.5) for a in answers), 2 * len(answers))
        found[f"{way}.disagree"] = wilson(sum((a.first > 0.5) != (a.second > 0.5) for a in answers), len(answers))
    for family in FAMILIES:
        found[f"family.{family}"] = right([a for a in everything if a.label.wording.family == family])
    level = sit(model, tokens, paper(Random(f"exam/{seed}/ties"), WAYS["seen"], number, ties=1.0))
    found["ties"] = cluster_mean([abs(a.p - 0.5) for a in level], range(len(level)))
    turned = _two_by_two(model, tokens, opposites(Random(f"exam/{seed}/opposite"), number))
    found["opposite.flips"] = wilson(sum((a.p > 0.5) != (b.p > 0.5) for a, b in turned), len(turned))
    mixed = _two_by_two(model, tokens, strangers(Random(f"exam/{seed}/other"), number))
    found["other.judge"] = wilson(sum((a.p > 0.5) == (b.p > 0.5) for a, b in mixed), len(mixed))
    found["other.oracle"] = wilson(sum(a.label.p == b.label.p for a, b in mixed), len(mixed))
    if held_out:
        rng = Random(f"exam/{seed}/held-out wordings")
        by_kind: dict[str, list[Answer]] = {"plain": [], "negated": []}
        for word in held_out_wordings():
            questions = [(pair, [label]) for pair, label in pairs_for(rng, word, max(1, number // 200))]
            by_kind["negated" if word.negated else "plain"] += sit(model, tokens, questions)
        found |= {f"held_out_wordings.{kind}": right(answers) for kind, answers in by_kind.items()}
    return found


def right(answers: Sequence[Answer]) -> Figure:
    """Share of the verdicts that the oracle shares, ties aside."""
    told = [answer for answer in answers if answer.label.p != 0.5]
    return wilson(sum(answer.right for answer in told), len(told))


def pairs_for(rng: Random, word: Wording, number: int) -> list[tuple[Pair, Label]]:
    """Held-out pairs on which the wording's family has an opinion, with it."""
    found: list[tuple[Pair, Label]] = []
    while len(found) < number:
        pair = draw_pair(rng, held_out=True)
        p = prefers(word.family, word.sign, pair.question, *pair.attributes)
        if p != 0.5:
            found.append((pair, Label(word, p)))
    return found


def opposites(rng: Random, number: int) -> list[tuple[Pair, list[Label]]]:
    """Pairs, each under two wordings of one family and of opposite signs."""
    found = []
    for place in range(number):
        family = FAMILIES[place % len(FAMILIES)]
        ((pair, label),) = pairs_for(rng, draw(rng, family, negation=0.5, sign=1), 1)
        found.append((pair, [label, Label(draw(rng, family, negation=0.5, sign=-1), 1 - label.p)]))
    return found


def strangers(rng: Random, number: int) -> list[tuple[Pair, list[Label]]]:
    """Pairs, each under wordings of two families that both have an opinion on it."""
    found: list[tuple[Pair, list[Label]]] = []
    while len(found) < number:
        pair = draw_pair(rng, held_out=True)
        telling = [f for f in FAMILIES if prefers(f, 1, pair.question, *pair.attributes) != 0.5]
        if len(telling) > 1:
            words = [draw(rng, family, negation=0.5) for family in rng.sample(telling, 2)]
            found.append((pair, [Label(w, prefers(w.family, w.sign, pair.question, *pair.attributes)) for w in words]))
    return found


def _two_by_two(
    model: Any, tokens: ChatTokenizer, questions: Sequence[tuple[Pair, Sequence[Label]]]
) -> list[tuple[Answer, Answer]]:
    answers = sit(model, tokens, questions)
    return list(zip(answers[::2], answers[1::2], strict=True))
