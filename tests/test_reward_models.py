"""Reward models beyond pairs: margins and whole rankings, by hand and as they learn; rewards for files, and accuracy on sets of
chosen and rejected responses."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlaif.errors import DataError, UserError
from rlaif.model_card import USE_OF_REWARDS
from rlaif.models.local import LocalModel, LocalOptions, load_network
from rlaif.reward import RewardModel, RewardOptions, _RankingTrainer, ranked_places
from rlaif.scoring import accuracies, rightness, rows_to_score, rows_to_test, score, scores_row
from rlaif.training.batching import Group
from rlaif.training.losses import plackett_luce_loss, soft_preference_loss, with_margin
from rlaif.training.trainer import Watch
from tests import make
from tests.runs import rlaif
from tests.test_training import accuracy, preference, train_reward
from tests.tiny import write_jsonl


def number(*values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- losses -----------------------------------------------------------------------------------------------------------


def test_the_margin_by_hand() -> None:
    """A sure label asks for a gap of 2, one of 0.75 for one of 1, a tie for none; the other way round the same."""
    found = with_margin(number(1, 1, 1, -1), number(1, 0.75, 0.5, 0), 2.0)
    assert found.tolist() == [-1.0, 0.0, 1.0, 1.0]
    loss = soft_preference_loss(found[:1], number(1.0), number(1.0))
    assert float(loss) == pytest.approx(math.log(1 + math.e))


def test_the_ranking_loss_by_hand() -> None:
    """Rewards 2, 1, 0 in that order: two choices, among three and among two."""
    first = math.log(math.exp(2) + math.exp(1) + 1) - 2
    second = math.log(math.exp(1) + 1) - 1
    found = plackett_luce_loss(number(2, 1, 0), torch.tensor([0, 1, 2]))
    assert float(found) == pytest.approx((first + second) / 2)
    tied = plackett_luce_loss(number(2, 1, 0), torch.tensor([0, 0, 1]))
    both = 2 * math.log(math.exp(2) + math.exp(1) + 1) - 3
    assert float(tied) == pytest.approx(both / 2)  # two choices too: the third is left alone
    level = plackett_luce_loss(number(2, 1), torch.tensor([0, 0]))
    assert float(level) == pytest.approx(float(soft_preference_loss(number(1.0), number(0.5), number(1.0))))


@given(st.floats(-4, 4), st.floats(-4, 4))
def test_of_two_it_is_the_loss_of_the_pair(one: float, other: float) -> None:
    found = plackett_luce_loss(number(one, other), torch.tensor([0, 1]))
    assert float(found) == pytest.approx(
        float(soft_preference_loss(number(one - other), number(1.0), number(1.0))), abs=1e-12
    )


@given(st.permutations(range(4)), st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_the_probabilities_of_all_rankings_add_up_to_one(order: list[int], rewards: list[float]) -> None:
    total = 0.0
    for places in itertools.permutations(range(4)):
        total += math.exp(-3 * float(plackett_luce_loss(number(*rewards), torch.tensor(places))))
    assert total == pytest.approx(1.0)
    shuffled = plackett_luce_loss(number(*[rewards[i] for i in order]), torch.tensor(order))
    assert float(shuffled) == pytest.approx(float(plackett_luce_loss(number(*rewards), torch.tensor([0, 1, 2, 3]))))


def group(p: dict[tuple[int, int], float], weight: float = 1.0) -> Group:
    return Group("x", (1,), [(2,), (3,), (4,)], list(p), list(p.values()), [weight] * len(p))


def test_the_place_of_a_response_is_by_its_wins() -> None:
    whole = group({(0, 1): 0.9, (2, 0): 1.0, (1, 2): 0.2})
    assert ranked_places(whole, whole.weight) == [1, 2, 0]  # wins 0.9, 0.3, 1.8
    level = group({(0, 1): 0.5, (0, 2): 1.0, (1, 2): 1.0})
    assert ranked_places(level, level.weight) == [0, 0, 1]
    assert ranked_places(whole, [1.0, 1.0, 0.0]) == []
    assert ranked_places(group({(0, 1): 1.0}), [1.0]) == []  # the third is compared with nobody


def test_two_responses_are_no_ranking_and_keep_their_probability(base: LocalModel, tmp_path: Path) -> None:
    """A ranking would ask for rewards ever further apart, however unsure the label."""
    pair = Group("x", (1,), [(2,), (3,)], [(0, 1)], [0.6], [1.0])
    assert ranked_places(pair, pair.weight) == []
    network = load_network(base.folder, base.options, "float32", "test", head=True)
    network.config.pad_token_id = base.tokens.pad_id
    trainer = _RankingTrainer(network, [pair], RewardOptions(loss="plackett-luce"), tmp_path, 0, Watch())
    one, other, p, weight = (torch.tensor([value]) for value in (3.0, 0.0, 0.6, 1.0))
    expected = float(soft_preference_loss(one - other, p, weight))
    assert float(trainer.total(one, other, p, weight, 0)) == pytest.approx(expected)


def test_the_losses_of_a_blend_s_sources_add_up_to_that_of_a_ranking(base: LocalModel, tmp_path: Path) -> None:
    group = Group(
        "x", (1,), [(2,), (3,), (4,)], [(0, 1), (0, 2), (1, 2)], [1.0, 1.0, 0.0], [1.0, 2.0, 1.0], ["human", "judge", "judge"],
    )  # fmt: skip
    network = load_network(base.folder, base.options, "float32", "test", head=True)
    network.config.pad_token_id = base.tokens.pad_id
    trainer = _RankingTrainer(network, [group], RewardOptions(loss="plackett-luce"), tmp_path, 0, Watch())
    trainer.pad_id = base.tokens.pad_id
    with torch.no_grad():
        whole = float(trainer.compute_loss(network, {"micro_batch": 0}))
    found = trainer.figures(trainer.sums)
    assert (found["loss.human"], found["loss.judge"]) == pytest.approx((whole, whole))
    assert (found["weight.human"], found["weight.judge"]) == (1.0, 3.0)


def test_how_many_probabilities_a_ranking_drops_is_said(base: LocalModel, tmp_path: Path) -> None:
    said: list[str] = []
    start = LocalModel(str(base.folder), base.options, where="models.policy", notice=said.append)
    train_reward(start, ranked(16), tmp_path, loss="plackett-luce")
    (line,) = [line for line in said if "plackett-luce" in line]
    assert re.search(r"learns the order of a prompt's responses: (\d+) of \1 labels are probabilities", line)


def ranked(count: int) -> list[Any]:
    """Three responses a prompt, better the more often they speak of water; every two compared."""
    rows = []
    for i in range(count):
        said = [f"one {'water ' * k}two {i}" for k in (2, 1, 0)]
        rows += [preference(f"question {i}", a, b, p=0.9) for a, b in itertools.combinations(said, 2)]
    return rows


@pytest.mark.parametrize("settings", [{"loss": "plackett-luce"}, {"margin": 1.0}])
def test_it_learns_a_planted_rule(settings: dict[str, Any], base: LocalModel, tmp_path: Path) -> None:
    report = train_reward(base, ranked(40), tmp_path, epochs=5, **settings)
    assert accuracy(report) >= 0.9
    assert report.history[-1]["loss"] < report.history[0]["loss"]


def test_a_margin_is_of_pairs() -> None:
    with pytest.raises(ValueError, match='"margin" is of loss: pairs'):
        RewardOptions(loss="plackett-luce", margin=1.0)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewards", "chosen", "expected"),
    [
        ([2.0, 1.0], 1, 1.0),
        ([1.0, 2.0], 1, 0.0),
        ([1.0, 1.0], 1, 0.5),
        ([2.0, 1.0, 0.0, 1.5], 1, 1.0),
        ([2.0, 2.0, 0.0, 2.0], 1, 1 / 3),
        ([3.0, 2.0, 1.0], 2, 1.0),
        ([3.0, 1.0, 2.0], 2, 0.0),
        ([2.0, 2.0, 2.0], 2, 1 / 3),
    ],
)
def test_a_row_is_right_where_every_chosen_response_has_more(
    rewards: list[float], chosen: int, expected: float
) -> None:
    assert rightness(rewards, chosen) == pytest.approx(expected)


def by_length(items: Any) -> list[list[float]]:
    return [[float(len(turns[-1].content)) for turns, _ in many] for _, many in items]


def upside_down(items: Any) -> list[list[float]]:
    return [[-value for value in many] for many in by_length(items)]


ROWS: list[dict[str, Any]] = [
    {"prompt": "hi", "chosen": "hello there", "rejected": "no", "subset": "chat", "id": 7},
    {"prompt": "hi", "chosen": "ok", "rejected": "a long refusal", "subset": "chat"},
    {"prompt": "2 + 2", "chosen": ["four!"], "rejected": ["5", "6", "7"], "subset": "sums"},
    {"prompt": [{"role": "user", "content": "hey"}],
     "chosen": [{"role": "user", "content": "hey"}, {"role": "assistant", "content": "good day"}],
     "rejected": [{"role": "user", "content": "hey"}, {"role": "assistant", "content": "bye"}], "subset": "sums"},
]  # fmt: skip


def test_accuracy_by_category(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "set.jsonl", ROWS))
    found = accuracies(score(rows_to_test(path), [by_length]))
    assert found["accuracy"].value == pytest.approx(0.75)
    assert (found["accuracy.chat"].value, found["accuracy.sums"].value) == (0.5, 1.0)
    assert found["mean_of_categories"].value == pytest.approx(0.75)
    assert found["chance"].value == pytest.approx((0.5 + 0.5 + 0.25 + 0.5) / 4)


def test_rows_keep_what_they_had_and_get_their_rewards(tmp_path: Path) -> None:
    path = str(
        write_jsonl(
            tmp_path / "set.jsonl",
            [ROWS[0], {"prompt": "hi", "response": "yes"}, {"prompt": "a", "responses": ["b", "cc"]}],
        )
    )
    pair, single, several = (scores_row(*found) for found in score(rows_to_score(path), [by_length, upside_down]))
    assert pair["id"] == 7
    assert (pair["reward_chosen"], pair["reward_chosen_std"]) == (0.0, 11.0)
    assert (single["reward"], single["reward_std"]) == (0.0, 3.0)
    assert (several["rewards"], several["rewards_std"]) == ([0.0, 0.0], [1.0, 2.0])


def of_the_short(items: Any) -> list[list[float | None]]:
    """Reads no more than ten characters."""
    return [[value if value <= 10 else None for value in many] for many in by_length(items)]


def test_a_response_that_is_too_long_has_no_reward_and_its_row_is_counted(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "set.jsonl", ROWS))
    members = [by_length, of_the_short]
    told = [scores_row(*found) for found in score(rows_to_score(path), members)]
    assert [row["reward_chosen"] for row in told] == [None, 2.0, 5.0, 8.0]
    assert [row["reward_rejected"] for row in told] == [2.0, None, [1.0, 1.0, 1.0], 3.0]
    assert [row["reward_rejected_std"] for row in told][:2] == [0.0, None]
    found = accuracies(score(rows_to_test(path), members))
    assert (found["accuracy"].value, found["accuracy"].n) == (1.0, 2)
    assert (found["not_read"].value, found["not_read"].n) == (2.0, 4)
    with pytest.raises(
        UserError, match="no row to test on: 2 are null, longer, with their prompt, than the model reads"
    ):
        accuracies(score(itertools.islice(rows_to_test(path), 2), members))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "hi", "chosen": "a"}, "expected prompt, chosen and rejected; found prompt, chosen"),
        ({"prompt": "hi", "chosen": "a", "rejected": []}, "rejected: expected responses"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "empty prompt"),
        ({"prompt": "hi", "chosen": 7, "rejected": "b"}, "chosen: expected text or a list of turns, found int"),
    ],
)
def test_a_row_that_does_not_fit_is_one_line(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "set.jsonl", [row]))
    with pytest.raises(DataError, match=message):
        list(rows_to_test(path))


def test_what_a_reward_models_card_says_of_its_use_gives_its_rewards(base: LocalModel, tmp_path: Path) -> None:
    train_reward(base, ranked(12), tmp_path / "trained", epochs=2)
    folder = next(path.parent for path in (tmp_path / "trained").rglob("config.json"))
    (code,) = re.findall(r"```python\n(.*?)```", USE_OF_REWARDS, re.DOTALL)
    turns = [{"role": "user", "content": "question 1"}, {"role": "assistant", "content": "one water two"}]
    found: dict[str, Any] = {"turns": turns}
    exec(code.replace("FOLDER", str(folder)), found)
    model = RewardModel(folder, LocalOptions(device="cpu"), where="test", notice=lambda line: None)
    ((expected,),) = model([((make.user("question 1"),), [((make.assistant("one water two"),), True)])])
    assert float(found["reward"]) == pytest.approx(expected, abs=1e-4)


def test_the_commands_score_and_test_a_trained_model(base: LocalModel, tmp_path: Path) -> None:
    train_reward(base, ranked(30), tmp_path / "trained", epochs=4)
    folder = next(path.parent for path in (tmp_path / "trained").rglob("config.json"))
    rows = [
        {"prompt": f"question {i}", "chosen": f"one water two {i}", "rejected": f"one two {i}", "subset": "ab"[i % 2]}
        for i in range(20)
    ]
    write_jsonl(tmp_path / "set.jsonl", rows)
    said = rlaif(tmp_path, "reward", "test", str(folder), "--file", "set.jsonl", "--out", "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["accuracy"]["value"] >= 0.9
    assert "accuracy.a" in said
    rlaif(tmp_path, "reward", "score", str(folder), "--file", "set.jsonl", "--out", "scored.jsonl")
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    right = [row["reward_chosen"] > row["reward_rejected"] for row in scored]
    assert sum(right) / len(right) == pytest.approx(figures["accuracy"]["value"])
    before = (tmp_path / "set.jsonl").read_text()
    said = rlaif(tmp_path, "reward", "score", str(folder), "--file", "set.jsonl", "--out", "set.jsonl", code=2)
    assert "--out set.jsonl: the file that is scored. Name another." in said
    assert (tmp_path / "set.jsonl").read_text() == before
    long = " ".join(["water"] * 2000)
    answers = [{"prompt": "q", "response": said} for said in (long, None, "one")]
    write_jsonl(tmp_path / "long.jsonl", answers)
    said = rlaif(tmp_path, "reward", "score", str(folder), "--file", "long.jsonl", "--out", "scored.jsonl")
    assert (
        "2 rows have responses whose reward is null: null, longer, with their prompt, than the model reads, or" in said
    )
    rewards = [json.loads(line)["reward"] for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert rewards[:2] == [None, None]
    assert rewards[2] is not None
    write_jsonl(tmp_path / "none.jsonl", [*answers, {"prompt": "q"}])
    said = rlaif(tmp_path, "reward", "score", str(folder), "--file", "none.jsonl", "--out", "scored.jsonl", code=2)
    assert "none.jsonl line 4: nothing to score: expected a column response" in said
    assert len((tmp_path / "scored.jsonl").read_text().splitlines()) == 3
    said = rlaif(tmp_path, "reward", "test", str(base.folder), "--file", "set.jsonl", code=2)
    assert "is no reward model: its weights have no score head." in said
    said = rlaif(tmp_path, "reward", "test", "nowhere", "--file", "set.jsonl", code=2)
    assert "nowhere: no reward model: expected a model folder, or a run folder with reward_model/." in said
