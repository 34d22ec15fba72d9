"""Preferences as groups, and the plan of steps and micro-batches: functions of lengths and seed, never of labels."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.models.local import LocalModel, LocalOptions
from rlaif.training.batching import drawn, group_preferences, held_out, plan_steps, split_steps
from rlaif.training.passes import inference_batches, sequence_logprobs
from tests import tiny
from tests.test_training import planted, preference, said, train_reward, tune, user


def test_pairs_of_a_prompt_come_together_with_each_response_once(base: LocalModel) -> None:
    rows = [
        preference("hi", "one", "two"),
        preference("how", "x", "y", weight=0.5),
        preference("hi", "three", "one", p=0.7),
        preference("hi", "two", "three", p=0.6),
    ]
    grouped = group_preferences(rows, base.tokens, 100)
    first, second = grouped.groups
    assert (first.prompt_id, second.prompt_id, grouped.too_long) == ("hi", "how", 0)
    assert len(first.responses) == 3
    assert len(first.pairs) == 3
    ids = {text: tuple(base.tokens.response_ids(user("hi"), said(text))) for text in ("one", "two", "three")}
    said_p = {("one", "two"): 1.0, ("three", "one"): 0.7, ("two", "three"): 0.6}
    for (a, b), p in zip(first.pairs, first.p, strict=True):
        names = [next(t for t, i in ids.items() if i == first.responses[side]) for side in (a, b)]
        expected = said_p.get((names[0], names[1]), 1 - said_p.get((names[1], names[0]), 0.0))
        assert p == pytest.approx(expected)
    assert second.weight == [0.5]


def test_groups_do_not_depend_on_which_side_is_chosen(base: LocalModel) -> None:
    rows = [row.model_copy(update={"p": 0.8}) for row in planted(5)]
    turned = [row.model_copy(update={"chosen": row.rejected, "rejected": row.chosen, "p": 1 - row.p}) for row in rows]
    one, other = (group_preferences(some, base.tokens, 100).groups for some in (rows, turned))
    for a, b in zip(one, other, strict=True):
        assert (a.prompt, a.responses, a.pairs, a.weight) == (b.prompt, b.responses, b.pairs, b.weight)
        assert a.p == pytest.approx(b.p, abs=1e-15)


def test_another_label_changes_p_and_nothing_else(base: LocalModel) -> None:
    rows = planted(5)
    turned = [row.model_copy(update={"chosen": row.rejected, "rejected": row.chosen}) for row in rows]
    one, other = (group_preferences(some, base.tokens, 100).groups for some in (rows, turned))
    for a, b in zip(one, other, strict=True):
        assert (a.prompt, a.responses, a.pairs, a.weight) == (b.prompt, b.responses, b.pairs, b.weight)
        assert [1 - p for p in a.p] == b.p


def test_pairs_that_are_too_long_are_left_out_and_counted(base: LocalModel) -> None:
    long = "water " * 60
    rows = [preference("hi", "one", "two"), preference("hi", "one", long), preference("how", long, "x")]
    grouped = group_preferences(rows, base.tokens, 40)
    assert grouped.too_long == 2
    assert [(g.prompt_id, len(g.responses), len(g.pairs)) for g in grouped.groups] == [("hi", 2, 1)]


def test_pairs_of_no_weight_stay_in_their_groups_and_are_counted_apart(base: LocalModel) -> None:
    rows = [
        preference("hi", "one", "two"),
        preference("hi", "one", "three", weight=0.0),
        preference("how", "x", "y"),
        preference("how", "x", "z", weight=0.0),
        preference("hi", "water " * 60, "one"),
        preference("hi", "water " * 60, "two", weight=0.0),
    ]
    grouped = group_preferences(rows, base.tokens, 40, keep=lambda prompt: prompt == "hi")
    assert [len(group.pairs) for group in grouped.groups] == [2]
    assert (grouped.pairs, grouped.too_long, grouped.held_out, grouped.no_label) == (1, 1, 1, 3)


def test_fewer_labels_are_those_of_whole_prompts_and_within_more_of_them(base: LocalModel) -> None:
    rows = [preference(f"p{n}", side, "x", weight=float(side != "b")) for n in range(8) for side in "abc"]
    whole = group_preferences(rows, base.tokens, 100)
    drawn_for = {count: drawn(whole, count, 5) for count in (1, 6, 7, 12, 100)}
    names = {count: [group.prompt_id for group in data.groups] for count, data in drawn_for.items()}
    assert [len(names[count]) for count in (1, 6, 7, 12, 100)] == [1, 2, 2, 4, 8]  # one prompt at least
    assert set(names[1]) < set(names[6]) == set(names[7]) < set(names[12]) < set(names[100])
    assert names[12] == [group.prompt_id for group in whole.groups if group.prompt_id in names[12]]
    assert [(data.pairs, data.not_drawn) for data in drawn_for.values()] == [(2, 14), (4, 12), (4, 12), (8, 8), (16, 0)]
    other = [row.model_copy(update={"weight": 1 - row.weight, "p": 0.6}) for row in rows]
    again = drawn(group_preferences(other, base.tokens, 100), 12, 5)
    assert [group.prompt_id for group in again.groups] == names[12]
    assert drawn(whole, None, 5) is whole


def test_pairs_longer_than_the_models_context_are_too_long_whatever_max_tokens_says(tmp_path: Path) -> None:
    folder = tiny.build(tmp_path / "small", "gpt2", hidden=32, context=48)
    small = LocalModel(str(folder), LocalOptions(device="cpu"), where="models.policy", notice=lambda line: None)
    assert small.context == 48
    rows = [*planted(12), *(preference(f"long {i}", "water " * 60, "two") for i in range(5))]
    report = train_reward(small, rows, tmp_path)
    assert report.account["outcomes"]["too long"] == 5
    assert tune(small, rows, tmp_path / "dpo")


def test_what_a_training_says_of_its_pairs_adds_up(base: LocalModel, tmp_path: Path) -> None:
    rows = [row.model_copy(update={"weight": float(i % 3 > 0)}) for i, row in enumerate(planted(24))]
    report = train_reward(base, rows, tmp_path)
    held = sum(held_out(row.prompt_id, 0.25, 0) and row.weight > 0 for row in rows)
    assert 0 < held < 32  # of 48 pairs every third has no label
    outcomes = {"trained on": 32 - held, "too long": 0, "held out": held, "no label": 16}
    assert report.account == {"unit": "preferences", "in": 48, "outcomes": outcomes, "reasons": {}}


def test_cut_off_responses_have_no_end_of_turn(base: LocalModel) -> None:
    row = preference("hi", "one", "two")
    groups = group_preferences([row], base.tokens, 100, ended=lambda row, response: response == row.chosen).groups
    assert sorted(r[-1] in base.tokens.eos_ids for r in groups[0].responses) == [False, True]


def test_plan_is_a_permutation_per_epoch_and_keyed_by_seed() -> None:
    draw = random.Random(1)
    sizes = [draw.randint(5, 300) for _ in range(70)]
    plan = plan_steps(sizes, 8, 3, seed=0)
    flat = [i for batch in plan for i in batch]
    for epoch in range(3):
        assert sorted(flat[70 * epoch : 70 * (epoch + 1)]) == list(range(70))
    assert flat[:70] != flat[70:140]
    assert plan == plan_steps(sizes, 8, 3, seed=0)
    assert plan != plan_steps(sizes, 8, 3, seed=1)
    assert plan[:9] == plan_steps(sizes, 8, 1, seed=0)
    within = sum(max(sizes[i] for i in batch) - min(sizes[i] for i in batch) for batch in plan) / len(plan)
    assert within < 0.3 * (max(sizes) - min(sizes))


def test_held_out_prompts_are_a_keyed_share() -> None:
    names = [f"p{i}" for i in range(1000)]
    kept = [n for n in names if held_out(n, 0.2, seed=0)]
    assert 150 < len(kept) < 250
    assert kept == [n for n in names if held_out(n, 0.2, seed=0)]
    assert kept != [n for n in names if held_out(n, 0.2, seed=1)]


def test_passes_without_gradients_do_not_depend_on_their_batches(
    base: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = group_preferences(planted(8), base.tokens, 200).groups
    assert len(inference_batches(groups, 100)) > 3
    assert sorted(i for batch in inference_batches(groups, 100) for i in batch) == list(range(8))
    network = base.network
    whole = sequence_logprobs(network, groups, base.tokens.pad_id, share=True)
    passed: list[int] = []

    def counted(done: int, total: int) -> None:
        passed.append(done)

    vocabulary = network.config.vocab_size
    for bound, most in (
        ("PASS_TOKENS", 100),
        ("PASS_LOGITS", 100 * vocabulary),
    ):  # 1 GB of logits, where there are many words
        with monkeypatch.context() as patched:
            patched.setattr(f"rlaif.training.passes.{bound}", most)
            parts = sequence_logprobs(network, groups, base.tokens.pad_id, share=True, done=counted)
        for one, other in zip(whole, parts, strict=True):
            assert one == pytest.approx(other, rel=1e-6)
    assert len(passed) == 2 * len(inference_batches(groups, 100))


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    most=st.integers(1, 200),
    processes=st.integers(1, 3),
    per_step=st.integers(1, 9),
)
def test_steps_are_split_by_tokens_alone(sizes: list[int], most: int, processes: int, per_step: int) -> None:
    """The same groups in the same order, in micro-batches of at most so many tokens, as many to each step."""
    steps = plan_steps(sizes, per_step, 2, 3)
    batches, split = split_steps(steps, sizes, most, processes)
    assert split % processes == 0
    parts = [batches[n : n + split] for n in range(0, len(batches), split)]
    assert [[i for part in step for i in part] for step in parts] == steps
    assert all(len(part) == 1 or sum(sizes[i] for i in part) <= most for part in batches if part)
    assert any(step[0] for step in parts)
    assert all(any(step[-processes:]) for step in parts)  # where gradients of several processes are brought together
    if most >= sum(sizes):
        assert split == processes


def test_micro_batches_are_as_few_and_as_even_as_may_be() -> None:
    sizes = [1, 2, 3, 4, 5, 6, 7]
    assert split_steps([[0, 1, 2, 3, 4, 5, 6]], sizes, 16) == ([[0, 1, 2, 3, 4], [5, 6]], 2)
    assert split_steps([[0, 1, 2, 3, 4, 5, 6], [6]], sizes, 14) == ([[0, 1, 2, 3], [4, 5], [6], [], [], [6]], 3)
    assert split_steps([[0, 1, 2, 3], [6]], sizes, 100, 2) == ([[0, 1, 2], [3], [6], []], 2)
