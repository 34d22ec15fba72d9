"""The shipped pipelines on small models, from the command line to rows another trainer takes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlaif.store import RunFolder
from tests.conftest import ROOT
from tests.runs import rlaif, start
from tests.test_swap import pairs
from tests.tiny import write_jsonl

LOOSE = "protocol: pairwise-logprobs\nrubric: helpful-and-safe\noptions: {minimum_mass: 0.0}\n"
QUICK = [
    "reward_model.options={batch_prompts: 8, learning_rate: 1.0e-3, normalise_on: 40}",
    "policies=[{name: dpo, options: {batch_prompts: 8, learning_rate: 1.0e-4}}, {name: best-of-n, options: {n: 2}}]",
]
ARGUMENTS: dict[str, list[str]] = {
    "human-preferences": [
        "models.policy=policy",
        "pairs=pairs.jsonl",
        "evaluation.sampling.max_output_tokens=8",
        "reward_model.sampling.max_output_tokens=8",
        *QUICK,
    ],
    "ai-preferences": [
        "models.policy=policy",
        "prompts=set:first-questions",
        "models.judge=judge",
        "responses.sampling.max_output_tokens=8",
        "labels.options.judges=[loose, longest]",
        "evaluation.judges=[loose]",
        "held_out=0.4",
        *QUICK,
    ],
    "quickstart": [  # with the embedded models
        "prompts.limit=24",
        "constitution=polite",
        "held_out=0.2",
        "evaluation.prompts=40",
        "evaluation.judged=20",
        *QUICK,
    ],
}


ALONE: dict[str, list[str]] = {  # those that end with other things than the ones above
    "practice-methods": [
        "models.policy=policy",
        "prompts.limit=6",
        "responses.sampling.max_output_tokens=16",
        "reward_model.sampling.max_output_tokens=8",
        "evaluation=null",
        "reward_model.options.normalise_on=20",
    ],
    "direct-rewards": [
        "models.policy=policy",
        "models.judge=judge",
        "prompts=set:first-questions",
        "prompts.limit=12",
        "policies=[{name: rloo, options: {rewards: [{source: judge, options: {judge: loose}}], accumulation: 4, "
        "batch_prompts: 4, max_new_tokens: 8}}]",
        "evaluation.sampling={max_output_tokens: 8}",
    ],
}


def test_every_shipped_pipeline_is_run_below() -> None:
    shipped = {path.stem for path in (ROOT / "pipelines").rglob("*.yaml")}
    assert shipped
    assert shipped == set(ARGUMENTS) | set(ALONE) | {"swap-study"}


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_shipped_study_is_walked_to_its_page(whole: bool, tmp_path: Path) -> None:
    """With few prompts, every one of whose pairs two people label: the rate of their slips needs some."""
    common = ["prompts.limit=10", "held_out=0.4", "evaluation.prompts=6", "evaluation.judged=3"]
    common += ["policies=[{name: dpo, options: {batch_prompts: 4}}]" if whole else "policies=[]"]
    common += [] if whole else ["evaluation=null", "reward_model=null"]
    settings = [f"set={json.dumps(common)}", "seeds=[0]", "arms.human.labels.options.overlap=1.0"]
    settings += ["curves.labels=[6, 12]" if whole else "curves=null"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    said = rlaif(tmp_path, "compare", "swap-study", "--out", "study", *arguments, seconds=280)
    assert "half instead of human: " in said
    assert "Two people of human agree in " in said
    figures = json.loads((tmp_path / "study" / "compare.json").read_text())
    for arm in ("ai", "matched", "half", "longest", "random"):
        assert (f"arms.{arm}.dpo.head_to_head" in figures) == whole
        assert f"differences.{arm}.labels.truth" in figures
    assert "What made this" in (tmp_path / "study" / "compare.html").read_text()


@pytest.mark.parametrize("name", sorted(ALONE))
def test_a_pipeline_runs_to_its_policies_and_report(
    name: str, tmp_path: Path, policy_folder: Path, judge_folder: Path
) -> None:
    (tmp_path / "policy").symlink_to(policy_folder)
    (tmp_path / "judge").symlink_to(judge_folder)
    (tmp_path / "judges").mkdir()
    (tmp_path / "judges" / "loose.yaml").write_text(LOOSE)
    settings = [part for setting in ALONE[name] for part in ("--set", setting)]
    rlaif(tmp_path, "run", name, "--out", "run", *settings, seconds=240)
    run = tmp_path / "run"
    recipe = yaml.safe_load((ROOT / "pipelines" / f"{name}.yaml").read_text())
    policies = [each.get("called", each["name"]) for each in recipe["policies"]]
    accounts = json.loads((run / "accounts.json").read_text())
    for policy in policies:
        if policy != "best-of-n":
            assert (run / "policies" / policy / "model.safetensors").exists()
            assert accounts[f"policies/{policy}"]["outcomes"]["trained on"] > 0
    html = (run / "report.html").read_text()
    assert "Training of rloo" in html
    assert html.count("What it said along the way") == len(set(policies) - {"best-of-n"})
    assert ("What it made of the same answers along the way" in html) == ("reward_model" in recipe)
    assert ("Before the first step the reward was shown" in html) == (
        name == "direct-rewards"
    )  # the others probe nothing
    assert all(account["in"] == sum(account["outcomes"].values()) for account in accounts.values())


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
    settings = [part for setting in ARGUMENTS[request.param] for part in ("--set", setting)]
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


def test_the_report_says_what_the_judges_were_told(finished: tuple[Path, str]) -> None:
    html = (finished[0] / "report.html").read_text()
    told = [
        p["text"]
        for path in (finished[0] / "config").rglob("constitutions/*.yaml")
        for p in yaml.safe_load(path.read_text())["principles"]
    ]
    assert all(f"<td>{text}<" in html for text in told)
    assert ("The constitution behind the labels and the win rate" in html) == bool(told)


def test_a_copy_of_every_file_used_is_kept_with_its_hash(finished: tuple[Path, str]) -> None:
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
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer

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
    rlaif(run.parent, "export", "run", "--form", "kto", "--to", "answers")
    unpaired = load_dataset(str(run.parent / "answers"), split="train", cache_dir=str(tmp_path))
    KTOTrainer(model, reference, KTOConfig(**common), train_dataset=unpaired, processing_class=tokenizer).train()


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


MEASURED = """
models: {{policy: {policy}}}
prompts: train.jsonl
responses: {{samples: 2, sampling: {{max_output_tokens: 4}}}}
labels: {{source: judges, options: {{judges: [longest]}}}}
held_out: 0
evaluation: {{source: other.jsonl, prompts: 2}}
"""


@pytest.fixture
def measured(tmp_path: Path, policy_folder: Path) -> Path:
    """A folder with a recipe that measures on prompts of another file than those it trains on."""
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": f"Say {word}."} for word in ("one", "two", "three")])
    words = ("Say one.", "Say four.", "Say five.", "Say four.", "", "Say six.")
    write_jsonl(tmp_path / "other.jsonl", [{"prompt": text} for text in words])
    (tmp_path / "recipe.yaml").write_text(MEASURED.format(policy=policy_folder))
    return tmp_path


def test_every_row_of_the_prompts_to_measure_on_is_accounted_for(measured: Path) -> None:
    text = rlaif(measured, "run", "recipe.yaml", "--out", "run")
    samples = json.loads((measured / "run" / "evaluation" / "samples.json").read_text())
    said = {row["prompt"][0]["content"] for row in samples}
    assert len(said) == 2
    assert said <= {"Say four.", "Say five.", "Say six."}
    account = json.loads((measured / "run" / "accounts.json").read_text())["evaluation prompts"]
    assert account == {
        "unit": "rows",
        "in": 6,
        "outcomes": {"used": 2, "trained on": 1, "duplicate": 1, "unusable": 1, "not drawn": 1},
        "reasons": {"duplicate prompt": 1, "empty prompt": 1},
    }
    assert "evaluation prompts          6 rows: 2 used" in text
    inputs = json.loads((measured / "run" / "manifest.json").read_text())["inputs"]
    hashes = {
        name: hashlib.sha256((measured / name).read_bytes()).hexdigest() for name in ("train.jsonl", "other.jsonl")
    }
    assert {item["source"]: item["sha256"] for item in inputs} == hashes


def test_the_same_prompts_in_a_file_of_another_name_are_not_measured_again(measured: Path) -> None:
    rlaif(measured, "run", "recipe.yaml", "--out", "run")
    before = RunFolder(measured / "run").state("evaluation")
    (measured / "other.jsonl").rename(measured / "moved.jsonl")
    rlaif(measured, "run", "recipe.yaml", "--out", "run", "--set", "evaluation.source=moved.jsonl")
    assert RunFolder(measured / "run").state("evaluation") == before


def test_when_every_prompt_to_measure_on_was_trained_on_the_note_says_so(measured: Path) -> None:
    text = rlaif(measured, "run", "recipe.yaml", "--out", "run", "--set", "evaluation.source=train.jsonl")
    assert (
        "evaluation: of train.jsonl no prompt is left (3 trained on): nothing to measure. Name a file with prompts that the "
        "run does not train on: evaluation.source."
    ) in " ".join(text.split())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"ask": "x"}\n', "other.jsonl line 1: no prompt column. Found ask; expected one of messages, prompt, instruction, "
         "question, conversation, text, query, or name yours with evaluation.source.column."),
        ('{"prompt": "x"}\nno\n', "evaluation.source: other.jsonl line 2: not valid JSON: Expecting value at column 1. "
         "Mend the file, or name another."),
    ],
)  # fmt: skip
def test_a_fault_in_the_prompts_to_measure_on_names_their_setting(measured: Path, rows: str, message: str) -> None:
    (measured / "other.jsonl").write_text(rows)
    process = start(measured, "run", "recipe.yaml", "--out", "run")
    process.join(120)
    assert process.exitcode == 2
    assert f"rlaif: {message}" in (measured / "log").read_text().splitlines()


def test_replies_that_were_cut_off_are_trained_on_anew(tmp_path: Path, policy_folder: Path) -> None:
    """The same words and labels twice, from a speaker whose replies end, then from one whose replies were cut off."""
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": f"Say {word}."} for word in ("one", "two", "three")])
    (tmp_path / "speaker_of_two.py").write_text(
        "from pathlib import Path\n"
        "from rlaif.models import Reply\n"
        "def speak(request):\n"
        "    reason = 'length' if Path('cut').exists() else 'stop'\n"
        "    return Reply(text='word ' * (1 + request.sample_index), finish_reason=reason)\n"
    )
    (tmp_path / "recipe.yaml").write_text(
        f"""
models: {{policy: {policy_folder}, speaker: {{provider: scripted, model: "speaker_of_two:speak"}}}}
prompts: train.jsonl
responses: {{models: [speaker], samples: 2}}
labels: {{source: judges, options: {{judges: [longest]}}}}
held_out: 0
policies: [{{name: dpo, options: {{learning_rate: 1.0e-3}}}}]
"""
    )
    found = []
    for number, ledger in enumerate(("a.sqlite", "b.sqlite")):
        if number:
            (tmp_path / "cut").touch()
        rlaif(tmp_path, "run", "recipe.yaml", "--out", f"run{number}", "--set", f"ledger={ledger}")
        run = RunFolder(tmp_path / f"run{number}")
        found.append((run.content("preferences"), run.state("policies/dpo").signature))  # type: ignore[union-attr]
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]
