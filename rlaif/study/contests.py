"""Policies of an arm against those of the arm it is held against, by the judges of the recipe's evaluation and by the truth."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif.checking import open_road
from rlaif.component import code_hash
from rlaif.evaluate import Arm, contests, judged, passed_over, read_wins
from rlaif.evaluation_stage import EvaluationStage
from rlaif.labels import LabelSource, requests_per_comparison
from rlaif.pipeline import Road, Watcher
from rlaif.records import Comparison, Judgement, Prompt, Response, digest
from rlaif.store import RunFolder, read_shard, write_json, write_table
from rlaif.study.policies import ACCOUNT, AGAINST_START, CONTEST, HEAD_TO_HEAD
from rlaif.study.pool import Contest
from rlaif.study.recipe import JUDGES, TRUTH

SIGNATURE = "signature.json"
Answers = Mapping[str, Response]  # by prompt


async def contest(
    recipe: str, settings: Sequence[str], folder: Path, asked: Contest, watcher: Watcher, pot: str
) -> None:
    """The verdicts into ``asked.out``; nothing is asked again where neither the answers nor the judges have changed. Nothing happens
    where the recipe has no policies, or no judges to ask. ``pot`` pays."""
    who: dict[str, Sequence[str]] = {}
    if asked.against and asked.judges:
        who[JUDGES] = settings
    if asked.truth is not None:
        who[TRUTH] = asked.truth
    for name, own in who.items():
        road = open_road(recipe, own, out=folder, watcher=watcher)
        road.gateway.pot = pot
        await _judged_by(name, road, asked)


async def _judged_by(who: str, road: Road, asked: Contest) -> None:
    """By the judges of the recipe: against the other run. By the truth, which are the labels of this road: against the start too."""
    try:
        road.run_folder = RunFolder(road.folder, road.watcher.notice)
        road.gateway.run = road.run_folder.id
        source = road.judges if who == JUDGES else road.labels
        opponents = {HEAD_TO_HEAD: asked.against} if asked.against else {}
        if who == TRUTH:
            opponents[AGAINST_START] = road.folder
        if source and road.methods and road.pipeline.evaluation:
            await _contests(road, source, opponents, asked.out / who)
        else:
            shutil.rmtree(asked.out / who, ignore_errors=True)  # of a recipe that had some
    finally:
        await road.gateway.close()
        road.gateway.ledger.close()


async def _contests(road: Road, source: LabelSource, opponents: Mapping[str, Path], out: Path) -> None:
    assert road.pipeline.evaluation is not None
    prompts, _ = EvaluationStage(road).prompts()
    ours = {name: _answers(road.folder, place) for place, name in enumerate(road.methods, 1)}
    theirs = {  # of the start each is against the same
        kind: {
            name: _answers(folder, 0 if kind == AGAINST_START else place) for place, name in enumerate(road.methods, 1)
        }
        for kind, folder in opponents.items()
    }
    signature = digest(
        "contest",
        [source.signature(), code_hash(source)],
        road.pipeline.evaluation.judged,
        road.evaluation_seed,
        [prompt.fingerprint() for prompt in prompts],
        _contents(ours),
        {kind: _contents(side) for kind, side in theirs.items()},
    )
    if (out / CONTEST).is_file() and _signature(out) == signature:
        return
    tolerance = road.pipeline.failure_tolerance
    left = passed_over(prompts, road.pipeline.evaluation.judged, road.evaluation_seed)
    rows: dict[str, list[Any]] = {"kind": [], "policy": [], "prompt_id": [], "win": [], "longer_by": []}
    accounts: dict[str, dict[str, dict[str, Any]]] = {}
    again = False
    for kind, others in theirs.items():
        for number, name in enumerate(road.methods, 1):
            one, other = (_arm(name, prompts, side[name]) for side in (ours, others))
            one.passed_over = left
            asked = contests(prompts, other, one)
            comparisons = [comparison for comparison in asked if comparison]
            with road.counting(f"contests of {name}", len(comparisons) * requests_per_comparison(source)):
                judgements = await judged(source, comparisons, out / "judgements" / kind / f"part-{number:05d}.parquet")
            read_wins(one, other, asked, judgements)
            outcomes = _outcomes(asked, one)
            accounts.setdefault(kind, {})[name] = {
                "in": len(comparisons), "outcomes": outcomes, "reasons": _reasons(judgements),
            }  # fmt: skip
            again = again or any(judgement.retryable for judgement in judgements)
            if outcomes["without verdict"] > tolerance * len(comparisons):
                continue  # where answers are equal nobody has to be asked: those alone would look like a draw
            for prompt, win, mine, yours in zip(prompts, one.wins, one.responses, other.responses, strict=True):
                if win is not None and mine and yours:
                    cells = (kind, name, prompt.id, win, float(len(mine.text.split()) - len(yours.text.split())))
                    for column, cell in zip(rows.values(), cells, strict=True):
                        column.append(cell)
    write_table(out / CONTEST, rows)
    write_json(out / ACCOUNT, accounts)
    told = None if again else signature  # what could be asked again is, another time
    write_json(out / SIGNATURE, {"signature": told})


def _contents(side: Mapping[str, Answers]) -> list[list[str]]:
    return [[row.fingerprint() for row in answers.values()] for answers in side.values()]


def _outcomes(asked: Sequence[Comparison | None], arm: Arm) -> dict[str, int]:
    """Of the contests that were asked about."""
    names = {1.0: "won", 0.5: "tied", 0.0: "lost", None: "without verdict"}
    found = Counter(names[win] for comparison, win in zip(asked, arm.wins, strict=True) if comparison)
    return {name: found[name] for name in names.values()}


def _reasons(judgements: Sequence[Judgement]) -> dict[str, int]:
    """Why there is no verdict, by judgement."""
    return dict(Counter(each.reason or each.outcome for each in judgements if each.outcome != "ranked"))


def _signature(out: Path) -> str | None:
    path = out / SIGNATURE
    return json.loads(path.read_text(encoding="utf-8"))["signature"] if path.is_file() else None


def _answers(run: Path, place: int) -> Answers:
    """Those of the start are in place 0, before each policy's."""
    shard = run / "evaluation" / "responses" / f"part-{place:05d}.parquet"
    return {row.prompt_id: row for row in read_shard(shard, Response, sound=False)}


def _arm(name: str, prompts: Sequence[Prompt], answers: Answers) -> Arm:
    return Arm(name, [answers.get(prompt.id) for prompt in prompts])
