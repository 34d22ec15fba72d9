"""Fine-tuning: its loss by hand and beside TRL's, what is learnt from preferences and from demonstrations, files that do not fit,
and the logs of a blend of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlaif.errors import DataError, RlaifError
from rlaif.models.local import LocalModel, load_network
from rlaif.models.shared_prompt import token_logprobs
from rlaif.policy.dpo import DPO
from rlaif.policy.sft import SFT
from rlaif.training.batching import Group, group_preferences
from rlaif.training.finetuning import FineTuner, completion_loss, demonstrated
from rlaif.training.passes import rows_of
from rlaif.training.trainer import Interrupted, Watch
from tests.test_training import always, context_of, planted, preference
from tests.test_training_losses import hard_groups, shaken
from tests.tiny import write_jsonl


def test_the_loss_by_hand() -> None:
    """Two responses of weights 2 and 1: 2·(1 + 3) + 1·(0.5) = 8.5; the padding's −9 counts nowhere."""
    groups = [demonstrated("x", (1,), [((5, 6), 2.0), ((7,), 1.0)])]
    logprobs, mask = torch.tensor([[-1.0, -3.0], [-0.5, -9.0]]), torch.tensor([[1, 1], [1, 0]])
    assert float(completion_loss(logprobs, mask, groups)) == pytest.approx(8.5)
    assert sum(groups[0].weight) == 5.0  # tokens by weight: what the step's loss is divided by


def tuner(network: Any, start: LocalModel, groups: list[Group], folder: Path, **options: Any) -> FineTuner:
    found = FineTuner(network, groups, SFT.Options(**{"batch_prompts": len(groups), **options}), folder, 0, Watch())
    found.pad_id = start.tokens.pad_id
    return found


def test_the_loss_equals_trls(base: LocalModel, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    _, tuned = shaken(base)
    groups = [demonstrated(g.prompt_id, g.prompt, [(g.responses[0], 1.0)]) for g in hard_groups(base)]
    rows = [
        {
            "input_ids": [*g.prompt, *g.responses[0]],
            "labels": [-100] * len(g.prompt) + list(g.responses[0]),
        }
        for g in groups
    ]
    theirs = trl.SFTTrainer(
        tuned,
        args=trl.SFTConfig(
            output_dir=str(tmp_path / "theirs"), bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none",
            completion_only_loss=True, per_device_train_batch_size=6,
        ),
        train_dataset=Dataset.from_list([{"prompt": f"hi {i}", "completion": " you"} for i in range(8)]),
        processing_class=base.tokens.hf,
    )  # fmt: skip
    with torch.no_grad():
        expected = theirs.compute_loss(theirs.model, theirs.data_collator(rows))
        found = tuner(tuned, base, groups, tmp_path / "ours").compute_loss(tuned, {"micro_batch": 0})
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_a_step_of_responses_that_nothing_prefers_moves_nothing(base: LocalModel, tmp_path: Path) -> None:
    """Every second prompt has no weight, and a step to itself."""
    groups = [
        demonstrated(g.prompt_id, g.prompt, [(ids, float(n % 2)) for ids in g.responses])
        for n, g in enumerate(hard_groups(base, 4))
    ]
    trainer = tuner(load_network(base.folder, base.options, "float32", "test"), base, groups, tmp_path, batch_prompts=1)
    told: list[tuple[bool, bool]] = []
    before = [p.detach().clone() for p in trainer.model.parameters()]

    def report(step: int, steps: int, figures: dict[str, float]) -> None:
        now = [p.detach().clone() for p in trainer.model.parameters()]
        told.append(("loss" in figures, any(not torch.equal(a, b) for a, b in zip(before, now, strict=True))))
        before[:] = now

    trainer.watch.report = report
    trainer.run()
    assert sorted(told) == [(False, False), (False, False), (True, True), (True, True)]


def mean_logprob(base: LocalModel, folder: Path, groups: list[Group]) -> float:
    network = load_network(folder, base.options, "float32", "test").eval()
    with torch.no_grad():
        logprobs, mask = token_logprobs(network, rows_of(groups), base.tokens.pad_id, share=True)
    return float(logprobs.sum() / mask.sum())


def test_preferred_responses_become_likelier_and_a_tie_teaches_nothing(base: LocalModel, tmp_path: Path) -> None:
    rows = [*planted(24), *(preference(f"tie {i}", f"one {i}", f"two {i}", p=0.5) for i in range(8))]
    report = SFT(SFT.Options(learning_rate=3e-3, epochs=4, batch_prompts=8), "test").train(
        context_of(base, rows, tmp_path)
    )
    assert report.history[-1]["loss"] < report.history[0]["loss"] - 0.5
    groups = group_preferences(planted(24), base.tokens, 256, ended=always).groups
    chosen = [
        Group(g.prompt_id, g.prompt, [g.responses[max(range(len(g.responses)), key=lambda i: _worth(g, i))]])
        for g in groups
    ]
    assert mean_logprob(base, tmp_path / "policy", chosen) > mean_logprob(base, Path(base.folder), chosen) + 0.3
    with pytest.raises(RlaifError, match="every label is a tie"):
        SFT(SFT.Options(), "test").train(context_of(base, rows[-8:], tmp_path / "ties"))


def _worth(group: Group, i: int) -> float:
    return sum(
        w * ((p - 0.5) * (a == i) + (0.5 - p) * (b == i))
        for (a, b), p, w in zip(group.pairs, group.p, group.weight, strict=True)
    )


def demonstrations(folder: Path, count: int = 16) -> str:
    rows: list[dict[str, Any]] = [
        {"prompt": f"how are you {i}", "response": f"I am well {i}"} for i in range(count - 2)
    ]
    rows.append({"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]})
    rows.append({"prompt": "how are you 0", "response": "I am well 0"})
    return str(write_jsonl(folder / "said.jsonl", rows))


def test_demonstrations_are_learnt_and_accounted_for(base: LocalModel, tmp_path: Path) -> None:
    method = SFT(
        SFT.Options(demonstrations=demonstrations(tmp_path), learning_rate=3e-3, epochs=3, batch_prompts=4), "test"
    )
    assert not method.needs_labels
    report = method.train(context_of(base, [], tmp_path))
    assert report.account
    outcomes = report.account["outcomes"]
    assert report.account["in"] == 16 == sum(outcomes.values())
    assert outcomes["repeated"] + outcomes["held out"] >= 1
    assert report.history[-1]["loss"] < report.history[0]["loss"] - 0.5


def test_a_transcript_that_repeats_its_prompt_is_learnt_without_it() -> None:
    from rlaif.policy.sft import _demonstration

    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    for row in ({"prompt": "hi", "chosen": turns}, {"messages": turns}, {"messages": [
        {"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"},
    ]}):  # fmt: skip
        prompt, response = _demonstration(row, None, "line 1")
        assert [message.content for message in (*prompt.messages, *response)] == ["hi", "hello"]


def test_a_stopped_run_that_goes_on_equals_a_straight_one(base: LocalModel, tmp_path: Path) -> None:
    said = demonstrations(tmp_path)

    def run(folder: Path, watch: Watch) -> Any:
        method = SFT(
            SFT.Options(demonstrations=said, learning_rate=1e-3, epochs=2, batch_prompts=4, checkpoints=8), "test"
        )
        return method.train(context_of(base, [], folder, watch))

    straight = run(tmp_path / "straight", Watch())
    watch = Watch()
    watch.report = lambda step, steps, figures: watch.stop.set() if step == 3 else None
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", watch)
    assert run(tmp_path / "stopped", Watch()).history == straight.history
    one, other = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("straight", "stopped"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "hi"}, "line 1: no response: expected messages that end with an assistant turn, or a column"),
        ({"prompt": "hi", "response": 3}, "line 1: "),
        ({"response": "hi"}, "line 1: "),
        ({"messages": ["hi"]}, "line 1: "),
        ({"prompt": "hi", "response": []}, "line 1: the response is not the assistant's."),
        (
            {"prompt": "hi", "response": [{"role": "user", "content": "no"}]},
            "line 1: the response is not the assistant's.",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "said.jsonl", [row])
    with pytest.raises(Exception, match=message) as raised:
        SFT(SFT.Options(demonstrations=str(path)), "recipe: policies.0")
    assert isinstance(raised.value, DataError | RlaifError) or "ConfigError" in type(raised.value).__name__


def test_of_a_blend_the_logs_tell_sources_apart_and_nothing_else_changes(base: LocalModel, tmp_path: Path) -> None:
    rows = planted(16)
    kinds = {row.comparison_id: ("human", "judge")[i % 2] for i, row in enumerate(rows)}
    apart, together = (
        DPO(DPO.Options(batch_prompts=4, learning_rate=1e-3), "test").train(
            _with(context_of(base, rows, tmp_path / name), source_of)
        )
        for name, source_of in (("apart", lambda row: kinds[row.comparison_id]), ("together", None))
    )
    first = apart.history[0]
    assert first["weight.human"] + first["weight.judge"] == pytest.approx(8.0)
    mean = first["weight.human"] * first["loss.human"] + first["weight.judge"] * first["loss.judge"]
    assert mean / 8 == pytest.approx(first["loss"])
    assert 0 <= first["accuracy.human"] <= 1
    assert [{k: v for k, v in row.items() if "." not in k} for row in apart.history] == together.history
    one, other = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("apart", "together"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def _with(context: Any, source_of: Any) -> Any:
    from dataclasses import replace

    return replace(context, source_of=source_of)
