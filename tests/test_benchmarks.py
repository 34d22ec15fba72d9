"""The benchmark runs, and its last line is figures in the project's one shape."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_local_benchmark_ends_with_its_figures() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "local.py"), "--quick"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    assert {"sampling.ratio_to_generate", "judging.ratio_to_padded"} <= set(figures)
    for name, figure in figures.items():
        assert set(figure) == {"value", "low", "high", "n"}, name
        if figure["low"] is not None:
            assert figure["low"] <= figure["value"] <= figure["high"], name


@pytest.mark.slow
def test_the_training_benchmark_ends_with_its_figures() -> None:
    pytest.importorskip("trl")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "training.py"), "--quick"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    assert {"reward.ratio_to_trl", "dpo.ratio_to_trl", "sampling.ratio_to_generate"} <= set(figures)
    assert all(set(figure) == {"value", "low", "high", "n"} for figure in figures.values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reward", "dpo"])
def test_the_training_benchmark_trains_adapters_and_profiles_both_sides(tmp_path: Path, method: str) -> None:
    pytest.importorskip("trl")
    options = ["--quick", "--only", method, "--rank", "8", "--profile", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "training.py"), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{method}.ratio_to_trl" in json.loads(done.stdout.strip().splitlines()[-1])
    assert {file.name for file in (tmp_path / method).iterdir()} == {"rlaif.txt", "TRL.txt"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_label_study_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "soft_labels.py"),
        str(tmp_path),
        "--levels",
        "1",
        "--prompts",
        "40",
    ]
    subprocess.run([*command, "--seeds", "1"], capture_output=True, check=True)
    first = (tmp_path / "cells.jsonl").read_text()
    done = subprocess.run([*command, "--seeds", "2"], capture_output=True, text=True, check=True)
    assert (tmp_path / "cells.jsonl").read_text().startswith(first)
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    assert figures["little.truth.reward.accuracy"]["n"] == 2
    assert len(first.splitlines()) == 6


@pytest.mark.slow
def test_the_api_benchmark_ends_with_its_figures() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "api.py"), "--quick"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    assert {"ratio_to_raw", "cpu_ms_per_call", "startup_seconds", "peak_memory_mb"} <= set(figures)
    assert all(set(figure) == {"value", "low", "high", "n"} for figure in figures.values())


def test_every_peer_has_an_environment_and_a_client() -> None:
    folder = ROOT / "benchmarks"
    (named,) = re.findall(r"^PEERS = \((.*)\)$", (folder / "api.py").read_text(), re.MULTILINE)
    made = re.findall(r"^peer (\w+)", (folder / "peers.sh").read_text(), re.MULTILINE)
    assert made == re.findall(r'"(\w+)"', named)
    assert {"raw", "openai_sdk", *made} == {path.stem for path in (folder / "clients").glob("*.py")}
