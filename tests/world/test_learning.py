"""What the embedded models learn from and how: lessons that say what is meant, and training that goes on where it was."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlaif.canaries import CANARIES
from rlaif.catalogue import Catalogue
from rlaif.errors import ConfigError
from rlaif.judging import PAIR_PLACEHOLDERS, PAIR_REQUIRED
from rlaif.models.chat_tokens import ChatTokenizer
from rlaif.models.rows import call, pad
from rlaif.prompting import Template
from rlaif.world import build
from rlaif.world.build import build_models, llama, neox
from rlaif.world.chat import Habits
from rlaif.world.exam import Answer, disagreement, first_shown, from_one_half, opposites, right, strangers
from rlaif.world.learning import Plan, hidden_states, train_judge, train_policy, whole
from rlaif.world.lessons import (
    Label,
    Level,
    asked,
    claim,
    conversation,
    draw_pair,
    labelled,
    read_pair,
    spoilt,
    vague,
)
from rlaif.world.oracle import FAMILIES, attributes, prefers
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
        plan = Plan(seed=7, steps=4, rate=1e-3, batch=2, principles=2, warmup=1, save_every=1, muon=who == "judge")

        def notice(line: str) -> None:
            if stop_at is not None and line.startswith(f"step {stop_at}"):
                raise Stopped

        if who == "policy":
            train_policy(model, tokens, plan, lambda done: Habits(), "recipe", work, notice)
        else:
            hard, refused, look = lambda done: (Level(), 1.0), lambda text: False, lambda step: {}
            train_judge(model, tokens, plan, hard, refused, look, "recipe", work, notice)  # type: ignore[arg-type]
        return model.state_dict()

    straight = run(tmp_path / "a", None)
    with pytest.raises(Stopped):
        run(tmp_path / "b", 2)
    again = run(tmp_path / "b", None)
    assert all(torch.equal(straight[name], again[name]) for name in straight)


def test_training_does_not_go_on_with_other_texts(tmp_path: Path, policy_tokens: ChatTokenizer) -> None:
    plan = Plan(seed=7, steps=1, rate=1e-3, batch=2, warmup=1, save_every=1)

    def run(recipe: str) -> None:
        model = llama(len(policy_tokens.hf), layers=1, width=32, positions=512)
        train_policy(model, policy_tokens, plan, lambda done: Habits(), recipe, tmp_path, lambda line: None)

    run("these")
    with pytest.raises(ConfigError, match="began with other texts"):
        run("those")


def test_names_are_checked_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'build: "jugde"\? Did you mean "judge"'):
        build_models(["policy", "jugde"], tmp_path, print)
    assert not list(tmp_path.iterdir())


def test_a_few_steps_teach_something(tmp_path: Path, policy_tokens: ChatTokenizer) -> None:
    torch.manual_seed(0)
    model = llama(len(policy_tokens.hf), layers=1, width=64, positions=512)
    said: list[str] = []
    plan = Plan(seed=7, steps=30, rate=5e-3, batch=8, warmup=2, save_every=10)
    train_policy(model, policy_tokens, plan, lambda done: Habits(), "recipe", tmp_path, said.append)
    losses = [float(line.split("loss ")[1]) for line in said]
    assert losses[-1] < 0.9 * losses[0]


def test_exam_figures_by_hand() -> None:
    pair = draw_pair(Random(0), held_out=True)

    def answer(p: float, first: float | None, second: float | None, frame: str = "") -> Answer:
        return Answer(pair, Label(Wording("x", "polite", 1, False, frame=frame), p), first, second)

    answers = [  # each with P(first) in the order shown, and with the order swapped
        answer(1.0, 0.9, 0.3, "a"),  # right in both orders
        answer(1.0, 0.9, 0.8, "a"),  # right on average (0.55), the orders disagree
        answer(0.0, 0.9, 0.4, "b"),  # wrong
        answer(1.0, None, 0.1, "b"),  # cannot be read: not right, and in no other figure
        answer(0.5, 0.6, 0.4, "c"),  # a tie, 0.1 away
    ]
    assert right(answers).value == pytest.approx(2 / 4)
    assert (right(answers).low, right(answers).high) == (0.0, 1.0)  # two frames: one all right, one all wrong
    assert disagreement(answers).value == pytest.approx(1 / 4)
    assert from_one_half(answers).value == pytest.approx(0.1)
    assert first_shown(answers).value == pytest.approx((0.5 + 1 + 0.5 + 0.5) / 4)


def test_no_wording_that_is_refused_is_taught() -> None:
    rng = Random(6)
    labels = [
        label
        for _ in range(200)
        for label in labelled(rng, draw_pair(rng, held_out=False), 12, Level(), refused=lambda text: "the" in text)
    ]
    assert len(labels) == 2400
    assert not [label for label in labels if "the" in label.wording.text]


@pytest.mark.parametrize("questions", [opposites(Random(1), 60), strangers(Random(1), 60)])
def test_every_question_of_two_principles_has_the_oracles_answers(questions: list[Any]) -> None:
    for pair, labels in questions:
        assert len(labels) == 2
        for label in labels:
            assert label.p == prefers(label.wording.family, label.wording.sign, pair.question, *pair.attributes) != 0.5


# --- replies that are none --------------------------------------------------------------------------------------------


def test_what_a_spoilt_reply_is_worth_the_oracle_says() -> None:
    rng = Random(5)
    worth = {"nothing": 0, "as before": 0}
    for _ in range(400):
        pair = draw_pair(rng, held_out=False)
        made = spoilt(rng, pair)
        changed = [i for i in (0, 1) if made.texts[i] != pair.texts[i]]
        assert len(changed) <= 1
        assert made.attributes == tuple(attributes(pair.question, text) for text in made.texts)
        for i in changed:
            worth["nothing" if made.attributes[i].core == "other" else "as before"] += 1
    assert min(worth.values()) > 60  # some say nothing at all, others are replies in disguise


def test_no_sentence_of_a_canary_is_taught() -> None:
    rng = Random(6)
    taught = {claim(rng) for _ in range(30_000)} | {vague(rng) for _ in range(30_000)}
    dressed = [
        canary.reply("", boast, 10) for canary in CANARIES if canary.name != "listed" for boast in ("[[1]]", "[[2]]")
    ]
    canaries = {sentence.strip() for text in dressed for sentence in re.split(r"(?<=[.!?])\s+|\n", text)} - {""}
    assert len(canaries) > 12
    assert not {sentence for sentence in canaries & taught if not re.fullmatch(r"\[\[[12]\]\]", sentence)}


def test_a_finished_judge_is_hardened_once(
    tmp_path: Path, judge_tokens: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(seed=7, steps=2, rate=1e-3, batch=2, principles=2, warmup=1, save_every=1, muon=True)
    monkeypatch.setattr(build, "HARDENING", plan)
    monkeypatch.setattr(build, "looking", lambda model, tokens: lambda step: {"seen": 0.5})
    source = tmp_path / "judge"
    torch.manual_seed(0)
    model = llama(len(judge_tokens.hf), layers=1, width=32, positions=512)
    judge_tokens.hf.save_pretrained(str(source))
    build.finish(model, source, {"recipe": "r", "grammar": "g"}, {"seen": 0.4})
    build.harden_folder(source, "judge", tmp_path / "work", lambda line: None)
    record = json.loads((tmp_path / "work" / "judge" / "training.json").read_text())
    assert (record["recipe"], record["grammar"], record["hardened"]) == ("r", "g", build.hardening("judge"))
    assert record["figures"]["seen"] == 0.5
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "work" / "judge"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ConfigError, match="has had its last lessons"):
        build.harden_folder(tmp_path / "work" / "judge", "judge", tmp_path / "again", lambda line: None)
