"""A study's answer in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from rlaif.config import Pipeline
from rlaif.measures import Measure as Meaning
from rlaif.statistics import Figure
from rlaif.statistics.studies import ALPHA, Conclusion, detectable_with, holm
from rlaif.study.measures import Answered, Measure, Measured
from rlaif.study.planning import Size
from rlaif.study.policies import HEAD, HEAD_TRUE, WIN
from rlaif.study.recipe import TRUTH, Study

SHARE = Meaning("", "%")
PASSES = 0.5  # omega from which labels may stand in for a person (Calderon et al. 2025)
EVEN = 0.5  # deviation of outcomes won or lost half the time each, and of differences of one where one in four is any


def planned(study: Study, recipe: Pipeline, size: Size) -> str:
    """Before anything is walked: how small a difference its prompts suffice for; "" where there are none."""
    seeds = (
        f"{len(study.seeds)} seeds show how alike they do"
        if len(study.seeds) > 1
        else "with one seed that is not known"
    )
    seen = [(f"labels of {size.prompts:,} prompts", size.prompts)]
    if recipe.reward_model and size.held_out:
        measured = round(size.held_out / 2) if study.tune else size.held_out  # settings are chosen by the other half
        seen.append((f"reward models on {measured:,} held-out ones", measured))
    section = recipe.evaluation
    if section and recipe.policies:
        measured = section.prompts if section.source else min(section.prompts, size.held_out)
        asked = min(measured, section.judged or measured)
        if asked and (section.judges or TRUTH in study.contests):
            seen.append((f"contests of policies on up to {asked:,}", asked))
    alpha = ALPHA / (len(study.arms) - 1)
    found = [f"{what} {100 * detectable_with(count, EVEN, alpha=alpha):.1f}" for what, count in seen if count]
    if not found:
        return ""
    return (
        f"Differences that are found in four of five studies, in points, if arms differ on one prompt in four, and every training "
        f"ends alike ({seeds}): {', '.join(found)}. Within {100 * study.margin:g} points ({100 * study.label_margin:g} of labels) "
        "they count as none."
    )


def lines(study: Study, found: Measured) -> Iterator[str]:
    """The answer, and each arm's labels and reward model. Every difference is on the page."""
    for each in answers(study, found):
        yield f"{each.said} {each.surely}".strip()
    yield from _people(study, found)
    against = study.baseline
    for arm in study.arms:
        said = [
            f"{words} {SHARE.written(figure) if share else _number(figure)}"
            for name, words, share in (
                ("labels.truth", "labels as the truth", True),
                ("labels.agreement", f"labels as {against}", True),
                ("labels.kappa_without_ties", "kappa", False),
                (f"reward.accuracy.{against}", f"reward model right on labels of {against}", True),
                (f"reward.accuracy.{TRUTH}", "on the truth", True),
            )
            if (figure := found.figures.get(f"arms.{arm}.{name}"))
        ]
        if said:
            yield f"{arm}: {', '.join(said)}"
    yield from found.unsaid


def _people(study: Study, found: Measured) -> Iterator[str]:
    """How far people agree with each other, and which labels may stand in for a person."""
    if between := found.figures.get("people.agreement"):
        ceiling = found.figures.get("people.ceiling")
        best = f"; no label could agree with one of them in more than {SHARE.written(ceiling)}" if ceiling else ""
        yield f"Two people of {study.baseline} agree in {SHARE.written(between)}, ties left out{best}."
    for arm in study.arms:
        omega, rho = (found.figures.get(f"arms.{arm}.labels.alt_test.{name}") for name in ("omega.crowd", "rho"))
        if omega and rho and omega.value is not None:
            may = "may stand in" if omega.value >= PASSES else "is not shown to be fit to stand in"
            yield (
                f"{arm} {may} for a crowd worker (alternative annotator test beside {omega.n:,} people on {rho.n:,} of their labels, "
                f"omega {omega.value:.2f} of {PASSES} needed)."
            )


class Answer(NamedTuple):
    """What a study says of one arm: ``said`` on the furthest that was measured, and what else of its policies is ``surely`` another;
    "" for nothing."""

    said: str
    surely: str = ""


def answers(study: Study, found: Measured) -> list[Answer]:
    """One for each arm, on the furthest that was measured: a policy, reward models, labels; where that says nothing of an arm, how often
    it labels alike."""
    main, sure = first_measure(found), _sure(found)
    several = len(set(found.policies.values())) > 1
    told = []
    for arm in study.arms:
        if each := found.answers.get(f"differences.{arm}.{main}"):
            said = _sentence(study, each, several=several)
            told.append(Answer(said, _surely(sure.get(arm, ()), several=several)))
        elif figure := found.figures.get(f"arms.{arm}.labels.agreement"):
            same = SHARE.written(figure)
            told.append(
                Answer(
                    f"{arm}: the same label as {study.baseline} in {same} of the pairs on which both prefer a response."
                )
            )
    return told


def first_measure(found: Measured) -> str | None:
    """The name of the measure that answers a study. Of several policies the first in the recipe that anything is said of: against those
    of the other arm by the truth, else by the judges, else against the start."""
    names = list(dict.fromkeys(each.measure.name for each in found.answers.values()))
    for policy in dict.fromkeys(found.policies.values()):
        for figure in (HEAD_TRUE, HEAD, WIN):
            if (name := f"{policy}.{figure}") in names:
                return name
    wanted = (f"reward.accuracy.{TRUTH}", "reward.accuracy.", "labels.truth", "labels.")
    return next((name for start in wanted for name in names if name.startswith(start)), None)


def called(measure: Measure, *, several: bool) -> str:
    """What a measure is, and where there are ``several`` policies of which."""
    return f"{measure.policy}, {measure.meaning.what}" if several and measure.policy else measure.meaning.what


def _sentence(study: Study, each: Answered, *, several: bool) -> str:
    conclusion, what = each.conclusion, called(each.measure, several=several)
    difference, middle = conclusion.difference, each.measure.none_at
    if middle is None:
        value, (low, high) = 100 * difference.value, difference.interval()
        measured = f"{what}, {value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
    else:
        measured = f"{what} {SHARE.written(replace(difference, value=difference.value + middle).share)}"
    said = {
        "better": "better",
        "worse": "worse",
        "equivalent": f"{'as good' if middle is None else 'preferred as often'}, within {100 * conclusion.margin:g} points",
        "inconclusive": f"this study cannot say; it {_could_find(conclusion, middle)}",
    }[conclusion.answer]
    return f"{each.arm} instead of {study.baseline}: {said}. {measured[0].upper()}{measured[1:]}."


def _could_find(conclusion: Conclusion, middle: float | None) -> str:
    """``middle``: what a share is held against that is no difference itself."""
    if conclusion.detectable >= 1 - (middle or 0):  # the largest difference that there can be
        return "is too small to find any difference in four of five tries"
    return f"would have found a difference of {100 * conclusion.detectable:.1f} points in four of five tries"


def _sure(found: Measured) -> dict[str, list[Answered]]:
    """By arm what of its policies is surely different, whatever the judges of the contests prefer: corrected over all that
    could be said of any arm."""
    asked = {name: each for name, each in found.answers.items() if not each.measure.more_is_better}
    p = holm({name: each.conclusion.difference.p for name, each in asked.items()})
    sure: dict[str, list[Answered]] = {}
    for name, each in asked.items():
        if p[name] < ALPHA and each.conclusion.answer in ("better", "worse"):
            sure.setdefault(each.arm, []).append(each)
    return sure


def _surely(sure: Sequence[Answered], *, several: bool) -> str:
    said = []
    for each in sure:
        value, (low, high) = each.conclusion.difference.value, each.conclusion.difference.interval()
        said.append(
            f"{called(each.measure, several=several)} {100 * value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
        )
    return f"Surely different: {'; '.join(said)}." if said else ""


def named(conclusion: Conclusion, *, more_is_better: bool) -> str:
    """What a difference means, in a word."""
    other = {} if more_is_better else {"better": "higher", "worse": "lower"}
    return other.get(conclusion.answer, conclusion.answer)


def meant(each: Answered) -> str:
    """The same, with what it says of the difference."""
    conclusion = each.conclusion
    more = {
        "inconclusive": f": the study {_could_find(conclusion, each.measure.none_at)}",
        "equivalent": f" within {100 * conclusion.margin:g} points",
    }
    return named(conclusion, more_is_better=each.measure.more_is_better) + more.get(conclusion.answer, "")


def _number(figure: Figure) -> str:
    return Meaning("").written(figure)
