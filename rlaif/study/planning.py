"""What a whole study would ask of its models: its runs' plans together. What several runs ask alike is one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rlaif.catalogue import Catalogue
from rlaif.pairs import read_pairs
from rlaif.plan import DRAWN, Plan, Planner, opened
from rlaif.plan.counting import Others
from rlaif.plan.lines import Line, total
from rlaif.prompts import ReadPrompts, prompt_rows
from rlaif.records import Prompt
from rlaif.study.recipe import JUDGES, TRUTH, Study, recipe_of

FEWEST = 200  # comparisons of a run that are rendered at least


class Size(NamedTuple):
    """Of every run of a study."""

    prompts: int
    held_out: int


async def size_of(study: Study) -> Size:
    """Raises UserError."""
    async with opened(study.recipe, study.settings(study.baseline, study.seeds[0]), Path(), lambda line: None) as road:
        if section := road.pipeline.pairs:
            pairs = read_pairs(section.source, section.split, section.limit)
            ids = {pair.comparison.prompt.id for pair in pairs if not isinstance(pair.comparison, str)}
        else:
            assert road.prompts
            reader = ReadPrompts(road.prompts)
            every = (reader.read(where, row) for where, row in prompt_rows(road.prompts))
            ids = {prompt.id for prompt in every if isinstance(prompt, Prompt)}
        return Size(len(ids), sum(map(road.is_held_out, ids)))


async def plan_study(study: Study, *, limit: int | None = None, latency_seconds: float = 2.0) -> Plan:
    """A line for each arm, stage and model, over all seeds; each run on its first ``limit`` rows. Raises UserError."""
    arms = [*study.arms, *([TRUTH] if study.truth else [])]
    drawn = max(FEWEST, DRAWN // (len(arms) * len(study.seeds)))
    keys: set[tuple[str, str]] = set()
    guessed: dict[int, list[str]] = {}
    lines: dict[str, list[Sequence[Line]]] = {arm: [] for arm in arms}
    notes: list[str] = []
    blocked: list[str] = []
    for seed in study.seeds:
        for arm in arms:
            async with opened(study.recipe, study.settings(arm, seed), Path(), notes.append, limit) as road:
                scope = str(seed) if road.pipeline.responses else ""  # of pairs that are there all seeds ask alike
                planner = Planner(road, latency_seconds, drawn, Others(keys, scope), guessed=guessed)
                if arm == TRUTH:
                    prompts = planner.measured(await planner.labels())
                    if TRUTH in study.contests:
                        await planner.contests("contests of", road.labels, prompts, times=2 * len(study.arms) - 1)
                else:
                    prompts = await planner.whole()
                    if JUDGES in study.contests and arm != study.baseline:
                        await planner.contests("contests of", road.judges, prompts)
                lines[arm].append(planner.lines)
                notes += planner.notes
                blocked += planner.blocked
    notes += planner.guesses("walk the study on few prompts first, in another --out")
    together = [line for arm, own in lines.items() for line in _together(arm, own)]
    budget = recipe_of(study, Catalogue()).budget_usd
    return Plan(tuple(together), budget, tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(blocked)))


def _together(arm: str, seeds: Sequence[Sequence[Line]]) -> list[Line]:
    """Over seeds, those that ask anything, or asked; by the arm's name."""
    found: dict[tuple[str, str, str, str], list[Line]] = {}
    for line in (line for lines in seeds for line in lines):
        found.setdefault((line.stage, line.judge, line.role, line.model), []).append(line)
    sums = [_sum(lines) for lines in found.values()]
    return [replace(line, stage=f"{arm}: {line.stage}") for line in sums if line.calls or line.paid]


def _sum(lines: Sequence[Line]) -> Line:
    first = lines[0]
    bounds = [line.most_prompt_tokens for line in lines]
    times = [line.seconds for line in lines]
    return replace(
        first,
        items=sum(line.items for line in lines),
        paid=sum(line.paid for line in lines),
        calls=sum(line.calls for line in lines),
        least_calls=sum(line.least_calls for line in lines),
        prompt_tokens=sum(line.prompt_tokens for line in lines),
        output_tokens=sum(line.output_tokens for line in lines),
        most_prompt_tokens=None if None in bounds else sum(bound or 0 for bound in bounds),
        most_output_tokens=sum(line.most_output_tokens for line in lines),
        usd=total(line.usd for line in lines),
        most_usd=total(line.most_usd for line in lines),
        cached_usd=sum(line.cached_usd for line in lines),
        seconds=None if None in times else sum(time or 0.0 for time in times),
        limit=max(lines, key=lambda line: line.seconds or 0.0).limit,
    )
