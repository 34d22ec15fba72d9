"""The card as a page: whether to trust a judge, to be decided in a minute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif.calibrating import bare
from rlaif.canaries import CANARIES
from rlaif.certification.card import Card
from rlaif.config import MOST_FOOLED, PreferencesSection
from rlaif.constitutions.runs import JudgedRun, Pair, People
from rlaif.recorded.contests import contest_names
from rlaif.recorded.meters import FEATURES, own_family
from rlaif.report import page
from rlaif.report.figures import Plots
from rlaif.store import write_text

AGREEMENT = {  # figures of the first plot, as a stranger reads them
    "labels.agreement": "its labels",
    "agreement.judge": "single verdicts",
    "people.agreement": "two people",
    "people.ceiling": "the best possible",
    "agreement.longest": "rule “longest”",
    "agreement.first": "rule “first”",
    "agreement.random": "a coin",
}
CONTEST = ("", ".length_controlled", ".people", ".judge_minus_people")
SHOWN = 6  # disagreements
LONGEST = 1200  # characters of a text shown


def write_page(
    path: Path, card: Card, unsaid: Sequence[str], certificate: Mapping[str, Any], run: JudgedRun, people: People
) -> None:
    plots = Plots()
    both = list(_judged(run, people))
    named = [(label, card[name]) for name, label in AGREEMENT.items() if name in card]
    features = [*FEATURES, own_family(())]
    biases: list[dict[str, Any]] = [
        {
            "name": feature.name.replace("_", " "),
            "more": feature.more,
            "less": feature.less,
            "pull": card[f"bias.{feature.name}"],
            "right_with": card[f"bias.{feature.name}.right_with"],
            "right_against": card[f"bias.{feature.name}.right_against"],
        }
        for feature in features
        if f"bias.{feature.name}" in card
    ]
    canaries = [
        {
            "words": canary.words,
            "wins": card[name],
            "gain": card.get(f"{name}.gain"),
            "unlabelled": card[f"{name}.unlabelled"],
        }
        for canary in CANARIES
        if (name := f"canaries.{canary.name}") in card
    ]
    html = page("card.html.j2").render(
        card=card,
        judge=" and ".join(bare(labeller) for labeller in certificate["judges"]),
        pairs=card["labels"].n,
        unsaid=unsaid,
        plots={
            "agreement": plots.forest(named, "share of pairs", "Agreement with people", lines=(0.5,), ends=(0, 1)),
            "people": "people.agreement" in card,
            "biases": plots.forest(
                [(str(bias["name"]), bias["pull"]) for bias in biases], "difference", "Biases", lines=(0.0,)
            ),
            "canaries": plots.forest(
                [(canary.name, card[f"canaries.{canary.name}"]) for canary in CANARIES if f"canaries.{canary.name}" in card],
                "share of wins",
                "Canaries",
                lines=(MOST_FOOLED,),
                ends=(0, 1),
            ),
            "calibration": _calibration(plots, both),
        },
        biases=biases,
        canaries=canaries,
        contests=[(one, other, *(card.get(f"{name}{of}") for of in CONTEST)) for one, other, name in contest_names(card)],
        maps=list(_maps(card)),
        tables=[
            (title, rows)
            for title, head in (("By principle", "principles."), ("By category of prompt", "categories."))
            if (rows := [(name.removeprefix(head).removesuffix(".agreement"), f) for name, f in card.items() if name.startswith(head)])
        ],
        disagreements=_disagreements(both),
        folder=path.parent,
        **certificate,
    )  # fmt: skip
    write_text(path, html)


def _judged(run: JudgedRun, people: People) -> Iterator[tuple[Pair, float, float]]:
    """Pairs with the judge's probability, uncalibrated, and people's."""
    plain = PreferencesSection(missing_votes=run.rules.missing_votes)
    for pair in run.pairs():
        human, own = people.get(pair.key), pair.label(plain)
        if human is not None and own is not None:
            yield pair, own.p, human.p


def _calibration(plots: Plots, both: Sequence[tuple[Pair, float, float]]) -> str:
    predicted = [p for _, p, _ in both]
    if len({round(p, 6) for p in predicted}) <= 3:
        return ""  # verdicts without probabilities
    target = [human for _, _, human in both]
    return plots.reliability(
        predicted + [1 - p for p in predicted], target + [1 - p for p in target], "the judge's probability", "people's", "Calibration"
    )  # fmt: skip


def _maps(card: Card) -> Iterator[dict[str, Any]]:
    head, tail = "calibration.", ".log_loss"
    for name, figure in card.items():
        if name.startswith(head) and name.endswith(tail):
            kind = name.removeprefix(head).removesuffix(tail)
            error = card[f"{head}{kind}.calibration_error"]
            yield {"name": kind.replace("_", " "), "loss": figure, "error": error}


def _disagreements(both: Sequence[tuple[Pair, float, float]]) -> list[dict[str, Any]]:
    """The surest of those where people clearly say otherwise."""
    against = [(pair, p) for pair, p, human in both if (p - 0.5) * (human - 0.5) < 0]
    against.sort(key=lambda each: (-abs(each[1] - 0.5), each[0].key))
    found = []
    for pair, p in against[:SHOWN]:
        own, other = (pair.a, pair.b) if p > 0.5 else (pair.b, pair.a)
        found.append(
            {"prompt": _cut(pair.comparison.prompt.text), "p": max(p, 1 - p), "judges": _cut(own.text), "peoples": _cut(other.text)}
        )  # fmt: skip
    return found


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
