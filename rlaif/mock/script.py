"""Replies from a table: rows ``{match: REGEX, reply: TEXT}``, the first whose expression is found in the last message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rlaif.component import Options, parse_model
from rlaif.errors import DataError


class Row(Options):
    """One row of a script."""

    match: str
    reply: str


class Script:
    """A table of replies, read once. Raises DataError where the file is missing or a row is not of the form."""

    def __init__(self, path: str) -> None:
        self._rows = []
        for where, data in _rows(Path(path)):
            row: Row = parse_model(Row, data, where)
            try:
                self._rows.append((re.compile(row.match), row.reply))
            except re.error as error:
                raise DataError(f'{where}: "match" is no regular expression: {error}.') from error

    def reply(self, text: str) -> str | None:
        return next((reply for expression, reply in self._rows if expression.search(text)), None)


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a script that can be read ({type(error).__name__}).") from error
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    yield f"{path}:{number}", json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(f"{path}:{number}: not JSON ({error.msg}).") from error
        return
    try:
        rows = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML. A script is a list of {{match: REGEX, reply: TEXT}}.") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of {{match: REGEX, reply: TEXT}}, found {type(rows).__name__}.")
    yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows, 1))
