"""Versions of what is written to disk, and the steps from an older one to today's.

What an older program wrote is brought up to date step by step as it is read; what a newer one wrote is refused with one
line. A change of what is written adds a step, which raises the version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlaif.errors import DataError

Step = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Format:
    """A form that is written to disk. ``steps[n - 1]`` makes version n + 1 of version n."""

    name: str
    steps: tuple[Step, ...] = ()

    @property
    def version(self) -> int:
        """What this program writes."""
        return len(self.steps) + 1

    def upgrade(self, value: dict[str, Any], found: Any, where: str) -> dict[str, Any]:
        """``value``, which is of version ``found``, as this program writes it. Raises DataError for no known version."""
        if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= self.version:
            reads = "1" if self.version == 1 else f"1 to {self.version}"
            newer = isinstance(found, int) and found > self.version
            remedy = " A newer rlaif wrote it: upgrade rlaif to read it." if newer else ""
            raise DataError(f"{where}: {self.name} format {found}, this version reads {reads}.{remedy}")
        for step in self.steps[found - 1 :]:
            value = step(value)
        return value
