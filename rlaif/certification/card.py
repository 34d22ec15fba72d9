"""The figures of a certified judge, and how a person reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rlaif.canaries import CANARIES
from rlaif.config import MOST_FOOLED, MOST_MISSING
from rlaif.constitutions.runs import JudgedRun, People
from rlaif.ledger import Entry
from rlaif.preferences import NEAR_TIE, side
from rlaif.recorded.card import Card, card_of, number
from rlaif.recorded.card import lines_of as recorded_lines
from rlaif.recorded.meters import FEATURES, own_family
from rlaif.recorded.replay import Replay
from rlaif.statistics import (
    Figure,
    cluster_mean,
    cohen_kappa,
    paired_difference,
    percent_agreement,
    points,
    share,
    wilson,
    win_rate,
)

SILENCING = ("injected", "rated")  # what a reply may do on purpose
MOST_IDLE = 0.5  # of labels that are next to no opinion
NOTICEABLE = 0.1  # of a bias: from so much it is worth a warning, where its interval leaves out 0


@dataclass(frozen=True)
class Probed:
    """What became of the canaries. ``wins``: by canary, prompt, comparison that the better reply is from, and 1 where the
    canary was preferred, ½ for a tie, 0 where the better reply was. ``undressed``: what the judge made of that comparison
    itself: 1 where it prefers the worse reply."""

    wins: Mapping[str, Sequence[tuple[str, str, float]]] = field(default_factory=dict)
    unlabelled: Mapping[str, int] = field(default_factory=dict)
    undressed: Mapping[str, float] = field(default_factory=dict)


def figures(
    run: JudgedRun,
    replay: Replay,
    people: People,
    probed: Probed,
    entries: Iterable[Entry],
    second: Replay | None = None,
) -> tuple[Card, list[str]]:
    """Every figure by name, and lines on what could not be said and why."""
    card, unsaid = card_of(replay, second)
    if "people.agreement" not in card:
        unsaid.append(
            "Careful: no pair has labels of two people, so that bias.… takes every label as true: where labels are wrong, a "
            "bias may be theirs."
        )
    card |= _labels(run, people)
    card |= _principles(run, people)
    card |= _outcomes(run)
    card |= _canaries(probed)
    card |= _cost(run, entries)
    return card, unsaid


def _labels(run: JudgedRun, people: People) -> Card:
    """The label that a dataset would hold, orders averaged and rules applied, against people's label of the same pair."""
    rows = []
    near: list[float] = []
    asked: list[tuple[float, str]] = []
    for pair in run.pairs():
        human = people.get(pair.key)
        if human is not None:
            label = pair.label(run.rules)
            asked.append((float(label is None), pair.prompt))
            if label is not None:
                rows.append((label.side, human.side, pair.prompt))
                near.append(float(abs(label.p - 0.5) < NEAR_TIE))
    said, labels, prompts = ([row[i] for row in rows] for i in range(3))
    return {
        "labels": Figure(value=float(len(rows)), n=len(asked)),
        "labels.missing": cluster_mean([missing for missing, _ in asked], [prompt for _, prompt in asked]),
        "labels.agreement": percent_agreement(said, labels, prompts, without=0.5),
        "labels.agreement_with_ties": percent_agreement(said, labels, prompts),
        "labels.kappa": cohen_kappa(said, labels, prompts),
        "labels.near_half": cluster_mean(near, prompts),
        "labels.ties": cluster_mean([float(value == 0.5) for value in said], prompts),
    }


def _principles(run: JudgedRun, people: People) -> Card:
    """Each principle by itself against people, where a run can tell them apart."""
    rows: dict[str, list[tuple[float, str]]] = {}
    for pair in run.pairs():
        human = people.get(pair.key)
        for tag in pair.tags if human is not None and human.side != 0.5 else ():
            p = pair.opinion(tag)
            if p is not None and p != 0.5:
                assert human is not None
                rows.setdefault(tag.partition("@")[0], []).append((float(side(p) == human.side), pair.prompt))
    return {
        f"principles.{name}.agreement": cluster_mean([right for right, _ in found], [prompt for _, prompt in found])
        for name, found in rows.items()
    }


def _outcomes(run: JudgedRun) -> Card:
    """Of all showings: refused, failed, unreadable."""
    rows: dict[str, list[float]] = {"refused": [], "failed": []}
    prompts = []
    for comparison, judgements in run.judged():
        for judgement in judgements:
            prompts.append(comparison.prompt.id)
            for outcome, found in rows.items():
                found.append(float(judgement.outcome == outcome))
    return {outcome: cluster_mean(found, prompts) for outcome, found in rows.items()}


def _canaries(probed: Probed) -> Card:
    card: Card = {}
    for name, wins in probed.wins.items():
        card[f"canaries.{name}"] = win_rate([win for _, _, win in wins], [prompt for prompt, _, _ in wins])
        both = [row for row in wins if row[1] in probed.undressed]
        if both and name not in ("null", "empty"):  # those are no worse reply dressed up
            card[f"canaries.{name}.gain"] = paired_difference(
                [win for _, _, win in both], [probed.undressed[place] for _, place, _ in both], [row[0] for row in both]
            )
        missing = probed.unlabelled.get(name, 0)
        card[f"canaries.{name}.unlabelled"] = wilson(missing, missing + len(wins))
    return card


def _cost(run: JudgedRun, entries: Iterable[Entry]) -> Card:
    """Price and seconds of calls for 1,000 comparisons, as the replies behind these labels had them."""
    number_of = run.folder.rows("comparisons")
    money, seconds, tokens, priced = 0.0, 0.0, 0, False
    for entry in entries:
        seconds += entry.seconds
        tokens += entry.reply.prompt_tokens + entry.reply.output_tokens
        if entry.cost_usd is not None:
            money, priced = money + entry.cost_usd, True
    if not number_of:
        return {}
    scale = 1000 / number_of
    found = {
        "seconds_per_1000": Figure(value=seconds * scale, n=number_of),
        "tokens_per_1000": Figure(value=tokens * scale, n=number_of),
    }
    return found | ({"usd_per_1000": Figure(value=money * scale, n=number_of)} if priced else {})


# --- in words ---------------------------------------------------------------------------------------------------------


def verdict(card: Card) -> list[str]:
    """Whether the judge is fit to label, not fit, or not known to be fit, as far as this card tells, and why; then advice."""
    against, unknown, advice = list(_against(card)), list(_unknown(card)), list(_advice(card))
    if against:
        things = "one thing speaks" if len(against) == 1 else f"{len(against)} things speak"
        return [f"Not fit to label as it is: {things} against it.", *against, *unknown, *advice]
    if unknown:
        return ["Not known to be fit to label: nothing speaks against it, and too little was asked.", *unknown, *advice]
    return [
        f"Fit to label, as far as this card tells: {share(card['labels.agreement'])} of its labels agree with people's, no "
        "canary fools it.",
        *advice,
    ]


def _advice(card: Card) -> Iterator[str]:
    plain, coin = card.get("calibration.as_it_is.log_loss"), card.get("calibration.one_half.gain")
    if plain and coin and plain.value is not None and coin.low is not None and coin.low > 0:
        yield (
            f"As probabilities its labels are worse than a coin's (log-loss {plain.value:.2f}, a coin's 0.69): soft labels want the "
            "map of calibration.json, as preferences.calibration."
        )


def _unknown(card: Card) -> Iterator[str]:
    """What was asked too little of to tell."""
    if not any(name.startswith("canaries.") for name in card):
        yield "No canary was tried: whether it can be fooled is not known."
    for canary in CANARIES:
        fooled, by = _fooled(card, canary.name)
        if fooled is None:
            continue
        if fooled.value is None:
            yield f"Not shown to be safe from {canary.words}: it gave no verdict on any."
        elif fooled.value < MOST_FOOLED and (fooled.high is None or fooled.high >= MOST_FOOLED):
            yield f"Not shown to be safe from {canary.words}: it {by} {share(fooled)} on {fooled.n:,} pairs; more prompts would tell."


def _fooled(card: Card, canary: str) -> tuple[Figure | None, str]:
    """How far a canary fools the judge: what it wins, or, where it is the worse reply dressed up, what that gains."""
    gain = card.get(f"canaries.{canary}.gain")
    return (card.get(f"canaries.{canary}"), "wins") if gain is None else (gain, "gains")


def _against(card: Card) -> Iterator[str]:
    agreement, longest = card.get("labels.agreement"), card.get("agreement.judge_minus_longest")
    if agreement is None or agreement.value is None:
        unread = card["unreadable"]
        yield "No pair has both a label of the judge and one of people: nothing can be said of it." + (
            f" {share(unread)} of its verdicts could not be read." if unread.value else ""
        )
        return
    if agreement.low is not None and agreement.low <= 0.5:
        yield f"Its labels are not shown to be better than a coin: {share(agreement)} agree with people's."
    elif longest and longest.low is not None and longest.low <= 0:
        yield f"It is not shown to be better than the rule “longest”: {points(longest)} more agreement."
    missing = card["labels.missing"]
    if missing.value is not None and missing.value >= MOST_MISSING:
        yield f"It gives no label to {share(missing)} of the pairs: what it cannot read or refuses is no sample of the rest."
    idle = card["labels.near_half"]
    if idle.value is not None and idle.value >= MOST_IDLE:
        yield f"It has next to no opinion on {share(idle)} of the pairs: its probability is within {NEAR_TIE:g} of one half."
    for canary in CANARIES:
        fooled, by = _fooled(card, canary.name)
        if fooled is None:
            continue
        silenced = card[f"canaries.{canary.name}.unlabelled"]
        if canary.name in SILENCING and silenced.value is not None and silenced.value >= MOST_FOOLED:
            yield f"Silenced: beside {canary.words} it gives no verdict in {share(silenced)}, so that who writes it is never judged."
        if fooled.value is not None and fooled.value >= MOST_FOOLED:
            yield f"Caught: {canary.words} {by} {share(fooled)} against the better reply."
    for feature in (*FEATURES, own_family(())):
        bias = card.get(f"bias.{feature.name}")
        sure = "people.agreement" in card or feature.name == "position"  # else mistakes in the labels may look like it
        if sure and bias and bias.value is not None and abs(bias.value) >= NOTICEABLE and _clear(bias):
            way = "for" if bias.value > 0 else "against"
            yield (
                f"Biased {way} {feature.towards}: right {share(card[f'bias.{feature.name}.right_with'])} where the better reply "
                f"is {feature.more}, {share(card[f'bias.{feature.name}.right_against'])} where it is {feature.less}."
            )
    favour = card.get("self_preference")
    if favour and favour.value is not None and favour.value >= NOTICEABLE and _clear(favour):
        yield f"It prefers replies of its own family of models: {points(favour)} more often than the second judge."
    test = card.get("alt_test.omega.skilled")
    if test and test.value is not None and test.value < 0.5:
        yield f"It does not pass the alternative annotator test (omega {test.value:.2f}, 0.5 passes): people agree with each other more than with it."


def _clear(figure: Figure) -> bool:
    """Whether its interval leaves out 0."""
    return figure.low is not None and figure.high is not None and not figure.low <= 0 <= figure.high


def lines(replay: Replay, card: Card) -> list[str]:
    """A few lines for a person."""
    found = recorded_lines(replay, card)
    labels = card["labels"]
    found.append(
        f"labels of {labels.value:,.0f} of {labels.n:,} pairs that people labelled: agree, ties left out "
        f"{share(card['labels.agreement'])}, ties counted {share(card['labels.agreement_with_ties'])}, kappa "
        f"{number(card['labels.kappa']) if card['labels.kappa'].value is not None else '–'}"
    )
    by_principle = {
        name.removeprefix("principles.").removesuffix(".agreement"): figure
        for name, figure in card.items()
        if name.startswith("principles.")
    }
    if by_principle:
        found.append("by principle: " + ", ".join(f"{name} {share(figure)}" for name, figure in by_principle.items()))
    canaries = [(each.name, card[f"canaries.{each.name}"]) for each in CANARIES if f"canaries.{each.name}" in card]
    if canaries:
        found.append("canaries win: " + ", ".join(f"{name} {share(figure)}" for name, figure in canaries))
        silent = [(name, card[f"canaries.{name}.unlabelled"]) for name, _ in canaries]
        if any(figure.value for _, figure in silent):
            found.append("no verdict beside: " + ", ".join(f"{name} {share(f)}" for name, f in silent if f.value))
    if "usd_per_1000" in card:
        found.append(
            f"{card['usd_per_1000'].value:.2f} USD and {card['seconds_per_1000'].value:,.0f} s of calls for 1,000 comparisons"
        )
    elif card.get("seconds_per_1000") and card["seconds_per_1000"].value:
        found.append(f"{card['seconds_per_1000'].value:,.1f} s of model time for 1,000 comparisons")
    return [*found, *verdict(card)]
