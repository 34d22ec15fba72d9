"""The stages of a road that train: reward models and policies, from preferences or from rewards.

Each is kept under a signature of everything that decides its weights, resumes from its checkpoint, and leaves beside them
what was learnt (``training/``) and a card.
"""

from __future__ import annotations

import asyncio
import inspect
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rlaif.accounts import reward_stages, training_account
from rlaif.canaries import Claims
from rlaif.component import code_hash, users_code
from rlaif.errors import RlaifError
from rlaif.labels.mixed import source_of
from rlaif.model_card import CARD, write_model_card
from rlaif.models import Identity
from rlaif.policy import PolicyContext, PolicyReport
from rlaif.progress import Progress
from rlaif.records import Message, Response, digest
from rlaif.rewards.trained import TrainedReward
from rlaif.sampling import draw_seed
from rlaif.store import write_json

if TYPE_CHECKING:
    from rlaif.pipeline import Road

ENOUGH_STEPS, RISE = 8, 1.5  # steps, and times its first loss, from which a training is told to have unlearnt
SHOWN_OFFLINE, SHOWN_ONLINE = ("loss", "accuracy"), ("reward", "kl", "length")  # of a step's figures, on its line


@dataclass(frozen=True)
class TrainingStages:
    """The training half of a road that is walked."""

    road: Road

    async def reward_model(self, stage: str) -> None:
        from rlaif.reward import train_reward_model

        road = self.road
        section = road.pipeline.reward_model
        assert section
        base = road.models[section.base]
        noun = road.reference_noun()
        cut_off = self._cut_off()
        seed = road.pipeline.seed if stage == "reward_model" else draw_seed(stage, road.pipeline.seed) % 2**32
        signature = self._training_signature(
            stage,
            base.identity,
            cut_off,
            road.reward_options.model_dump(mode="json"),
            road.run_folder.content(noun) if noun else None,
        )

        def train_it(work: Path, out: Path, watch: Any) -> Any:
            report = train_reward_model(
                lambda: road.run_folder.read("preferences"),
                base,
                road.reward_options,
                reference=self._reference_answers(),
                work=work,
                out=out,
                seed=seed,
                labels_seed=road.pipeline.seed,  # an ensemble's members learn from the same labels
                is_held_out=road.is_held_out,
                ended=lambda row, response: _said(row.prompt_id, response) not in cut_off,
                watch=watch,
                source_of=source_of(road.labels),
            )
            return {
                "history": report.history,
                "account": report.account,
                "gain": report.gain,
                "bias": report.bias,
                "reference": report.reference,
                "held_out": report.held_out.__dict__,
                "samples": report.samples,
            }

        async def train(work: Path, out: Path, watch: Any) -> Any:
            return await road.gateway.in_worker(train_it, work, out, watch, stop=watch.stop.set)

        options = road.reward_options.model_dump(mode="json")
        await self._train(stage, stage, signature, train, options)
        self._card(stage, stage.replace("/", " "), "reward model", options, seed, "preferences")

    async def policy(self, name: str) -> None:
        road = self.road
        method = road.methods[name]
        if not method.writes_weights:
            return
        options = method.options.model_dump(mode="json")
        start = road.models["policy"]
        cut_off = self._cut_off()
        rewards = road.rewards.get(name)
        learnt_from = self._rewarding(name)
        members = [road.state_signature(stage) for stage in learnt_from]
        gold = road.golds.get(name)
        rewarded = [rewards.signature(), members] if rewards else []
        rewarded += [gold.signature()] if gold else []
        serving = road.serving.get(name)
        rewarded += [road.models[method.options.sampler].identity.sha256] if serving else []
        labelled = getattr(method, "needs_labels", True)
        signature = self._training_signature(
            f"policies/{name}",
            start.identity,
            cut_off if labelled else frozenset(),
            options,
            code_hash(method),
            *rewarded,
            *sorted(getattr(method, "inputs", {}).items()),
            learnt="preferences" if labelled else "prompts",
        )

        async def train(work: Path, out: Path, watch: Any) -> Any:
            with users_code(method, "training"):
                context = PolicyContext(
                    start=start,
                    prompts=lambda: road.run_folder.read("prompts"),
                    preferences=lambda: road.run_folder.read("preferences"),
                    is_held_out=road.is_held_out,
                    ended=lambda row, response: _said(row.prompt_id, response) not in cut_off,
                    work=work,
                    out=out,
                    seed=road.pipeline.seed,
                    watch=watch,
                    source_of=source_of(road.labels) if labelled else None,
                    in_worker=partial(road.gateway.in_worker, stop=watch.stop.set),
                    rewards=rewards,
                    claims=rewards.claims if rewards else Claims(),
                    gold=gold,
                    served=serving,
                    kept=road.folder / "training" / "reference",
                    failure_tolerance=road.pipeline.failure_tolerance,
                    reward_folder=road.folder / "reward_model" if road.pipeline.reward_model else None,
                    name=name,
                    measured=road.evaluation_order,
                )
                if inspect.iscoroutinefunction(method.train):
                    report = await method.train(context)
                else:
                    report = await context.in_worker(method.train, context)
                return self._told_of(name, report)

        await self._train(f"policies/{name}", f"policies/{name}", signature, train, options)
        learnt = "preferences" if labelled else "prompts"
        kind = next(section.name for section in road.pipeline.policies if section.policy == name)
        self._card(f"policies/{name}", name, kind, options, road.pipeline.seed, learnt)
        if rewards:
            rewards.release()
            road.release()

    async def _train(
        self,
        stage: str,
        folder: str,
        signature: str,
        train: Callable[[Path, Path, Any], Awaitable[Any]],
        options: Mapping[str, Any],
    ) -> None:
        """Run a training, ``train(work, out, watch)``. Ctrl-C stops it after the next step, with a checkpoint."""
        from rlaif.training.trackers import Trackers
        from rlaif.training.trainer import Diverged, Watch, quiet_libraries

        road = self.road
        quiet_libraries()
        work = road.folder / "training" / folder
        told = road.run_folder.training_file(stage)
        if road.run_folder.begin(stage, signature, [folder, f"training/{folder}", told]):
            return
        loop = asyncio.get_running_loop()

        trackers = Trackers(road.pipeline.report_to, road.folder, road.run_folder.id, stage, options)

        def report(step: int, steps: int, figures: dict[str, float]) -> None:
            trackers.log(figures)
            shown = SHOWN_ONLINE if "reward" in figures else SHOWN_OFFLINE
            note = " ".join(f"{name} {figures[name]:.3f}" for name in shown if name in figures)
            loop.call_soon_threadsafe(road.watcher.listen, Progress(stage, step, steps, note))

        def part(name: str, done: int, total: int) -> None:
            loop.call_soon_threadsafe(road.watcher.listen, Progress(f"{stage}: {name}", done, total))

        watch = Watch(report=report, say=trackers.say, part=part)
        start = time.perf_counter()
        try:
            result = await train(work, road.folder / folder, watch)
        except Diverged as error:
            raise RlaifError(f"{stage}: {error}") from error
        finally:
            trackers.finish()
        if rise := risen(result["history"]):
            road.watcher.notice(
                f"{stage}: its loss rose from {rise[0]:.3g} to {rise[1]:.3g}: what it learnt does not hold. What would do: a lower "
                "learning_rate."
            )
        write_json(road.folder / told, result)
        shutil.rmtree(work, ignore_errors=True)
        road.run_folder.finish(stage, "", time.perf_counter() - start)

    def _training_signature(
        self, stage: str, identity: Identity, cut_off: frozenset[str], *parts: Any, learnt: str = "preferences"
    ) -> str:
        road = self.road
        return road.signature(
            stage,
            road.pipeline.seed,
            road.pipeline.held_out,
            *(() if road.pipeline.held_out_seed is None else (["held out", road.pipeline.held_out_seed],)),
            identity.sha256,
            road.run_folder.content(learnt),
            sorted(cut_off),
            *parts,
        )

    def _cut_off(self) -> frozenset[str]:
        """Digests of the responses cut off at their length limit: in training they get no end-of-turn token."""
        responses = self.road.run_folder.read("responses")
        return frozenset(_said(r.prompt_id, r.messages) for r in responses if r.finish_reason == "length")

    def _reference_answers(self) -> list[Any] | None:
        """The policy's samples, about as many as rewards are normalised on; None where there is no policy."""
        road = self.road
        noun = road.reference_noun()
        if noun is None:
            road.watcher.notice(
                "reward_model: no models.policy to sample: rewards get mean 0 and deviation 1 on training responses."
            )
            return None
        found: dict[str, list[Response]] = {prompt.id: [] for prompt in road.reference_prompts()}
        for response in road.run_folder.read(noun):
            if response.prompt_id in found and (response.generator or "").startswith("policy@"):
                found[response.prompt_id].append(response)
        answers: list[Any] = []
        total = 0
        for prompt in road.reference_prompts():
            if total < road.reward_options.normalise_on and found[prompt.id]:
                said = [(response.messages, response.finish_reason != "length") for response in found[prompt.id]]
                answers.append((prompt.messages, said))
                total += len(said)
        return answers

    def _card(self, stage: str, name: str, method: str, options: Mapping[str, Any], seed: int, learnt: str) -> None:
        """The model's card in its folder, written once."""
        road = self.road
        folder, report = road.folder / stage, road.run_folder.trained(stage)
        if report is None or not folder.is_dir() or (folder / CARD).exists():
            return
        account = training_account(road.run_folder, report)
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in account["outcomes"].items())
        told = f"{account['in']:,} {account['unit']} ({counts})"
        said = [line for line in road.watcher.said if line.startswith((f"Careful: {name}:", f"Careful: {name},"))]
        judges = [part.name for part in road.rewards[name].parts] if name in road.rewards else []
        write_model_card(
            road.run_folder,
            folder,
            name=name,
            method=method,
            options=options,
            seed=seed,
            learnt=learnt,
            account=told,
            rewards=self._rewarding(name),
            rewarded=judges,
            read={*road.inputs, *getattr(road.methods.get(name), "inputs", {})},
            reward_model=name not in road.methods,
            cares=list(dict.fromkeys([*report.get("cares", []), *said])),
        )

    def _rewarding(self, name: str) -> list[str]:
        """The stages whose reward models a policy learns from: as its reward, or as what its value network begins as."""
        road = self.road
        if name not in road.rewards or not road.pipeline.reward_model:
            return []
        stages = reward_stages(road.pipeline)
        if any(isinstance(part.source, TrainedReward) for part in road.rewards[name].parts):
            return stages
        from rlaif.training.values import reads_alike

        first, start = stages[:1], road.models["policy"]
        begins = getattr(road.methods[name], "has_value", False) and reads_alike(road.folder / first[0], start)
        return first if begins else []

    def _told_of(self, name: str, report: PolicyReport) -> dict[str, Any]:
        """What is kept of a training, the same in two equal runs; how long it waited for rewards is said."""
        told = dict(report.__dict__)
        spent = told.pop("seconds")
        if spent:
            share = spent["waiting for rewards"] / max(spent["training"], 1e-9)
            self.road.watcher.notice(
                f"{name}: of {spent['training']:.0f} s of training {100 * share:.0f}% were waiting for rewards."
            )
        return told


def risen(history: Sequence[Mapping[str, float]]) -> tuple[float, float] | None:
    """Of a training on preferences the loss of its first step and the mean of the last quarter, where that is far higher: steps too
    large have led it away from what any label asks for. None elsewhere, and of one on rewards, whose loss says nothing."""
    losses = [figures["loss"] for figures in history if "loss" in figures and "reward" not in figures]
    if len(losses) < ENOUGH_STEPS:
        return None
    last = fmean(losses[-(len(losses) // 4) :])
    return (losses[0], last) if last > RISE * abs(losses[0]) else None


def _said(prompt_id: str, messages: Sequence[Message]) -> str:
    """Digest of a response by what was answered and how."""
    return digest(prompt_id, [message.model_dump(mode="json") for message in messages], length=20)
