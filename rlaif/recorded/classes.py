"""Judges that put each response into a class (complied, refused, refused in part), against people who did the same.

A row is one response: a column for each labeller, in words of whatever kind, and where one prompt has several responses
``prompt_id`` or ``prompt``, for rows of one prompt are not independent. What a judge says that is none of people's
classes, or nothing, could not be read: it agrees with nobody. Rows without the label that counts as true are left out.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.errors import DataError, did_you_mean
from rlaif.recorded.card import Card, number
from rlaif.rows import read_rows
from rlaif.statistics import Figure, cluster_mean, cohen_kappa, paired_difference, percent_agreement, points, share

MANY = 20  # classes, from which a column holds something other than a judgement
Label = str | None


@dataclass(frozen=True)
class Labelled:
    """Responses with everyone's class of them. ``labels`` maps a labeller to one label for each response."""

    truth: str
    judges: Sequence[str]
    people: Sequence[str]
    prompts: Sequence[Hashable]
    labels: Mapping[str, list[Label]]
    groups: Mapping[str, list[int]]  # by a further column: rows of each of its values
    left_out: int  # rows without the true label

    @property
    def classes(self) -> list[str]:
        """Those that people use, in order."""
        used = {label for name in (self.truth, *self.people) for label in self.labels[name]}
        return sorted(label for label in used if label is not None)


def read_labelled(
    source: str, truth: str, judges: Sequence[str], people: Sequence[str] = (), by: str | None = None
) -> Labelled:
    """Raises DataError where a column is missing, holds no classes, or no row has the true label."""
    columns = list(dict.fromkeys([truth, *judges, *people]))
    labels: dict[str, list[Label]] = {column: [] for column in columns}
    prompts: list[Hashable] = []
    groups: dict[str, list[int]] = {}
    left_out = 0
    for where, row in read_rows(source):
        found = {column: _label(where, row, column) for column in columns}
        value = _column(where, row, by) if by else None
        if found[truth] is None:
            left_out += 1
            continue
        groups.setdefault(f"{by}={value}", []).append(len(prompts))
        prompt = row.get("prompt_id", row.get("prompt"))
        prompts.append(where if prompt is None else str(prompt))
        for column in columns:
            labels[column].append(found[column])
    if not prompts:
        raise DataError(f"{source}: no row has a label in {truth}; it is what judges are compared with.")
    labelled = Labelled(truth, judges, people, prompts, labels, groups if by else {}, left_out)
    if len(labelled.classes) > MANY:
        raise DataError(
            f"{source}: {', '.join([truth, *people])}: {len(labelled.classes):,} different values. Classes are at most "
            f"{MANY}; name a column that holds them."
        )
    return labelled


def _column(where: str, row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise DataError(f"{where}: no {column}.{did_you_mean(column, row)}")
    return row[column]


def _label(where: str, row: Mapping[str, Any], column: str) -> Label:
    value = _column(where, row, column)
    if isinstance(value, list | dict):
        raise DataError(f"{where}: {column} is a {type(value).__name__}; expected a class, such as a word.")
    return None if value in (None, "") else str(value)


def classes_card(found: Labelled) -> Card:
    """Figures by name, shares in [0, 1], intervals over prompts.

    ``share.CLASS`` is how many responses are of a class; ``JUDGE.share.CLASS`` how many the judge says;
    ``JUDGE.excess.CLASS`` the second minus the first: above 0 the judge finds too many. ``JUDGE.recall.CLASS`` is the
    share of the true ones it finds, ``JUDGE.precision.CLASS`` the share of those it names that are true.
    """
    everyone = range(len(found.prompts))
    card = _of_rows(found, everyone)
    card["left_out"] = Figure(value=float(found.left_out), n=found.left_out + len(found.prompts))
    for at, one in enumerate(found.people):
        for other in found.people[at + 1 :]:
            pair = found.labels[one], found.labels[other]
            card[f"agreement.{one}.{other}"] = percent_agreement(*pair, found.prompts)
            card[f"kappa.{one}.{other}"] = cohen_kappa(*pair, found.prompts)
    for name, rows in found.groups.items():
        card |= {f"{name}.{figure}": value for figure, value in _of_rows(found, rows).items()}
    return card


def _of_rows(found: Labelled, rows: Sequence[int]) -> Card:
    truth, prompts = [found.labels[found.truth][i] for i in rows], [found.prompts[i] for i in rows]
    card = {f"share.{name}": cluster_mean([label == name for label in truth], prompts) for name in found.classes}
    for judge in found.judges:
        said = [label if (label := found.labels[judge][i]) in found.classes else None for i in rows]
        card[f"{judge}.agreement"] = percent_agreement(said, truth, prompts)
        card[f"{judge}.kappa"] = cohen_kappa(said, truth, prompts)
        card[f"{judge}.unreadable"] = cluster_mean([label is None for label in said], prompts)
        for name in found.classes:
            ours, theirs = [float(label == name) for label in said], [float(label == name) for label in truth]
            card[f"{judge}.share.{name}"] = cluster_mean(ours, prompts)
            card[f"{judge}.excess.{name}"] = paired_difference(ours, theirs, prompts)
            card[f"{judge}.recall.{name}"] = _among(ours, theirs, prompts)
            card[f"{judge}.precision.{name}"] = _among(theirs, ours, prompts)
    return card


def _among(values: Sequence[float], chosen: Sequence[float], prompts: Sequence[Hashable]) -> Figure:
    kept = [i for i, is_chosen in enumerate(chosen) if is_chosen]
    return cluster_mean([values[i] for i in kept], [prompts[i] for i in kept])


def classes_lines(found: Labelled, card: Card) -> list[str]:
    """Figures for a person: people, then each judge, then each group."""
    lines = [
        f"{len(found.prompts):,} responses to {len(set(found.prompts)):,} prompts"
        + (f"; {found.left_out:,} rows without {found.truth} left out" if found.left_out else "")
    ]
    for at, one in enumerate(found.people):
        for other in found.people[at + 1 :]:
            lines.append(
                f"{one} and {other} agree on {share(card[f'agreement.{one}.{other}'])}, "
                f"kappa {number(card[f'kappa.{one}.{other}'])}"
            )
    lines += _lines(found, card, "")
    for name, rows in found.groups.items():
        lines += ["", f"{name}: {len(rows):,} responses", *_lines(found, card, f"{name}.")]
    return lines


def _lines(found: Labelled, card: Card, group: str) -> list[str]:
    lines = [f"{found.truth}: " + ", ".join(f"{name} {share(card[f'{group}share.{name}'])}" for name in found.classes)]
    for judge in found.judges:
        of = f"{group}{judge}"
        unreadable = card[f"{of}.unreadable"]
        lines.append(
            f"{judge} agrees on {share(card[f'{of}.agreement'])}"
            + (f", kappa {number(kappa)}" if (kappa := card[f"{of}.kappa"]).value is not None else "")
            + (f", {share(unreadable)} unreadable" if unreadable.value else "")
        )
        for name in found.classes:
            lines.append(
                f"  {name}: says {card[f'{of}.share.{name}'].value:.1%}, "
                f"{points(card[f'{of}.excess.{name}'])}; finds {share(card[f'{of}.recall.{name}'])} of them, "
                f"right in {share(card[f'{of}.precision.{name}'])}"
            )
    return lines
