"""What came of the arms of a study: labels, reward models and policies, and how each arm differs from the one it is held against.

Figures are flat. ``arms.ARM.NAME`` is of an arm, over its seeds; ``differences.ARM.NAME`` is its difference from the arm it is held
against, paired by prompt and seed, both taken as random (``statistics.studies``). A win rate against that arm itself,
``POLICY.head_to_head``, differs from one half. Beside a difference with an answer stand its p values, ``.p`` of none and
``.p_equivalent`` of one beyond the margin, both corrected over the arms, and ``.detectable``, what four of five such studies find. ``people.NAME`` is of the people of the arm that is held against.

    labels.agreement, labels.kappa   with the labels of the arm it is held against, where both have one
    labels.truth                     share labelled as the truth is, where the study names one
    labels.missing                   share of comparisons without a label
    labels.agreement_with_one        with each single person's label, and labels.noise_corrected: with what is behind their slips
    labels.alt_test.omega.crowd      whether the labels may stand in for a person (Calderon et al. 2025)
    reward.accuracy.OF               of the reward model on the held-out labels of arm OF, or of the truth, ties left out
    POLICY.NAME                      of a policy: win_rate against the start, kl, length, metrics

``arms.ARM.tuned`` is which of the settings that every arm tried was its own. ``rlaif.study.curves`` adds learning curves and exchange rates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from rlaif.measures import Measure as Meaning
from rlaif.measures import Measures
from rlaif.recorded.replay import Item
from rlaif.statistics import Figure, mcnemar
from rlaif.statistics.studies import Conclusion, Difference, conclusions, crossed_difference
from rlaif.study.curves import curves_of, figures_of
from rlaif.study.labelled import Labels, beside, by_prompt, items_of, labels_of, missing, of_labels, of_people, taken
from rlaif.study.policies import EQUAL, WIN, Column, Table, contested, meanings, measured
from rlaif.study.recipe import TRUTH, Study
from rlaif.study.trained import accuracy_by_prompt, calibration, held_of
from rlaif.study.walk import choice_of, contest_folder, folder_of

Figures = dict[str, Figure]
HEAD_TO_HEAD = {WIN: "head_to_head", EQUAL: "head_to_head_at_equal_length"}


@dataclass(frozen=True)
class Measure:
    """One figure of all arms: by arm and seed, what it is the mean of, prompt by prompt."""

    name: str
    values: Mapping[str, Sequence[Column]]
    meaning: Meaning
    margin: float | None = None  # differences within it count as none; None: no answer is given
    more_is_better: bool = (
        False  # else a difference is called higher or lower, and whoever reads it knows which is better
    )
    none_at: float | None = (
        None  # what it is where arms do not differ, of one that is itself held against the other arm
    )

    def matrix(self, arm: str, against: str | None) -> Any:
        """(seeds, prompts), less the same of ``against``, of the prompts that every seed has in both; None for fewer than two."""
        sides = [*self.values[arm], *(self.values[against] if against else ())]
        common = sorted(set.intersection(*map(set, sides))) if sides else []
        if len(common) < 2:
            return None
        ours, theirs = (
            [[seed[prompt] for prompt in common] for seed in (self.values[name] if name else ())]
            for name in (arm, against)
        )
        return np.asarray(ours, dtype=np.float64) - (np.asarray(theirs, dtype=np.float64) if against else 0.0)


@dataclass(frozen=True)
class Answered:
    """What a study says of one difference, and of what."""

    arm: str
    measure: Measure
    conclusion: Conclusion


@dataclass(frozen=True)
class Measured:
    """A study's figures, and what can be said of each difference that has a margin, by its name; and what cannot."""

    figures: Figures
    answers: dict[str, Answered]
    meanings: dict[str, Meaning]  # by NAME
    unsaid: list[str] = field(default_factory=list)


def measure(study: Study, out: Path) -> Measured:
    """All that is to be said of a walked study."""
    labels = _labels(study, out)
    found = _of_labels(study, out, labels)
    of_reward = list(_of_reward_models(study, out, labels, found))
    for each in (*_of_truth(study, labels, found), *of_reward, *_of_policies(study, out)):
        _tell(each, study, found)
    found.figures.update(figures_of(study, curves_of(study, out, labels)))
    for arm in study.arms if study.tune else ():
        found.figures[f"arms.{arm}.tuned"] = Figure(value=float(choice_of(study, arm, out)), n=len(study.tune))
    return found


def _tell(measure: Measure, study: Study, found: Measured) -> None:
    """A measure's figures, its differences and their answers, corrected over the arms (Holm)."""
    found.meanings[measure.name] = measure.meaning
    differences: dict[str, Difference] = {}
    for arm, values in measure.values.items():
        if not values or not all(values):
            continue
        found.figures[f"arms.{arm}.{measure.name}"] = _over_seeds(measure, arm)
        if measure.none_at is not None:
            matrix = measure.matrix(arm, None)
            differences |= {} if matrix is None else {arm: crossed_difference(matrix - measure.none_at)}
        elif arm != study.baseline and measure.values.get(study.baseline):
            matrix = measure.matrix(arm, study.baseline)
            differences |= {} if matrix is None else {arm: crossed_difference(matrix)}
    for arm, difference in differences.items():
        found.figures[f"differences.{arm}.{measure.name}"] = difference.figure
    if measure.margin is not None and differences:
        for arm, conclusion in conclusions(differences, measure.margin).items():
            name, n = f"differences.{arm}.{measure.name}", conclusion.difference.n
            found.answers[name] = Answered(arm, measure, conclusion)
            for what, value in (
                ("p", conclusion.p),
                ("p_equivalent", conclusion.p_equivalent),
                ("detectable", conclusion.difference.detectable()),
            ):
                found.figures[f"{name}.{what}"] = Figure(value=value, n=n)


def _over_seeds(measure: Measure, arm: str) -> Figure:
    """The mean over seeds and prompts; its interval takes both as random, as that of a difference from nothing."""
    matrix = measure.matrix(arm, None)
    if matrix is None:
        every = [value for each in measure.values[arm] for value in each.values()]
        return Figure(value=fmean(every), n=len(every))
    return crossed_difference(matrix).figure


# --- labels -----------------------------------------------------------------------------------------------------------

ByArm = dict[str, dict[int, Labels]]  # by arm and seed


def _labels(study: Study, out: Path) -> ByArm:
    names = [*study.arms, *([TRUTH] if study.truth else [])]
    return {name: {seed: labels_of(folder_of(out, name, seed)) for seed in study.seeds} for name in names}


def _of_labels(study: Study, out: Path, labels: ByArm) -> Measured:
    figures: Figures = {}
    unsaid: list[str] = []
    theirs = labels[study.baseline]
    items: dict[int, dict[str, Item]] = {seed: items_of(folder_of(out, study.baseline, seed)) for seed in study.seeds}
    for arm in study.arms:
        own: Figures = {"missing": missing(labels[arm])}
        own |= taken(study.arms[arm], [folder_of(out, arm, seed) for seed in study.seeds])
        if arm != study.baseline:
            sides = beside(labels[arm], theirs, items)
            if sides.items:
                own |= of_labels(sides)
                people, not_said = of_people(sides)
                figures |= {name: figure for name, figure in people.items() if name.startswith("people.")} | figures
                own |= {name: figure for name, figure in people.items() if not name.startswith("people.")}
                unsaid += [f"{arm}: {line}" for line in not_said]
        figures |= {f"arms.{arm}.labels.{name}": figure for name, figure in own.items()}
    return Measured(figures, {}, {}, list(_once(unsaid, len(study.arms) - 1)))


def _once(lines: Sequence[str], arms: int) -> Iterator[str]:
    """What is true of every arm is said once, of none."""
    said = [line.partition(": ")[2] for line in lines]
    for line, rest in zip(lines, said, strict=True):
        if said.count(rest) < arms:
            yield line
        elif said.index(rest) == lines.index(line):
            yield rest


def _of_truth(study: Study, labels: ByArm, found: Measured) -> Iterator[Measure]:
    if not study.truth:
        return
    truth = labels[TRUTH]
    values = {arm: [by_prompt(labels[arm][seed], truth[seed]) for seed in study.seeds] for arm in study.arms}
    for arm in study.arms:
        if arm != study.baseline:
            found.figures[f"differences.{arm}.labels.truth.mcnemar_p"] = _mcnemar(
                labels[arm], labels[study.baseline], truth
            )
    meaning = Meaning("labels that prefer what the truth does", "% of labels without ties")
    yield Measure("labels.truth", values, meaning, study.label_margin, more_is_better=True)


def _mcnemar(ours: Mapping[int, Labels], theirs: Mapping[int, Labels], truth: Mapping[int, Labels]) -> Figure:
    """p value of both being right equally often, on pairs that all three prefer one response of. Pairs of one prompt count as
    independent in it: the interval beside it does not take them so."""
    right = {
        (key, ours[seed].choices[key] == true, theirs[seed].choices[key] == true)
        for seed, own in truth.items()
        for key, true in own.choices.items()
        if {true, ours[seed].choices.get(key), theirs[seed].choices.get(key)} <= {"a", "b"}
    }
    p = mcnemar(sum(one and not other for _, one, other in right), sum(other and not one for _, one, other in right))
    return Figure(value=p, n=len(right))


# --- reward models ----------------------------------------------------------------------------------------------------


def _of_reward_models(study: Study, out: Path, labels: ByArm, found: Measured) -> Iterator[Measure]:
    """Each arm's reward model on the held-out labels of every arm, and of the truth: all hold out the same pairs."""
    held = {
        arm: {seed: told for seed in study.seeds if (told := held_of(folder_of(out, arm, seed)))} for arm in study.arms
    }
    for of in labels:
        values = {
            arm: [accuracy_by_prompt(own[seed], labels[of][seed]) for seed in own] for arm, own in held.items() if own
        }
        for arm, own in held.items():
            if own:
                found.figures[f"arms.{arm}.reward.calibration_error.{of}"] = calibration(own, labels[of])
        meaning = Meaning(f"reward model right on held-out labels of {of}", "% of pairs without ties")
        margin = study.margin if of in (study.baseline, TRUTH) else None  # that each does best on its own says nothing
        yield Measure(f"reward.accuracy.{of}", values, meaning, margin, more_is_better=True)


# --- policies ---------------------------------------------------------------------------------------------------------


def _of_policies(study: Study, out: Path) -> Iterator[Measure]:
    tables = {arm: [measured(folder_of(out, arm, seed)) for seed in study.seeds] for arm in study.arms}
    told = Measures(meanings(folder_of(out, study.baseline, study.seeds[0])))
    for policy, figure in _names(tables.values()):
        values = {arm: [table.get((policy, figure), {}) for table in own] for arm, own in tables.items()}
        meaning = (
            Meaning("win rate against the start, at equal length", "% of prompts") if figure == EQUAL else told[figure]
        )
        margin = study.margin if meaning.is_share or _shares(values) else None
        yield Measure(f"{policy}.{figure}", values, meaning, margin, more_is_better=figure in (WIN, EQUAL))
    contests = {
        arm: [contested(contest_folder(out, arm, seed)) for seed in study.seeds]
        for arm in study.arms
        if arm != study.baseline
    }
    for policy, figure in _names(contests.values()):
        values = {arm: [table.get((policy, figure), {}) for table in own] for arm, own in contests.items()}
        beside = ", at equal length" if figure == EQUAL else ""
        meaning = Meaning(f"win rate against the policy of {study.baseline}{beside}", "% of prompts")
        yield Measure(
            f"{policy}.{HEAD_TO_HEAD[figure]}", values, meaning, study.margin, more_is_better=True, none_at=0.5
        )


def _names(tables: Iterable[Sequence[Table]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(name for own in tables for table in own for name in table))


def _shares(values: Mapping[str, Sequence[Column]]) -> bool:
    """Whether each value is a no or a yes, or a tie between them: their mean is a share."""
    return all(value in (0, 0.5, 1) for own in values.values() for column in own for value in column.values())
