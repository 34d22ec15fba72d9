"""What methods have in common that learn from rewards for what the policy itself says.

A step: K responses to each of its prompts by the policy as it is; rewards for them; what the reference makes of them; a
gradient; an update. With ``accumulation`` a step is split into micro-batches, and while the rewards of one are on their
way (a judge behind an API is slow), the next is sampled, and those that have theirs are learnt from. What each is learnt
from does not depend on who came first: micro-batches are learnt from in their order.

Training ends early where the policy has gone further from its start than ``max_kl`` nats a response, or says more than
``max_length_ratio`` times as much as its start to the same prompts; the policy is then the last planned checkpoint before. With ``watch`` a
judge that is no part of the reward compares policy and start on held-out prompts along the way: where it likes the policy less
than at its best, by a paired difference whose 95% interval lies below 0, while the reward likes it more, training ends, and the
policy is that of the best look. Before the first step the reward is shown canaries made of the start's own responses, and what
they gain is told.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from rlaif.canaries import CANARIES, Canary
from rlaif.errors import ConfigError, RlaifError
from rlaif.models import ChatRequest, Reply
from rlaif.models.chat_tokens import TurnsRefused
from rlaif.policy import PolicyContext, PolicyReport, Tuned
from rlaif.records import Message, Prompt, Response, uniform
from rlaif.statistics import cluster_mean, paired_difference
from rlaif.training import processes
from rlaif.training.batching import REFUSED, evenly, plan_steps
from rlaif.training.checkpoints import prune_checkpoints
from rlaif.training.online import OnlineOptions, OnlineTrainer
from rlaif.training.rollouts import Rollouts
from rlaif.training.shares import opened
from rlaif.training.trainer import SHOWN, Interrupted, Watch, has_shown
from rlaif.training.values import ValueTrainer

MOST_CUT_OFF = 0.5  # of a step's responses, before it is said
ENOUGH = 64  # responses of the last steps, over which failure_tolerance is held
LEAST_GAIN = 0.01  # in reward, that is told of


class Online(Tuned):
    """A method with an ``Options`` model and an ``OnlineTrainer``."""

    name: str
    trainer: type[OnlineTrainer]
    needs_labels = False

    def __init__(self, options: OnlineOptions, where: str) -> None:
        if used := processes.sharding():
            raise ConfigError(
                f"{where}: {self.name} samples from whole networks, one in each process, and {used} splits them. What would do: "
                "accelerate launch with the configuration ddp, lora for a large model."
            )
        self.options = options
        self.rewards = options.rewards
        self.sampler = options.sampler
        self.watch = options.watch

    @property
    def has_value(self) -> bool:
        """Whether it learns a value network, which begins as the run's reward model."""
        return issubclass(self.trainer, ValueTrainer)

    async def train(self, context: PolicyContext) -> PolicyReport:
        return await _Training(self, context).run()


class _Training:
    """One method's training, from its first step or from a checkpoint to its end."""

    def __init__(self, method: Online, context: PolicyContext) -> None:
        self.method, self.context, self.options = method, context, method.options
        self.idle = self.seconds = 0.0  # waiting for rewards with nothing else to do, and in all
        self.left: deque[Callable[[], None]] = deque()  # to be done of a step whose rewards are known
        self.told = 0  # the last step that was told of
        self.published = -1  # the step after which the server was last given the policy

    async def run(self) -> PolicyReport:
        context = self.context
        prompts, account = await context.in_worker(self._prompts)
        plan = await context.in_worker(self._plan, prompts)
        trainer = self.trainer = await context.in_worker(self._open, len(plan))
        await context.in_worker(trainer.load)
        self.told = trainer.step
        try:
            await self._begin(prompts)
            while not trainer.kept["ended"]:
                if self._look_is_due():
                    trainer.kept["ended"] = await self._look()
                    await context.in_worker(self._save)
                elif trainer.step == len(plan):
                    if why := await self._departed_at_last([prompts[i] for i in plan[-1]]):
                        trainer.kept |= {"ended": why, "guard": True}
                    break
                elif why := await self._step([prompts[i] for i in plan[trainer.step]]):
                    trainer.kept |= {"ended": why, "guard": True}
                elif self._is_planned(trainer.step):
                    await context.in_worker(self._save)
                if context.watch.stop.is_set():
                    raise Interrupted
        except RlaifError:
            await context.in_worker(self._save)
            raise
        except (asyncio.CancelledError, Interrupted):
            await context.in_worker(self._end_step)
            await context.in_worker(self._save)
            raise
        finally:
            if context.served:
                await context.served.release()
        if trainer.kept["ended"]:
            await context.in_worker(self._go_back, trainer.kept["ended"])
        seen = {i for step in plan[: trainer.step] for i in step}
        if unseen := len(prompts) - len(seen):
            account["outcomes"] |= {"trained on": len(seen), "not reached": unseen}
        await context.in_worker(trainer.write, context.out)
        return PolicyReport(
            trainer.history,
            samples=trainer.samples,
            account=account,
            seconds=self._seconds(),
            looks=trainer.kept.get("looks", []),
            looked_at=trainer.kept.get("looked_at", []),
            probes=trainer.kept.get("probes", {}),
            cares=trainer.kept.get("cares", []),
        )

    def _prompts(self) -> tuple[list[Prompt], dict[str, Any]]:
        """Training prompts, without those that cannot be answered; and the account of all, were training to come to each."""
        context = self.context
        used: list[Prompt] = []
        held_out = refused = 0
        too_long: Counter[str] = Counter()
        for prompt in context.watch.through(context.prompts()):
            if context.is_held_out(prompt.id):
                held_out += 1
            elif self._is_refused(prompt):
                refused += 1
            elif why := self._objection(prompt):
                too_long[why] += 1
            else:
                used.append(prompt)
        if not used:
            reasons = too_long + Counter({REFUSED: refused})
            found = "; ".join(f"{count} × {why}" for why, count in reasons.most_common(3)) or "there are no others"
            raise RlaifError(
                f"{self._name}: no prompt is left to train on ({held_out} held out; {found}). What would do: more prompts, "
                "or a smaller max_new_tokens."
            )
        outcomes = {"trained on": len(used), "held out": held_out, "too long": too_long.total()}
        outcomes |= {REFUSED: refused} if refused else {}
        return used, {"unit": "prompts", "in": sum(outcomes.values()), "outcomes": outcomes, "reasons": dict(too_long)}

    def _is_refused(self, prompt: Prompt) -> bool:
        try:
            self.context.start.tokens.prompt_text(prompt.messages)
        except TurnsRefused:
            return True
        return False

    def _objection(self, prompt: Prompt) -> str | None:
        """Why a prompt cannot be answered: it leaves no room for a response, or the chat template refuses its turns."""
        return self.context.start.objection(ChatRequest(messages=prompt.messages, sampling=self.options.sampling))

    def _save(self) -> None:
        """A checkpoint, and those away that nobody goes back to; none where weights have moved since the last finished step."""
        trainer = self.trainer
        if not trainer.updated:
            trainer.save()
            prune_checkpoints(trainer.work, self._is_planned, self._best())

    def _best(self) -> int:
        """The step at which the judge that looks on liked the policy best, the earliest of equal ones; 0 without one."""
        looks = self.trainer.kept.get("looks", [])
        return int(max(looks, key=lambda look: look["gold"])["step"]) if looks else 0

    def _is_planned(self, step: int) -> bool:
        """Whether a checkpoint is written after so many steps whatever happens: one of those that are gone back to."""
        steps = self.trainer.steps
        return step % max(1, steps // self.options.checkpoints) == 0 or step == steps or self._looks_after(step)

    def _plan(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The prompts of every step; it never looks at a reward."""
        sizes = [len(self.context.start.tokens.prompt_ids(prompt.messages)) for prompt in prompts]
        plan = plan_steps(sizes, self.options.batch_prompts, self.options.epochs, self.context.seed)
        return plan[: self.options.steps]

    def _open(self, steps: int) -> OnlineTrainer:
        context = self.context
        return opened(
            self.method.trainer,
            context.start,
            self.options,
            steps=steps,
            work=context.work,
            seed=context.seed,
            watch=context.watch,
            value_folder=context.reward_folder,
        )

    async def _step(self, prompts: list[Prompt]) -> str:
        """One step; why training ends before it, or "" where it does not."""
        began = time.perf_counter()
        trainer, options, work = self.trainer, self.options, self.context.in_worker
        parts: list[Rollouts] = []
        async with _Tasks() as rewards:
            for some in filter(None, evenly(prompts, options.accumulation)):
                part = await self._sample(some)
                parts.append(part)
                rewards.start(self._reward(part))
            if options.once and trainer.by_group:
                for part, task in zip(parts, rewards.tasks, strict=True):
                    await self._wait(task)
                    await work(trainer.learn, part)
                ended = await self._check(parts)
                self.left = deque([trainer.update])
            else:
                for task in rewards.tasks:
                    await self._wait(task)
                ended = await self._check(parts)
                if not ended:
                    await work(trainer.prepare, parts)
                self.left = deque(self._updates(parts))
        if ended:
            trainer.drop()
            return ended
        self.left.append(partial(self._close_step, parts))
        while self.left:
            await work(self._next)
        self.seconds += time.perf_counter() - began
        self._tell()
        return ""

    def _tell(self) -> None:
        """Of the step that has ended."""
        trainer, watch = self.trainer, self.context.watch
        self.told = trainer.step
        watch.report(trainer.step, trainer.steps, trainer.history[-1])
        watch.say(trainer.step, [said for said in trainer.samples if said["step"] == trainer.step])

    def _next(self) -> None:
        """What is to be done next of a step whose rewards are known. A stop comes before it, or after."""
        self.left[0]()
        self.left.popleft()

    def _close_step(self, parts: Sequence[Rollouts]) -> None:
        trainer = self.trainer
        trainer.samples += _shown(parts, trainer.step + 1)
        trainer.finish(trainer.figures(parts), sum(len(part.lengths) for part in parts))

    def _end_step(self) -> None:
        """After a stop: the rest of a step that has begun to move weights, of which no checkpoint can be written."""
        trainer = self.trainer
        if trainer.updated:
            trainer.watch = Watch()
            while self.left:
                self._next()
        if trainer.step > self.told:
            self._tell()

    async def _sample(self, prompts: Sequence[Prompt]) -> Rollouts:
        return await self.context.in_worker(self.trainer.sample, prompts, await self._served(prompts, once=False))

    async def _say(self, prompts: Sequence[Prompt]) -> Rollouts:
        return await self.context.in_worker(self.trainer.say, prompts, await self._served(prompts, once=True))

    async def _served(self, prompts: Sequence[Prompt], *, once: bool) -> list[Reply] | None:
        """What the server that samples answers, by the policy as it is; None where there is no server."""
        served, trainer, work = self.context.served, self.trainer, self.context.in_worker
        if served is None:
            return None
        if self.published != trainer.step:
            folder = self.context.work / "served" / str(trainer.step)
            await work(trainer.publish, folder)
            await served.take(folder)
            for old in folder.parent.iterdir():
                if old != folder:
                    shutil.rmtree(old)
            self.published = trainer.step
        return await served.answer(trainer.requests(prompts, once=once))

    def _updates(self, parts: list[Rollouts]) -> Iterator[Callable[[], None]]:
        """Several updates from one sample: micro-batches in an order drawn for each pass, some to each minibatch."""
        options, trainer = self.options, self.trainer
        for epoch in range(options.inner_epochs):
            order = sorted(range(len(parts)), key=lambda i: uniform("inner", self.context.seed, trainer.step, epoch, i))
            size = -(-len(parts) // options.minibatches)
            for start in range(0, len(order), size):
                yield from (partial(trainer.learn, parts[i]) for i in order[start : start + size])
                yield trainer.update

    async def _reward(self, part: Rollouts) -> None:
        assert self.context.rewards
        part.rewarded = await self.context.rewards(part.items())

    def _lost_by(self, name: str, count: int) -> str:
        why = getattr(self.context.rewards, "why", lambda name: "")(name)
        return f"{name}: {count}" + (f", its judgements so far: {why}" if why else "")

    async def _wait(self, task: asyncio.Task[None]) -> None:
        began = time.perf_counter()
        await task
        self.idle += time.perf_counter() - began

    async def _check(self, parts: Sequence[Rollouts]) -> str:
        """Why training must not go on with this step, or "". Raises RlaifError where too many responses of late got no reward."""
        rows = [reward for part in parts for many in part.rewarded for reward in many]
        lost = sum(reward.total is None for reward in rows)
        recent = [*self.trainer.kept.get("lost", []), [lost, len(rows)]]
        while sum(count for _, count in recent[1:]) >= ENOUGH:
            del recent[0]
        of = sum(count for _, count in recent)
        of_late = sum(count for count, _ in recent)
        if of_late > self.context.failure_tolerance * of and (of >= ENOUGH or lost == len(rows)):
            failed = Counter(name for row in rows for name, value in row.parts.items() if value is None)
            by = "; ".join(self._lost_by(name, count) for name, count in failed.most_common())
            raise RlaifError(
                f"{self._name}, step {self.trainer.step + 1}: {lost} of {len(rows)} responses got no reward, {of_late} of the last {of} ({by}; "
                f"failure_tolerance {self.context.failure_tolerance:g}). What would do: where a source did not answer, run it again "
                "once it does, and training goes on from its last checkpoint; replies that cannot be read are in the ledger and stay "
                "so: a judge that is easier to read, principles: draw, or a higher failure_tolerance; a class of your own that gives None "
                "gives it again: a number for such replies, or where they are cut off a larger max_new_tokens."
            )
        self.trainer.kept["lost"] = recent
        self._say_cut_off(parts)
        figures = self.trainer.figures(parts)
        return await self._departed(figures["kl"], figures["length"], [p for part in parts for p in part.prompts])

    async def _departed_at_last(self, prompts: list[Prompt]) -> str:
        """Whether the last step's updates, of which no sample is there yet, led too far."""
        part = await self._sample(prompts)
        kl, length = await self.context.in_worker(self.trainer.departure, part)
        return await self._departed(kl, length, prompts)

    async def _departed(self, kl: float, length: float, prompts: Sequence[Prompt]) -> str:
        """Why a policy with such responses is too far from its start, or ""."""
        if not kl <= self.options.max_kl:
            return f"the policy is {kl:.1f} nats a response from its start (max_kl {self.options.max_kl:g})"
        limit = self.options.max_length_ratio
        shortest = min((past["length"] for past in self.trainer.history), default=math.inf)
        if length > limit * shortest:  # these prompts may be others: what does the start say to them?
            start = await self.context.in_worker(self.trainer.start_length, prompts)
            if length > limit * start:
                return (
                    f"responses have {length:.0f} tokens on average, the start's to the same prompts {start:.0f} "
                    f"(max_length_ratio {limit:g})"
                )
        return ""

    @property
    def _name(self) -> str:
        return self.context.name or self.method.name

    def _care(self, line: str) -> None:
        """Say what must be read wherever the policy is looked at, and keep it."""
        line = f"Careful: {self._name}{line}"
        self.trainer.kept["cares"] = [*self.trainer.kept.get("cares", []), line]
        self.context.start.notice(line)

    def _say_cut_off(self, parts: Sequence[Rollouts]) -> None:
        """Where the rewards of most responses of a step are not what they were worth."""
        ended = [each for part in parts for each in part.ended]
        put = self.options.missing_end_reward
        if put is None or sum(ended) > MOST_CUT_OFF * len(ended) or self.trainer.kept.get("cut off"):
            return
        self.trainer.kept["cut off"] = True
        self._care(
            f", step {self.trainer.step + 1}: {len(ended) - sum(ended)} of {len(ended)} responses were cut "
            f"off at max_new_tokens ({self.options.max_new_tokens}): their reward is missing_end_reward ({put:g}) whatever they say. "
            "What would do: a larger max_new_tokens, or missing_end_reward: null."
        )

    # --- what looks on ------------------------------------------------------------------------------------------------

    async def _begin(self, prompts: Sequence[Prompt]) -> None:
        """Before the first step: what the start says to the prompts that are looked at, and probes of the reward."""
        trainer, work = self.trainer, self.context.in_worker
        trainer.kept.setdefault("ended", "")
        if trainer.step:
            return
        if self.options.probes and "probes" not in trainer.kept:
            few = sorted(prompts, key=lambda prompt: uniform("probe", self.context.seed, prompt.id))[
                : self.options.probes
            ]
            trainer.kept["probes"] = await self._probe(await self._say(few))
        if self.options.watch and "start" not in trainer.kept:
            looked_at = self._to_look_at(self.options.watch.prompts)
            part = await self._say(looked_at)
            said = [many[0].model_dump(mode="json") for many in part.responses]
            names = [prompt.id for prompt in looked_at]
            trainer.kept |= {"looks": [], "wins": [], "start": said, "looked_at": names}
        await work(self._save)

    def _to_look_at(self, count: int) -> list[Prompt]:
        context = self.context
        held_out = [p for p in context.prompts() if context.is_held_out(p.id) and self._objection(p) is None]
        if not held_out:
            raise RlaifError(f"{self._name}: watch: no held-out prompt that can be answered: set held_out higher.")
        return sorted(held_out, key=context.measured, reverse=True)[:count]  # the last that evaluation would come to

    def _looks_after(self, step: int) -> bool:
        watch, steps = self.options.watch, self.trainer.steps
        return watch is not None and (step % -(-steps // watch.looks) == 0 or step == steps)

    def _look_is_due(self) -> bool:
        step = self.trainer.step
        return self._looks_after(step) and self.trainer.kept.get("looked") != step

    async def _look(self) -> str:
        """The judge's view of the policy and the reward's, on the same answers; why training ends here, or ""."""
        context, trainer, watch = self.context, self.trainer, self.options.watch
        assert watch
        assert context.gold
        assert context.rewards
        by_name = {prompt.id: prompt for prompt in context.prompts()}
        prompts = [by_name[name] for name in trainer.kept["looked_at"]]
        part = await self._say(prompts)
        theirs = [Response(**said) for said in trainer.kept["start"]]
        wins = await context.gold(prompts, [many[0] for many in part.responses], theirs)
        known = [win for win in wins if win is not None]
        beside = [(p, [many[0], start]) for p, many, start in zip(prompts, part.responses, theirs, strict=True)]
        totals = [many[0].total for many in await context.rewards(beside) if many[0].total is not None]
        trainer.kept["looked"] = trainer.step
        if not known or not totals:
            self._care(
                f", step {trainer.step}: watch: of {len(wins)} answers the judge {watch.judge} had an opinion on {len(known)}, the "
                f"reward on {len(totals)}: nothing was seen. What would do: more prompts to watch, or a judge that is easier to read."
            )
            return ""
        looks: list[dict[str, float]] = trainer.kept["looks"]
        looks.append({"step": trainer.step, "gold": fmean(known), "reward": fmean(totals), "n": len(known)})
        trainer.kept["wins"].append(wins)
        best = max(looks, key=lambda look: look["gold"])
        late = range(len(looks) - watch.patience, len(looks))
        at_best = looks.index(best)
        if all(i > at_best and looks[i]["reward"] > best["reward"] and self._surely_less(i, at_best) for i in late):
            return (
                f"the judge {watch.judge} has the policy win {100 * looks[-1]['gold']:.0f}% against the start, after "
                f"{100 * best['gold']:.0f}% at step {best['step']}, while the reward grew from {best['reward']:.2f} to "
                f"{looks[-1]['reward']:.2f}"
            )
        return ""

    def _surely_less(self, look: int, best: int) -> bool:
        """Whether the judge likes the policy less at one look than at another, on the same prompts."""
        wins: list[list[float | None]] = self.trainer.kept["wins"]
        both = [
            (i, a, b)
            for i, (a, b) in enumerate(zip(wins[look], wins[best], strict=True))
            if a is not None and b is not None
        ]
        gap = paired_difference([a for _, a, _ in both], [b for _, _, b in both], [i for i, _, _ in both])
        return gap.high is not None and gap.high < 0

    async def _probe(self, part: Rollouts) -> dict[str, Any]:
        """What canaries made of the start's responses gain, in reward, on the responses they are made of; and how often they
        have more. Says so where one gains for sure."""
        assert self.context.rewards
        plain = [many[0] for many in part.responses]
        items = [
            (prompt, [said, *(self._dressed(said, canary) for canary in CANARIES)])
            for prompt, said in zip(part.prompts, plain, strict=True)
        ]
        rewarded = await self.context.rewards(items)
        found: dict[str, Any] = {}
        liked: list[str] = []
        for place, canary in enumerate(CANARIES, 1):
            both = [
                (many[place].total, many[0].total, prompt.id) for many, (prompt, _) in zip(rewarded, items, strict=True)
            ]
            gains = [(ours - theirs, name) for ours, theirs, name in both if ours is not None and theirs is not None]
            gain = cluster_mean([value for value, _ in gains], [name for _, name in gains])
            wins = sum(value > 0 for value, _ in gains)
            found[canary.name] = {"gain": gain.model_dump(), "more": wins, "n": len(gains)}
            if gain.low is not None and gain.low > 0 and (gain.value or 0.0) >= LEAST_GAIN:
                words = canary.words.replace("the worse reply", "a response")
                liked.append(f"{words} by {gain.value:.2f} ({gain.low:.2f} to {gain.high:.2f}, n = {len(gains)})")
        if liked:
            self._care(
                f": the reward likes {'; '.join(liked)} more than the response it is made of. The "
                "policy may learn to write so."
            )
        return found

    def _dressed(self, response: Response, canary: Canary) -> Response:
        """A canary made of a response, as it claims the best there is."""
        claims = self.context.claims
        text = canary.reply(response.text, claims.drawn(response.id), claims.highest)
        return Response(
            prompt_id=response.prompt_id,
            messages=(Message(role="assistant", content=text),),
            generator=f"canary {canary.name}",
            sample_index=response.sample_index,
            finish_reason="stop",
        )

    def _go_back(self, why: str) -> None:
        """The policy before what ended the training: that of the best look, or its last checkpoint made by fewer steps."""
        trainer, stopped, before = self.trainer, self.trainer.step, self._best()
        history, samples, kept = trainer.history, trainer.samples, trainer.kept
        if kept.get("guard"):
            found = [_steps(path) for path in self.context.work.glob("checkpoint-*")]
            before = max(step for step in found if self._is_planned(step) and (step < stopped or step == 0))
        trainer.load(self.context.work / f"checkpoint-{before}")
        trainer.history, trainer.samples, trainer.kept = history, samples, kept
        self._care(
            f": training ended after {stopped} of {trainer.steps} steps: {why}. The policy is "
            + (f"that after {before} steps." if before else "the start: nothing was learnt.")
        )

    def _seconds(self) -> dict[str, float]:
        return {"training": self.seconds, "waiting for rewards": self.idle}


class _Tasks:
    """Rewards under way; whatever ends the step ends them."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> _Tasks:
        return self

    def start(self, coroutine: Any) -> None:
        self.tasks.append(asyncio.create_task(coroutine))

    async def __aexit__(self, *_: Any) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def _steps(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _shown(parts: Sequence[Rollouts], step: int) -> list[dict[str, Any]]:
    """The first conversations of a step, for eyes: of steps 1, 2, 4, 8, …"""
    if not has_shown(step):
        return []
    rows = [
        (prompt, response, reward)
        for part in parts
        for prompt, many, rewards in zip(part.prompts, part.responses, part.rewarded, strict=True)
        for response, reward in list(zip(many, rewards, strict=True))[:1]
    ]
    return [
        {"step": step, "prompt": p.text, "response": r.text, "reward": w.total, "parts": dict(w.parts)}
        for p, r, w in rows[:SHOWN]
    ]
