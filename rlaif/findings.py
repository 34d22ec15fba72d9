"""What a run's figures say, in sentences that claim no more than the intervals do; first what to be wary of."""

from __future__ import annotations

from rlaif.measures import OF_ANSWERS, Measures, normalised
from rlaif.statistics import Figure

START = "start"
HABIT = 0.15  # |first-shown rate − 1/2| from which a labeller's habit of position is worth a warning
MOSTLY = 0.5
DETECTABLE = (1.96 + 0.84) / 1.96  # of the interval's half-width: what 80% power takes
SMALL = 0.005  # a difference from one half below half a point is none, however narrow its interval
FEW = 30  # below so many, an interval by resampling is too narrow to carry a verdict
UNREADABLE = 0.1  # share of replies from which those that cannot be read are worth a warning
READABLE = (
    "Check that the judge's folder has a chat template; try another template or other words (options.template and "
    "options.choices, in a copy of the judge: `rlaif copy JUDGE`); or take a judge that was trained to answer: an "
    "instruction-tuned model, or a judge that reads text, such as compare-text."
)

AGREEMENT = "judgements.labellers_agree"
NO_AGREEMENT = "No comparison has labels of two people: how far people agree cannot be said."
RAW_REWARDS = (
    "Careful: rewards are not normalised, for the reference samples gave no two different rewards: they are written as "
    "the network gives them, and 0 is no average. Let the reference samples differ (reward_model.sampling: a higher "
    "temperature, more tokens), raise reward_model.options.max_tokens where they are too long, take a base whose chat template takes their turns, or hold "
    "out less."
)

RATES = {  # figures of the labels, as a stranger reads them
    "judgements.first_rate": "first shown preferred",
    "judgements.longer_rate": "longer preferred",
    "judgements.orders_agree": "both orders agree",
    "judgements.cycles": "three replies preferred in a circle",
    "judgements.labellers_agree": "two labellers agree",
    "judgements.labellers_agree_without_ties": "two labellers agree, ties left out",
    "judgements.unreadable": "reply not readable",
    "judgements.option_mass": "probability on the offered words",
    "agreement.longest": "rule “longest” agrees",
    "agreement.first": "rule “first” agrees",
    "agreement.random": "a coin agrees",
}

Metrics = dict[str, Figure]


def arms_of(metrics: Metrics) -> list[str]:
    """The policies that were measured, the start first."""
    head, tail = "accounts.answers_of_", ".answered"
    return [
        name.removeprefix(head).removesuffix(tail) for name in metrics if name.startswith(head) and name.endswith(tail)
    ]


def findings(metrics: Metrics, measures: Measures | None = None) -> list[str]:
    """Warnings, then agreement between labellers, the reward model, and each policy against the start.

    ``measures``: what the metrics that the recipe names say of themselves.
    """
    lines = [*_warnings(metrics), *_agreement(metrics), *_reward_model(metrics)]
    for arm in arms_of(metrics):
        if arm != START:
            lines += [
                *_no_verdict(metrics, arm),
                *_policy(metrics, arm),
                *_measured(metrics, arm, measures or Measures()),
            ]
    return lines


def _warnings(metrics: Metrics) -> list[str]:
    lines = []
    unreadable = metrics.get("judgements.unreadable")
    if unreadable and (unreadable.value or 0) > UNREADABLE:
        mass = metrics.get("judgements.option_mass")
        lines.append(
            f"Careful: {unreadable.value:.1%} of {unreadable.n:,} showings could not be read. "
            f"{mass_seen(mass.value if mass else None)}{READABLE}"
        )
    lines += _position(metrics)
    if not normalised(metrics):
        lines.append(RAW_REWARDS)
    undecided = _of(metrics, "judgements.undecided")
    if undecided and undecided[0] > MOSTLY:
        lines.append(
            f"Careful: {undecided[0]:.1%} of the {undecided[3]:,} comparisons have no opinion further than 0.05 from one "
            "half, under no principle and of no labeller: their labels say little about which reply is better."
        )
    return lines


def _position(metrics: Metrics) -> list[str]:
    """A labeller's habit of position, where there are enough showings to speak of one."""
    first, agree = _of(metrics, "judgements.first_rate"), _of(metrics, "judgements.orders_agree")
    if not first or not agree or first[3] < FEW:
        return []
    habit = abs(first[0] - 0.5) > HABIT and not first[1] <= 0.5 <= first[2]
    if not habit and agree[0] >= MOSTLY:
        return []
    left = "Averaging the orders removes the habit"
    left += ", and little is left of such a judge." if agree[0] < MOSTLY else ", not what it costs in certainty."
    return [
        f"Careful: the reply shown first was preferred in {first[0]:.1%} of {first[3]:,} showings ({first[1]:.1%} to "
        f"{first[2]:.1%}), and both orders agree in {agree[0]:.1%} of comparisons. {left}"
    ]


def mass_seen(mean: float | None) -> str:
    """What a judge read by its probabilities gave to the words it was offered; "" for one that writes."""
    if mean is None:
        return ""
    return f"The offered words had {mean:.1%} of the judge's probability, on average over all showings. "


def _agreement(metrics: Metrics) -> list[str]:
    lines = []
    if found := _of(metrics, AGREEMENT):
        value, low, high, n = found
        clear = _of(metrics, f"{AGREEMENT}_without_ties")
        beside = (
            f"; in {clear[0]:.1%} of the {clear[3]:,} without a tie ({clear[1]:.1%} to {clear[2]:.1%})" if clear else ""
        )
        lines.append(
            f"Two labellers of one comparison agree in {value:.1%} of {n:,} pairs of votes ({low:.1%} to {high:.1%}), a "
            f"tie being an opinion like the others{beside}."
        )
    if unnamed := metrics.get("judgements.unnamed_repeats"):
        lines.append(
            f"In {unnamed.value:,.0f} of {unnamed.n:,} comparisons several votes have no name: they may be one person's, "
            "and say nothing of agreement. Say who labelled in an `annotator` column."
        )
    return lines


def _reward_model(metrics: Metrics) -> list[str]:
    found = _of(metrics, "reward_model.accuracy")
    if not found:
        return []
    value, low, high, n = found
    verdict = (
        too_few(n, "pairs")
        if _says_nothing(value, n)
        else "better than a coin"
        if low > 0.5
        else "worse than a coin"
        if high < 0.5
        else "not distinguishable from a coin"
    )
    longest = _of(metrics, "reward_model.accuracy_of_longest")
    beside = f" (always the longer reply in tokens: {longest[0]:.1%})" if longest else ""
    return [
        f"On {n} held-out pairs the reward model agrees with the labels in {value:.1%} ({low:.1%} to {high:.1%}): "
        f"{verdict}{beside}."
    ]


def _says_nothing(value: float, n: int) -> bool:
    """Whether a share of so few trials could be a coin's: an interval by resampling is too narrow to tell."""
    return n < FEW and abs(value - 0.5) < _reach(n)


def _reach(n: int) -> float:
    """How far from one half a share must lie to be told from a coin, with 80% power."""
    return DETECTABLE * 1.96 * 0.5 / max(1, n) ** 0.5  # half a point is the widest spread a share's trials can have


def too_few(n: int, what: str) -> str:
    """No verdict on so few trials: what they could have told from a coin, with 80% power."""
    reach = _reach(n)
    if reach >= 0.5:
        return f"{n} {what} are too few to tell anything from a coin"
    return f"{n} {what} are too few for a verdict: they would tell a coin from {0.5 + reach:.0%} or more, not from less"


def _policy(metrics: Metrics, arm: str) -> list[str]:
    win = _of(metrics, f"policies.{arm}.win_rate")
    if win:
        value, low, high, _ = win
        return [
            f"{arm} against the start: {_contests(metrics, arm)}. Win rate, a tie counting one half, {value:.1%} "
            f"({low:.1%} to {high:.1%}): {_win_verdict(metrics, arm, value, low, high)}.{_disagreeing(metrics, arm)}"
        ]
    return _change(metrics, arm)


def _disagreeing(metrics: Metrics, arm: str) -> str:
    """Said where a judge's two orders mostly disagree: those prompts are ties of the judge's making."""
    agree = metrics.get(f"policies.{arm}.orders_agree")
    if not agree or agree.value is None or agree.value >= MOSTLY:
        return ""
    return (
        f" Careful: both orders agree in {agree.value:.1%} of these contests, and where they do not the prompt is a tie: "
        "this judge goes by position more than by what it reads."
    )


def _change(metrics: Metrics, arm: str) -> list[str]:
    """What became of the reward, from the differences on the same prompts."""
    before, after = metrics.get("policies.start.reward"), metrics.get(f"policies.{arm}.reward")
    change = _of(metrics, f"differences.{arm}.reward")
    if not change or not before or before.value is None or not after or after.value is None:
        return []
    value, low, high, n = change
    if n < FEW:
        verdict = f"{n} prompts are too few for a verdict"
    elif low == high == 0:
        verdict = "no difference"
    elif low > 0 or high < 0:
        verdict = "higher than the start's" if low > 0 else "lower than the start's"
    else:
        verdict = f"inconclusive: this study could detect {DETECTABLE * (high - low) / 2:.2f}"
    return [
        f"{arm}: mean reward {after.value:.2f}, the start {before.value:.2f}; the difference on the same {n} held-out "
        f"prompts is {value:+.2f} ({low:+.2f} to {high:+.2f}): {verdict}. {_worth(metrics)}"
    ]


def _measured(metrics: Metrics, arm: str, measures: Measures) -> list[str]:
    """What became of the metrics that the recipe names: those whose difference has an interval without 0, each on its
    line, then the others' names."""
    head = f"differences.{arm}."
    names = [key.removeprefix(head) for key in metrics if key.startswith(head)]
    changed, others = [], []
    for name in (name for name in names if name not in OF_ANSWERS):
        found = _of(metrics, head + name)
        if not found:
            continue
        _, low, high, n = found
        measure = measures[name]
        if n >= FEW and (low > 0 or high < 0):
            before, after = (metrics.get(f"policies.{each}.{name}") for each in (START, arm))
            told = measure.change(metrics[head + name])
            changed.append(f"{arm}: {measure.what}: {measure.value(after)}, the start {measure.value(before)}; {told}.")
        else:
            others.append(measure.what)
    return [*changed, *([f"{arm}: no clear difference in {', '.join(others)}."] if others else [])]


def _worth(metrics: Metrics) -> str:
    """What a reward says of quality."""
    accuracy = _of(metrics, "reward_model.accuracy")
    if accuracy and (accuracy[1] <= 0.5 or _says_nothing(accuracy[0], accuracy[3])):
        return "The reward model is not shown to be better than a coin: its rewards say nothing of quality."
    return "The reward model learnt from the same labels: what it likes more need not be better."


def verdicts(metrics: Metrics, arm: str) -> dict[str, int]:
    """What became of the held-out prompts in the contest with the start: won, tied, lost, equal answers, unlabelled."""
    head = f"accounts.verdicts_on_{arm}."
    return {
        name.removeprefix(head).replace("_", " "): int(figure.value or 0)
        for name, figure in metrics.items()
        if name.startswith(head)
    }


def _no_verdict(metrics: Metrics, arm: str) -> list[str]:
    """A contest that came to nothing is said; the rest of what is known of the arm follows."""
    found = verdicts(metrics, arm)
    if not found or found["unlabelled"] < sum(found.values()):
        return []
    return [f"{arm} against the start: not one of {found['unlabelled']} held-out prompts has a verdict."]


def _contests(metrics: Metrics, arm: str) -> str:
    """What stands behind a win rate; equal answers, where there was nothing to judge, apart."""
    found = verdicts(metrics, arm)
    text = (
        f"of {judged(metrics, arm)} judged held-out prompts won {found.get('won', 0)}, tied {found.get('tied', 0)}, "
        f"lost {found.get('lost', 0)}"
    )
    if equal := found.get("equal answers"):
        text += f"; {equal} more where both answers are equal (nothing to judge: a tie)"
    if unlabelled := found.get("unlabelled"):
        text += f"; {unlabelled} without a verdict"
    return text


def judged(metrics: Metrics, arm: str) -> int:
    """Held-out prompts with a verdict of the judges."""
    found = verdicts(metrics, arm)
    return sum(found.get(outcome, 0) for outcome in ("won", "tied", "lost"))


def _win_verdict(metrics: Metrics, arm: str, value: float, low: float, high: float) -> str:
    count, found = judged(metrics, arm), verdicts(metrics, arm)
    share = (found.get("won", 0) + 0.5 * found.get("tied", 0)) / max(1, count)
    if _says_nothing(share, count):
        return too_few(count, "judged prompts")
    if abs(value - 0.5) < SMALL and high - low < 4 * SMALL:
        return "no difference to speak of"
    if abs(value - 0.5) >= SMALL and low > 0.5:
        return "better than the start"
    if abs(value - 0.5) >= SMALL and high < 0.5:
        return "worse than the start"
    return (
        f"inconclusive; a difference below {DETECTABLE * (high - low) / 2:.1%} would be missed here more than one time in "
        "five"
    )


def _of(metrics: Metrics, name: str) -> tuple[float, float, float, int] | None:
    """Value, low, high and n of a figure that has an interval."""
    figure = metrics.get(name)
    if figure is None or figure.value is None or figure.low is None or figure.high is None:
        return None
    return figure.value, figure.low, figure.high, figure.n
