"""The documentation's files are written and its commands run, and what it shows is what they print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.runs import rlaif

BLOCK = re.compile(r"^```(\S+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = ["README.md", "docs/extending.md", "docs/world.md", "docs/money.md", "docs/ledger.md", "docs/constitutions.md"]


@pytest.mark.parametrize("page", RUN)
def test_a_page_does_what_it_shows(page: str, tmp_path: Path) -> None:
    ran = 0
    for kind, name, body in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        if name:
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(body, encoding="utf-8")
        elif kind == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, _, shown = part.partition("\n")
                program, *arguments = shlex.split(command, comments=True)
                if program != "rlaif":  # make: the tests themselves, and the benchmark
                    continue
                (tmp_path / "log").unlink(missing_ok=True)
                printed = rlaif(tmp_path, *arguments)
                ran += 1
                for line in filter(None, shown.splitlines()):
                    assert line in printed, f"{command}: not printed: {line}\n{printed}"
    assert ran
