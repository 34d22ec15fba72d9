"""What the figures of a policy mean and how they are written, for people: in the terminal, the report, a dataset's card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rlaif.statistics import Figure

REWARD_UNIT, RAW_UNIT = "standard deviations above average", "as the network gives it: not normalised"


class Measure(NamedTuple):
    """What a number is of, in words that need no name of ours; a unit that begins with "%" is a share's."""

    what: str
    unit: str = ""

    def written(self, figure: Figure | None) -> str:
        """The number with its interval, if it has one; a share in per cent."""
        interval = self.interval(figure)
        return f"{self.value(figure)} ({interval})" if interval else self.value(figure)

    def value(self, figure: Figure | None) -> str:
        """The number without its interval."""
        if figure is None or figure.value is None:
            return "–"
        whole = figure.low is None and not self.is_share and float(figure.value).is_integer()
        return f"{figure.value:,.0f}" if whole else self._number(figure.value, figure.value, "")

    def interval(self, figure: Figure | None, sign: str = "") -> str:
        """Its ends; "" where it has none."""
        if figure is None or figure.value is None or figure.low is None or figure.high is None:
            return ""
        low, high = (self._number(x, figure.value, sign) for x in (figure.low, figure.high))
        return f"{low.removesuffix('%')} to {high.removesuffix('%') if sign else high}"

    def change(self, figure: Figure | None) -> str:
        """A paired difference, signed; a share's in points."""
        interval = self.interval(figure, "+")
        points = " points" if self.is_share else ""
        return f"{text}{points}{f' ({interval})' if interval else ''}" if (text := self.signed(figure)) else ""

    def signed(self, figure: Figure | None) -> str:
        """A difference without its interval and unit."""
        if figure is None or figure.value is None:
            return ""
        return self._number(figure.value, figure.value, "+").removesuffix("%")

    def _number(self, x: float, value: float, sign: str) -> str:
        """As many digits as ``value`` gets."""
        return f"{x:{sign}z.1%}" if self.is_share else f"{x:{sign}z,.{_digits(value)}f}"

    @property
    def is_share(self) -> bool:
        return self.unit.startswith("%")


OF_ANSWERS = {  # measured of every policy's answers, by short name
    "answered": Measure("prompts answered"),
    "win_rate": Measure("win rate against the start, a tie counting one half", "% of prompts"),
    "orders_agree": Measure("judged alike in both orders", "% of judged prompts"),
    "reward": Measure("reward", REWARD_UNIT),
    "words": Measure("length of an answer", "words"),
    "length": Measure("length of an answer", "tokens"),
    "ended": Measure("ended by itself, not cut off at the limit", "% of answers"),
    "kl": Measure("distance from the start (KL)", "nats per answer"),
    "kl_bound": Measure("distance from the start, at most (KL bound)", "nats per answer"),
}


class Measures:
    """The measure behind each short name: the run's own, and those that the recipe's metrics say of themselves."""

    def __init__(self, of_metrics: Mapping[str, Any] | None = None, *, normalised: bool = True) -> None:
        """``of_metrics``: (what, unit) by short name. ``normalised``: whether rewards are in standard deviations."""
        self._known = OF_ANSWERS | {name: Measure(*told) for name, told in (of_metrics or {}).items()}
        if not normalised:
            self._known["reward"] = Measure("reward", RAW_UNIT)

    def __getitem__(self, name: str) -> Measure:
        """A metric that says nothing of itself goes by its name."""
        return self._known.get(name, Measure(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)


def normalised(metrics: Mapping[str, Figure]) -> bool:
    """Whether rewards are written as standard deviations above the reference answers' mean."""
    figure = metrics.get("reward_model.normalised_on")
    return figure is None or bool(figure.value)


def _digits(value: float) -> int:
    """Three digits of a number, at most two behind the point."""
    return 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
