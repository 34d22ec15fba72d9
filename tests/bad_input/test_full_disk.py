"""A full disk: one clear line, a fitting exit code, no traceback, finished work kept."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import GOOD, OTHER, Rlaif, pairs, records


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB; skipped where this user may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small disk cannot be mounted here: it takes root and mount(8)")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)


def test_a_full_disk_is_one_line_and_the_same_command_goes_on_when_there_is_room(
    small_disk: Path, rlaif: Rlaif
) -> None:
    source = pairs(GOOD, OTHER)
    out = small_disk / "out"
    said = rlaif("judge", "longest", source, "--out", out)
    assert said.code == 2
    assert said.line.startswith(f"rlaif: {out}/")
    assert said.line.endswith(
        ": cannot be written: No space left on device. Free some space, then run again: finished work is kept."
    )
    assert not list(out.rglob("*.tmp"))
    finished = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    grow(small_disk)
    assert rlaif("judge", "longest", source, "--out", out).code == 0
    assert finished
    assert {path: path.read_bytes() for path in finished} == finished
    assert len(records(out, "preferences")) == 2


def test_a_full_disk_under_the_ledger_is_one_line_and_replies_are_kept(small_disk: Path, rlaif: Rlaif) -> None:
    Path("own_talker.py").write_text(
        "asked = []\ndef speak(request):\n    asked.append(1)\n    return 'because ' * 400 + '[[A]]'\n"
    )
    rows = [{"prompt": f"Question {i}", "chosen": "good", "rejected": "bad"} for i in range(40)]
    arguments = [
        "judge", "compare-text", pairs(*rows), "--model", "scripted:own_talker:speak", "--out", "out",
        "--set", f"ledger={small_disk}/ledger.sqlite", "--set", "shard_rows=2",
    ]  # fmt: skip
    said = rlaif(*arguments)
    assert said.code == 2
    assert said.line.startswith(f"rlaif: {small_disk}/ledger.sqlite: the ledger cannot be ")
    grow(small_disk)
    assert rlaif(*arguments).code == 0
    assert len(records("out", "judgements")) == 80


def test_a_full_disk_while_training_is_one_line_and_training_goes_on(
    small_disk: Path, rlaif: Rlaif, policy_folder: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=600k", str(small_disk)], check=True)
    rows = [{"prompt": f"Question {i}", "chosen": "the day is long", "rejected": f"no {i}"} for i in range(12)]
    out = small_disk / "out"
    arguments = [
        "run", "human-preferences", "--out", out, "--set", f"pairs={pairs(*rows)}",
        "--set", f"models.policy={policy_folder}", "--set", "policies=[]", "--set", "evaluation=null",
        "--set", "reward_model.options.normalise_on=20",
    ]  # fmt: skip
    said = rlaif(*arguments)
    assert said.code == 2
    assert said.line == (
        f"rlaif: {out}/training/reward_model/checkpoint: cannot be written: No space left on device. "
        "Free some space, then run again: finished work is kept."
    )
    grow(small_disk)
    assert rlaif(*arguments).code == 0
    assert (out / "reward_model" / "model.safetensors").is_file()


def test_a_full_disk_leaves_no_empty_secret(small_disk: Path, rlaif: Rlaif, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLAIF_FENCE_SECRET")
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filler").write_bytes(b"x" * 200_000)
    said = rlaif("judge", "longest", pairs(), "--out", "out", "--set", f"ledger={small_disk}/l.sqlite")
    assert (said.code, said.line) == (
        2,
        f"rlaif: {small_disk}/secret: cannot be written: No space left on device. Set ledger: to a writable place.",
    )
    assert not (small_disk / "secret").exists()
