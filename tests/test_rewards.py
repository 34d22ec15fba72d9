"""Rewards: what judges say of single replies or of pairs becomes a number, a failure stays none, parts add up by weight; and
whole runs that tune on them."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlaif.component import Place
from rlaif.errors import ConfigError
from rlaif.mock import MockOptions, start
from rlaif.models import ChatRequest, Reply
from rlaif.policy import RewardSpec
from rlaif.records import Prompt, Response
from rlaif.rewards import RewardContext, Rewards, open_rewards
from rlaif.rewards.trained import TrainedReward
from tests import make, tiny
from tests.conftest import ROOT
from tests.runs import kill_when, rlaif
from tests.runs import start as start_cli
from tests.test_judging import labels, write_constitution, write_judge
from tests.tiny import write_jsonl

QUESTION = make.prompt("Why is the sky blue?")


def replies(*texts: str, prompt: Prompt = QUESTION) -> tuple[Prompt, list[Response]]:
    found = [
        Response(prompt_id=prompt.id, messages=(make.assistant(text),), sample_index=i, generator="policy")
        for i, text in enumerate(texts)
    ]
    return prompt, found


def rewards_of(
    answer: Callable[[ChatRequest], Reply | str],
    *items: tuple[Prompt, list[Response]],
    constitution: str = "",
    **options: Any,
) -> tuple[list[list[float | None]], int]:
    """What the judge ``mine`` makes of the items, and how many questions it was asked."""
    source, model = labels(answer, constitution=constitution or None)
    context = RewardContext(Place("recipe"), source.context, None)
    rewards = open_rewards([RewardSpec(source="judge", options={"judge": "mine", **options})], context)
    found = asyncio.run(rewards(items))
    return [[reward.total for reward in many] for many in found], len(model.requests)


def said_of(request: ChatRequest) -> str:
    return request.messages[-1].content


# --- judges that score ------------------------------------------------------------------------------------------------


def test_a_score_is_put_from_its_scale_onto_minus_one_to_one() -> None:
    write_judge("mine", protocol="pointwise")

    def answer(request: ChatRequest) -> str:
        return next(f"[[{n}]]" for word, n in (("best", 10), ("middling", 5), ("worst", 1)) if word in said_of(request))

    found, asked = rewards_of(answer, replies("the best", "the middling", "the worst", "the best"))
    assert found == [[1.0, pytest.approx(-1 / 9), -1.0, 1.0]]
    assert asked == 3  # equal replies are asked about once


def test_a_score_that_cannot_be_read_is_no_reward() -> None:
    write_judge("mine", protocol="pointwise")
    found, _ = rewards_of(
        lambda request: "I cannot say." if "odd" in said_of(request) else "[[10]]",
        replies("even", "odd"),
        replies("odd"),
    )
    assert found == [[1.0, None], [None]]


def test_scores_under_principles_are_averaged_by_weight() -> None:
    write_judge("mine", protocol="pointwise")
    write_constitution({"kind": ("Be kind.", 3.0), "true": ("Be true.", 1.0)})

    def answer(request: ChatRequest) -> str:
        whole = " ".join(message.content for message in request.messages)
        return "[[10]]" if "Be kind." in whole else "[[1]]"

    found, asked = rewards_of(answer, replies("even", "odd"), constitution="mine")
    assert found == [2 * [pytest.approx((3 * 1.0 + 1 * -1.0) / 4)]]
    assert asked == 4


def test_why_replies_have_no_reward_is_told_by_principle() -> None:
    write_judge("mine", protocol="pointwise")
    write_constitution({"kind": ("Be kind.", 3.0), "true": ("Be true.", 1.0)})

    def answer(request: ChatRequest) -> str:
        whole = " ".join(message.content for message in request.messages)
        return "[[10]]" if "Be kind." in whole else "I cannot say."

    source, _ = labels(answer, constitution="mine")
    context = RewardContext(Place("recipe"), source.context, None)
    rewards = open_rewards([RewardSpec(source="judge", options={"judge": "mine"})], context)
    asyncio.run(rewards([replies("even", "odd")]))
    assert rewards.why("judge mine") == "2 unreadable under true"


@pytest.mark.parametrize(
    ("replied", "expected"),
    [
        # under kind, true, brief, of weights 3, 2 and 1, on the scale from 1 to 10
        (["6 4 2", "8 8 5"], [28 / 6, 45 / 6]),
        (["6 4 2", "8 8 -"], [26 / 5, 40 / 5]),  # brief counts for neither
        (["6 4 -", "8 8 -"], [26 / 5, 40 / 5]),
        (["6 4 2", "- 8 -"], [28 / 6, None]),  # a third of the weight is left: the reply goes, and brief stays
        (["6 4 2", "8 - -"], [28 / 6, None]),  # half of it
        (["6 4 2", "8 8 -", "- 2 1"], [26 / 5, 40 / 5, None]),
        (["- 2 1", "6 4 2", "8 8 -"], [None, 26 / 5, 40 / 5]),
        (["9 - 2", "4 - 1", "9 9 -"], [29 / 4, 13 / 4, None]),  # who lacks most is kept with another who does
        (["6 4 -"], [None]),  # whether it is much or little nobody can tell
        (["6 4 -", "- - -"], [None, None]),
        (["6 4 2"], [28 / 6]),
        (["- - -", "6 4 2"], [None, 28 / 6]),
    ],
)
def test_a_score_that_is_missing_moves_no_reply_from_the_others(
    replied: list[str], expected: list[float | None]
) -> None:
    write_judge("mine", protocol="pointwise")
    write_constitution({"kind": ("Be kind.", 3.0), "true": ("Be true.", 2.0), "brief": ("Be brief.", 1.0)})

    def answer(request: ChatRequest) -> str:
        whole = " ".join(message.content for message in request.messages)
        said = next(said for said in replied if said in whole).split()
        value = said[next(i for i, asked in enumerate(("Be kind.", "Be true.", "Be brief.")) if asked in whole)]
        return "Hm." if value == "-" else f"[[{value}]]"

    found, _ = rewards_of(answer, replies(*replied), constitution="mine")
    put = [None if value is None else pytest.approx((2 * value - 11) / 9) for value in expected]
    assert found == [put]


# --- judges that compare ----------------------------------------------------------------------------------------------


def by_length(request: ChatRequest) -> str:
    """The reply with more stars is the better one."""
    first, second = said_of(request).split("reply B", 1)
    one, other = first.count("*"), second.count("*")
    return "[[A]]" if one > other else "[[B]]" if other > one else "[[C]]"


def test_of_replies_that_are_compared_each_gets_its_mean_chance_of_winning() -> None:
    write_judge("mine")
    found, asked = rewards_of(by_length, replies("*", "***", "**", "***"))
    assert found == [[-1.0, 1.0, 0.0, 1.0]]
    assert asked == 6  # three pairs of different replies, both orders


def test_a_pair_that_cannot_be_read_counts_for_neither() -> None:
    write_judge("mine")

    def answer(request: ChatRequest) -> str:
        return "Hm." if "odd" in said_of(request) else by_length(request)

    found, _ = rewards_of(answer, replies("*", "** odd", "***"), replies("* odd", "**"), replies("same", "same"))
    assert found == [[-1.0, None, 1.0], [None, None], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ((), [-1.0, 0.0, 1.0]),
        (("* **",), [-1.0, None, 1.0]),  # the last of two that were not compared
        (("** ***",), [-1.0, 1.0, None]),
        (("* ***", "** ***"), [-1.0, 1.0, None]),
        (("* **", "* ***", "** ***"), [None, None, None]),
    ],
)
def test_what_has_a_reward_has_the_same_opponents_as_all_that_have(lost: tuple[str, ...], expected: list[Any]) -> None:
    """A comparison that fails is no win of the one that would have lost it."""
    write_judge("mine")

    def answer(request: ChatRequest) -> str:
        stars = sorted(re.findall(r"\*+", said_of(request)))
        return "Hm." if " ".join(stars) in lost else by_length(request)

    found, _ = rewards_of(answer, replies("*", "**", "***"))
    assert found == [expected]


def test_a_judge_that_always_says_the_first_rewards_nobody() -> None:
    write_judge("mine")
    found, _ = rewards_of(lambda request: "[[A]]", replies("*", "**", "***"))
    assert found == [[0.0, 0.0, 0.0]]


def test_a_list_is_ranked_side_by_side() -> None:
    write_judge("mine", protocol="listwise")

    def answer(request: ChatRequest) -> str:
        parts = said_of(request).split("reply ")[1:]
        order = sorted(parts, key=lambda part: -part.count("*"))
        return "[[" + " > ".join(part[0] for part in order) + "]]"

    found, asked = rewards_of(answer, replies("*", "***", "**"), comparisons="list")
    assert found == [[-1.0, 1.0, 0.0]]
    assert asked == 2


@pytest.mark.parametrize("protocol", ["pointwise", "pairwise-text"])
def test_a_principle_that_is_drawn_is_one_for_replies_that_are_held_against_each_other(protocol: str) -> None:
    """Else a reply would be worth more for having met a milder principle."""
    write_judge("mine", protocol=protocol)
    write_constitution({"kind": ("Be kind.", 1.0), "true": ("Be true.", 1.0)})
    under: dict[str, set[str]] = {}

    def answer(request: ChatRequest) -> str:
        whole = " ".join(message.content for message in request.messages)
        (asked,) = set(re.findall(r"Question \d+", whole))
        under.setdefault(asked, set()).update(re.findall(r"Be kind|Be true", whole))
        return ("[[10]]" if "Be kind." in whole else "[[1]]") if protocol == "pointwise" else by_length(request)

    groups = [replies("*", "**", "***", "****", prompt=make.prompt(f"Question {n}")) for n in range(12)]
    found, _ = rewards_of(answer, *groups, constitution="mine", principles="draw")
    assert all(len(principles) == 1 for principles in under.values())
    assert len(set.union(*under.values())) == 2  # and not the same for every prompt
    if protocol == "pointwise":
        assert all(len(set(many)) == 1 for many in found)


# --- sums and ensembles -----------------------------------------------------------------------------------------------


class Stars:
    name = "stars"

    def __init__(self, options: Any, context: Any) -> None:
        pass

    async def __call__(self, items: Any) -> list[list[float | None]]:
        return [[None if "odd" in r.text else float(r.text.count("*")) for r in many] for _, many in items]

    def signature(self) -> object:
        return 1


class Short(Stars):
    name = "short"

    async def __call__(self, items: Any) -> list[list[float | None]]:
        return [[0.0 for _ in many][:-1] for _, many in items]


def opened(*specs: dict[str, Any]) -> Rewards:
    source, _ = labels()
    found = [RewardSpec(**spec) for spec in specs]
    return open_rewards(found, RewardContext(Place("recipe"), source.context, None))


def test_the_reward_in_the_documentation_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(
        r"```python\n# my_rewards.py.*?\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL
    )
    (tmp_path / "my_rewards.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    rewards = opened({"source": "my_rewards:Brevity", "options": {"words": 4}})
    _, (one, two) = replies("two words", "a b c d")
    cut = two.model_copy(update={"finish_reason": "length"})
    found = asyncio.run(rewards([(QUESTION, [one, two, cut])]))
    assert [reward.total for reward in found[0]] == [0.5, 0.0, 0.0]
    assert rewards.signature()[0][0] == "brevity"


def test_parts_add_up_by_weight_and_stay_apart() -> None:
    own = f"{__name__}:Stars"
    rewards = opened({"source": own}, {"source": own, "weight": -0.5})
    ((one, two, odd),) = asyncio.run(rewards([replies("*", "***", "odd")]))
    assert (one.total, two.total, odd.total) == (0.5, 1.5, None)
    assert two.parts == {"stars": 3.0, "stars 2": 3.0}


class Ones(Stars):
    name = "ones"

    async def __call__(self, items: Any) -> list[list[float | None]]:
        return [[1.0 for _ in many] for _, many in items]


def test_a_source_of_weight_0_is_told_of_and_decides_nothing() -> None:
    rewards = opened({"source": f"{__name__}:Ones"}, {"source": f"{__name__}:Stars", "weight": 0})
    ((one, odd),) = asyncio.run(rewards([replies("***", "odd")]))
    assert (one.total, odd.total) == (1.0, 1.0)
    assert (one.parts["stars"], odd.parts["stars"]) == (3.0, None)


def test_a_source_that_loses_a_response_is_told() -> None:
    with pytest.raises(Exception, match=r"reward short: expected numbers for \[2\] responses, got \[1\]"):
        asyncio.run(opened({"source": f"{__name__}:Short"})([replies("*", "**")]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 2.0), ({"combine": "worst"}, 1.0), ({"combine": "uncertainty", "penalty": 0.5}, 2 - 0.5 * (2 / 3) ** 0.5)],
)
def test_an_ensemble_is_put_together(options: dict[str, Any], expected: float) -> None:
    source, _ = labels()

    class Member:
        def __init__(self, value: float) -> None:
            self.value = value

        def __call__(self, items: Any) -> list[list[float]]:
            return [[self.value for _ in many] for _, many in items]

    context = RewardContext(Place("recipe"), source.context, lambda: [Member(1.0), Member(2.0), Member(3.0)], 3)
    reward = TrainedReward(TrainedReward.Options(**options), context)
    assert asyncio.run(reward([replies("*")])) == [[pytest.approx(expected)]]


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("models") / "start", "llama", hidden=32, context=256)


def recipe(folder: Path, policy: Path, url: str, method: str = "rloo", **options: Any) -> Path:
    """Direct RLAIF: prompts, a judge behind an API, a method; no labels. Or a method that learns from demonstrations."""
    folder.mkdir(exist_ok=True)
    write_jsonl(
        folder / "prompts.jsonl", [{"prompt": f"{' '.join(tiny.WORDS[i % 9 : i % 9 + 3])} {i}"} for i in range(24)]
    )
    write_jsonl(folder / "shown.jsonl", [{"prompt": f"what is {i}", "response": f"it is {i + 1}"} for i in range(24)])
    sampling = {"rewards": [{"source": "judge", "options": {"judge": "score-text"}}], "max_new_tokens": 8}
    own = {} if "demonstrations" in options else sampling
    shared = {"learning_rate": 1e-3, "batch_prompts": 4, "checkpoints": 3}
    data = {
        "models": {
            "policy": str(policy),
            "judge": {"provider": "openai", "model": "mock-judge", "options": {"base_url": f"{url}/v1"}},
        },
        "prompts": "prompts.jsonl",
        "policies": [{"name": method, "options": {**own, **shared, **options}}],
    }
    (folder / "direct.yaml").write_text(json.dumps(data))
    return folder


def trained(folder: Path, method: str = "rloo") -> dict[str, Any]:
    return dict(json.loads((folder / "run" / "training" / f"policies-{method}.json").read_text()))


def test_a_judge_behind_an_api_rewards_directly_and_its_failures_move_nothing(
    tmp_path: Path, policy_folder: Path
) -> None:
    """The server withholds or empties some replies, and breaks off others, which are asked for again."""
    with start(
        MockOptions(fault=("empty=0.05", "content-filter=0.05", "500=0.05", "reset=0.02"), latency="5ms")
    ) as server:
        folder = recipe(tmp_path, policy_folder, server.url)
        said = rlaif(folder, "run", "direct.yaml", "--out", "run")
    report = trained(folder)
    lost = [figures["no_reward"] for figures in report["history"]]
    assert 0.02 < sum(lost) / len(lost) < 0.3
    assert "waiting for rewards" in said
    assert "policies/rloo" in said
    moved, before = (load_file(f / "model.safetensors") for f in (folder / "run" / "policies" / "rloo", policy_folder))
    assert any(not torch.equal(value, before[name]) for name, value in moved.items())


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("rloo", {}),
        pytest.param("ppo", {"accumulation": 2, "minibatches": 2, "inner_epochs": 2}, marks=pytest.mark.slow),
        pytest.param("sft", {"demonstrations": "shown.jsonl"}, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    method: str, options: dict[str, Any], tmp_path: Path, policy_folder: Path
) -> None:
    with start(MockOptions(latency="5ms")) as server:
        straight = recipe(tmp_path / "straight", policy_folder, server.url, method, **options)
        rlaif(straight, "run", "direct.yaml", "--out", "run")
        stopped = recipe(tmp_path / "stopped", policy_folder, server.url, method, **options)
        work = stopped / "run" / "training" / "policies" / method
        process = start_cli(stopped, "run", "direct.yaml", "--out", "run")
        assert kill_when(process, lambda: (work / "checkpoint-2" / "rlaif-complete").exists())
        rlaif(stopped, "run", "direct.yaml", "--out", "run")
    assert trained(stopped, method) == trained(straight, method)
    one, other = (load_file(f / "run" / "policies" / method / "model.safetensors") for f in (straight, stopped))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        (["rloo"], "policies.0.options.rewards.0: rewards come from the reward model: set reward_model."),
        ([{"name": "rloo", "options": {"rewards": "judge"}}], '"judge" is missing'),
        (
            [{"name": "rloo", "options": {"rewards": [{"source": "judge", "options": {"judge": "score-txt"}}]}}],
            'judge "score-txt" not found',
        ),
        (["dpo"], 'training needs "labels"'),
        (
            [{"name": "best-of-n"}, {"name": "best-of-n", "options": {"n": 3}}],
            '"best-of-n" needs a reward model',
        ),
    ],
)
def test_what_a_method_lacks_is_one_line(
    policies: list[Any], message: str, tmp_path: Path, policy_folder: Path
) -> None:
    folder = recipe(tmp_path, policy_folder, "http://127.0.0.1:9")
    data = json.loads((folder / "direct.yaml").read_text()) | {"policies": policies}
    (folder / "direct.yaml").write_text(json.dumps(data))
    said = rlaif(folder, "check", "direct.yaml", code=2)
    assert message in said


def test_an_ensemble_is_trained_with_seeds_of_its_own_and_rewards_together(tmp_path: Path, policy_folder: Path) -> None:
    folder = tmp_path
    write_jsonl(
        folder / "pairs.jsonl",
        [
            {
                "prompt": f"how are you {i}",
                "response_a": f"I am well {i}",
                "response_b": f"no {i}",
                "label": "ab"[i % 2],
            }
            for i in range(24)
        ],
    )
    data = {
        "models": {"policy": str(policy_folder)},
        "pairs": "pairs.jsonl",
        "labels": "human",
        "reward_model": {"members": 3, "sampling": {"max_output_tokens": 8}, "options": {"batch_prompts": 4, "learning_rate": 1e-3}},
        "policies": [
            {
                "name": "rloo",
                "called": "careful",
                "options": {
                    "rewards": [{"source": "reward_model", "options": {"combine": "worst"}}],
                    "batch_prompts": 8, "max_new_tokens": 8, "steps": 2,
                },
            }
        ],
    }  # fmt: skip
    (folder / "ensemble.yaml").write_text(json.dumps(data))
    said = rlaif(folder, "run", "ensemble.yaml", "--out", "run")
    assert "reward_members/3" in said
    assert "policies/careful" in said
    members = [
        load_file(folder / "run" / name / "model.safetensors")
        for name in ("reward_model", "reward_members/2", "reward_members/3")
    ]
    heads = {tuple(member["score.weight"].flatten().tolist()) for member in members}
    assert len(heads) == 3
    assert (folder / "run" / "policies" / "careful" / "model.safetensors").exists()
    names = ("reward_model", "reward_members-2", "reward_members-3")
    told = [json.loads((folder / "run" / "training" / f"{name}.json").read_text()) for name in names]
    pairs = told[0]["held_out"]
    assert all(each["held_out"]["pair_ids"] == pairs["pair_ids"] for each in told)
    mean = [
        sum(each["gain"] * each["held_out"]["differences"][i] for each in told) / sum(each["gain"] for each in told)
        for i in range(len(pairs["p"]))
    ]
    losses = [math.log1p(math.exp(-d if p == 1 else d)) for d, p in zip(mean, pairs["p"], strict=True)]
    found = json.loads((folder / "run" / "metrics.json").read_text())
    assert found["reward_model.log_loss"]["value"] == pytest.approx(sum(losses) / len(losses))
    assert mean != pairs["differences"]


def test_a_run_tells_its_trackers_and_writes_model_cards(tmp_path: Path, policy_folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_jsonl(
        tmp_path / "pairs.jsonl",
        [
            {"prompt": f"how are you {i}", "response_a": f"well {i}", "response_b": f"no {i}", "label": "a"}
            for i in range(16)
        ],
    )
    data = {
        "models": {"policy": str(policy_folder)},
        "pairs": "pairs.jsonl",
        "labels": "human",
        "policies": [{"name": "dpo", "called": "mine", "options": {"batch_prompts": 4}}],
        "report_to": ["tensorboard"],
    }
    (tmp_path / "told.yaml").write_text(json.dumps(data))
    rlaif(tmp_path, "run", "told.yaml", "--out", "run")
    found = EventAccumulator(str(tmp_path / "run" / "logs" / "policies-mine")).Reload()
    history = json.loads((tmp_path / "run" / "training" / "policies-mine.json").read_text())["history"]
    told = [event.value for event in found.Scalars("loss")]
    assert told == pytest.approx([row["loss"] for row in history], abs=1e-6)
    card = (tmp_path / "run" / "policies" / "mine" / "README.md").read_text()
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["models"]["policy"]["sha256"] in card
    assert manifest["stages"]["preferences"]["content"] in card
    assert "Trained by `dpo`" in card
    assert "Labels by human" in card
    assert '"beta": 0.1' in card


def test_a_tracker_that_is_not_installed_is_one_line(tmp_path: Path, policy_folder: Path) -> None:
    folder = recipe(tmp_path, policy_folder, "http://127.0.0.1:9")
    said = rlaif(folder, "check", "direct.yaml", "--set", "report_to=[trackio]", code=2)
    assert "trackio is not installed: pip install trackio, or leave it out." in said


def test_a_reply_alone_has_no_opponent_and_so_no_reward() -> None:
    write_judge("mine")
    found, asked = rewards_of(by_length, replies("**"))
    assert (found, asked) == ([[None]], 0)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"name": "ppo", "options": {"rewards": [{"source": "judge", "options": {"judge": "compare-text"}}]}},
         "judge compare-text compares the responses to a prompt, and there is one: set samples to 2 or more"),
        ({"name": "rloo", "options": {"rewards": [{"source": "judge", "options": {"judge": "score-text"}}],
                                      "watch": {"judge": "builtin:score-text"}}},
         "the judge builtin:score-text is part of the reward"),
        ({"name": "rloo", "options": {"rewards": [{"source": "pathlib:Path"}]}}, "pathlib:Path: built with"),
        ({"name": "rloo", "options": {"schedule": "cosin"}}, "schedule"),
        ({"name": "rloo", "options": {"beta": 0, "kl_target": 6}}, "kl_target steers beta"),
        ({"name": "rloo", "options": {"rewards": [{"source": "judge", "options": {"judge": "score-text",
                                                                                  "comparisons": "list"}}]}},
         "comparisons is of a judge that compares, and score-text scores each reply alone"),
        ({"name": "rloo", "options": {"rewards": [{"source": "judge", "options": {"judge": "score-text"},
                                                   "weight": ".nan"}]}}, "weight"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(
    policy: dict[str, Any], message: str, tmp_path: Path, policy_folder: Path
) -> None:
    folder = recipe(tmp_path, policy_folder, "http://127.0.0.1:9")
    data = json.loads((folder / "direct.yaml").read_text()) | {"policies": [policy]}
    (folder / "direct.yaml").write_text(json.dumps(data))
    said = rlaif(folder, "check", "direct.yaml", code=2)
    assert message in said
    assert "Traceback" not in said


def test_a_judge_that_looks_on_by_the_same_model_is_said(tmp_path: Path, policy_folder: Path) -> None:
    watched = {"watch": {"judge": "compare-text"}}
    folder = recipe(tmp_path, policy_folder, "http://127.0.0.1:9", **watched)
    said = rlaif(folder, "plan", "direct.yaml")
    assert (
        "Careful: rloo: the judge compare-text looks on by openai:mock-judge, and the reward is by openai:mock-judge (score-text)"
        in said
    )


def test_where_a_judge_looked_on_at_prompts_that_are_measured_it_is_said(tmp_path: Path, policy_folder: Path) -> None:
    with start(MockOptions()) as server:
        folder = recipe(tmp_path, policy_folder, server.url, watch={"judge": "compare-text", "prompts": 2, "looks": 2,
                                                                    "patience": 1})  # fmt: skip
        data = json.loads((folder / "direct.yaml").read_text()) | {"held_out": 0.4, "evaluation": {"prompts": 3}}
        (folder / "direct.yaml").write_text(json.dumps(data))
        said = rlaif(folder, "run", "direct.yaml", "--out", "run")
        assert "looked on at" not in said
        said = rlaif(folder, "run", "direct.yaml", "--set", "evaluation.prompts=24", "--out", "run")
    assert "Careful: rloo: the judge compare-text looked on at 2 of the" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"combine": "worst"}, "combine worst is of several models: set reward_model.members"),
        ({"penalty": 0.5}, "penalty is of combine: uncertainty"),
    ],
)
def test_what_an_ensemble_alone_can_do_is_refused_without_one(options: dict[str, Any], message: str) -> None:
    source, _ = labels()
    spec = RewardSpec(source="reward_model", options=options)
    with pytest.raises(ConfigError, match=message):
        open_rewards([spec], RewardContext(Place("recipe"), source.context, list, 1))


def test_a_plan_counts_what_rewards_will_ask(tmp_path: Path, policy_folder: Path) -> None:
    folder = recipe(tmp_path, policy_folder, "http://127.0.0.1:9", samples=3, epochs=2)
    rlaif(folder, "plan", "direct.yaml", "--to", "plan.json")
    calls = json.loads((folder / "plan.json").read_text())["plan.rewards_of_rloo.score-text.calls"]["value"]
    assert calls == 18 * 3 * 2  # prompts that are not held out, responses, epochs
