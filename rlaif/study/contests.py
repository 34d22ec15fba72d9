"""Policies of an arm against those of the arm it is held against, by the judges of the recipe's evaluation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif.checking import open_road
from rlaif.evaluate import Arm, contests, judged, passed_over, read_wins
from rlaif.evaluation_stage import EvaluationStage
from rlaif.labels import requests_per_comparison
from rlaif.pipeline import Road, Watcher
from rlaif.records import Comparison, Prompt, Response, digest
from rlaif.store import RunFolder, read_shard, write_json, write_table
from rlaif.study.policies import ACCOUNT, CONTEST

SIGNATURE = "signature.json"


async def contest(
    recipe: str, settings: Sequence[str], folder: Path, against: Path, out: Path, watcher: Watcher
) -> None:
    """The verdicts into ``out``; nothing is asked again where neither the answers nor the judges have changed. Nothing happens
    where the recipe has no judges to ask."""
    road = open_road(recipe, settings, out=folder, watcher=watcher)
    try:
        road.run_folder = RunFolder(folder, watcher.notice)
        road.gateway.run = road.run_folder.id
        if road.judges and road.methods:
            await _contest(road, folder, against, out)
        else:
            shutil.rmtree(out, ignore_errors=True)  # of a recipe that had judges
    finally:
        await road.gateway.close()
        road.gateway.ledger.close()


async def _contest(road: Road, folder: Path, against: Path, out: Path) -> None:
    assert road.judges is not None
    assert road.pipeline.evaluation is not None
    prompts, _ = EvaluationStage(road).prompts()
    sides = [{name: _answers(run, place) for place, name in enumerate(road.methods, 1)} for run in (folder, against)]
    signature = digest(
        "contest",
        road.judges.signature(),
        road.pipeline.evaluation.judged,
        road.evaluation_seed,
        [prompt.fingerprint() for prompt in prompts],
        [[[row.fingerprint() for row in many.values()] for many in side.values()] for side in sides],
    )
    if (out / CONTEST).is_file() and _signature(out) == signature:
        return
    left = passed_over(prompts, road.pipeline.evaluation.judged, road.evaluation_seed)
    rows: dict[str, list[Any]] = {"policy": [], "prompt_id": [], "win": [], "longer_by": []}
    accounts: dict[str, dict[str, int]] = {}
    again = False
    for number, name in enumerate(road.methods, 1):
        ours, theirs = (_arm(name, prompts, side[name]) for side in sides)
        ours.passed_over = left
        asked = contests(prompts, theirs, ours)
        comparisons = [comparison for comparison in asked if comparison]
        with road.counting(f"contests of {name}", len(comparisons) * requests_per_comparison(road.judges)):
            judgements = await judged(road.judges, comparisons, out / "judgements" / f"part-{number:05d}.parquet")
        read_wins(ours, theirs, asked, judgements)
        for prompt, win, mine, yours in zip(prompts, ours.wins, ours.responses, theirs.responses, strict=True):
            if win is not None and mine and yours:
                cells = (name, prompt.id, win, float(len(mine.text.split()) - len(yours.text.split())))
                for column, cell in zip(rows.values(), cells, strict=True):
                    column.append(cell)
        accounts[name] = {"asked": len(comparisons), "without_verdict": _without_verdict(asked, ours)}
        again = again or any(judgement.retryable for judgement in judgements)
    write_table(out / CONTEST, rows)
    write_json(out / ACCOUNT, accounts)
    write_json(
        out / SIGNATURE, {"signature": None if again else signature}
    )  # what could be asked again is, another time


def _without_verdict(asked: Sequence[Comparison | None], arm: Arm) -> int:
    return sum(comparison is not None and win is None for comparison, win in zip(asked, arm.wins, strict=True))


def _signature(out: Path) -> str | None:
    path = out / SIGNATURE
    return json.loads(path.read_text(encoding="utf-8"))["signature"] if path.is_file() else None


def _answers(run: Path, place: int) -> Mapping[str, Response]:
    shard = run / "evaluation" / "responses" / f"part-{place:05d}.parquet"
    return {row.prompt_id: row for row in read_shard(shard, Response, sound=False)}


def _arm(name: str, prompts: Sequence[Prompt], answers: Mapping[str, Response]) -> Arm:
    return Arm(name, [answers.get(prompt.id) for prompt in prompts])
