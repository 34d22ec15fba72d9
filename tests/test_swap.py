"""The swap changes one column: identical judgements from people or from judges give the same bytes downstream."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from rlaif.labels import LabelContext
from rlaif.labels.human import HumanLabels
from rlaif.records import Comparison, Judgement
from rlaif.store import RunFolder
from tests.runs import rlaif
from tests.tiny import write_jsonl

RECIPE: dict[str, Any] = {
    "models": {"policy": "policy"},
    "pairs": "pairs.jsonl",
    "held_out": 0.2,
    "reward_model": {
        "options": {"batch_prompts": 8, "learning_rate": 1e-3, "normalise_on": 16},
        "sampling": {"max_output_tokens": 8},
    },
    "policies": [{"name": "dpo", "options": {"batch_prompts": 8, "learning_rate": 1e-4}}],
}


def pairs(count: int = 60) -> list[dict[str, Any]]:
    """Labelled pairs with wins for either side, ties, and one row without a label."""
    draw = random.Random(0)
    rows = []
    for i in range(count):
        label = draw.choice(["a", "b", "b", "tie"]) if i else None
        rows.append(
            {
                "prompt": f"which way is number {i % 40}",
                "response_a": " ".join(draw.choices(["first", "long", "day", "water"], k=draw.randint(1, 9))) + f" {i}",
                "response_b": " ".join(draw.choices(["up", "down", "side", "part"], k=draw.randint(1, 9))),
                "label": label,
            }
        )
    return rows


def run(folder: Path, labels: dict[str, Any], policy: Path, name: str) -> RunFolder:
    (folder / "policy").exists() or (folder / "policy").symlink_to(policy)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(RECIPE | {"labels": labels}))
    rlaif(folder, "run", f"{name}.yaml", "--out", name)
    return RunFolder(folder / name)


def tensors(path: Path) -> dict[str, bytes]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).numpy().tobytes() for name in sorted(file.keys())}


def assert_same_downstream(one: RunFolder, other: RunFolder) -> None:
    assert one.content("preferences") == other.content("preferences")
    for model in ("reward_model", "policies/dpo"):
        assert tensors(one.path / model / "model.safetensors") == tensors(other.path / model / "model.safetensors")


def test_identical_labels_entered_as_human_and_as_ai_give_equal_preferences_and_tensors(
    tmp_path: Path, policy_folder: Path
) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", pairs())
    (tmp_path / "judges").mkdir()
    (tmp_path / "judges" / "recorded.yaml").write_text(
        "protocol: scripted\nmodel_role: null\noptions: {table: pairs.jsonl}\n"
    )
    human = run(tmp_path, {"source": "human"}, policy_folder, "human")
    ai = run(tmp_path, {"source": "judges", "options": {"judges": ["recorded"]}}, policy_folder, "ai")

    assert human.content("judgements") != ai.content("judgements")  # who said it, and in which order, differs
    assert_same_downstream(human, ai)
    assert any(row.weight == 0 for row in human.read("preferences"))
    assert any(row.p == 0.5 and row.weight == 1 for row in human.read("preferences"))


class Renamed(HumanLabels):
    """Human labels whose source column is drawn at random per row."""

    class Options(HumanLabels.Options):
        seed: int = 0

    def __init__(self, options: Options, context: LabelContext) -> None:
        super().__init__(options, context)
        self.seed = options.seed

    def signature(self) -> Any:
        return {**super().signature(), "seed": self.seed}

    async def label(self, batches: AsyncIterator[list[Comparison]]) -> AsyncIterator[list[Judgement]]:
        draw = random.Random(self.seed)
        async for judgements in super().label(batches):
            names = [f"{draw.choice(['human', 'judge'])}:{draw.randrange(9)}" for _ in judgements]
            yield [j.model_copy(update={"labeller": name}) for j, name in zip(judgements, names, strict=True)]


def test_permuting_the_source_column_changes_no_hash(tmp_path: Path, policy_folder: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", pairs(30))
    source = "tests.test_swap:Renamed"
    runs = [
        run(tmp_path, {"source": source, "options": {"seed": seed}}, policy_folder, f"run{seed}") for seed in (1, 2)
    ]
    assert runs[0].content("provenance") != runs[1].content("provenance")
    assert_same_downstream(*runs)


def test_missing_labels_keep_their_rows_so_that_plans_do_not_depend_on_the_source(
    tmp_path: Path, policy_folder: Path
) -> None:
    rows = pairs(20)
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    full = run(tmp_path, {"source": "human"}, policy_folder, "full")
    write_jsonl(tmp_path / "some.jsonl", [row | {"label": None} if i % 3 else row for i, row in enumerate(rows)])
    some = run(tmp_path, {"source": "human", "options": {"file": "some.jsonl"}}, policy_folder, "some")
    ids = [[row.comparison_id for row in folder.read("preferences")] for folder in (full, some)]
    assert ids[0] == ids[1]
    assert sum(row.weight for row in some.read("preferences")) < sum(row.weight for row in full.read("preferences"))
