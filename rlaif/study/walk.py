"""Walking a study: what does not depend on labels once for each seed, then every arm from there.

    OUT/shared/seed0    prompts, responses, comparisons
    OUT/human/seed0     a run folder that goes on from them, as any other
    OUT/truth/seed0     labels that nothing learns from, where the study names some
    OUT/contests/ai/seed0    verdicts on the arm's policies against those of the arm that it is held against, by judges/ and truth/
    OUT/curves/ai/seed0/250  a reward model of the arm that learnt from so many labels
    OUT/tuning/ai/2          one with the second of the settings that every arm tries, of the first seed

Each is resumed where it stands; a finished one is not walked again.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import uuid
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlaif.catalogue import Catalogue
from rlaif.config import load_pipeline
from rlaif.errors import UserError
from rlaif.pipeline import Watcher
from rlaif.records import digest, uniform
from rlaif.statistics import flip_rate
from rlaif.store import RunFolder, alone, environment, read_manifest, write_json
from rlaif.study.budget import AT_WORK, opened_pot
from rlaif.study.labelled import agreement_of_people, pairs_of
from rlaif.study.pool import Contest, Pool, Run, own_environment
from rlaif.study.recipe import (
    CONTESTS,
    CURVES,
    JUDGES,
    OF_REWARD_MODELS,
    SHARED,
    STUDY_FILE,
    TRUTH,
    TUNING,
    Study,
    differing,
    recipe_in,
    recipe_of,
)
from rlaif.study.trained import Held, held_of, only, own_loss

OF_THE_RUN = (".lock", "report.html", "accounts.json", "metrics.json", "superseded")  # not of what goes on from it
MACHINE = "machine.json"  # what all runs of a study have in common besides what their recipes say
REWARD_MODEL_ALONE = ("policies=[]", "evaluation=null")
TRAINED = ("reward_model", "reward_members", "policies", "training", "evaluation")
BEFORE_LABELS = ("prompts", "responses", "comparisons")  # nouns that all arms of a seed have alike


def folder_of(out: Path, arm: str, seed: int) -> Path:
    return out / arm / f"seed{seed}"


def contest_folder(out: Path, arm: str, seed: int) -> Path:
    """Where the contests of an arm's policies with those of the arm that it is held against are kept."""
    return folder_of(out / CONTESTS, arm, seed)


def curve_folder(out: Path, arm: str, seed: int, labels: int) -> Path:
    return folder_of(out / CURVES, arm, seed) / str(labels)


def tuning_folder(out: Path, arm: str, number: int) -> Path:
    return out / TUNING / arm / str(number)


async def walk(study: Study, out: Path, watcher: Watcher) -> None:
    """All runs of a study. Raises UserError where one has come to differ in more than labels, and before anything is walked where
    another process is at work in ``out``, or what was walked there was walked otherwise."""
    with alone(out):
        need_same_machine(study, out)
        pot = await opened_pot(study, out, watcher)
        write_json(out / STUDY_FILE, study.model_dump(mode="json"))  # as it is walked, --set and all
        await _walk(study, out, watcher, pot)


def need_same_machine(study: Study, out: Path) -> None:
    """Raises UserError where the runs so far had other versions or another number of threads: then arms would differ in those."""
    now = environment() | {"threads": own_environment(study.at_once, os.environ)["OMP_NUM_THREADS"]}
    path = out / MACHINE
    if not path.is_file():
        write_json(path, now)
    before = json.loads(path.read_text(encoding="utf-8"))
    if found := [name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]:
        words = ", ".join(f"{name} {before.get(name)} then, {now.get(name)} now" for name in found)
        raise UserError(
            f"{out}: its runs were begun otherwise ({words}), and arms may differ in labels alone. What would do: the same again "
            "(at_once sets the threads of a run), or another --out."
        )


async def _walk(study: Study, out: Path, watcher: Watcher, pot: str) -> None:
    tuned = {name: asyncio.Event() for name in study.arms}  # in the first seed, for all
    walked = {(name, seed): asyncio.Event() for name in study.arms for seed in study.seeds}
    async with Pool(study.at_once, watcher, pot, out / AT_WORK) as pool:
        await _all(_walk_seed(study, seed, out, pool, tuned, walked) for seed in study.seeds)
    need_alike(study, out)


async def _walk_seed(
    study: Study,
    seed: int,
    out: Path,
    pool: Pool,
    tuned: Mapping[str, asyncio.Event],
    walked: Mapping[tuple[str, int], asyncio.Event],
) -> None:
    shared, recipe = folder_of(out, SHARED, seed), recipe_of(study, Catalogue())
    await pool.walk(Run(f"seed {seed}", study.recipe, study.settings(study.baseline, seed), shared, "comparisons"))

    async def arm_of(name: str) -> None:
        arm = study.arms[name]
        for each in study.seeds if arm.noise_like else ():
            await walked[arm.noise_like, each].wait()
        settings = study.settings(name, seed, rate_of(study, name, out))
        folder = folder_of(out, name, seed)
        run = Run(f"{name}, seed {seed}", study.recipe, settings, begun(folder, shared), "report")
        if study.tune and seed == study.seeds[0]:
            await _all(tried(run, name, number) for number in range(1, len(study.tune) + 1))
            tuned[name].set()
        if study.tune:
            await tuned[name].wait()
            run = replace(run, settings=[*settings, *study.tune[choice_of(study, name, out) - 1]])
        await pool.walk(run)
        walked[name, seed].set()
        await _all([contest(run, name), *(shorter(run, name, count) for count in study.sizes(name))])

    async def tried(run: Run, name: str, number: int) -> None:
        folder = begun(tuning_folder(out, name, number), shared)
        settings = [*run.settings, *study.tune[number - 1], *REWARD_MODEL_ALONE]
        await pool.walk(Run(f"{name}, settings {number}", run.recipe, settings, folder, "policy"))

    async def contest(run: Run, name: str) -> None:
        if not recipe.policies or not recipe.evaluation:
            return
        truth = study.settings(TRUTH, seed) if TRUTH in study.contests else None
        if name != study.baseline:
            await walked[study.baseline, seed].wait()
        elif truth is None:
            return
        against = None if name == study.baseline else folder_of(out, study.baseline, seed)
        asked = Contest(against, contest_folder(out, name, seed), JUDGES in study.contests, truth)
        await pool.walk(replace(run, until=asked))

    async def shorter(run: Run, name: str, labels: int) -> None:
        folder = curve_folder(out, name, seed, labels)
        if not folder.exists():
            go_on_from(run.folder, folder, without=TRAINED)
        what, more = f"{run.name}, {labels} labels", [labels_setting(labels), *REWARD_MODEL_ALONE]
        await pool.walk(Run(what, run.recipe, [*run.settings, *more], folder, "policy"))

    async def truth() -> None:
        folder = begun(folder_of(out, TRUTH, seed), shared)
        await pool.walk(Run(f"truth, seed {seed}", study.recipe, study.settings(TRUTH, seed), folder, "preferences"))

    await _all([*map(arm_of, study.arms), *([truth()] if study.truth else [])])


def begun(folder: Path, shared: Path) -> Path:
    """A run folder that goes on from the other, begun where it is not there."""
    if not folder.exists():
        go_on_from(shared, folder)
    return folder


def choice_of(study: Study, arm: str, out: Path) -> int:
    """Which of the settings that every arm tried is an arm's: those whose reward model has the lowest loss on the arm's own labels of
    half of the held-out prompts. What is measured is measured on the other half."""
    tried = [held_of(tuning_folder(out, arm, number)) for number in range(1, len(study.tune) + 1)]
    losses = [own_loss(only(held, chosen_by)) for held in tried]
    if not any(map(math.isfinite, losses)):
        raise UserError(
            f"tune: {arm} has no labels of the held-out prompts that settings are chosen by. What would do: a larger held_out, or no "
            "tune."
        )
    return 1 + min((loss, place) for place, loss in enumerate(losses) if math.isfinite(loss))[1]


def chosen_by(prompt_id: str) -> bool:
    """Whether settings are chosen by a held-out prompt, rather than measured on it."""
    return uniform("tuning", prompt_id) < 0.5


def measured_by(study: Study, folder: Path) -> Held | None:
    """What a run's reward model says of the held-out prompts that no settings were chosen by."""
    return only(held_of(folder), lambda prompt: not (study.tune and chosen_by(prompt)))


def rate_of(study: Study, arm: str, out: Path) -> float | None:
    """How many of an arm's labels are turned round, where it is as many as the people of another arm slip, over all seeds; None
    elsewhere. Raises UserError where it is not known how far those agree."""
    like = study.arms[arm].noise_like
    if not like:
        return None
    agreement = agreement_of_people(pairs_of(folder_of(out, like, seed)) for seed in study.seeds)
    try:
        if agreement.value is None:
            raise ValueError("no pair has labels of two people who both prefer a response")
        return round(flip_rate(agreement.value), 4)
    except ValueError as error:
        raise UserError(
            f"arms.{arm}.noise_like: how often the people of {like} slip is not known: {error}. What would do: labels of two people "
            "on some of the pairs; or labels of source noisy, with a rate."
        ) from error


async def _all(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of them at once, as far as there are processes; the first that fails stops the others, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


def go_on_from(run: Path, folder: Path, without: Sequence[str] = ()) -> None:
    """A run folder that holds what another does, as a run of its own; ``without`` some stages and their folders. Files are the same
    on disk: none is ever written again in its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(run, made, copy_function=_linked, ignore=shutil.ignore_patterns(*OF_THE_RUN, *without))
    manifest = read_manifest(run / "manifest.json")
    stages = {name: state for name, state in manifest["stages"].items() if name.partition("/")[0] not in without}
    write_json(made / "manifest.json", {**manifest, "stages": stages, "id": uuid.uuid4().hex[:16]})
    made.rename(folder)


def _linked(one: str, other: str) -> None:
    try:
        os.link(one, other)
    except OSError:  # a disk that knows no links
        shutil.copy2(one, other)


def need_alike(study: Study, out: Path) -> None:
    """Raises UserError where a run has other settings than the study gives it, or arms of a seed differ in a prompt, a response, a
    file, a model or the software: in anything but labels and what was made of them."""
    recipe = Catalogue().find("pipeline", study.recipe, where="rlaif compare")
    for seed in study.seeds:
        against = folder_of(out, study.baseline, seed)
        facts = facts_of(against)
        for folder, settings, labelled in _runs_of(study, seed, out):
            if found := list(differing(load_pipeline(recipe, settings), recipe_in(folder))):
                raise UserError(
                    f"{folder} differs from what the study gives it in {', '.join(found)}, and not in labels "
                    "alone: nothing can be said of it. Remove it, and walk the study again."
                )
            if labelled and (found := list(_unlike(facts, facts_of(folder)))):
                raise UserError(
                    f"{folder} and {against} differ in {', '.join(found)}, and not in "
                    "labels alone: nothing can be said of the difference. Remove the one that was changed, and walk the study again."
                )


def _runs_of(study: Study, seed: int, out: Path) -> Iterator[tuple[Path, list[str], bool]]:
    """Every run of a seed that anything is told of, with what the study lays over the recipe for it; and whether it has labels of its
    own, rather than those of another."""
    if study.truth:
        yield folder_of(out, TRUTH, seed), study.settings(TRUTH, seed), True
    for arm in study.arms:
        settings = study.settings(arm, seed, rate_of(study, arm, out))
        for number, tried in enumerate(study.tune if seed == study.seeds[0] else (), 1):
            yield tuning_folder(out, arm, number), [*settings, *tried, *REWARD_MODEL_ALONE], False
        settings += study.tune[choice_of(study, arm, out) - 1] if study.tune else ()
        yield folder_of(out, arm, seed), settings, True
        for labels in study.sizes(arm):
            yield curve_folder(out, arm, seed, labels), [*settings, labels_setting(labels), *REWARD_MODEL_ALONE], False


def labels_setting(labels: int) -> str:
    """What has a reward model learn from so many."""
    return f"{OF_REWARD_MODELS}labels={labels}"


def facts_of(folder: Path) -> dict[str, Any]:
    """What arms must have alike, as their run folders hold it: of models, files and inputs those that both have, for an arm may ask
    a judge, or read a file of labels, that another does not."""
    run = RunFolder(folder)
    manifest = run.manifest
    return {
        **{noun: digest([row.fingerprint() for row in run.read(noun)]) for noun in BEFORE_LABELS},
        **{f"environment.{name}": version for name, version in manifest["environment"].items()},
        **{f"models.{role}": model for role, model in manifest["models"].items()},
        **{f"files.{each['kind']}.{each['name']}": each["sha256"] for each in manifest["files"] if each["builtin"]},
        **{
            f"files.own.{each['kind']}.{each['name']}": each["sha256"]
            for each in manifest["files"]
            if not each["builtin"]
        },
        **{f"inputs.{each['source']}": each["sha256"] for each in manifest["inputs"]},
    }


OF_ONE = ("models.", "files.", "inputs.")  # facts that one arm may have alone


def _unlike(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys((*one, *other)):
        of_one = name.startswith(OF_ONE) and not (name in one and name in other)
        if not of_one and one.get(name) != other.get(name):
            yield name
