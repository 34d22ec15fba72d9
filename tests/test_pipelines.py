"""The shipped pipelines on small models, from the command line to rows another trainer takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.store import RunFolder
from tests.conftest import ROOT
from tests.runs import rlaif
from tests.test_swap import pairs
from tests.tiny import write_jsonl

LOOSE = "protocol: pairwise-logprobs\nrubric: helpful-and-safe\noptions: {minimum_mass: 0.0}\n"
QUICK = [
    "reward_model.options={batch_prompts: 8, learning_rate: 1.0e-3, normalise_on: 40}",
    "policies=[{name: dpo, options: {batch_prompts: 8, learning_rate: 1.0e-4}}, {name: best-of-n, options: {n: 2}}]",
]
ARGUMENTS: dict[str, list[str]] = {
    "human-preferences": [
        "pairs=pairs.jsonl",
        "evaluation.sampling.max_output_tokens=8",
        "reward_model.sampling.max_output_tokens=8",
        *QUICK,
    ],
    "ai-preferences": [
        "prompts=set:first-questions",
        "models.judge=judge",
        "responses.sampling.max_output_tokens=8",
        "labels.options.judges=[loose, longest]",
        "evaluation.judges=[loose]",
        "held_out=0.4",
        *QUICK,
    ],
}


def test_every_shipped_pipeline_is_run_below() -> None:
    shipped = {path.stem for path in (ROOT / "pipelines").rglob("*.yaml")}
    assert shipped
    assert shipped == set(ARGUMENTS)


@pytest.fixture(scope="module", params=sorted(ARGUMENTS))
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, policy_folder: Path, judge_folder: Path
) -> tuple[Path, str]:
    """A shipped pipeline run to its end: the run folder and what was printed."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "policy").symlink_to(policy_folder)
    (folder / "judge").symlink_to(judge_folder)
    (folder / "judges").mkdir()
    (folder / "judges" / "loose.yaml").write_text(LOOSE)
    write_jsonl(folder / "pairs.jsonl", pairs())
    settings = [part for setting in ("models.policy=policy", *ARGUMENTS[request.param]) for part in ("--set", setting)]
    text = rlaif(folder, "run", request.param, "--out", "run", *settings)
    return folder / "run", text


def test_the_accounts_add_up_and_are_printed(finished: tuple[Path, str]) -> None:
    run, text = finished
    accounts = json.loads((run / "accounts.json").read_text())
    assert "preferences" in accounts
    for stage, account in accounts.items():
        assert account["in"] == sum(account["outcomes"].values()), stage
        assert f"{stage:<20}{account['in']:>9,} {account['unit']}" in text
        if account["unit"] != "preferences":
            left = {"filtered", "failed", "refused", "unreadable"}
            excluded = sum(count for outcome, count in account["outcomes"].items() if outcome in left)
            assert excluded == sum(account["reasons"].values()), stage
    assert "report.html" in text


def test_every_figure_has_the_one_shape(finished: tuple[Path, str]) -> None:
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    for name, figure in metrics.items():
        assert set(figure) == {"value", "low", "high", "n"}, name
        if figure["low"] is not None and figure["value"] is not None:
            assert figure["low"] <= figure["value"] + 1e-9, name
            assert figure["value"] <= figure["high"] + 1e-9, name
    for name in ("reward_model.accuracy", "length.before", "length.after", "policy.kl", "agreement.longest"):
        assert name in metrics


def test_the_report_is_one_file_that_asks_nothing_of_the_network(finished: tuple[Path, str]) -> None:
    html = (finished[0] / "report.html").read_text()
    assert "<svg" in html
    for outside in ("src=", "<link", "@import", "<script"):
        assert outside not in html
    assert "held-out pairs the reward model agrees" in html


def test_a_copy_of_every_file_used_is_kept_with_its_hash(finished: tuple[Path, str]) -> None:
    import hashlib

    run = finished[0]
    manifest = json.loads((run / "manifest.json").read_text())
    kept = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (run / "config").rglob("*") if path.is_file()}
    assert manifest["files"]
    assert {file["sha256"] for file in manifest["files"]} <= kept
    assert all(len(model["sha256"]) == 64 for model in manifest["models"].values())


def test_judgements_lead_to_their_reply(finished: tuple[Path, str]) -> None:
    from rlaif.ledger import Ledger

    run = finished[0]
    keys = [key for judgement in RunFolder(run).read("judgements") for key in judgement.reply_keys]
    ledger = Ledger(run.parent / ".rlaif" / "ledger.sqlite")
    assert set(ledger.get(keys)) == set(keys)
    ledger.close()


def test_datasets_reads_preferences_and_trl_trains_on_the_export(finished: tuple[Path, str], tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    run = finished[0]
    rows = load_dataset(
        "parquet", data_files=str(run / "preferences" / "*.parquet"), split="train", cache_dir=str(tmp_path)
    )
    assert {"prompt", "chosen", "rejected", "p", "weight"} <= set(rows.column_names)
    rlaif(run.parent, "export", "run", "--form", "trl", "--to", "rows.parquet")
    exported = load_dataset(
        "parquet", data_files=str(run.parent / "rows.parquet"), split="train", cache_dir=str(tmp_path)
    )
    assert 0 < len(exported) <= len(rows)
    assert all(row["chosen"] != row["rejected"] for row in exported)

    common: dict[str, Any] = {
        "output_dir": str(tmp_path / "out"), "max_steps": 1, "per_device_train_batch_size": 2, "report_to": "none",
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True, "save_strategy": "no",
    }  # fmt: skip
    policy = str(run.parent / "policy")
    tokenizer = AutoTokenizer.from_pretrained(policy)
    reward = AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1)
    RewardTrainer(reward, RewardConfig(**common), train_dataset=exported, processing_class=tokenizer).train()
    model, reference = (AutoModelForCausalLM.from_pretrained(policy) for _ in range(2))
    DPOTrainer(model, reference, DPOConfig(**common), train_dataset=exported, processing_class=tokenizer).train()


def test_tasks_go_out_blank_and_come_back_as_labels(finished: tuple[Path, str]) -> None:
    run = finished[0]
    folder = run.parent
    rlaif(folder, "export", "run", "--form", "tasks", "--to", "tasks.jsonl")
    tasks = [json.loads(line) for line in (folder / "tasks.jsonl").read_text().splitlines()]
    assert tasks
    assert all(task["label"] is None for task in tasks)
    write_jsonl(folder / "answers.jsonl", [task | {"label": "a", "annotator": "ann"} for task in tasks])
    import shutil

    shutil.copytree(run, folder / "labelled", dirs_exist_ok=True)
    text = rlaif(folder, "label", "answers.jsonl", "--out", "labelled")
    assert (
        "note: preferences: trained on the labels before these: reward_model, policies/dpo. To train on these: rlaif train "
        "reward --out labelled, rlaif train dpo --out labelled."
    ) in text
    labelled = RunFolder(folder / "labelled")
    assert {row.labellers for row in labelled.read("provenance")} == {("human:ann",)}
    assert all(row.p == 1.0 for row in labelled.read("preferences"))


class Shouting:
    """A user's own metric: the share of capitals, and whether there is a question mark."""

    name = "shouting"

    def __init__(self, options: Any, where: str) -> None:
        pass

    def score(self, prompt: Any, response: Any) -> dict[str, float] | None:
        letters = [c for c in response.text if c.isalpha()]
        return {"capitals": sum(c.isupper() for c in letters) / len(letters)} if letters else None


def test_two_policies_against_a_baseline_with_a_users_own_metric(
    tmp_path: Path, policy_folder: Path, judge_folder: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(
        f"""
models: {{policy: {policy_folder}, baseline: {judge_folder}}}
prompts: set:first-questions
responses: {{models: [policy, baseline], samples: 2, sampling: {{max_output_tokens: 6}}}}
comparisons: {{select: baseline, options: {{model: baseline}}}}
labels: {{source: judges, options: {{judges: [longest]}}}}
held_out: 0.5
evaluation: {{metrics: ["tests.test_pipelines:Shouting"]}}
"""
    )
    rlaif(tmp_path, "run", "recipe.yaml", "--out", "run")
    run = RunFolder(tmp_path / "run")
    for comparison in run.read("comparisons"):
        assert [response.generator.partition("@")[0] for response in comparison.responses] == ["policy", "baseline"]
    assert run.rows("comparisons") == 12 * 2 * 2
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert 0 <= metrics["shouting.before.capitals"]["value"] <= 1
    assert "shouting.after.capitals" not in metrics  # no policy was tuned


def test_policies_are_measured_on_prompts_of_another_file_without_those_trained_on(
    tmp_path: Path, policy_folder: Path
) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": f"Say {word}."} for word in ("one", "two", "three")])
    write_jsonl(tmp_path / "other.jsonl", [{"prompt": f"Say {word}."} for word in ("one", "four", "five")])
    (tmp_path / "recipe.yaml").write_text(
        f"""
models: {{policy: {policy_folder}}}
prompts: train.jsonl
responses: {{samples: 2, sampling: {{max_output_tokens: 4}}}}
labels: {{source: judges, options: {{judges: [longest]}}}}
held_out: 0
evaluation: {{source: other.jsonl}}
"""
    )
    rlaif(tmp_path, "run", "recipe.yaml", "--out", "run")
    samples = json.loads((tmp_path / "run" / "evaluation" / "samples.json").read_text())
    assert {row["prompt"][0]["content"] for row in samples} == {"Say four.", "Say five."}
