"""Ctrl-C during a pass of a network beside its training: it ends at once, and the same command goes on from there."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlaif.checking import open_road
from rlaif.pipeline import Watcher
from rlaif.progress import Progress
from rlaif.training.passes import rows_of
from tests.runs import stage_files
from tests.test_swap import pairs
from tests.tiny import write_jsonl

RECIPE = """
models: {policy: POLICY}
pairs: pairs.jsonl
labels: human
held_out: 0.4
reward_model:
  options: {batch_prompts: 8, learning_rate: 1.0e-3, normalise_on: 40}
  sampling: {max_output_tokens: 6}
policies: [{name: dpo, options: {batch_prompts: 8, learning_rate: 1.0e-3}}]
evaluation: {sampling: {max_output_tokens: 6}}
"""
PASSES = [
    "reward_model: reference rewards",
    "reward_model: held-out rewards",
    "policies/dpo: reference log-probabilities",
    "rewards",
    "dpo under itself",
    "dpo under the start",
]


def walk(out: str, until: str = "") -> Counter[str]:
    """Run the recipe, cancelled as Ctrl-C does once the pass ``until`` is heard of. How often each was heard of."""

    async def cancelled() -> Counter[str]:
        heard: Counter[str] = Counter()

        def listen(progress: Progress) -> None:
            if not progress.finished:
                heard[progress.stage] += 1
                if progress.stage == until:
                    task.cancel()

        road = open_road("recipe.yaml", out=Path(out), watcher=Watcher(listen=listen))
        task = asyncio.ensure_future(road.run())
        try:
            await task
        except asyncio.CancelledError:
            assert until
        finally:
            road.gateway.ledger.close()
        return heard

    return asyncio.run(cancelled())


def prepare(policy: Path) -> None:
    Path("recipe.yaml").write_text(RECIPE.replace("POLICY", str(policy)))
    write_jsonl(Path("pairs.jsonl"), pairs(60))


@pytest.fixture(scope="module")
def straight(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Counter[str]]]:
    """A run that nothing stopped, and how often each pass was heard of."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("rlaif.training.passes.PASS_TOKENS", 64)  # every few rows a batch of their own
        patched.chdir(tmp_path_factory.mktemp("straight"))
        prepare(policy_folder)
        heard = walk("run")
        yield Path.cwd() / "run", heard


@pytest.mark.parametrize("where", PASSES)
def test_a_run_cancelled_in_a_pass_ends_there_and_goes_on(
    where: str, straight: tuple[Path, Counter[str]], policy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(policy_folder)
    reference, heard = straight
    assert heard[where] >= 10
    with monkeypatch.context() as slow:  # time for the cancel to be heard, on a busy machine too
        slow.setattr("rlaif.training.passes.rows_of", lambda groups: time.sleep(0.05) or rows_of(groups))
        assert 1 <= walk("stopped", where)[where] < heard[where]
    assert not (Path("stopped") / "report.html").exists()
    walk("stopped")
    one, other = stage_files(reference), stage_files(Path("stopped"))
    assert sorted(one) == sorted(other)
    assert [name for name in one if one[name] != other[name]] == []
