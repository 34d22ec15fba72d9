"""How library functions tell of their progress: a callback with a stage's name and its counts. No printing here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One stage's progress as of now. ``total`` is None where it is not known; ``note`` is for the person watching."""

    stage: str
    done: int
    total: int | None
    note: str = ""
    finished: bool = False


Listener = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Listens and says nothing."""
