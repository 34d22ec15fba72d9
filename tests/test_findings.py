"""What a run's figures are said to mean: no more than the intervals, and nothing on a handful."""

from __future__ import annotations

from rlaif.findings import findings
from rlaif.measures import Measures
from rlaif.statistics import Figure


def contest(
    low: float, high: float, *, won: int, tied: int = 0, lost: int, equal: int = 0, unlabelled: int = 0
) -> dict[str, Figure]:
    """The figures of one policy judged against the start."""
    outcomes = {"won": won, "tied": tied, "lost": lost, "equal_answers": equal, "unlabelled": unlabelled}
    total = sum(outcomes.values())
    value = (won + (tied + equal) / 2) / max(1, total - unlabelled)
    return {
        "accounts.answers_of_dpo.answered": Figure(value=total, n=total),
        **{f"accounts.verdicts_on_dpo.{name}": Figure(value=count, n=total) for name, count in outcomes.items()},
        "policies.dpo.win_rate": Figure(value=value, low=low, high=high, n=total - unlabelled),
    }


def test_a_win_rate_whose_interval_clears_one_half_is_better() -> None:
    assert findings(contest(0.55, 0.65, won=110, tied=20, lost=70)) == [
        "dpo against the start: of 200 judged held-out prompts won 110, tied 20, lost 70. Win rate, a tie counting one "
        "half, 60.0% (55.0% to 65.0%): better than the start."
    ]
    assert findings(contest(0.35, 0.45, won=70, tied=20, lost=110))[0].endswith(": worse than the start.")


def test_equal_answers_and_missing_verdicts_are_named_apart() -> None:
    (line,) = findings(contest(0.51, 0.58, won=59, tied=0, lost=41, equal=100, unlabelled=10))
    assert line == (
        "dpo against the start: of 100 judged held-out prompts won 59, tied 0, lost 41; 100 more where both answers are "
        "equal (nothing to judge: a tie); 10 without a verdict. Win rate, a tie counting one half, 54.5% (51.0% to 58.0%): "
        "better than the start."
    )


def test_an_interval_around_one_half_says_what_would_have_been_missed() -> None:
    # half the interval is 7 points, 1.96 standard errors; 80% power takes 2.8 of them: 10 points
    assert findings(contest(0.45, 0.59, won=104, lost=96))[0].endswith(
        ": inconclusive; a difference below 10.0% would be missed here more than one time in five."
    )


def test_a_handful_gets_no_verdict_however_narrow_its_interval() -> None:
    # 2.8 standard errors of 1 / (2 * sqrt(25)) = 0.1 are 28 points
    (line,) = findings(contest(0.5, 0.52, won=18, tied=1, lost=6, equal=400))
    assert line.endswith(
        ": 25 judged prompts are too few for a verdict: they would tell a coin from 78% or more, not from less."
    )
    # of 7: 2.8 / (2 * sqrt(7)) = 53 points, more than there are
    assert findings(contest(0.6, 1.0, won=7, lost=0))[0].endswith(
        ": 7 judged prompts are too few to tell anything from a coin."
    )
    # 23 and a half of 25 are 94%
    assert findings(contest(0.51, 0.55, won=23, tied=1, lost=1, equal=400))[0].endswith(": better than the start.")


def test_a_judge_that_goes_by_position_is_said_beside_the_ties_it_makes() -> None:
    metrics = contest(0.48, 0.52, won=5, tied=190, lost=5)
    metrics["policies.dpo.orders_agree"] = Figure(value=0.07, low=0.04, high=0.11, n=200)
    assert "Careful: both orders agree in 7.0% of these contests" in findings(metrics)[0]
    metrics["policies.dpo.orders_agree"] = Figure(value=0.7, low=0.6, high=0.8, n=200)
    assert "Careful" not in findings(metrics)[0]


def measured(name: str, value: float, low: float, high: float, n: int = 90) -> dict[str, Figure]:
    return {
        f"policies.start.{name}": Figure(value=0.5, n=n),
        f"policies.dpo.{name}": Figure(value=0.5 + value, n=n),
        f"differences.dpo.{name}": Figure(value=value, low=low, high=high, n=n),
    }


def test_metrics_of_the_recipe_are_told_where_they_changed_and_named_where_not() -> None:
    metrics = {"accounts.answers_of_dpo.answered": Figure(value=90, n=90)}
    metrics |= measured("oracle.harm", -0.4, -0.5, -0.3) | measured("oracle.help", 0.1, -0.1, 0.3)
    metrics |= measured("few", 0.4, 0.3, 0.5, n=20) | measured("length", 0.4, 0.3, 0.5)
    assert findings(metrics) == [
        "dpo: oracle.harm: 0.10, the start 0.50; -0.40 (-0.50 to -0.30).",
        "dpo: no clear difference in oracle.help, few.",
    ]


def test_a_metric_that_says_what_it_is_is_told_in_its_own_words_and_a_share_in_per_cent() -> None:
    metrics = {"accounts.answers_of_dpo.answered": Figure(value=90, n=90)}
    metrics |= measured("oracle.harm", -0.4, -0.5, -0.3) | measured("oracle.help", 0.1, -0.1, 0.3)
    measures = Measures({"oracle.harm": ("harm obeyed", "% of harmful requests"), "oracle.help": ("help", "")})
    assert findings(metrics, measures) == [
        "dpo: harm obeyed: 10.0%, the start 50.0%; -40.0 points (-50.0 to -30.0).",
        "dpo: no clear difference in help.",
    ]


def test_a_contest_without_one_verdict_is_said() -> None:
    metrics = contest(0, 0, won=0, lost=0, unlabelled=12) | {"policies.dpo.win_rate": Figure(value=None, n=0)}
    assert findings(metrics) == ["dpo against the start: not one of 12 held-out prompts has a verdict."]


def reward_change(low: float, value: float, high: float, n: int, arm: str = "dpo") -> dict[str, Figure]:
    return {
        f"accounts.answers_of_{arm}.answered": Figure(value=n, n=n),
        "policies.start.reward": Figure(value=1.0, n=n),
        f"policies.{arm}.reward": Figure(value=1.0 + value, n=n),
        f"differences.{arm}.reward": Figure(value=value, low=low, high=high, n=n),
    }


def test_a_reward_on_a_handful_of_prompts_gets_no_verdict_either() -> None:
    (few,) = findings(reward_change(0.4, 0.5, 0.6, 29))
    assert "is +0.50 (+0.40 to +0.60): 29 prompts are too few for a verdict. " in few
    (enough,) = findings(reward_change(0.4, 0.5, 0.6, 30))
    assert "higher than the start's. The reward model learnt from the same labels" in enough
    coin = {"reward_model.accuracy": Figure(value=0.55, low=0.45, high=0.65, n=100)}
    assert findings(reward_change(0.4, 0.5, 0.6, 30) | coin)[-1].endswith("its rewards say nothing of quality.")


def test_a_method_of_a_users_own_has_its_sentence_under_its_dotted_name() -> None:
    (line,) = findings(reward_change(0.4, 0.5, 0.6, 40, arm="mine.Tuned"))
    assert line.startswith("mine.Tuned: mean reward 1.50, the start 1.00;")


def test_rewards_that_could_not_be_normalised_are_said_with_the_remedy() -> None:
    (line,) = findings({"reward_model.normalised_on": Figure(value=0, n=0)})
    assert line.startswith("Careful: rewards are not normalised")
    assert "reward_model.sampling" in line
    assert findings({"reward_model.normalised_on": Figure(value=16, n=16)}) == []


def test_a_reward_model_on_a_handful_of_pairs_gets_no_verdict() -> None:
    accuracy = {"reward_model.accuracy": Figure(value=0.9, low=0.7, high=1.0, n=10)}
    # 2.8 / (2 * sqrt(10)) = 44 points
    assert findings(accuracy) == [
        "On 10 held-out pairs the reward model agrees with the labels in 90.0% (70.0% to 100.0%): 10 pairs are too few for "
        "a verdict: they would tell a coin from 94% or more, not from less."
    ]


def test_few_pairs_get_a_verdict_where_a_coin_would_hardly_do_as_well() -> None:
    # 2.8 / (2 * sqrt(21)) = 31 points: 90.5% is beyond them
    (line,) = findings({"reward_model.accuracy": Figure(value=0.905, low=0.783, high=1.0, n=21)})
    assert line.endswith("90.5% (78.3% to 100.0%): better than a coin.")


def of_position(first: float, agree: float, n: int = 60) -> dict[str, Figure]:
    return {
        "judgements.first_rate": Figure(value=first, low=first - 0.1, high=first + 0.1, n=n),
        "judgements.orders_agree": Figure(value=agree, low=agree - 0.1, high=min(1.0, agree + 0.1), n=n // 2),
    }


def test_a_habit_of_position_is_said_with_its_interval_and_with_what_is_left() -> None:
    assert findings(of_position(0.7, 0.8)) == [
        "Careful: the reply shown first was preferred in 70.0% of 60 showings (60.0% to 80.0%), and both orders agree in "
        "80.0% of comparisons. Averaging the orders removes the habit, not what it costs in certainty."
    ]
    assert findings(of_position(0.9, 0.2))[0].endswith("and little is left of such a judge.")
    assert findings(of_position(0.55, 0.2))[0].endswith("and little is left of such a judge.")
    assert findings(of_position(0.55, 0.8)) == []
    assert findings(of_position(0.9, 0.2, n=6)) == []  # three pairs


def test_labels_without_an_opinion_are_said_and_those_that_principles_average_out_are_not() -> None:
    near = {"preferences.near_tie": Figure(value=0.9, low=0.8, high=0.95, n=200)}
    assert findings(near) == []
    (line,) = findings(near | {"judgements.undecided": Figure(value=0.7, low=0.6, high=0.8, n=200)})
    assert line.startswith("Careful: 70.0% of the 200 comparisons have no opinion further than 0.05 from one half")


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


def test_agreement_is_said_with_ties_and_without() -> None:
    metrics = {
        "judgements.labellers_agree": Figure(value=0.63, low=0.6, high=0.66, n=1281),
        "judgements.labellers_agree_without_ties": Figure(value=0.81, low=0.78, high=0.84, n=900),
    }
    assert findings(metrics) == [
        "Two labellers of one comparison agree in 63.0% of 1,281 pairs of votes (60.0% to 66.0%), a tie being an opinion "
        "like the others; in 81.0% of the 900 without a tie (78.0% to 84.0%)."
    ]


def test_votes_without_a_name_are_said_with_the_remedy() -> None:
    assert findings({"judgements.unnamed_repeats": Figure(value=12, n=40)}) == [
        "In 12 of 40 comparisons several votes have no name: they may be one person's, and say nothing of agreement. Say "
        "who labelled in an `annotator` column."
    ]
