"""What all tests share: a working folder of their own, quiet libraries, and where the recorded data may lie."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.command_line import Rlaif, Said

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RLAIF_FENCE_SECRET", "a secret for tests")
os.environ.setdefault("OMP_NUM_THREADS", "1")
hypothesis.settings.register_profile("project", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("project")

ROOT = Path(__file__).parent.parent
RECORDED = ROOT.parent / "shared" / "data"  # real recorded data, where a checkout has it beside it


def slow(*values: Any, id: str | None = None) -> Any:
    """A case that ``make test`` leaves to ``make test-all``: another one shows nearly the same."""
    return pytest.param(*values, marks=pytest.mark.slow, id=id)


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in an empty folder of its own, as a user would."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rlaif(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Rlaif:
    """The command line in this process: exit code and what a person reads."""

    def run(*arguments: str | Path) -> Said:
        from rlaif import cli
        from tests.command_line import Said

        monkeypatch.setattr(sys, "argv", ["rlaif", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as leave:
            code = int(leave.code or 0)
        read = capsys.readouterr()
        return Said(code, read.out, read.err)

    return run


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with a chat template."""
    from tests.tiny import build

    return build(tmp_path_factory.mktemp("models") / "policy", "llama", context=1024)


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Qwen with room for a judge's template."""
    from tests.tiny import build

    return build(tmp_path_factory.mktemp("models") / "judge", "qwen3", seed=1, context=2048, sharpen=30.0)


@pytest.fixture(scope="session")
def recorded() -> Path:
    """The folder of real recorded data; the test is skipped on a checkout without it."""
    if not RECORDED.is_dir():
        pytest.skip("no recorded data beside this checkout")
    return RECORDED


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A ``LocalModel`` that is quick to train."""
    from rlaif.models.local import LocalModel, LocalOptions
    from tests.tiny import build

    folder = build(tmp_path_factory.mktemp("models") / "start", "llama", hidden=32, context=256)
    return LocalModel(str(folder), LocalOptions(device="cpu"), where="models.policy", notice=lambda line: None)
