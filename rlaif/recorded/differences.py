"""Two ways of reading the same recorded replies: how often they agree, and every row on which they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rlaif.errors import DataError
from rlaif.recorded.readers import Reader
from rlaif.recorded.replay import judgements, readings_of


@dataclass
class Differences:
    """By (judge, method): replies read both ways, and those read alike; and a row for every difference."""

    read: Counter[tuple[str, str]] = field(default_factory=Counter)
    alike: Counter[tuple[str, str]] = field(default_factory=Counter)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        for name, count in sorted(self.read.items()):
            alike = self.alike[name]
            yield f"{' '.join(name):<28}{alike:>7,} of {count:>7,} read alike ({alike / count:.2%})"
        total, alike = self.read.total(), self.alike.total()
        yield f"{'all':<28}{alike:>7,} of {total:>7,} read alike ({alike / total:.2%})"


def differences(
    recorded: str, reader: Reader, other: Reader | None, *, judge: str | None = None, method: str | None = None
) -> Differences:
    """Every reply with a known order, drafts too; ``other`` None: the recorded choice. Raises DataError."""
    found = Differences()
    for where, row, name in judgements(recorded, judge, method):
        if row.get("order") not in ("ab", "ba") or row.get("completion") is None:
            continue
        one, two = (readings_of(where, row, each)[0].choice for each in (reader, other))
        found.read[name] += 1
        found.alike[name] += one == two
        if one != two:
            kept = ("item_id", "judge", "method", "stage", "order", "completion")
            found.rows.append(
                {"where": where, **{key: row[key] for key in kept if key in row}, "reader": one, "against": two}
            )
    if not found.read:
        raise DataError(f"{recorded}: no row has a completion and an order (ab or ba): there is nothing to read.")
    return found
