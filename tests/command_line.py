"""The command line as a person meets it, and small files for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.tiny import write_jsonl

GOOD = {"prompt": "How do I boil an egg?", "chosen": "Ten minutes in boiling water.", "rejected": "No."}
OTHER = {"prompt": "And two?", "chosen": "The same time.", "rejected": "No."}
GONE = "no such file in this folder. Name one that is there."
SHORT = ["--set", "responses.sampling.max_output_tokens=8"]


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]

    @property
    def text(self) -> str:
        assert "Traceback" not in self.err
        return self.out + self.err


Rlaif = Callable[..., Said]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rlaif.cli", *arguments]


def pairs(*rows: dict[str, Any], name: str = "pairs.jsonl") -> str:
    return str(write_jsonl(Path(name), rows or (GOOD,)))


def prompts(*texts: str) -> str:
    return str(write_jsonl(Path("prompts.jsonl"), [{"prompt": text} for text in texts or ("Hi",)]))


def records(folder: str | Path, noun: str) -> list[dict[str, Any]]:
    return [row for shard in sorted(Path(folder, noun).glob("*.parquet")) for row in pq.read_table(shard).to_pylist()]
