"""Preferences as groups of a prompt with its responses, and the batch plan.

A group holds one prompt, each of its different responses once, and the pairs between them, so that K responses cost K
rows however many pairs they make. The plan (which groups form which micro-batch, in which order) is fixed from the
whole input before the first step, is a pure function of lengths and seed, and never looks at a label: it is the same
for every label source and after every resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from rlaif.errors import RlaifError
from rlaif.models.chat_tokens import ChatTokenizer, TurnsRefused
from rlaif.records import Message, Preference, digest, uniform

T = TypeVar("T")
REFUSED = "refused by the chat template"  # an outcome of rows to be trained on
WINDOW_STEPS = 16  # optimiser steps whose groups are sorted by length together


@dataclass
class Group:
    """One prompt: token ids, its responses' token ids, and pairs (chosen, rejected) as indices with p and weight."""

    prompt_id: str
    prompt: tuple[int, ...]
    responses: list[tuple[int, ...]] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    p: list[float] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    sources: list[str] = field(
        default_factory=list
    )  # of each pair's label, where they are of several: to be told apart in logs
    pair_ids: list[str] = field(default_factory=list)  # of each pair, the same whoever labelled it

    @property
    def tokens(self) -> int:
        return len(self.prompt) + sum(map(len, self.responses))


@dataclass(frozen=True)
class Grouped:
    """Groups in the order of the preferences, and an account of the pairs with a label and of those without.

    Pairs without one (weight 0) stay in their groups, so that no plan depends on labels.
    """

    groups: list[Group]
    pairs: int  # with a label, in the groups
    too_long: int  # with a label, left out for their length
    refused: int  # with a label, left out since the chat template does not take their turns
    held_out: int  # with a label, not to be kept
    not_drawn: int  # with a label, beyond the number to be learnt from
    no_label: int  # of weight 0, whatever became of them

    @property
    def account(self) -> dict[str, Any]:
        """What became of the pairs, as a training's report says it."""
        outcomes = {
            "trained on": self.pairs,
            "too long": self.too_long,
            "held out": self.held_out,
            "no label": self.no_label,
            **({"not drawn": self.not_drawn} if self.not_drawn else {}),
            **({REFUSED: self.refused} if self.refused else {}),
        }
        return {"unit": "preferences", "in": sum(outcomes.values()), "outcomes": outcomes, "reasons": {}}


def group_preferences(
    preferences: Iterable[Preference],
    tokens: ChatTokenizer,
    max_tokens: int,
    *,
    keep: Callable[[str], bool] = lambda prompt_id: True,
    ended: Callable[[Preference, Sequence[Message]], bool] = lambda row, response: True,
    source_of: Callable[[Preference], str] | None = None,
) -> Grouped:
    """Tokenise and group. Pairs whose prompt and longer response exceed ``max_tokens`` are left out, and those whose turns the chat
    template refuses; they are counted where they have a label.

    A pair is stored with its responses in an order that does not depend on which is chosen, so that the same
    comparisons give the same rows, and the same bytes, under any labels.
    """
    groups: dict[str, Group] = {}
    index: dict[str, dict[tuple[Message, ...], int]] = {}
    pairs = too_long = refused = left_out = no_label = 0
    for row in preferences:
        labelled = int(row.weight > 0)
        no_label += 1 - labelled
        if not keep(row.prompt_id):
            left_out += labelled
            continue
        known = index.setdefault(row.prompt_id, {})
        sides = sorted((row.chosen, row.rejected), key=side_digest)
        try:
            group = groups.get(row.prompt_id) or Group(row.prompt_id, tuple(tokens.prompt_ids(row.prompt)))
            ids = {
                side: tuple(tokens.response_ids(row.prompt, side, ended=ended(row, side)))
                for side in sides
                if side not in known
            }
        except TurnsRefused:
            refused += labelled
            continue
        longest = max([len(i) for i in ids.values()] + [len(group.responses[known[s]]) for s in sides if s in known])
        if len(group.prompt) + longest > max_tokens or not all(ids.values()):
            too_long += labelled
            continue
        groups.setdefault(row.prompt_id, group)
        pairs += labelled
        for side, response in ids.items():
            known[side] = len(group.responses)
            group.responses.append(response)
        flipped = sides[0] != row.chosen
        group.pairs.append((known[sides[0]], known[sides[1]]))
        group.p.append(1 - row.p if flipped else row.p)
        group.weight.append(row.weight)
        group.pair_ids.append(pair_id(row.comparison_id, row.chosen, row.rejected))
        if source_of:
            group.sources.append(source_of(row))
    return Grouped(list(groups.values()), pairs, too_long, refused, left_out, 0, no_label)


def worths(group: Group) -> list[float]:
    """Of each response how far its labels prefer it to the others: Σ weight · (p − ½), 0 where they are ties."""
    found = [0.0] * len(group.responses)
    for (a, b), p, weight in zip(group.pairs, group.p, group.weight, strict=True):
        found[a] += weight * (p - 0.5)
        found[b] += weight * (0.5 - p)
    return found


def pair_id(comparison_id: str, one: Sequence[Message], other: Sequence[Message]) -> str:
    """What names two responses of a comparison in whatever order: a comparison of more than two has several pairs."""
    return digest(comparison_id, sorted(map(side_digest, (one, other))), length=20)


def side_digest(response: Sequence[Message]) -> str:
    """By which the responses of a pair are put in an order that no label has a say in."""
    return digest([message.model_dump() for message in response])


def drawn(data: Grouped, pairs: int | None, seed: int) -> Grouped:
    """At most so many pairs, with a label or without, by a keyed draw of prompts: all pairs of a prompt or none, of one prompt at
    least. What is drawn for fewer pairs is within what is drawn for more, and does not depend on labels. None: all of them."""
    if pairs is None:
        return data
    kept: set[str] = set()
    total = 0
    for group in sorted(data.groups, key=lambda group: uniform("labels", seed, group.prompt_id)):
        total += len(group.pairs)
        if kept and total > pairs:
            break
        kept.add(group.prompt_id)
    groups = [group for group in data.groups if group.prompt_id in kept]
    labelled = sum(weight > 0 for group in groups for weight in group.weight)
    return replace(data, groups=groups, pairs=labelled, not_drawn=data.pairs - labelled)


def need_labels(data: Grouped, stage: str, max_tokens: int) -> None:
    """Raises RlaifError, with counts and what would do, where the groups hold no weight: training on nothing would
    still give numbers."""
    if any(weight > 0 for group in data.groups for weight in group.weight):
        return
    unlabelled = sum(len(group.pairs) for group in data.groups)
    counts = {
        f"{data.too_long} longer than {max_tokens} tokens": data.too_long,
        f"{data.refused} of turns that the chat template refuses": data.refused,
        f"{data.held_out} held out": data.held_out,
        f"{unlabelled} without a label": unlabelled,
    }
    remedies = {
        "a larger max_tokens in its options, or a model of longer context": data.too_long,
        "a model whose chat template takes such turns": data.refused,
        "a smaller held_out, or more prompts": data.held_out,
        "labels": unlabelled,
    }
    found = ", ".join(words for words, count in counts.items() if count) or "there are none"
    would_do = "; ".join(words for words, count in remedies.items() if count) or "labels"
    raise RlaifError(f"{stage}: no labelled preference is left to train on ({found}). What would do: {would_do}.")


def held_out(prompt_id: str, share: float, seed: int) -> bool:
    """Whether a prompt is kept from training: a keyed draw per prompt, the same for every label source."""
    return uniform("held out", seed, prompt_id) < share


def evenly(rows: Sequence[T], parts: int) -> list[Sequence[T]]:
    """Rows in so many runs whose lengths differ by one at most; some are empty where there are fewer rows."""
    return [rows[len(rows) * k // parts : len(rows) * (k + 1) // parts] for k in range(parts)]


def plan_steps(sizes: Sequence[int], groups_per_step: int, epochs: int, seed: int) -> list[list[int]]:
    """Group indices of each optimiser step, epochs one after another.

    Each epoch is a keyed permutation; within windows of ``WINDOW_STEPS`` steps groups are sorted by size, so that a
    step holds groups of like length, and the steps of a window are shuffled again.
    """
    plan: list[list[int]] = []
    for epoch in range(epochs):
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(sizes))
        window = groups_per_step * WINDOW_STEPS
        for start in range(0, len(order), window):
            alike = sorted((int(i) for i in order[start : start + window]), key=lambda i: (sizes[i], i))
            steps = [alike[i : i + groups_per_step] for i in range(0, len(alike), groups_per_step)]
            plan += [steps[n] for n in random.permutation(len(steps))]
    return plan


def split_steps(
    steps: Sequence[Sequence[int]], sizes: Sequence[int], most: int, processes: int = 1
) -> tuple[list[list[int]], int]:
    """The micro-batches of steps, as many to each, and how many those are.

    A micro-batch has at most ``most`` tokens, or one group that is larger alone. A step has as few as that takes, in a
    multiple of ``processes``, the largest of them as small as may be; where others take more, empty ones come first.
    """
    parts = []
    for step in steps:
        least = -(-len(_filled(step, sizes, most)) // processes) * processes
        low, high = 1, min(most, sum(sizes[i] for i in step))
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if len(_filled(step, sizes, middle)) <= least else (middle + 1, high)
        found = _filled(step, sizes, low)
        parts.append([*found, *([] for _ in range(least - len(found)))])
    split = max(map(len, parts), default=1)
    return [part for found in parts for part in [*([] for _ in range(split - len(found))), *found]], split


def _filled(step: Sequence[int], sizes: Sequence[int], most: int) -> list[list[int]]:
    """A step's groups in their order, each with those before it as long as there is room."""
    parts: list[list[int]] = []
    room = 0
    for i in step:
        if not parts or sizes[i] > room:
            parts.append([])
            room = most
        parts[-1].append(i)
        room -= sizes[i]
    return parts
