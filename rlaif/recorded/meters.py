"""How far a judge is pulled by what is not quality, given labels of the same pairs (``statistics.meters``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rlaif.families import same_family
from rlaif.recorded.replay import Choice, Item, Reading, Replay
from rlaif.statistics import Figure, Pull, paired_difference, pull, win_rate

Signs = Callable[[Item, Reading], int]  # 1: response_a has more of it, -1: response_b, 0: neither


@dataclass(frozen=True)
class Feature:
    """Something one reply of a pair may have more of. ``more`` and ``less`` say so of a reply, for a person."""

    name: str
    signs: Signs
    towards: str
    more: str
    less: str


def _first(item: Item, reading: Reading) -> int:
    if not reading.shown or not reading.order:
        return 0
    return 1 if reading.order == "ab" else -1


def _longer(item: Item, reading: Reading) -> int:
    a, b = item.lengths
    return (a > b) - (a < b)


def _listed(item: Item, reading: Reading) -> int:
    """Only where one of the two has any: how many lines a list has is length again."""
    a, b = (bool(marks) for marks in item.marks)
    return a - b


FEATURES = (
    Feature("position", _first, "the reply shown first", "shown first", "shown second"),
    Feature("length", _longer, "the longer reply", "longer", "shorter"),
    Feature("lists", _listed, "the reply with a list or headings", "the one with a list", "the one without"),
)


def own_family(models: Sequence[str]) -> Feature:
    """The feature of having been written by the family of these models, which judge."""

    def signs(item: Item, reading: Reading) -> int:
        a, b = (any(same_family(author, model) for model in models) for author in item.authors)
        return a - b

    return Feature("own_family", signs, "its own family's reply", "its own family's", "another's")


@dataclass
class _Rows:
    preferred: list[float] = field(default_factory=list)
    labels_for: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)


def features_of(replay: Replay) -> tuple[Feature, ...]:
    return (*FEATURES, own_family(replay.models or (replay.judge,)))


def biases(replay: Replay) -> dict[str, Figure]:
    """``bias.NAME``, in [-1, 1], and ``bias.NAME.right_with``, ``.right_against``, for every feature that pairs differ in."""
    card = {}
    for feature in features_of(replay):
        found = pull_of(replay, feature)
        if found.pull.n:
            card[f"bias.{feature.name}"] = found.pull
            card[f"bias.{feature.name}.right_with"] = found.right_with
            card[f"bias.{feature.name}.right_against"] = found.right_against
    return card


def self_preference(replay: Replay, second: Replay) -> dict[str, Figure]:
    """``self_preference``, in [-1, 1]: how much more often the judge prefers the reply of its own family of models to one of
    another than the ``second`` judge does on the same pairs; ``….judge`` and ``….second``, the two rates. It takes no
    people's labels, and is worth as much as the second judge is of another family than judge and replies. (Zheng et al.
    2023, 2306.05685 §3.3; Panickssery et al. 2024, 2404.13076.)"""
    signs = own_family(replay.models or (replay.judge,)).signs
    rows = []
    for item in replay.items:
        own, other = replay.opinion(item), second.opinion(item)
        sign = signs(item, Reading(None, None))
        if sign and own is not None and other is not None:
            rows.append((own if sign > 0 else 1 - own, other if sign > 0 else 1 - other, item.prompt))
    ours, theirs, prompts = ([row[i] for row in rows] for i in range(3))
    return {
        "self_preference": paired_difference(ours, theirs, prompts),
        "self_preference.judge": win_rate(ours, prompts),
        "self_preference.second": win_rate(theirs, prompts),
    }


def no_outside_view(replay: Replay, second: Replay) -> str:
    """Why a second judge is none of another family, if that is so."""
    models, others = replay.models or (replay.judge,), second.models or (second.judge,)
    if any(same_family(one, other) for one in models for other in others):
        return (
            f"{second.judge} is of the judge's own family of models: what both prefer, self_preference does not show."
        )
    authors = {author for item in replay.items for author in item.authors if author}
    own = next((author for author in sorted(authors) for other in others if same_family(author, other)), None)
    if own is None:
        return ""
    return f"{second.judge} is of the family of {own}, which wrote some of the replies: self_preference shows both judges' favour."


def pull_of(replay: Replay, feature: Feature) -> Pull:
    """Over every readable verdict on a pair that differs in the feature and has a label that is no tie."""
    rows = _Rows()
    for item, votes in _labelled(replay):
        for reading in replay.readings.get(item.id, ()):
            sign = feature.signs(item, reading)
            if not sign or reading.choice is None:
                continue
            more: Choice = "a" if sign > 0 else "b"
            rows.preferred.append(0.5 if reading.choice == "tie" else float(reading.choice == more))
            rows.labels_for.append(sum(vote == more for vote in votes))
            rows.labels.append(len(votes))
            rows.prompts.append(item.prompt)
    return pull(rows.preferred, rows.labels_for, rows.labels, rows.prompts)


def _labelled(replay: Replay) -> Iterator[tuple[Item, list[Choice]]]:
    """Items that have a better reply, with what single people say; one label stands for one person."""
    for item in replay.items:
        votes: list[Choice] = [choice for choice in item.people.values() if choice in ("a", "b")]
        ties = sum(choice == "tie" for choice in item.people.values())
        if not item.people and item.label in ("a", "b"):
            votes = [item.label]
        if votes and len(votes) > ties:
            yield item, votes
