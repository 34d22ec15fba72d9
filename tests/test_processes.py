"""Training in several processes, as ``accelerate launch`` starts them: what comes of it is what one process makes, with weights
whole in each or split between them, also when it was killed on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from rlaif.errors import ConfigError, UserError
from rlaif.models.local import LocalModel
from rlaif.policy.rloo import RLOO
from rlaif.training import processes
from rlaif.training.trainer import Interrupted, Watch
from tests.conftest import ROOT
from tests.runs import rlaif
from tests.test_swap import pairs
from tests.test_training import planted, train_reward
from tests.tiny import write_jsonl

STEPS = {"batch_prompts": 8, "learning_rate": 1.0e-3}
SAMPLED = {**STEPS, "max_new_tokens": 8, "steps": 3, "probes": 0}
OFFLINE: list[dict[str, Any]] = [
    {"name": "dpo", "options": {**STEPS, "micro_batch_tokens": 60}},
    {"name": "dpo", "called": "adapted", "options": {**STEPS, "lora": {"rank": 4}, "batch_prompts": 5}},
    {"name": "kto", "options": STEPS},
    {"name": "sft", "options": STEPS},
]
ONLINE: list[dict[str, Any]] = [
    {
        "name": "rloo",
        "options": {**SAMPLED, "batch_prompts": 5, "accumulation": 5, "checkpoints": 3},
    },  # one prompt to a part: one waits
    {"name": "raft", "options": {**SAMPLED, "samples": 3}},
    {"name": "ppo", "options": {**SAMPLED, "samples": 2, "accumulation": 2, "minibatches": 2}},
    {"name": "reinforce", "options": SAMPLED},
]
RUN = ("-m", "rlaif", "run", "recipe.yaml", "--out", "two")
SPLIT = """
from accelerate import accelerator, state
from accelerate.utils import DistributedType

begin, prepare, split = state.PartialState.__init__, accelerator.fsdp2_prepare_model, []

def begun(self, *arguments, **options):
    begin(self, *arguments, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:  # accelerate has FSDP on accelerators alone; torch has it on any
        self.distributed_type = DistributedType.MULTI_GPU

def prepared(*arguments):
    split.append(model := prepare(*arguments))
    assert all(type(p).__name__ == "DTensor" for p in model.parameters())
    return model

state.PartialState.__init__, accelerator.fsdp2_prepare_model = begun, prepared
from rlaif.cli import main
from rlaif.training import processes
leave = processes.leave
processes.leave = lambda code: leave(code if split else 9)
main()
"""


def recipe(folder: Path, policy: Path, policies: list[dict[str, Any]]) -> None:
    (folder / "policy").symlink_to(policy)
    write_jsonl(folder / "pairs.jsonl", pairs())
    reward = {**STEPS, "micro_batch_tokens": 60, "epochs": 2, "normalise_on": 40, "checkpoints": 100}
    content = {
        "models": {"policy": "policy"},
        "pairs": {"source": "pairs.jsonl"},
        "labels": "human",
        "held_out": 0.2,
        "reward_model": {"base": "policy", "options": reward, "sampling": {"max_output_tokens": 8}},
        "policies": policies,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))


def launched(folder: Path, configuration: str, *program: str) -> Any:
    """``accelerate launch`` of two processes, in a group of their own; what they print goes to ``folder/log``."""
    log = (folder / "log").open("ab")
    settings = ["--config_file", str(ROOT / "launch" / f"{configuration}.yaml"), "--num_processes", "2"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *settings, "--main_process_port", "0", *program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True, stdin=subprocess.DEVNULL
    )


def to_its_end(folder: Path, process: Any, seconds: float = 240) -> None:
    assert process.wait(seconds) == 0, (folder / "log").read_text()


def named(policies: list[dict[str, Any]]) -> list[str]:
    """Folders of all models of a recipe."""
    return ["reward_model", *(f"policies/{each.get('called', each['name'])}" for each in policies)]


def same(one: Path, other: Path, names: list[str], tolerance: float) -> None:
    for name in names:
        mine, theirs = load_file(one / name / "model.safetensors"), load_file(other / name / "model.safetensors")
        start = load_file(one.parent / "policy" / "model.safetensors")
        assert mine.keys() == theirs.keys()
        shared = [key for key in mine if key in start]
        moved = max(float((mine[key] - start[key]).abs().max()) for key in shared)
        apart = max(float((mine[key] - theirs[key]).abs().max()) for key in mine)
        assert moved > 1e-4, name
        assert apart < tolerance * moved, f"{name}: {apart} apart, moved by {moved}"


def wait_for(process: Any, folder: Path, pattern: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_two_processes_end_as_one_does(tmp_path: Path, policy_folder: Path) -> None:
    policies = [OFFLINE[0], ONLINE[0]]
    recipe(tmp_path, policy_folder, policies)
    rlaif(tmp_path, "run", "recipe.yaml", "--out", "one")
    to_its_end(tmp_path, launched(tmp_path, "ddp", *RUN))
    same(tmp_path / "one", tmp_path / "two", named(policies), 2e-3)


@pytest.mark.slow
def test_two_processes_that_were_killed_end_as_one_does(tmp_path: Path, policy_folder: Path) -> None:
    recipe(tmp_path, policy_folder, [*OFFLINE, *ONLINE])
    rlaif(tmp_path, "run", "recipe.yaml", "--out", "one")
    process = launched(tmp_path, "ddp", *RUN)
    wait_for(process, tmp_path, "two/training/policies/rloo/checkpoint-1")
    for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        each.kill()
    process.wait()
    assert not (tmp_path / "two" / "policies" / "rloo").exists()
    to_its_end(tmp_path, launched(tmp_path, "ddp", *RUN))
    same(tmp_path / "one", tmp_path / "two", named([*OFFLINE, *ONLINE]), 2e-3)


@pytest.mark.slow
def test_two_processes_stop_as_one_does_and_one_goes_on(tmp_path: Path, policy_folder: Path) -> None:
    recipe(tmp_path, policy_folder, OFFLINE[:1])
    rlaif(tmp_path, "run", "recipe.yaml", "--out", "one")
    (tmp_path / "log").unlink()
    process = launched(tmp_path, "ddp", *RUN)
    wait_for(process, tmp_path, "two/training/reward_model/checkpoint-*/rlaif-complete")
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C is: to all of them
    assert process.wait(25) != 0
    said = (tmp_path / "log").read_text()
    assert "interrupted: finished work is kept" in said
    assert "Error" not in said.partition("ChildFailedError")[0].replace("torch.distributed.elastic", ""), said
    assert not (tmp_path / "two" / "reward_model").exists()
    rlaif(tmp_path, "run", "recipe.yaml", "--out", "two")
    same(tmp_path / "one", tmp_path / "two", named(OFFLINE[:1]), 2e-3)


STOPPED = """
import sys
import stopped
from rlaif.training import processes
from rlaif.training.trainer import Interrupted

def work():
    if processes.rank() == 0:
        raise Interrupted
    processes.gathered(1)  # the others wait for it

def app():
    try:
        processes.everywhere(stopped.work)
    except Interrupted:
        return 130

if __name__ == "__main__":
    sys.exit(processes.follow() if processes.rank() else processes.lead(app))
"""


@pytest.mark.slow
def test_a_stop_in_the_midst_of_what_all_do_ends_all(tmp_path: Path) -> None:
    (tmp_path / "stopped.py").write_text(STOPPED)
    process = launched(tmp_path, "ddp", "stopped.py")
    assert process.wait(60) != 0
    said = (tmp_path / "log").read_text()
    assert "exitcode  : 130" in said
    assert "<NO_OTHER_FAILURES>" in said


@pytest.mark.slow
def test_weights_split_between_two_processes_end_as_in_one(tmp_path: Path, policy_folder: Path) -> None:
    recipe(tmp_path, policy_folder, OFFLINE)
    rlaif(tmp_path, "run", "recipe.yaml", "--out", "one")
    (tmp_path / "split.py").write_text(SPLIT)
    to_its_end(tmp_path, launched(tmp_path, "fsdp", "split.py", "run", "recipe.yaml", "--out", "two"))
    same(tmp_path / "one", tmp_path / "two", named(OFFLINE), 2e-3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_optimiser_split_by_deepspeed_ends_as_in_one(
    tmp_path: Path, policy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    recipe(tmp_path, policy_folder, OFFLINE)
    rlaif(tmp_path, "run", "recipe.yaml", "--out", "one")
    to_its_end(tmp_path, launched(tmp_path, "deepspeed", "-m", "rlaif", "run", "recipe.yaml", "--out", "two"), 600)
    same(tmp_path / "one", tmp_path / "two", named(OFFLINE), 2e-3)


def test_a_checkpoint_of_split_weights_is_not_gone_on_with_by_whole_ones(
    base: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped_after(step: int) -> Watch:
        watch = Watch()
        watch.report = lambda done, steps, figures: watch.stop.set() if done == step else None
        return watch

    with monkeypatch.context() as split:
        split.setattr(processes, "layout", lambda: "FSDP of 2")
        with pytest.raises(Interrupted):
            train_reward(base, planted(24), tmp_path, watch=stopped_after(2))
    with pytest.raises(UserError, match="written with weights FSDP of 2, and started with weights whole"):
        train_reward(base, planted(24), tmp_path)


def test_what_samples_is_not_started_where_weights_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=r"recipe\.yaml: rloo samples from whole networks.*FSDP splits them.*ddp"):
        RLOO(RLOO.Options(), "recipe.yaml")


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "launch").glob("*.yaml")))
def test_every_shipped_configuration_is_one_that_accelerate_reads(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = ROOT / "launch" / f"{name}.yaml"
    found = load_config_from_file(str(path))
    assert found.distributed_type.value == {"ddp": "MULTI_GPU", "fsdp": "FSDP", "deepspeed": "DEEPSPEED"}[name]
    assert found.num_processes == 2
