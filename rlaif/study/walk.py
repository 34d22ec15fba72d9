"""Walking a study: what does not depend on labels once for each seed, then every arm from there.

    OUT/shared/seed0    prompts, responses, comparisons
    OUT/human/seed0     a run folder that goes on from them, as any other

Each is resumed where it stands; a finished one is not walked again.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlaif.checking import open_road
from rlaif.config import Pipeline
from rlaif.errors import UserError
from rlaif.pipeline import Watcher
from rlaif.store import RECIPE, RunFolder, read_manifest, write_json
from rlaif.study.recipe import Study, differing

SHARED = "shared"
BEFORE_LABELS = ("prompts", "responses", "comparisons")  # nouns that all arms of a seed have alike


def folder_of(out: Path, arm: str, seed: int) -> Path:
    return out / arm / f"seed{seed}"


async def walk(study: Study, out: Path, watcher: Watcher) -> None:
    """All runs of a study. Raises UserError where one has come to differ in more than labels."""
    for seed in study.seeds:
        shared = folder_of(out, SHARED, seed)
        await _walk(study, None, seed, shared, watcher)
        for arm in study.arms:
            folder = folder_of(out, arm, seed)
            if not folder.exists():
                go_on_from(shared, folder)
            watcher.notice(f"{arm}, seed {seed}: {folder}")
            await _walk(study, arm, seed, folder, watcher)
    need_alike(study, out)


async def _walk(study: Study, arm: str | None, seed: int, folder: Path, watcher: Watcher) -> None:
    road = open_road(study.recipe, study.settings(arm, seed), out=folder, watcher=watcher)
    try:
        await road.run("report" if arm else "comparisons")
    finally:
        road.gateway.ledger.close()


def go_on_from(run: Path, folder: Path) -> None:
    """A run folder that holds what another does, as a run of its own. Files are the same on disk: none is ever written again in its
    place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(run, made, copy_function=os.link, ignore=shutil.ignore_patterns(".lock", "report.html"))
    manifest = read_manifest(run / "manifest.json")
    write_json(made / "manifest.json", {**manifest, "id": uuid.uuid4().hex[:16]})
    made.rename(folder)


def need_alike(study: Study, out: Path) -> None:
    """Raises UserError where arms of a seed differ in a prompt, a response, a setting, a model or a version: in anything but labels
    and what was made of them."""
    for seed in study.seeds:
        first, *others = [(arm, facts_of(folder_of(out, arm, seed))) for arm in study.arms]
        for arm, facts in others:
            if found := list(_unlike(first[1], facts)):
                raise UserError(
                    f"{folder_of(out, arm, seed)} and {folder_of(out, first[0], seed)} differ in {', '.join(found)}, and not in "
                    "labels alone: nothing can be said of the difference. Remove the one that was changed, and walk the study again."
                )


def facts_of(folder: Path) -> dict[str, Any]:
    """What arms must have alike, as their run folders hold it."""
    run = RunFolder(folder)
    return {
        "recipe": Pipeline(**json.loads((folder / RECIPE).read_text(encoding="utf-8"))),
        **{noun: run.content(noun) for noun in BEFORE_LABELS},
        "models.policy": run.manifest["models"].get("policy"),
        **{f"environment.{name}": value for name, value in run.manifest["environment"].items()},
    }


def _unlike(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    yield from differing(one["recipe"], other["recipe"])
    for name in dict.fromkeys((*one, *other)):
        if name != "recipe" and one.get(name) != other.get(name):
            yield name
