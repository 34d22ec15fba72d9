"""What docs/mock-server.md shows is what happens: its server runs, its clients are answered, its addresses are there."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from rlaif.mock import MockOptions
from tests.conftest import ROOT
from tests.mock.test_processes import command

BLOCK = re.compile(r"^```(\S+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGE = ROOT / "docs" / "mock-server.md"
ADDRESS = "http://127.0.0.1:8089"


def test_the_page_does_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    blocks = BLOCK.findall(page)
    (shown,) = [line for kind, _, body in blocks if kind == "console" for line in body.splitlines() if "--port" in line]
    program, name, *arguments = shlex.split(shown.removeprefix("$ "))
    assert (program, name) == ("rlaif", "mock-server")
    arguments[arguments.index("8089")] = "0"
    process = command(*arguments)
    assert process.stdout
    url = process.stdout.readline().split()[-1]
    printed = {}
    for kind, file, body in blocks:
        if kind == "python":
            (tmp_path / file).write_text(body.replace(ADDRESS, url))
            runpy.run_path(str(tmp_path / file), run_name="__main__")
            printed[file] = capsys.readouterr().out
    assert re.match(r"[AB] TopLogprob\(.*\n[AB]\n", printed["both.py"])
    assert printed["library.py"] == "503 200 {'200': 1, '503': 1}\n200 1\n"
    asked = [shlex.split(line)[1:] for line in page.splitlines() if line.startswith("$ curl")]
    assert len(asked) == 3
    for each in asked:
        method = "POST" if "POST" in each else "GET"
        with urlopen(Request(each[-1].replace(ADDRESS, url), method=method)) as response:
            assert response.status == 200
    process.terminate()
    process.communicate(timeout=30)


def test_every_flag_on_the_page_is_there() -> None:
    flags = {f"--{name.replace('_', '-')}" for name in MockOptions.model_fields} | {"--help"}
    found = set(re.findall(r"(--[a-z][a-z-]+)", PAGE.read_text(encoding="utf-8")))
    assert {"--latency", "--fault"} <= found <= flags
