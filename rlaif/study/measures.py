"""What came of the arms of a study: labels, reward models and policies, and how each arm differs from the one it is held against.

Figures are flat. ``arms.ARM.NAME`` is of an arm, over its seeds; ``differences.ARM.NAME`` is its difference from the arm it is held
against, paired by prompt and seed, both taken as random (``statistics.studies``). A win rate against that arm itself,
``POLICY.head_to_head``, differs from one half. Beside a difference with an answer stand its p values, ``.p`` of none and
``.p_equivalent`` of one beyond the margin, both corrected over the arms, and ``.detectable``, what four of five such studies find.
``people.NAME`` is of the people of the arm that is held against.

    labels.agreement, labels.kappa   with the labels of the arm it is held against, where both have one
    labels.truth                     share labelled as the truth is, where the study names one; the mean over prompts
    labels.missing                   share of comparisons without a label
    labels.agreement_with_one        with one person of the arm it is held against, of which it is how far another person agrees
    labels.noise_corrected           with what is behind people's slips
    labels.alt_test.omega.crowd      whether the labels may stand in for a person (Calderon et al. 2025)
    reward.accuracy.OF               of the reward model on the held-out labels of arm OF, or of the truth, ties left out
    POLICY.NAME                      of a policy: win_rate against the start, kl, length, metrics; start.NAME is the start's
    POLICY.head_to_head              win rate against the policy of the arm it is held against; ``_by_truth`` of it and of win_rate, where
                                     the study has the truth judge

``arms.ARM.tuned`` is which of the settings that every arm tried was its own. ``rlaif.study.curves`` adds learning curves and
exchange rates.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from rlaif.catalogue import Catalogue
from rlaif.config import Pipeline
from rlaif.evaluate import START
from rlaif.families import same_family
from rlaif.measures import Measure as Meaning
from rlaif.measures import Measures
from rlaif.statistics import Figure
from rlaif.statistics.studies import (
    Conclusion,
    Difference,
    conclusions,
    crossed_difference,
    over_seeds,
)
from rlaif.study.curves import curves_of, figures_of
from rlaif.study.labelled import (
    Labels,
    Pair,
    beside,
    beside_people,
    between_people,
    by_prompt,
    labels_of,
    mcnemar_p,
    missing,
    of_labels,
    pairs_of,
    people_of,
    share_people,
    taken,
    with_one_person,
)
from rlaif.study.policies import (
    EQUAL,
    HEAD,
    HEAD_EQUAL,
    HEAD_TO_HEAD,
    HEAD_TRUE,
    WIN,
    WIN_TRUE,
    Column,
    Table,
    contested,
    is_normalised,
    meanings,
    measured,
    without_verdict,
)
from rlaif.study.recipe import TRUTH, Study, recipe_in
from rlaif.study.trained import accuracy_by_prompt, calibration
from rlaif.study.walk import choice_of, contest_folder, folder_of, measured_by

Figures = dict[str, Figure]
REWARD = "reward"
OF_CONTESTS = {  # what is asked of the policies of two arms, or of one and the start
    HEAD: "win rate against the policy of {}",
    HEAD_EQUAL: "win rate against the policy of {}, at equal length",
    HEAD_TRUE: "win rate against the policy of {}, by the truth",
    WIN_TRUE: "win rate against the start, by the truth",
}
HABITS = ("first_rate", "orders_agree", "longer_rate", "undecided")  # of a run's own figures, of its judgements


@dataclass(frozen=True)
class Measure:
    """One figure of all arms: by arm and seed, what it is the mean of, prompt by prompt."""

    name: str
    values: Mapping[str, Sequence[Column]]
    meaning: Meaning
    margin: float | None = None  # of a share: differences within it count as none; None: no answer is given
    more_is_better: bool = (
        False  # else a difference is called higher or lower, and whoever reads it knows which is better
    )
    none_at: float | None = (
        None  # what it is where arms do not differ, of one that is itself held against the other arm
    )
    compared: bool = True  # False: that arms differ in it says nothing
    paired: Mapping[str, Sequence[Column]] | None = None  # differences by arm and seed, where not those of values
    policy: str = ""  # that it is of

    @property
    def is_share(self) -> bool:
        return self.margin is not None or self.meaning.is_share

    def mean(self, arm: str) -> Figure:
        """An arm's mean over seeds and prompts; its interval takes both as random, as that of a difference from nothing."""
        matrix = _matrix(self.values[arm])
        if matrix is None:
            every = [value for each in self.values[arm] for value in each.values()]
            return Figure(value=fmean(every), n=len(every))
        found = crossed_difference(matrix)
        return found.of_shares.share if self.is_share else found.figure

    def differences(self, arms: Iterable[str], against: str) -> dict[str, Difference]:
        """Of arms from the one they are held against, but for that one, and those that have fewer than two prompts with it."""
        found = {}
        for arm in arms:
            if (matrix := self._difference(arm, against)) is not None:
                difference = crossed_difference(matrix)
                found[arm] = difference.of_shares if self.is_share else difference
        return found

    def _difference(self, arm: str, against: str) -> Any:
        """(seeds, prompts), or None."""
        if self.none_at is not None:
            matrix = _matrix(self.values[arm])
            return None if matrix is None else matrix - self.none_at
        if not self.compared or arm == against or not self.values.get(against):
            return None
        return _matrix(self.paired[arm]) if self.paired else _matrix(self.values[arm], self.values[against])


def _matrix(ours: Sequence[Column], theirs: Sequence[Column] = ()) -> Any:
    """(seeds, prompts), less ``theirs``, NaN where a seed does not have a prompt in both; None for fewer than two prompts, and where
    a seed has none."""
    there = (
        [own.keys() & other.keys() for own, other in zip(ours, theirs, strict=True)] if theirs else list(map(set, ours))
    )
    names = sorted(set().union(*there))
    if len(names) < 2 or not all(there):
        return None
    place = {name: n for n, name in enumerate(names)}
    found = np.full((len(there), len(names)), np.nan)
    for seed, (own, prompts) in enumerate(zip(ours, there, strict=True)):
        for prompt in prompts:
            found[seed, place[prompt]] = own[prompt] - (theirs[seed][prompt] if theirs else 0.0)
    return found


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
    policies: dict[str, str] = field(default_factory=dict)  # that a NAME is of, by NAME
    unsaid: list[str] = field(default_factory=list)


def measure(study: Study, out: Path) -> Measured:
    """All that is to be said of a walked study."""
    labels = _labels(study, out)
    pairs = {seed: pairs_of(folder_of(out, study.baseline, seed)) for seed in study.seeds}
    sharing = _sharing(study, out)
    found = _of_labels(study, out, labels, pairs, sharing)
    found.unsaid.extend(graded_by_their_own(study, out))
    of_reward = list(_of_reward_models(study, out, labels, found))
    of_labels = (*_of_truth(study, labels, found), *_of_people(study, labels, pairs, sharing))
    for each in (*of_labels, *of_reward, *_of_policies(study, out, found)):
        _tell(each, study, found)
    found.figures.update(figures_of(study, curves_of(study, out, labels)))
    for arm in study.arms if study.tune else ():
        found.figures[f"arms.{arm}.tuned"] = Figure(value=float(choice_of(study, arm, out)), n=len(study.tune))
    return found


def _tell(measure: Measure, study: Study, found: Measured) -> None:
    """A measure's figures, its differences and their answers, corrected over the arms (Holm)."""
    found.meanings[measure.name] = measure.meaning
    if measure.policy:
        found.policies[measure.name] = measure.policy
    whole: list[str] = []
    for arm, values in measure.values.items():
        if not values or not all(values):
            if any(values):
                found.unsaid.append(f"{arm}: {measure.name} was not measured with every seed: nothing is said of it.")
            continue
        head = START if arm == START else f"arms.{arm}"
        found.figures[f"{head}.{measure.name}"] = measure.mean(arm)
        whole.append(arm)
    differences = measure.differences(whole, study.baseline)
    for arm, difference in differences.items():
        found.figures[f"differences.{arm}.{measure.name}"] = difference.figure
        if measure.none_at is not None:  # the arm's own figure is that difference, and has its interval
            own = replace(difference, value=difference.value + measure.none_at)
            found.figures[f"arms.{arm}.{measure.name}"] = own.share
    if measure.margin is None or not differences:
        return
    for arm, conclusion in conclusions(differences, measure.margin).items():
        name, n = f"differences.{arm}.{measure.name}", conclusion.difference.n
        found.answers[name] = Answered(arm, measure, conclusion)
        for what, value in (
            ("p", conclusion.p),
            ("p_equivalent", conclusion.p_equivalent),
            ("detectable", conclusion.detectable),
        ):
            found.figures[f"{name}.{what}"] = Figure(value=value, n=n)


# --- labels -----------------------------------------------------------------------------------------------------------

ByArm = dict[str, dict[int, Labels]]  # by arm and seed


def _labels(study: Study, out: Path) -> ByArm:
    names = [*study.arms, *([TRUTH] if study.truth else [])]
    return {name: {seed: labels_of(folder_of(out, name, seed)) for seed in study.seeds} for name in names}


def _sharing(study: Study, out: Path) -> set[str]:
    """Arms in which people of the one that is held against label too, by their names."""
    others, seed = [arm for arm in study.arms if arm != study.baseline], study.seeds[0]
    return {arm for arm in others if share_people(folder_of(out, arm, seed), folder_of(out, study.baseline, seed))}


def _of_labels(
    study: Study, out: Path, labels: ByArm, pairs: Mapping[int, Mapping[str, Pair]], sharing: set[str]
) -> Measured:
    unsaid: list[str] = []
    theirs = labels[study.baseline]
    figures = people_of(pairs.values())
    for arm in study.arms:
        folders = [folder_of(out, arm, seed) for seed in study.seeds]
        own: Figures = {"missing": missing(labels[arm]), **_habits(folders), **taken(study.arms[arm], folders)}
        sides = beside(labels[arm], theirs, pairs)
        if sides.items and arm != study.baseline:
            own |= of_labels(sides)
            if arm in sharing:
                unsaid.append(
                    f"{arm}: people by the names of those of {study.baseline} label here too: agreement with them may be no merit."
                )
            else:
                first = {study.seeds[0]: labels[arm][study.seeds[0]]}  # a pair is one, however many seeds label it
                people, not_said = beside_people(beside(first, theirs, pairs))
                own |= people
                unsaid += [f"{arm}: {line}" for line in not_said]
        figures |= {f"arms.{arm}.labels.{name}": figure for name, figure in own.items()}
    return Measured(figures, {}, {}, unsaid=list(_once(unsaid, len(study.arms) - 1)))


def graded_by_their_own(study: Study, out: Path) -> Iterator[str]:
    """Arms labelled by a judge, or by the model of one, that judges the policies too."""
    recipe = recipe_in(folder_of(out, study.baseline, study.seeds[0]))
    grading = {_bare(name): _model(name, recipe) for name in (recipe.evaluation.judges if recipe.evaluation else ())}
    for arm, section in study.arms.items():
        for name in dict.fromkeys(map(_bare, _judges_in(section.labels.options))):
            by, model = f"Careful: {arm} is labelled by {name}", _model(name, recipe)
            if name in grading:
                which = "which judges the policies too: a policy may be preferred by the judge that taught it"
            elif model is not None and model in grading.values():
                which = "whose model judges the policies too: a policy may be preferred by the model that taught it"
            elif model is not None and any(each and same_family(model.model, each.model) for each in grading.values()):
                which = "of one family with a model that judges the policies: a policy may be preferred for what it was taught"
            else:
                continue
            yield f"{by}, {which}. Name another in evaluation.judges."


def _bare(name: str) -> str:
    return name.removeprefix("builtin:")


def _model(judge: str, recipe: Pipeline) -> Any:
    """What a judge asks; None of one that asks no model."""
    told = Catalogue().find("judge", judge, where="rlaif compare").yaml()
    return recipe.models.get(told.get("model_role", "judge") or "")


def _judges_in(options: Any) -> Iterator[str]:
    """Names of judges anywhere in a label source's options: a blend's parts have their own."""
    for key, value in options.items() if isinstance(options, Mapping) else ():
        if key == "judges":
            yield from value
        for part in value if isinstance(value, list | tuple) else [value]:
            yield from _judges_in(part)


def _habits(folders: Sequence[Path]) -> Figures:
    """What each run says of its judgements, over the seeds."""
    told = [json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in folders]
    found: Figures = {}
    for name in HABITS:
        own = over_seeds(Figure(**figures[key]) for figures in told if (key := f"judgements.{name}") in figures)
        if own.value is not None:
            found[name] = own
    return found


def _once(lines: Sequence[str], arms: int) -> Iterator[str]:
    """What is true of every arm is said once, of none."""
    said = [line.partition(": ")[2] for line in lines]
    for line, rest in zip(lines, said, strict=True):
        if said.count(rest) < arms:
            yield line
        elif said.index(rest) == lines.index(line):
            yield rest


def _of_people(
    study: Study, labels: ByArm, pairs: Mapping[int, Mapping[str, Pair]], sharing: set[str]
) -> Iterator[Measure]:
    """Whether labels agree with one person as far as another person does. Where a second person labelled other prompts in every seed,
    hardly any of which all have, it is of the prompts that any has."""
    values: dict[str, list[Column]] = {}
    paired: dict[str, list[Column]] = {}
    for arm in study.arms:
        if arm not in sharing:
            both = [with_one_person(labels[arm][seed], pairs[seed]) for seed in study.seeds]
            values[arm] = [own for own, _ in both]
            paired[arm] = [{prompt: right - between[prompt] for prompt, right in own.items()} for own, between in both]
    people = values[study.baseline] = [between_people(pairs[seed]) for seed in study.seeds]
    if people[0]:
        if 2 * len(set.intersection(*map(set, people))) < len(set().union(*people)):
            values, paired = (
                {arm: [_over_seeds_of_each(own)] for arm, own in each.items()} for each in (values, paired)
            )
        meaning = Meaning(
            "labels as one person labels, beside how another does", "% of labels without ties, prompts alike"
        )
        yield Measure(
            "labels.agreement_with_one", values, meaning, study.label_margin, more_is_better=True, paired=paired
        )


def _over_seeds_of_each(columns: Sequence[Column]) -> Column:
    """For each prompt that any seed has its mean over those."""
    found: dict[str, list[float]] = {}
    for prompt, value in itertools.chain.from_iterable(each.items() for each in columns):
        found.setdefault(prompt, []).append(value)
    return {prompt: fmean(values) for prompt, values in found.items()}


def _of_truth(study: Study, labels: ByArm, found: Measured) -> Iterator[Measure]:
    if not study.truth:
        return
    truth, theirs = labels[TRUTH], labels[study.baseline]
    values = {arm: [by_prompt(labels[arm][seed], truth[seed]) for seed in study.seeds] for arm in study.arms}
    paired: dict[str, list[Column]] = {}
    for arm in study.arms:
        if arm != study.baseline:
            found.figures[f"differences.{arm}.labels.truth.mcnemar_p"] = mcnemar_p(labels[arm], theirs, truth)
        paired[arm] = []
        for seed in study.seeds:  # on the pairs that both, and the truth, prefer one response of
            ours = by_prompt(labels[arm][seed], truth[seed], theirs[seed])
            other = by_prompt(theirs[seed], truth[seed], labels[arm][seed])
            paired[arm].append({prompt: right - other[prompt] for prompt, right in ours.items()})
    meaning = Meaning("labels that prefer what the truth does", "% of labels without ties, prompts alike")
    yield Measure("labels.truth", values, meaning, study.label_margin, more_is_better=True, paired=paired)


# --- reward models ----------------------------------------------------------------------------------------------------


def _of_reward_models(study: Study, out: Path, labels: ByArm, found: Measured) -> Iterator[Measure]:
    """Each arm's reward model on the held-out labels of every arm, and of the truth: all hold out the same pairs. Where settings were
    tried, on the held-out prompts that they were not chosen by."""
    held = {
        arm: {seed: told for seed in study.seeds if (told := measured_by(study, folder_of(out, arm, seed)))}
        for arm in study.arms
    }
    for of in labels:
        values = {
            arm: [accuracy_by_prompt(own[seed], labels[of][seed]) for seed in own] for arm, own in held.items() if own
        }
        for arm, own in held.items():
            if own and of in (arm, study.baseline, TRUTH):
                found.figures[f"arms.{arm}.reward.calibration_error.{of}"] = calibration(own, labels[of])
        meaning = Meaning(f"reward model right on held-out labels of {of}", "% of pairs without ties, prompts alike")
        compared = of in (study.baseline, TRUTH)  # that each does best on its own labels says nothing
        margin = study.margin if compared else None
        yield Measure(f"reward.accuracy.{of}", values, meaning, margin, more_is_better=True, compared=compared)


# --- policies ---------------------------------------------------------------------------------------------------------


def _of_policies(study: Study, out: Path, found: Measured) -> Iterator[Measure]:
    tables = {arm: [measured(folder_of(out, arm, seed)) for seed in study.seeds] for arm in study.arms}
    first = folder_of(out, study.baseline, study.seeds[0])
    told, tolerance = Measures(meanings(first), normalised=is_normalised(first)), recipe_in(first).failure_tolerance
    for policy, figure in _names(tables.values()):
        if (policy, figure) == (START, REWARD):
            continue  # each arm's reward model says another thing of it
        if policy == START:  # all arms' start
            values = {START: [table.get((START, figure), {}) for table in tables[study.baseline]]}
            yield Measure(figure, values, told[figure])
            continue
        values = {arm: [table.get((policy, figure), {}) for table in own] for arm, own in tables.items()}
        meaning = told[figure]
        if figure == EQUAL:
            meaning = Meaning("win rate against the start, at equal length", "% of prompts")
        margin = study.margin if meaning.is_share or _shares(values) else None
        better, compared = figure in (WIN, EQUAL), figure != REWARD  # which is by the arm's own reward model
        name = f"{policy}.{figure}"
        yield Measure(name, values, meaning, margin, more_is_better=better, compared=compared, policy=policy)
    folders = {arm: [contest_folder(out, arm, seed) for seed in study.seeds] for arm in study.arms}
    for who in study.contests:
        for arm, own in folders.items():
            for policy, share in without_verdict(own, who).items():
                name = f"contests_without_verdict{'_by_truth' if who == TRUTH else ''}"
                found.figures[f"arms.{arm}.{policy}.{name}"] = share
                if (share.value or 0.0) > tolerance:
                    found.unsaid.append(
                        f"{arm}: {share.value:.0%} of the contests of {policy} have no verdict of the {who}: where that is more than "
                        f"failure_tolerance ({tolerance:.0%}) with a seed, nothing is said of them."
                    )
    met = {arm: [contested(folder, study.contests) for folder in own] for arm, own in folders.items()}
    for policy, figure in sorted(_names(met.values()), key=lambda name: list(OF_CONTESTS).index(name[1])):
        values = {arm: [table.get((policy, figure), {}) for table in own] for arm, own in met.items()}
        none_at = 0.5 if figure.startswith(HEAD_TO_HEAD) else None
        if none_at is not None:
            del values[study.baseline]
        meaning = Meaning(OF_CONTESTS[figure].format(study.baseline), "% of prompts")
        yield Measure(
            f"{policy}.{figure}", values, meaning, study.margin, more_is_better=True, none_at=none_at, policy=policy
        )


def _names(tables: Iterable[Sequence[Table]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(name for own in tables for table in own for name in table))


def _shares(values: Mapping[str, Sequence[Column]]) -> bool:
    """Whether each value is a no or a yes, or a tie between them: their mean is a share."""
    return all(value in (0, 0.5, 1) for own in values.values() for column in own for value in column.values())
