"""A study's answer in words."""

from __future__ import annotations

from collections.abc import Iterator

from rlaif.measures import Measure as Meaning
from rlaif.statistics import Figure
from rlaif.statistics.studies import Conclusion
from rlaif.study.measures import HEAD_TO_HEAD, Answered, Measured
from rlaif.study.policies import WIN
from rlaif.study.recipe import TRUTH, Study

SHARE = Meaning("", "%")


def lines(study: Study, found: Measured) -> Iterator[str]:
    """The answer, then each arm's labels and reward model, and every difference that has an answer."""
    yield from answer(study, found)
    against = study.baseline
    for arm in study.arms:
        said = [
            f"{words} {SHARE.written(figure) if share else _number(figure)}"
            for name, words, share in (
                ("labels.truth", "labels as the truth", True),
                ("labels.agreement", f"labels as {against}", True),
                ("labels.kappa", "kappa", False),
                (f"reward.accuracy.{against}", f"reward model right on labels of {against}", True),
                (f"reward.accuracy.{TRUTH}", "on the truth", True),
            )
            if (figure := found.figures.get(f"arms.{arm}.{name}"))
        ]
        if said:
            yield f"{arm}: {', '.join(said)}"
    for each in found.answers.values():
        yield f"{each.arm} against {against}, {each.measure.name}: {answered(each)}"
    yield from found.unsaid


def answer(study: Study, found: Measured) -> list[str]:
    """A sentence for each arm on the furthest that was measured: policies against each other, before policies against the start,
    before reward models, before labels."""
    main = first_measure(found)
    if main is None:
        return [
            f"{arm}: the same label as {study.baseline} in {SHARE.written(figure)} of the pairs on which both prefer a response."
            for arm in study.arms
            if (figure := found.figures.get(f"arms.{arm}.labels.agreement"))
        ]
    return [_sentence(study, each) for each in found.answers.values() if each.measure.name == main]


def first_measure(found: Measured) -> str | None:
    """The name of the measure that answers a study."""
    names = list(dict.fromkeys(each.measure.name for each in found.answers.values()))
    wanted = (f".{HEAD_TO_HEAD[WIN]}", f".{WIN}", f"reward.accuracy.{TRUTH}", "reward.accuracy.", "labels.truth")
    for end in wanted:
        for name in names:
            if name.endswith(end) or name.startswith(end):
                return name
    return None


def _sentence(study: Study, each: Answered) -> str:
    said = {
        "better": f"Labels of {each.arm} did better than those of {study.baseline}",
        "worse": f"Labels of {each.arm} did worse than those of {study.baseline}",
        "equivalent": f"Labels of {each.arm} did as well as those of {study.baseline}",
        "inconclusive": f"Whether labels of {each.arm} do as well as those of {study.baseline}, this study cannot say",
    }[each.conclusion.answer]
    return f"{said}: {each.measure.meaning.what}, {answered(each)}."


def answered(each: Answered) -> str:
    """A difference and what it means."""
    conclusion = each.conclusion
    low, high = conclusion.difference.interval()
    said = f"{100 * conclusion.difference.value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"{said}, {meant(conclusion, more_is_better=each.measure.more_is_better)}"


def meant(conclusion: Conclusion, *, more_is_better: bool) -> str:
    if conclusion.answer == "inconclusive":
        seen = conclusion.difference.detectable()
        return (
            f"inconclusive: a difference of {100 * seen:.1f} points would have been found in four of five such studies"
        )
    if conclusion.answer == "equivalent":
        return f"equivalent within {100 * conclusion.margin:g} points"
    return conclusion.answer if more_is_better else {"better": "higher", "worse": "lower"}[conclusion.answer]


def _number(figure: Figure) -> str:
    return Meaning("").written(figure)
