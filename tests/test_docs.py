"""The documentation's files are written and its commands run, and what it shows is what they print."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import yaml

from rlaif.policy import METHODS
from rlaif.reward import RewardOptions
from tests.conftest import ROOT
from tests.hub import TOKEN, Hub, serving
from tests.mock.test_processes import command as mock_server
from tests.runs import kill_when, ledger_rows, rlaif, start

BLOCK = re.compile(r"^```(\S+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = [
    "README.md",
    "docs/extending.md",
    "docs/world.md",
    "docs/money.md",
    "docs/ledger.md",
    "docs/publishing.md",
    "docs/certify.md",
    "docs/constitutions.md",
    "docs/calibration.md",
]
MOCK, HUB = "http://127.0.0.1:8089", "https://huggingface.co"  # as pages name them; a test has its own
POOR = "with a larger budget_usd"  # in what a command shows whose money runs out
STOPPED = "^C\n"  # the first line of what a command shows that is interrupted


class Walk:
    """A page done as it says, in a folder of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.addresses: dict[str, str] = {}
        self.ran = 0

    def page(self, text: str) -> None:
        for kind, name, body in BLOCK.findall(text):
            if name:
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(self.here(body), encoding="utf-8")
            elif kind == "console":
                for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                    self.command(*part.split("\n", 1))

    def here(self, text: str) -> str:
        """With the addresses of this test."""
        for shown, address in self.addresses.items():
            text = text.replace(shown, address)
        return text

    def command(self, line: str, shown: str) -> None:
        """Run it, where it is ours, and compare; ``…`` in a line stands for what differs from run to run."""
        program, *arguments = shlex.split(self.here(line), comments=True)
        if program == "python" and (self.folder / arguments[0]).is_file():  # a script of the page's own
            subprocess.run([sys.executable, *arguments], cwd=self.folder, check=True)
        if program != "rlaif":  # make: the tests themselves, and the benchmark
            return
        own: dict[str, Callable[[list[str]], str]] = {"mock-server": self.mock_server, "push": self.push}
        stopped = self.poor if POOR in shown else self.plainly
        way = self.interrupted if shown.startswith(STOPPED) else own.get(arguments[0], stopped)
        printed = way(arguments)
        self.ran += 1
        for each in filter(None, self.here(shown.removeprefix(STOPPED)).splitlines()):
            found = re.search(re.escape(each).replace("…", ".*"), printed)
            assert found, f"{line}: not printed: {each}\n{printed}"

    def plainly(self, arguments: list[str]) -> str:
        (self.folder / "log").unlink(missing_ok=True)
        return rlaif(self.folder, *arguments)

    def poor(self, arguments: list[str]) -> str:
        """Its money runs out."""
        (self.folder / "log").unlink(missing_ok=True)
        return rlaif(self.folder, *arguments, code=1)

    def interrupted(self, arguments: list[str]) -> str:
        """Ctrl-C as soon as a reply more is there."""
        (self.folder / "log").unlink(missing_ok=True)
        before = ledger_rows(self.folder)
        process = start(self.folder, *arguments)
        assert kill_when(process, lambda: ledger_rows(self.folder) > before, number=signal.SIGINT)
        assert process.exitcode == 130
        return (self.folder / "log").read_text()

    def mock_server(self, arguments: list[str]) -> str:
        arguments[arguments.index("--port") + 1] = "0"
        process = mock_server(*arguments[1:])
        self.stack.callback(process.communicate, timeout=30)
        self.stack.callback(process.terminate)
        assert process.stdout
        printed = process.stdout.readline()
        self.addresses[MOCK] = printed.split()[-1]
        return printed

    def push(self, arguments: list[str]) -> str:
        """In a process that reads the Hub's address and token as it starts."""
        if HUB not in self.addresses:
            self.addresses[HUB] = self.stack.enter_context(serving(Hub())).url
        own = {"HF_ENDPOINT": self.addresses[HUB], "HF_TOKEN": TOKEN, "HF_HOME": str(self.folder / "home")}
        whole = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", **own}
        command = [sys.executable, "-m", "rlaif.cli", *arguments]
        done = subprocess.run(command, env=whole, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.mark.parametrize("page", RUN)
def test_a_page_does_what_it_shows(page: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        walk = Walk(tmp_path, stack)
        walk.page((ROOT / page).read_text(encoding="utf-8"))
    assert walk.ran


PREFERENCES, REWARDS = ("dpo", "kto", "sft", "reward"), ("rloo", "grpo", "reinforce", "ppo", "raft")
GROUPS = {"all": (*PREFERENCES, *REWARDS), "preferences": PREFERENCES, "rewards": REWARDS}


def test_the_table_of_training_options_is_the_options() -> None:
    """Every option of every method, its default and nothing else."""
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    table = text.split("## Options\n")[1].split("\n## ")[0]
    told: dict[str, dict[str, Any]] = {}
    for option, of, default in re.findall(r"^\| `([\w]+)` \| ([^|]+) \| ([^|]+) \|", table, re.MULTILINE):
        assert option not in told
        usual, *others = default.strip().split("; ")
        told[option] = dict.fromkeys(_methods(of.strip()), yaml.safe_load(usual))
        for name, value in (each.split(" ") for each in others):
            told[option] |= dict.fromkeys(_methods(name), yaml.safe_load(value))
    found: dict[str, dict[str, Any]] = {}
    for method in (*GROUPS["all"], "best-of-n"):
        options = RewardOptions if method == "reward" else resolve_name(METHODS[method]).Options
        for name, field in options.model_fields.items():
            found.setdefault(name, {})[method] = field.get_default(call_default_factory=True)
    found["rewards"] = {method: ",".join(spec.source for spec in specs) for method, specs in found["rewards"].items()}
    assert told == found


def _methods(names: str) -> list[str]:
    return [method for name in names.split(", ") for method in GROUPS.get(name, (name,))]
