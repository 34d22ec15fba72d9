"""A constitution's file with the place of each principle, so that what is said of one can be found."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from rlaif.catalogue import Catalogue, Entry
from rlaif.component import parse_model
from rlaif.config import Constitution, Principle


@dataclass(frozen=True)
class Source:
    """A constitution as it was read; ``lines[i]`` is where the i-th principle begins, counted from 1."""

    entry: Entry
    constitution: Constitution
    lines: tuple[int, ...]

    @property
    def principles(self) -> tuple[Principle, ...]:
        return self.constitution.principles

    def place(self, number: int | None = None) -> str:
        """The file, or the line of the principle of this number."""
        return str(self.entry.path) if number is None else f"{self.entry.path}:{self.lines[number]}"


def read_source(name: str, catalogue: Catalogue | None = None, *, where: str) -> Source:
    """The constitution of this name or path. Raises ConfigError."""
    entry = (catalogue or Catalogue()).find("constitution", name, where=where)
    constitution: Constitution = parse_model(Constitution, entry.yaml(), str(entry.path))
    return Source(entry, constitution, lines_of(entry.text))


def lines_of(text: str) -> tuple[int, ...]:
    """The line on which each item under ``principles`` begins."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert root is not None  # it was parsed before
    listed = next(value for key, value in root.value if key.value == "principles")
    return tuple(item.start_mark.line + 1 for item in listed.value)
