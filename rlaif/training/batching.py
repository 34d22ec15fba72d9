"""Preferences as groups of a prompt with its responses, and the batch plan.

A group holds one prompt, each of its different responses once, and the pairs between them, so that K responses cost K
rows however many pairs they make. The plan (which groups form which micro-batch, in which order) is fixed from the
whole input before the first step, is a pure function of lengths and seed, and never looks at a label: it is the same
for every label source and after every resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from rlaif.errors import RlaifError
from rlaif.models.chat_tokens import ChatTokenizer
from rlaif.records import Message, Preference, digest, uniform

T = TypeVar("T")
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
    left_out: int  # with a label, not to be kept
    not_drawn: int  # with a label, beyond the number to be learnt from
    no_label: int  # of weight 0, whatever became of them


def group_preferences(
    preferences: Iterable[Preference],
    tokens: ChatTokenizer,
    max_tokens: int,
    *,
    keep: Callable[[str], bool] = lambda prompt_id: True,
    ended: Callable[[Preference, Sequence[Message]], bool] = lambda row, response: True,
    source_of: Callable[[Preference], str] | None = None,
) -> Grouped:
    """Tokenise and group. Pairs whose prompt and longer response exceed ``max_tokens`` are left out, and counted where they have a label.

    A pair is stored with its responses in an order that does not depend on which is chosen, so that the same
    comparisons give the same rows, and the same bytes, under any labels.
    """
    groups: dict[str, Group] = {}
    index: dict[str, dict[tuple[Message, ...], int]] = {}
    pairs = too_long = left_out = no_label = 0
    for row in preferences:
        labelled = int(row.weight > 0)
        no_label += 1 - labelled
        if not keep(row.prompt_id):
            left_out += labelled
            continue
        group = groups.get(row.prompt_id)
        if group is None:
            group = Group(row.prompt_id, tuple(tokens.prompt_ids(row.prompt)))
        known = index.setdefault(row.prompt_id, {})
        sides = sorted((row.chosen, row.rejected), key=side_digest)
        ids = {
            side: tuple(tokens.response_ids(row.prompt, side, ended=ended(row, side)))
            for side in sides
            if side not in known
        }
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
    return Grouped(list(groups.values()), pairs, too_long, left_out, 0, no_label)


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
        f"{data.left_out} held out": data.left_out,
        f"{unlabelled} without a label": unlabelled,
    }
    remedies = {
        "a larger max_tokens in its options, or a model of longer context": data.too_long,
        "a smaller held_out, or more prompts": data.left_out,
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


def plan_batches(
    sizes: Sequence[int], groups_per_step: int, epochs: int, seed: int, *, accumulation: int = 1
) -> list[list[int]]:
    """Micro-batches of group indices, ``accumulation`` to each optimiser step, epochs one after another.

    Each epoch is a keyed permutation; within windows of ``WINDOW_STEPS`` steps groups are sorted by size, so that a
    step holds groups of like length, and the steps of a window are shuffled again. Which groups make a step does not
    depend on ``accumulation``: it only splits them, and a short step may leave a micro-batch empty.
    """
    plan: list[list[int]] = []
    for epoch in range(epochs):
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(sizes))
        window = groups_per_step * WINDOW_STEPS
        for start in range(0, len(order), window):
            alike = sorted((int(i) for i in order[start : start + window]), key=lambda i: (sizes[i], i))
            steps = [alike[i : i + groups_per_step] for i in range(0, len(alike), groups_per_step)]
            for n in random.permutation(len(steps)):
                plan += map(list, evenly(steps[n], accumulation))
    return plan
