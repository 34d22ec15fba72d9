"""What a run says of its labels, by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlaif.accounts import label_figures, reward_figures
from rlaif.config import PreferencesSection
from rlaif.preferences import reconcile
from rlaif.records import Comparison, Judgement
from tests import make


class Files:
    """The stage files of a run, in memory."""

    def __init__(self, judged: list[tuple[Comparison, list[Judgement]]]) -> None:
        rules = PreferencesSection()
        self.files: dict[str, list[Any]] = {
            "comparisons": [comparison for comparison, _ in judged],
            "judgements": [judgement for _, own in judged for judgement in own],
            "provenance": [reconcile(c, (c.responses[0], c.responses[1]), own, rules)[1] for c, own in judged],
        }

    def read(self, noun: str) -> Iterator[Any]:
        return iter(self.files[noun])

    def rows(self, noun: str) -> int:
        return len(self.files[noun])


def both(of: Comparison, first: float, second: float, **fields: Any) -> list[Judgement]:
    """Both showings: P(first response better) when it is shown first, and when it is shown second."""
    return [make.judgement(of, first, **fields), make.judgement(of, second, flipped=True, **fields)]


def test_positions_and_orders_are_those_of_opinions_with_near_ties_as_ties() -> None:
    one, two, three = (make.comparison("a longer reply", "short", question=f"question {i}") for i in range(3))
    run = Files(
        [
            # (3 · 0.9 + 0.52) / 4 = 0.805 when it stands first, (3 · 0.9 + 0.48) / 4 = 0.795 when second: the same in both
            (one, both(one, 0.9, 0.9, principle_id="x@1", weight=3.0) + both(one, 0.52, 0.48, principle_id="tie@1")),
            (two, both(two, 0.52, 0.48)),  # leans to the first shown by less than a near-tie
            (three, both(three, 0.9, 0.1)),  # goes by position
        ]
    )
    figures = label_figures(run)  # type: ignore[arg-type]
    # first shown: 1 and 0; one half twice; 1 twice
    assert (figures["judgements.first_rate"].value, figures["judgements.first_rate"].n) == (4 / 6, 6)
    # longer: 0.8 is for it; 0.5 and 0.5 are for neither
    assert (figures["judgements.longer_rate"].value, figures["judgements.longer_rate"].n) == (2 / 3, 3)
    assert (figures["judgements.orders_agree"].value, figures["judgements.orders_agree"].n) == (2 / 3, 3)
    # the second within a near-tie, the third one half over both orders; the first has an opinion under one principle
    assert (figures["judgements.undecided"].value, figures["judgements.undecided"].n) == (2 / 3, 3)


def test_a_reward_model_is_held_against_labels_by_how_sure_they_are() -> None:
    """Of labels of 0.6, 0.6 (as 0.4 for the other), 0.75 and 1.0 the first is missed and the second a tie of rewards."""
    held = {"prompt_ids": list("abcd"), "differences": [-1.0, 0.0, 2.0, 3.0], "p": [0.6, 0.4, 0.75, 1.0]}
    held |= {"weight": [1.0] * 4, "longer": [1.0] * 4}
    found = reward_figures(held)
    assert {name: (each.value, each.n) for name, each in found.items() if ".p_" in name} == {
        "reward_model.accuracy.p_50_60": (0.25, 2),
        "reward_model.accuracy.p_70_80": (1.0, 1),
        "reward_model.accuracy.p_90_100": (1.0, 1),
    }
    hard = reward_figures(held | {"p": [1.0, 0.0, 1.0, 1.0]})
    assert not [name for name in hard if ".p_" in name]
