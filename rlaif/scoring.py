"""A reward model on files: rewards for responses, and how often it puts chosen above rejected, by category.

A file to score has prompts with a ``response`` (or ``responses``, a list), or pairs. A file to test on has ``prompt``, ``chosen``
and ``rejected`` (RewardBench's layout: Lambert et al. 2024, 2403.13787), with ``subset`` or ``category``; ``chosen`` and ``rejected``
may be lists (RewardBench 2: Malik et al. 2025, 2506.01937). A row is right where the lowest chosen has more than the highest
rejected; where the best rejected equals it, it counts one part in as many as are equal. Chance is one in the number of
responses where one is chosen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from rlaif.accounts import reward_stages
from rlaif.config import Pipeline
from rlaif.conversations import after_prompt, prompt_column, read_messages, read_prompt
from rlaif.errors import DataError, UserError
from rlaif.records import Message, Prompt
from rlaif.rows import read_rows
from rlaif.statistics import Figure, cluster_mean
from rlaif.store import RunFolder

ANSWERS = ("response", "responses", "completion", "answer", "output")
NOT_READ = "null, longer, with their prompt, than the model reads, or of turns that its chat template refuses"
BATCH = 256  # rows that go through the networks together
Turns = tuple[Message, ...]
Scorer = Callable[[Sequence[tuple[Turns, Sequence[tuple[Turns, bool]]]]], Sequence[Sequence[float | None]]]


def open_members(folders: Sequence[Path], notice: Callable[[str], None]) -> list[Scorer]:
    """The reward models of these folders; of a run folder its own, all members of an ensemble. Raises UserError."""
    from rlaif.models.local import LocalOptions
    from rlaif.reward import RewardModel

    found: list[Path] = []
    for folder in folders:
        own = folder / "reward_model"
        if own.is_dir():
            found += [folder / stage for stage in _stages(folder)] or [own]
        elif (folder / "config.json").is_file():
            found.append(folder)
        else:
            raise UserError(f"{folder}: no reward model: expected a model folder, or a run folder with reward_model/.")
    return [RewardModel(folder, LocalOptions(), where="reward model", notice=notice) for folder in found]


def _stages(folder: Path) -> list[str]:
    """The reward models of a run folder's present recipe, as far as they are trained."""
    run = RunFolder(folder)
    recipe, _ = run.recipe()
    if recipe is None:
        return []
    names = reward_stages(Pipeline(**json.loads(recipe)))
    return [name for name in names if (state := run.state(name)) and state.complete]


@dataclass(frozen=True)
class Row:
    """A row of a file: its prompt, and what it has to be scored."""

    where: str
    source: Mapping[str, Any]
    prompt: Prompt
    responses: list[Turns | None]  # None: null in the file
    chosen: int = 0  # how many of them, the first ones, are chosen

    @property
    def category(self) -> str:
        return self.prompt.category or "all"


def rows_to_score(source: str) -> Iterator[Row]:
    """Rows with a response each, several, or a pair. Raises DataError."""
    for where, row in read_rows(source):
        column = next((name for name in ANSWERS if name in row), None)
        if column is not None:
            said = row[column] if column == "responses" else [row[column]]
            yield Row(where, row, _prompt(where, row), _responses(where, column, said))
        elif "chosen" in row and "rejected" in row:
            yield _row_to_test(where, row)
        else:
            raise DataError(
                f"{where}: nothing to score: expected a column {', '.join(ANSWERS)}, or chosen and rejected."
            )


def rows_to_test(source: str) -> Iterator[Row]:
    """Rows with chosen and rejected responses. Raises DataError."""
    for where, row in read_rows(source):
        if "chosen" not in row or "rejected" not in row:
            raise DataError(f"{where}: expected prompt, chosen and rejected; found {', '.join(row)}.")
        yield _row_to_test(where, row)


def _row_to_test(where: str, row: Mapping[str, Any]) -> Row:
    sides = [row[name] if _is_list_of_responses(row[name]) else [row[name]] for name in ("chosen", "rejected")]
    chosen, rejected = (_responses(where, n, side) for n, side in zip(("chosen", "rejected"), sides, strict=True))
    prompt = _prompt(where, row)
    found = [turns and after_prompt(prompt.messages, turns) for turns in (*chosen, *rejected)]
    if any(turns == () for turns in found):
        raise DataError(f"{where}: a response that only repeats the prompt.")
    return Row(where, row, prompt, found, chosen=len(chosen))


def _is_list_of_responses(value: Any) -> bool:
    """A list, and not a list of turns, which is one response."""
    return isinstance(value, list) and not (value and isinstance(value[0], Mapping))


def _prompt(where: str, row: Mapping[str, Any]) -> Prompt:
    prompt = read_prompt(row, prompt_column(row, None, where, None))
    if isinstance(prompt, str):
        raise DataError(f"{where}: {prompt}.")
    return prompt


def _responses(where: str, name: str, values: Any) -> list[Turns | None]:
    if not isinstance(values, list) or not values:
        raise DataError(f"{where}: {name}: expected responses, found {values!r:.60}.")
    found: list[Turns | None] = []
    for value in values:
        turns = None if value is None else read_messages(value, "assistant")
        if isinstance(turns, str):
            raise DataError(f"{where}: {name}: {turns}.")
        found.append(turns)
    return found


Rewards = Sequence[Sequence[float | None]]  # of a row's responses, by member; None: there is none that it can read


def score(
    rows: Iterable[Row], members: Sequence[Scorer], done: Callable[[int], None] = lambda count: None
) -> Iterator[tuple[Row, Rewards]]:
    """Each row with its responses' rewards."""
    batch: list[Row] = []

    def scored() -> Iterator[tuple[Row, Rewards]]:
        items = [(row.prompt.messages, [(turns, True) for turns in row.responses if turns]) for row in batch]
        rewards = [member(items) for member in members]
        for i, row in enumerate(batch):
            known = [iter(each[i]) for each in rewards]
            yield row, [[next(values) if turns else None for turns in row.responses] for values in known]
        done(len(batch))

    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield from scored()
            batch = []
    yield from scored()


def means(rewards: Rewards) -> list[float | None]:
    """The mean of members for each response; None for one that a member cannot read."""
    return [over(fmean, values) for values in zip(*rewards, strict=True)]


def over(statistic: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistic(known) if len(known) == len(values) else None


def scores_row(row: Row, rewards: Rewards) -> dict[str, Any]:
    """The file's row with ``reward`` (``rewards`` of several responses): the mean of members, and their deviation beside it; null
    for a response that is null, or that the model cannot read: longer, with its prompt, than its context, or of turns that its template
    refuses."""
    mean = means(rewards)
    spread = [over(pstdev, values) for values in zip(*rewards, strict=True)]
    if row.chosen:
        cut = row.chosen
        told: dict[str, Any] = {"reward_chosen": _one(mean[:cut]), "reward_rejected": _one(mean[cut:])}
        more = {"reward_chosen_std": _one(spread[:cut]), "reward_rejected_std": _one(spread[cut:])}
    elif "responses" in row.source:
        told, more = {"rewards": mean}, {"rewards_std": spread}
    else:
        told, more = {"reward": mean[0]}, {"reward_std": spread[0]}
    return {**row.source, **told, **(more if len(rewards) > 1 else {})}


def _one(values: list[float | None]) -> float | list[float | None] | None:
    return values[0] if len(values) == 1 else values


def rightness(rewards: Sequence[float], chosen: int) -> float:
    """1 where every chosen response has more than every rejected one, 0 where a rejected one has more than some chosen; where
    the highest rejected equal the lowest chosen, the chance that a fair draw among the equal ones is right."""
    lowest, highest = min(rewards[:chosen]), max(rewards[chosen:])
    if lowest != highest:
        return float(lowest > highest)
    good = sum(value == lowest for value in rewards[:chosen])
    bad = sum(value == highest for value in rewards[chosen:])
    return 1 / comb(good + bad, good)


def accuracies(results: Iterable[tuple[Row, Rewards]]) -> dict[str, Figure]:
    """``accuracy``, over all rows and by category, its ``mean_of_categories``, what chance would give, and the rewards' gap; and
    where there are any, how many rows were ``not_read`` and are in none of them. Raises UserError where none is left."""
    right: list[float] = []
    chance: list[float] = []
    gaps: list[float] = []
    prompts: list[str] = []
    categories: list[str] = []
    not_read = 0
    for row, rewards in results:
        mean = [value for value in means(rewards) if value is not None]
        if len(mean) < len(row.responses):
            not_read += 1
            continue
        right.append(rightness(mean, row.chosen))
        chance.append(1 / comb(len(mean), row.chosen))
        gaps.append(fmean(mean[: row.chosen]) - fmean(mean[row.chosen :]))
        prompts.append(row.prompt.id)
        categories.append(row.category)
    if not right:
        why = f": {not_read:,} are {NOT_READ}" if not_read else ""
        raise UserError(f"no row to test on{why}.")
    found = {
        "accuracy": cluster_mean(right, prompts),
        "chance": Figure(value=fmean(chance), n=len(chance)),
        "gap": cluster_mean(gaps, prompts),
    }
    if not_read:
        found["not_read"] = Figure(value=float(not_read), n=not_read + len(right))
    names = sorted(set(categories))
    if len(names) > 1:
        for name in names:
            own = [i for i, category in enumerate(categories) if category == name]
            found[f"accuracy.{name}"] = cluster_mean([right[i] for i in own], [prompts[i] for i in own])
        by_name = [found[f"accuracy.{name}"].value or 0.0 for name in names]
        found["mean_of_categories"] = Figure(value=fmean(by_name), n=len(names))
    return found
