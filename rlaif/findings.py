"""What a run's figures say, in sentences that claim no more than the intervals do; first what to be wary of."""

from __future__ import annotations

from rlaif.statistics import Figure

START = "start"
HABIT = 0.15  # |first-shown rate − 1/2| from which a labeller's habit of position is worth a warning
MOSTLY = 0.5
DETECTABLE = (1.96 + 0.84) / 1.96  # of the interval's half-width: what 80% power takes
SMALL = 0.005  # a difference from one half below half a point is none, however narrow its interval

Metrics = dict[str, Figure]


def arms_of(metrics: Metrics) -> list[str]:
    """The policies that were measured, the start first."""
    return [name.split(".")[1] for name in metrics if name.startswith("policies.") and name.endswith(".answered")]


def findings(metrics: Metrics) -> list[str]:
    """Warnings, then the reward model, then each policy against the start."""
    lines = [*_warnings(metrics), *_reward_model(metrics)]
    for arm in arms_of(metrics):
        if arm != START:
            lines += _policy(metrics, arm)
    return lines


def _warnings(metrics: Metrics) -> list[str]:
    lines = []
    first, agree = _of(metrics, "judgements.first_rate"), _of(metrics, "judgements.orders_agree")
    if first and agree and (abs(first[0] - 0.5) > HABIT or agree[0] < MOSTLY):
        lines.append(
            f"Careful: the reply shown first was preferred in {first[0]:.1%} of showings, and both orders agree in "
            f"{agree[0]:.1%} of comparisons. Averaging the orders removes the habit, and little is left of such a judge."
        )
    near = _of(metrics, "preferences.near_tie")
    if near and near[0] > MOSTLY:
        lines.append(
            f"Careful: {near[0]:.1%} of the labels lie within 0.05 of one half. The labels say little about which reply "
            "is better."
        )
    return lines


def _reward_model(metrics: Metrics) -> list[str]:
    found = _of(metrics, "reward_model.accuracy")
    if not found:
        return []
    value, low, high, n = found
    verdict = (
        "better than a coin" if low > 0.5 else "worse than a coin" if high < 0.5 else "not distinguishable from a coin"
    )
    longest = _of(metrics, "reward_model.accuracy_of_longest")
    beside = f" (always the longer reply: {longest[0]:.1%})" if longest else ""
    return [
        f"On {n} held-out pairs the reward model agrees with the labels in {value:.1%} ({low:.1%} to {high:.1%}): "
        f"{verdict}{beside}."
    ]


def _policy(metrics: Metrics, arm: str) -> list[str]:
    win = _of(metrics, f"policies.{arm}.win_rate")
    if win:
        value, low, high, n = win
        if abs(value - 0.5) < SMALL:
            verdict = "no difference to speak of" if high - low < 4 * SMALL else "inconclusive"
        else:
            verdict = "better than the start" if low > 0.5 else "worse than the start" if high < 0.5 else "inconclusive"
        seen = (
            f"; a difference below {DETECTABLE * (high - low) / 2:.1%} would be missed here more than one time in five"
            if verdict == "inconclusive"
            else ""
        )
        return [
            f"{arm}: preferred to the start in {value:.1%} of {n} held-out prompts ({low:.1%} to {high:.1%}): "
            f"{verdict}{seen}."
        ]
    return _change(metrics, arm)


def _change(metrics: Metrics, arm: str) -> list[str]:
    """What became of the reward, from the differences on the same prompts."""
    before, after = metrics.get("policies.start.reward"), metrics.get(f"policies.{arm}.reward")
    change = _of(metrics, f"differences.{arm}.reward")
    if not change or not before or before.value is None or not after or after.value is None:
        return []
    value, low, high, n = change
    if low == high == 0:
        verdict = "no difference"
    elif low > 0 or high < 0:
        verdict = "better than the start" if low > 0 else "worse than the start"
    else:
        verdict = f"inconclusive: this study could detect {DETECTABLE * (high - low) / 2:.2f}"
    return [
        f"{arm}: mean reward {after.value:.2f}, the start {before.value:.2f}; the difference on the same {n} held-out "
        f"prompts is {value:+.2f} ({low:+.2f} to {high:+.2f}): {verdict}. The reward model learnt from the same labels: "
        "what it likes more need not be better."
    ]


def _of(metrics: Metrics, name: str) -> tuple[float, float, float, int] | None:
    """Value, low, high and n of a figure that has an interval."""
    figure = metrics.get(name)
    if figure is None or figure.value is None or figure.low is None or figure.high is None:
        return None
    return figure.value, figure.low, figure.high, figure.n
