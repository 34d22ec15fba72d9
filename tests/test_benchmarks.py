"""The benchmark runs, and its last line is figures in the project's one shape."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_local_benchmark_ends_with_its_figures() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "local.py"), "--quick"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    assert {"sampling.ratio_to_generate", "reward.ratio_to_padded_loop", "judging.ratio_to_padded"} <= set(figures)
    for name, figure in figures.items():
        assert set(figure) == {"value", "low", "high", "n"}, name
        assert figure["low"] <= figure["value"] <= figure["high"], name


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
