"""A study's answer in words."""

from __future__ import annotations

from collections.abc import Iterator

from rlaif.statistics import Figure
from rlaif.statistics.studies import Conclusion
from rlaif.study.measures import Measured
from rlaif.study.recipe import Study


def lines(study: Study, found: Measured) -> Iterator[str]:
    """Each arm beside the one it is held against: labels, reward model, and every difference that has an answer."""
    against = study.baseline
    for arm in study.arms:
        own = {
            name.removeprefix(f"arms.{arm}."): f for name, f in found.figures.items() if name.startswith(f"arms.{arm}.")
        }
        said = [
            f"{name} {_share(own[name])}"
            for name in ("labels.agreement", "labels.kappa", f"reward.accuracy.{against}")
            if name in own
        ]
        if said:
            yield f"{arm}: {', '.join(said)}"
    for name, answer in found.answers.items():
        _, arm, figure = name.split(".", 2)
        yield f"{arm} against {against}, {figure}: {_answered(answer)}"


def _answered(answer: Conclusion) -> str:
    difference = answer.difference
    low, high = difference.interval()
    said = f"{100 * difference.value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}): "
    if answer.answer == "inconclusive":
        return f"{said}inconclusive; a difference of {100 * difference.detectable():.1f} points would have been found in four of five such studies"
    if answer.answer == "equivalent":
        return f"{said}equivalent, within {100 * answer.margin:g} points"
    return said + answer.answer


def _share(figure: Figure) -> str:
    if figure.value is None:
        return "-"
    interval = f" ({figure.low:.3f} to {figure.high:.3f})" if figure.low is not None and figure.high is not None else ""
    return f"{figure.value:.3f}{interval}"
