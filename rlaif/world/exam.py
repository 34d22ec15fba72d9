"""How well a judge reads: its verdicts against the oracle on held-out prompts, both orders averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from rlaif.models.chat_tokens import ChatTokenizer
from rlaif.world.learning import hidden_states
from rlaif.world.lessons import CHOICES, Label, Pair, Reading, draw_pair, read_pair
from rlaif.world.oracle import FAMILIES, prefers
from rlaif.world.principles import Wording, draw


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
