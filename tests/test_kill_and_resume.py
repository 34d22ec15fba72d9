"""`kill -9` anywhere, run again: the same files as an uninterrupted run, and no reply is asked for twice."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import slow
from tests.runs import kill_when, ledger_rows, rlaif, stage_files, start
from tests.tiny import write_jsonl

LOOSE = "protocol: pairwise-logprobs\noptions: {minimum_mass: 0.0}\n"
RECIPE = """
seed: 3
models: {policy: policy, judge: judge}
prompts: prompts.jsonl
responses: {samples: 3, sampling: {max_output_tokens: 10}}
labels: {source: judges, options: {judges: [loose]}}
held_out: 0.25
shard_rows: 30
reward_model: {options: {batch_prompts: 2, learning_rate: 1.0e-3, epochs: 3}}
policies: [{name: dpo, options: {batch_prompts: 2, learning_rate: 1.0e-4, epochs: 3}}, best-of-n]
evaluation: {judges: [loose], prompts: 20}
"""


def prepare(folder: Path, policy: Path, judge: Path) -> Path:
    """A user's folder: two models, prompts, a judge, a recipe."""
    folder.mkdir()
    (folder / "policy").symlink_to(policy)
    (folder / "judge").symlink_to(judge)
    (folder / "judges").mkdir()
    (folder / "judges" / "loose.yaml").write_text(LOOSE)
    (folder / "recipe.yaml").write_text(RECIPE)
    write_jsonl(folder / "prompts.jsonl", [{"prompt": f"how long is way number {i} to the water"} for i in range(40)])
    return folder


Point = Callable[[Path], bool]


def exists(pattern: str) -> Point:
    return lambda folder: any(folder.glob(f"run/{pattern}"))


def replies(at_least: int) -> Point:
    return lambda folder: ledger_rows(folder) >= at_least


POINTS: dict[str, Point] = {
    "prompts read": exists("prompts/part-00000.parquet"),
    "first samples": replies(1),
    "a batch being sampled": lambda folder: ledger_rows(folder, "claims") > 0,
    "a shard of responses": exists("responses/part-00001.parquet"),
    "comparisons": exists("comparisons/part-00000.parquet"),
    "first judgements": replies(121),
    "a batch being judged": lambda folder: ledger_rows(folder) >= 120 and ledger_rows(folder, "claims") > 0,
    "a shard of judgements": exists("judgements/part-00002.parquet"),
    "preferences": exists("preferences/part-00000.parquet"),
    "reward model in training": exists("training/reward_model/checkpoint-*/rlaif-complete"),
    "reward model written": exists("reward_model/model.safetensors"),
    "policy in training": exists("training/policies/dpo/checkpoint-*/optimizer.pt"),
    "policy written": exists("policies/dpo/model.safetensors"),
    "evaluation": exists("evaluation/judgements/part-00001.parquet"),
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, policy_folder: Path, judge_folder: Path) -> tuple[Path, int]:
    """An uninterrupted run, and how many requests it took."""
    folder = prepare(tmp_path_factory.mktemp("straight") / "work", policy_folder, judge_folder)
    return folder / "run", asked_in(rlaif(folder, "run", "recipe.yaml", "--out", "run"))


def asked_in(text: str) -> int:
    """Requests put to models, as the summary says."""
    return sum(int(n.replace(",", "")) for n in re.findall(r"model \S+: ([\d,]+) asked", text))


SLOW = (
    "prompts read",
    "a shard of responses",
    "comparisons",
    "first judgements",
    "reward model written",
    "policy written",
)


@pytest.mark.parametrize(
    "point",
    [(slow if name in SLOW else pytest.param)(name, id=name.replace(" ", "-")) for name in POINTS],
)
def test_killed_and_resumed_equals_uninterrupted(
    point: str, straight: tuple[Path, int], tmp_path: Path, policy_folder: Path, judge_folder: Path
) -> None:
    reference, total = straight
    folder = prepare(tmp_path / "work", policy_folder, judge_folder)
    killed = kill_when(start(folder, "run", "recipe.yaml", "--out", "run"), lambda: POINTS[point](folder))
    assert killed, "the run ended before it could be killed"
    kept = ledger_rows(folder)

    text = rlaif(folder, "run", "recipe.yaml", "--out", "run")

    expected, found = stage_files(reference), stage_files(folder / "run")
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert ledger_rows(folder) == ledger_rows(reference.parent)
    # What was kept is not asked again. A planned batch runs whole: best-of-n's first draws are the start's answers, so
    # an uninterrupted run asks a few requests twice, before or after the kill.
    assert ledger_rows(reference.parent) - kept <= asked_in(text) <= total - kept


def test_a_finished_run_run_again_asks_nothing_and_changes_nothing(straight: tuple[Path, int], tmp_path: Path) -> None:
    reference, _ = straight
    before = stage_files(reference)
    (reference.parent / "log").unlink()
    text = rlaif(reference.parent, "run", "recipe.yaml", "--out", "run")
    assert stage_files(reference) == before
    assert asked_in(text) == 0


def test_an_edited_recipe_reruns_only_what_depends_on_it(straight: tuple[Path, int], tmp_path: Path) -> None:
    reference, _ = straight
    folder = tmp_path / "work"
    shutil.copytree(reference.parent, folder, symlinks=True)
    before = stage_files(folder / "run")
    rlaif(folder, "run", "recipe.yaml", "--out", "run", "--set", "preferences.clamp=[0.5, 0.5]")
    after = stage_files(folder / "run")
    same = {name.partition("/")[0] for name in before if after.get(name) == before[name]}
    assert {"prompts", "responses", "comparisons", "judgements"} <= same
    assert after["preferences/part-00000.parquet"] != before["preferences/part-00000.parquet"]
    assert any((folder / "run" / "superseded").iterdir())  # nothing was deleted
