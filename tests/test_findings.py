"""What a run's figures are said to mean: no more than the intervals, and nothing on a handful."""

from __future__ import annotations

from rlaif.findings import findings
from rlaif.statistics import Figure


def contest(
    value: float, low: float, high: float, *, judged: int, equal: int = 0, unlabelled: int = 0
) -> dict[str, Figure]:
    """The figures of one policy judged against the start."""
    total = judged + equal + unlabelled
    head = "accounts.verdicts on dpo"
    return {
        f"{head}.judged": Figure(value=judged, n=total),
        f"{head}.equal_answers": Figure(value=equal, n=total),
        f"{head}.unlabelled": Figure(value=unlabelled, n=total),
        "policies.dpo.answered": Figure(value=total, n=total),
        "policies.dpo.win_rate": Figure(value=value, low=low, high=high, n=judged + equal),
    }


def test_a_win_rate_whose_interval_clears_one_half_is_better() -> None:
    assert findings(contest(0.6, 0.55, 0.65, judged=200)) == [
        "dpo against the start: preferred in 60.0% (55.0% to 65.0%) of 200 judged held-out prompts: better than the start."
    ]
    assert findings(contest(0.4, 0.35, 0.45, judged=200))[0].endswith(": worse than the start.")


def test_equal_answers_and_missing_verdicts_are_named_apart() -> None:
    (line,) = findings(contest(0.55, 0.51, 0.59, judged=100, equal=90, unlabelled=10))
    assert line == (
        "dpo against the start: preferred in 55.0% (51.0% to 59.0%) of 100 judged held-out prompts and 90 where both "
        "answers are equal (nothing to judge, counted one half), 10 more without a verdict: better than the start."
    )


def test_an_interval_around_one_half_says_what_would_have_been_missed() -> None:
    # half the interval is 7 points, 1.96 standard errors; 80% power takes 2.8 of them: 10 points
    assert findings(contest(0.52, 0.45, 0.59, judged=200))[0].endswith(
        ": inconclusive; a difference below 10.0% would be missed here more than one time in five."
    )


def test_a_handful_gets_no_verdict_however_narrow_its_interval() -> None:
    # 2.8 standard errors of 1 / (2 * sqrt(25)) = 0.1 are 28 points
    (line,) = findings(contest(0.9, 0.85, 0.95, judged=25, equal=400))
    assert line.endswith(
        ": 25 judged prompts are too few for a verdict: they would tell a coin from 78% or more, not from less."
    )
    # of 7: 2.8 / (2 * sqrt(7)) = 53 points, more than there are
    assert findings(contest(1.0, 0.6, 1.0, judged=7))[0].endswith(
        ": 7 judged prompts are too few to tell anything from a coin."
    )


def test_a_contest_without_one_verdict_is_said() -> None:
    metrics = contest(0, 0, 0, judged=0, unlabelled=12) | {"policies.dpo.win_rate": Figure(value=None, n=0)}
    assert findings(metrics) == ["dpo against the start: not one of 12 held-out prompts has a verdict."]


def test_a_reward_model_on_a_handful_of_pairs_gets_no_verdict() -> None:
    accuracy = {"reward_model.accuracy": Figure(value=0.9, low=0.7, high=1.0, n=10)}
    # 2.8 / (2 * sqrt(10)) = 44 points
    assert findings(accuracy) == [
        "On 10 held-out pairs the reward model agrees with the labels in 90.0% (70.0% to 100.0%): 10 pairs are too few for "
        "a verdict: they would tell a coin from 94% or more, not from less."
    ]


def test_unreadable_replies_come_with_the_mass_that_was_seen_and_what_to_do() -> None:
    metrics = {
        "judgements.unreadable": Figure(value=0.96, low=0.9, high=0.99, n=50),
        "judgements.option_mass": Figure(value=0.031, low=0.02, high=0.04, n=50),
    }
    (line,) = findings(metrics)
    assert line.startswith(
        "Careful: 96.0% of 50 showings could not be read. The offered words had 3.1% of the judge's probability, on average "
        "over all showings. Check that the judge's folder has a chat template; try another template"
    )
    assert findings({"judgements.unreadable": Figure(value=0.05, low=0.01, high=0.1, n=50)}) == []


def test_agreement_between_labellers_is_said_where_there_is_any() -> None:
    assert findings({"judgements.labellers_agree": Figure(value=0.63, low=0.6, high=0.66, n=1281)}) == [
        "Two labellers of one comparison agree in 63.0% of 1,281 pairs of votes (60.0% to 66.0%), a tie being an opinion "
        "like the others."
    ]
