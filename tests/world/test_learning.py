"""What the embedded models learn from and how: lessons that say what is meant, and training that goes on where it was."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from rlaif.catalogue import Catalogue
from rlaif.judging import PAIR_PLACEHOLDERS, PAIR_REQUIRED
from rlaif.models.chat_tokens import ChatTokenizer
from rlaif.models.shared_prompt import call, pad
from rlaif.prompting import Template
from rlaif.world.build import llama, neox, shipped
from rlaif.world.chat import KINDS, Habits
from rlaif.world.exam import Answer, figures
from rlaif.world.learning import Plan, hidden_states, train_judge, train_policy, whole
from rlaif.world.lessons import Label, Level, asked, conversation, draw_pair, labelled, read_pair
from rlaif.world.oracle import FAMILIES, prefers
from rlaif.world.principles import Wording
from rlaif.world.tokens import build_tokenizer


@pytest.fixture(scope="module")
def judge_tokens(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return build_tokenizer(tmp_path_factory.mktemp("judge"), 1, size=600, judge=True, conversations=300)


@pytest.fixture(scope="module")
def policy_tokens(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return build_tokenizer(tmp_path_factory.mktemp("policy"), 1, size=600, judge=False, conversations=300)


def readings(tokens: ChatTokenizer, number: int, principles: int) -> list[Any]:
    rng = Random(2)
    pairs = [draw_pair(rng, held_out=False) for _ in range(number)]
    return [read_pair(tokens, pair, labelled(rng, pair, principles, Level())) for pair in pairs]


def test_a_lesson_is_what_the_judge_will_be_shown(judge_tokens: ChatTokenizer) -> None:
    entry = Catalogue().find("template", "builtin:compare-two-turns", where="test")
    template = Template.parse(
        entry.text, where="t", allowed=PAIR_PLACEHOLDERS, required=PAIR_REQUIRED, judged=PAIR_REQUIRED
    )
    for reading in readings(judge_tokens, 20, 2):
        one, two = reading.pair.texts
        for label, suffix in zip(reading.labels, reading.suffixes, strict=True):
            values = {"prompt": asked(reading.pair.question), "response_1": one, "response_2": two}
            messages = template.fill({**values, "principle": label.wording.text, "rubric": "", "fence": ""})
            assert [*reading.prefix, *suffix] == judge_tokens.prompt_ids(messages)
        end = judge_tokens.hf.convert_tokens_to_ids("<|end|>")
        assert [reading.prefix[i] for i in reading.ends] == [end, end]


def test_a_policy_lesson_is_what_the_chat_template_writes(policy_tokens: ChatTokenizer) -> None:
    rng = Random(3)
    for _ in range(30):
        talk = conversation(rng, Habits())
        ids, told = whole(policy_tokens, talk)
        assert ids == policy_tokens.prompt_ids(talk[:-1]) + policy_tokens.response_ids(talk[:-1], talk[-1:])
        last = len(policy_tokens.response_ids(talk[:-1], talk[-1:]))
        assert all(told[-last:])
        assert not told[0]


def test_every_label_is_the_oracles_and_no_refused_wording_is_taught() -> None:
    rng = Random(4)
    seen: set[str] = set()
    for _ in range(200):
        pair = draw_pair(rng, held_out=False)
        for label in labelled(rng, pair, 6, Level(), refused=seen.__contains__):
            assert label.p == prefers(label.wording.family, label.wording.sign, pair.question, *pair.attributes)
            assert label.wording.text not in seen
        seen |= {label.wording.text for label in labelled(rng, pair, 2, Level())}


def test_families_are_about_equally_frequent_among_telling_labels() -> None:
    rng = Random(5)
    counts = dict.fromkeys(FAMILIES, 0)
    for _ in range(1_500):
        pair = draw_pair(rng, held_out=False)
        for label in labelled(rng, pair, 6, Level(ties=0.0)):
            counts[label.wording.family] += label.p != 0.5
    assert min(counts.values()) > 0.35 * sum(counts.values()) / len(FAMILIES), counts


@pytest.mark.parametrize("make", [llama, neox])
def test_sharing_a_pair_between_its_principles_changes_nothing(judge_tokens: ChatTokenizer, make: Any) -> None:
    torch.manual_seed(0)
    model = make(len(judge_tokens.hf), layers=2, width=32, positions=1024)
    rows = readings(judge_tokens, 3, 4)
    ends, said, verdicts = hidden_states(model, rows, judge_tokens.pad_id)
    alone = [[*r.prefix, *suffix] for r in rows for suffix in r.suffixes]
    ids, mask = pad(alone, judge_tokens.pad_id, "cpu")
    straight = call(model.base_model, ids, mask, output_hidden_states=True)
    for i, row in enumerate(alone):
        assert torch.allclose(verdicts[i], straight[0][i, len(row) - 1], atol=1e-4)
        for layer, hidden in enumerate(straight.hidden_states):
            assert torch.allclose(said[layer, i], hidden[i, len(row) - 2], atol=1e-4)
            assert torch.allclose(ends[layer, i // 4], hidden[i, list(rows[i // 4].ends)], atol=1e-4)


@pytest.mark.parametrize("who", ["judge", "policy"])
def test_training_that_was_stopped_goes_on_to_the_same_weights(
    who: str, tmp_path: Path, judge_tokens: ChatTokenizer, policy_tokens: ChatTokenizer
) -> None:
    tokens = judge_tokens if who == "judge" else policy_tokens

    class Stopped(Exception):
        pass

    def run(work: Path, stop_at: int | None) -> Any:
        torch.manual_seed(0)
        model = llama(len(tokens.hf), layers=1, width=32, positions=512)
        plan = Plan(seed=7, steps=4, rate=1e-3, batch=2, principles=2, warmup=1, save_every=1)

        def notice(line: str) -> None:
            if stop_at is not None and line.startswith(f"step {stop_at}"):
                raise Stopped

        if who == "policy":
            train_policy(model, tokens, plan, lambda done: Habits(), work, notice)
        else:
            train_judge(
                model, tokens, plan, lambda done: (Level(), 1.0), lambda text: False, lambda step: {}, work, notice
            )
        return model.state_dict()

    straight = run(tmp_path / "a", None)
    with pytest.raises(Stopped):
        run(tmp_path / "b", 2)
    again = run(tmp_path / "b", None)
    assert all(torch.equal(straight[name], again[name]) for name in straight)


def test_a_few_steps_teach_something(tmp_path: Path, policy_tokens: ChatTokenizer) -> None:
    torch.manual_seed(0)
    model = llama(len(policy_tokens.hf), layers=1, width=64, positions=512)
    said: list[str] = []
    plan = Plan(seed=7, steps=30, rate=5e-3, batch=8, warmup=2, save_every=10)
    train_policy(model, policy_tokens, plan, lambda done: Habits(), tmp_path, said.append)
    losses = [float(line.split("loss ")[1]) for line in said]
    assert losses[-1] < 0.9 * losses[0]


def test_exam_figures_by_hand() -> None:
    pair = draw_pair(Random(0), held_out=True)
    word = Wording("x", "polite", 1, False)
    answers = [
        Answer(pair, Label(word, 1.0), 0.9, 0.7),  # right in both orders
        Answer(pair, Label(word, 1.0), 0.9, 0.2),  # right on average, the orders disagree
        Answer(pair, Label(word, 0.0), 0.9, 0.6),  # wrong
        Answer(pair, Label(word, 0.5), 0.6, 0.6),  # a tie, 0.1 away
    ]
    found = figures(answers)
    assert found["right"] == pytest.approx(2 / 3)
    assert found["disagree"] == pytest.approx(1 / 3)
    assert found["tie"] == pytest.approx(0.1)
    assert found["first"] == pytest.approx((4 + 1) / 8)  # the first shown preferred four times, and once when swapped


def test_no_shipped_wording_is_drawn_from_the_grammar() -> None:
    rng = Random(6)
    taught = {
        label.wording.text
        for _ in range(500)
        for label in labelled(rng, draw_pair(rng, held_out=False), 12, Level(), refused=shipped().__contains__)
    }
    assert shipped()
    assert not taught & shipped()


def test_kinds_are_known() -> None:
    assert set(Habits().cores) == set(KINDS)
