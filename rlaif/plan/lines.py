"""What a plan says: a line for each stage and model, their sums, and both in words for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rlaif.statistics import Figure


@dataclass(frozen=True)
class Line:
    """What one stage asks of one model. Calls, tokens and money are those that are not paid for yet."""

    stage: str
    judge: str  # "" where none asks
    role: str
    model: str
    items: int
    unit: str
    paid: int  # calls that the ledger answers
    calls: int  # at most
    least_calls: int
    prompt_tokens: int  # expected
    output_tokens: int
    most_prompt_tokens: int | None  # at most; None: nothing bounds them
    most_output_tokens: int
    usd: float | None  # expected; None: no price is known
    most_usd: float | None
    batch: float  # what a batch costs, as a share of that; 1 where it is asked in batches, and that is in it
    prefix_tokens: int  # that all requests under one principle begin with
    cached_from: int | None  # tokens of a prefix from which the provider caches it
    cached_usd: float  # that caching could save of what is expected
    seconds: float | None  # at most, at the given limits; None: in this process, or in batches
    limit: str  # which limit decides that

    @property
    def title(self) -> str:
        return f"{self.stage} ({self.judge or self.role})"

    @property
    def batch_usd(self) -> float | None:
        """What is expected where all is asked in batches."""
        return None if self.usd is None else self.usd * self.batch

    @property
    def most_batch_usd(self) -> float | None:
        return None if self.most_usd is None else self.most_usd * self.batch


@dataclass(frozen=True)
class Plan:
    """The lines of a recipe, and what a person should know of how they came about."""

    lines: tuple[Line, ...]
    budget_usd: float | None
    notes: tuple[str, ...]
    blocked: tuple[str, ...] = ()  # "stage by a model" of which not one request can be asked

    @property
    def usd(self) -> float | None:
        """What is expected in all; None where a price is not known."""
        return total(line.usd for line in self.lines)

    @property
    def most_usd(self) -> float | None:
        return total(line.most_usd for line in self.lines)

    @property
    def seconds(self) -> float:
        return sum(line.seconds or 0.0 for line in self.lines)

    @property
    def timed(self) -> bool:
        """Whether any of it takes a time that is known."""
        return any(line.seconds is not None for line in self.lines)

    @property
    def enough(self) -> bool | None:
        """Whether the budget suffices even at most; None without a budget or a price."""
        return None if self.budget_usd is None or self.most_usd is None else self.most_usd <= self.budget_usd

    def figures(self) -> dict[str, Figure]:
        """Every number under a dotted name; ``low`` to ``high`` is from the least to the most, not an interval."""
        found: dict[str, Figure] = {}
        for line in self.lines:
            name = f"plan.{line.stage}.{line.judge or line.role}".replace(" ", "_")
            n = line.items
            found[f"{name}.calls"] = Figure(value=line.calls, low=line.least_calls, high=line.calls, n=n)
            found[f"{name}.paid"] = Figure(value=line.paid, n=n)
            found[f"{name}.prompt_tokens"] = Figure(value=line.prompt_tokens, high=line.most_prompt_tokens, n=n)
            found[f"{name}.output_tokens"] = Figure(value=line.output_tokens, high=line.most_output_tokens, n=n)
            found[f"{name}.usd"] = Figure(value=line.usd, high=line.most_usd, n=n)
            found[f"{name}.seconds"] = Figure(value=line.seconds, n=n)
        n = sum(line.calls for line in self.lines)
        found["plan.usd"] = Figure(value=self.usd, high=self.most_usd, n=n)
        found["plan.seconds"] = Figure(value=self.seconds, n=n)
        return found


def total(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)


def told(plan: Plan) -> Iterator[str]:
    """The plan in lines for a person; the table comes last."""
    for line in plan.lines:
        calls = _range(line.least_calls, line.calls)
        paid = f", {line.paid:,} more are already in the ledger" if line.paid else ""
        limit = "" if not line.calls else f"; time by {line.limit}" if line.seconds is not None else f"; {line.limit}"
        yield f"{line.title}: {line.items:,} {line.unit}, {calls} calls of models.{line.role}, {line.model}{paid}{limit}"
    if not plan.lines:
        yield "No model is asked anything."
        return
    yield from plan.notes
    for line in plan.lines:
        yield from _caching(line)
    yield ""
    columns = ("calls", "prompt tokens", "output tokens", "USD", "at most", "batches", "at most", "time")
    widths = (15, 15, 15, 11, 11, 11, 11, 10)
    first = 2 + max(len(line.title) for line in plan.lines)
    yield " " * first + "".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))
    for line in plan.lines:
        cells = (
            _range(line.least_calls, line.calls),
            f"{line.prompt_tokens:,}",
            f"{line.output_tokens:,}",
            _money(line.usd),
            _money(line.most_usd),
            _money(line.batch_usd) if line.batch < 1 else "-",
            _money(line.most_batch_usd) if line.batch < 1 else "-",
            _time(line.seconds),
        )
        yield f"{line.title:<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    cheaper = any(line.batch < 1 for line in plan.lines)
    totals = (
        f"{sum(line.calls for line in plan.lines):,}",
        f"{sum(line.prompt_tokens for line in plan.lines):,}",
        f"{sum(line.output_tokens for line in plan.lines):,}",
        _money(plan.usd),
        _money(plan.most_usd),
        _money(total(line.batch_usd for line in plan.lines)) if cheaper else "-",
        _money(total(line.most_batch_usd for line in plan.lines)) if cheaper else "-",
        _time(plan.seconds if plan.timed else None),
    )
    yield f"{'in all':<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(totals, widths, strict=True))
    yield _budget(plan)


def _range(least: int, most: int) -> str:
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _money(usd: float | None) -> str:
    return "?" if usd is None else f"{usd:,.4f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _caching(line: Line) -> Iterator[str]:
    """What caching of the prefix could save, where the provider says from where on it caches."""
    if line.cached_usd:
        yield (
            f"{line.title}: {line.prefix_tokens:,} tokens at the beginning are the same under a principle; cached, they could "
            f"save {line.cached_usd:,.4f} USD of what is expected. Nothing below counts on it."
        )
    elif line.cached_from and line.calls and line.prefix_tokens < line.cached_from:
        yield (
            f"{line.title}: {line.prefix_tokens:,} tokens at the beginning are the same under a principle: fewer than the "
            f"{line.cached_from:,} from which they would be cached."
        )


def _budget(plan: Plan) -> str:
    if plan.blocked:
        return f"It cannot be walked as it stands: nothing can be asked for {', '.join(plan.blocked)}; see above."
    if plan.usd is None:
        unknown = ", ".join(dict.fromkeys(f"models.{line.role}" for line in plan.lines if line.usd is None))
        return f"No price is known of {unknown}: write options.price, or an entry in prices.yaml (`rlaif prices`)."
    if plan.budget_usd is None:
        return "No budget_usd is set."
    if plan.enough:
        return f"budget_usd {plan.budget_usd:g}: enough, even at most, where no attempt is lost."
    if plan.usd <= plan.budget_usd:
        return f"budget_usd {plan.budget_usd:g}: enough for what is expected, not at most."
    return f"budget_usd {plan.budget_usd:g}: not enough for what is expected; what does not fit is not asked."
