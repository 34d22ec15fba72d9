"""What a check knows of a training before anything is sampled."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlaif.checking import check_file
from rlaif.component import Options as BaseOptions
from rlaif.component import Place
from rlaif.errors import ConfigError
from rlaif.records import Message, Prompt, Response
from rlaif.rewards import RewardContext, RewardSpec, open_rewards
from tests.test_rewards import labels
from tests.tiny import write_jsonl


class Sync:
    Options = BaseOptions

    def __init__(self, options: Any, context: Any) -> None: ...

    def __call__(self, items: Any) -> Any:
        return [[1.0 for _ in responses] for _, responses in items]

    def signature(self) -> Any:
        return 0


class Array(Sync):
    async def __call__(self, items: Any) -> Any:  # type: ignore[override]
        return [[np.float32(0.5) for _ in responses] for _, responses in items]


OWN = f"{__name__}:Array"
REFUSED = {
    "a policy called as what it is measured beside": (
        "policies=[{name: dpo, called: start}]",
        '"start" is what policies are measured beside: call this one otherwise',
    ),
    "no room for a prompt": (
        f"policies=[{{name: rloo, options: {{max_new_tokens: 5000, rewards: [{{source: '{OWN}'}}]}}}}]",
        "5,000 new tokens leave no room for a prompt: ",
    ),
    "a reward that cannot be awaited": (
        f"policies=[{{name: rloo, options: {{max_new_tokens: 8, rewards: [{{source: '{__name__}:Sync'}}]}}}}]",
        "is no reward: its class needs `async def __call__(self, items)`",
    ),
    "rewards that weigh nothing": (
        f"policies=[{{name: rloo, options: {{max_new_tokens: 8, rewards: [{{source: '{OWN}', weight: 0}}]}}}}]",
        "every reward has weight 0: nothing would be learnt",
    ),
    "adapters as a number": (
        "policies=[{name: dpo, options: {lora: 16}}]",
        '"lora": must be settings, key: value (found 16)',
    ),
    "one layer that is not there": (
        "policies=[{name: dpo, options: {lora: {targets: nolayer}}}]",
        'is called "nolayer". Known: down_proj',
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_not_be_trained_is_said_by_check(name: str, tmp_path: Path, policy_folder: Path) -> None:
    setting, line = REFUSED[name]
    pairs = [{"prompt": f"p{n}", "response_a": "yes", "response_b": "no", "label": "a"} for n in range(4)]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    common = [f"pairs={tmp_path / 'pairs.jsonl'}", f"models.policy={policy_folder}"]
    with pytest.raises(ConfigError) as error:
        check_file("human-preferences", [*common, setting])
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_number_of_numpy_is_a_reward() -> None:
    source, _ = labels()
    rewards = open_rewards([RewardSpec(source=OWN)], RewardContext(Place("recipe"), source.context, None))
    prompt = Prompt(messages=(Message(role="user", content="hi"),))
    reply = Response(prompt_id=prompt.id, messages=(Message(role="assistant", content="yes"),))
    ((found,),) = asyncio.run(rewards([(prompt, [reply])]))
    assert (found.total, type(found.total)) == (0.5, float)
