"""The road, top to bottom: prompts -> responses -> comparisons -> judgements -> preferences -> reward model -> policy
-> report. Human labels join at *judgements*; from there the code is one.

``check`` turns a recipe into objects and finds every mistake it can without asking a model anything. ``Road.run`` then
walks the stages; each is skipped when the run folder holds its output under the same signature.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rlaif.catalogue import Catalogue, Entry
from rlaif.component import load, parse_model, parse_options
from rlaif.config import Pipeline, load_pipeline
from rlaif.errors import ConfigError, DataError, RlaifError
from rlaif.evaluate import (
    START,
    Arm,
    Metric,
    arm_figures,
    contests,
    named_figures,
    open_metrics,
    read_wins,
    sampler_for,
)
from rlaif.labels import SOURCES, LabelContext, LabelSource
from rlaif.ledger import Ledger
from rlaif.models import Identity, open_model
from rlaif.models.gateway import Gateway
from rlaif.pairs import read_pairs
from rlaif.policy import METHODS, PolicyContext
from rlaif.preferences import Reconcile, with_judgements
from rlaif.progress import Listener, Progress, silent
from rlaif.prompting import project_secret
from rlaif.prompts import ReadPrompts, prompt_rows
from rlaif.records import (
    Comparison,
    Judgement,
    Message,
    Preference,
    Prompt,
    Provenance,
    Response,
    digest,
    uniform,
)
from rlaif.rows import source_hash
from rlaif.sampling import Compare, ReadPairs, Sampler, grouped
from rlaif.selection import Selector, open_selector
from rlaif.store import RunFolder, cut, disk_error, environment, write_json, write_shard

Until = Literal["responses", "comparisons", "judgements", "preferences", "policy", "report"]
STAGES: tuple[Until, ...] = ("responses", "comparisons", "judgements", "preferences", "policy", "report")
VERSION = 1  # of the stages' meaning; part of every signature
WORK_ROWS = 64  # comparisons before the failed share is first held against the tolerance


@dataclass
class Watcher:
    """How a caller follows a run: progress, and lines for a person."""

    listen: Listener = silent
    notice: Callable[[str], None] = lambda line: None


@dataclass
class Road:
    """A checked recipe with everything it refers to, ready to run."""

    pipeline: Pipeline
    entry: Entry
    settings: tuple[str, ...]
    catalogue: Catalogue
    folder: Path
    watcher: Watcher
    gateway: Gateway
    secret: bytes
    models: dict[str, Any]
    selector: Selector
    labels: LabelSource | None
    reward_options: Any
    methods: dict[str, Any]
    judges: LabelSource | None  # for the win rate
    metrics: list[Metric]
    seconds: dict[str, float] = field(default_factory=dict)

    # --- running ------------------------------------------------------------------------------------------------------

    async def run(self, until: Until = "report") -> dict[str, Any]:
        """Walk the stages up to ``until``. Returns the accounts. Whatever interrupts, finished work is kept."""
        wanted = STAGES[: STAGES.index(until) + 1]
        self.run_folder = RunFolder(self.folder)
        self._describe()
        try:
            if self.pipeline.pairs:
                await self._timed("pairs", self._pairs)
            else:
                await self._timed("prompts", self._prompts)
                if self.pipeline.responses:
                    await self._timed("responses", self._responses)
                    if "comparisons" in wanted:
                        await self._timed("comparisons", self._comparisons)
            if self.labels and "judgements" in wanted:
                await self._timed("judgements", self._judgements)
                if "preferences" in wanted:
                    await self._timed("preferences", self._preferences)
            if "policy" in wanted:
                if self.pipeline.reward_model:
                    await self._timed("reward_model", self._reward_model)
                for name in self.methods:
                    await self._timed(f"policies/{name}", self._policy, name)
            if "report" in wanted and self.pipeline.evaluation:
                await self._timed("evaluation", self._evaluation)
            return await self._accounts_and_report(report=until == "report")
        finally:
            await self.gateway.close()

    async def _timed(self, stage: str, work: Callable[..., Any], *arguments: Any) -> None:
        start = time.perf_counter()
        try:
            await work(*arguments)
        except OSError as error:
            raise disk_error(self.folder, error) from error
        self.seconds[stage] = time.perf_counter() - start
        self.watcher.listen(Progress(stage, 0, None, finished=True))

    def _describe(self) -> None:
        """The manifest's facts and a copy of every file used."""
        for (kind, name), entry in self.catalogue.used.items():
            suffix = entry.path.name.removeprefix(Path(entry.name).name)
            self.run_folder.keep_file(kind, f"{name}{suffix}", entry.data)
        effective = self.pipeline.model_dump(mode="json", exclude_defaults=True)
        text = json.dumps(effective, indent=2, ensure_ascii=False).encode() + b"\n"
        self.run_folder.keep_file("pipeline", "effective.json", text)
        self.run_folder.describe(
            pipeline=self.entry.tag,
            settings=list(self.settings),
            files=[
                {"kind": kind, "name": name, "sha256": entry.sha256, "builtin": entry.builtin}
                for (kind, name), entry in sorted(self.catalogue.used.items())
            ],
            models={
                role: {"name": model.identity.name, "sha256": model.identity.sha256, **dict(model.identity.facts)}
                for role, model in self.models.items()
            },
            ledger=str(self.gateway.ledger.path),
            fence_secret=digest(self.secret.hex(), length=12),
            environment=environment(),
        )

    def _signature(self, stage: str, *parts: Any) -> str:
        return digest("stage", VERSION, stage, *parts)

    def _tell(self, stage: str, total: int | None) -> Callable[[int], None]:
        done = 0

        def tell(more: int) -> None:
            nonlocal done
            done += more
            self.watcher.listen(Progress(stage, done, total))

        return tell

    # --- prompts, responses, comparisons ------------------------------------------------------------------------------

    async def _prompts(self) -> None:
        section = self.pipeline.prompts
        assert section
        settings = section.model_dump(mode="json", exclude={"source"})
        await self.run_folder.run_stage(
            "prompts",
            signature=self._signature("prompts", settings, source_hash(section.source)),
            source=lambda skip: cut_any(prompt_rows(section), self.pipeline.shard_rows, skip),
            apply=ReadPrompts(section),
            nouns=[Prompt],
            resumable=False,
            done=self._tell("prompts", None),
        )
        if not self.run_folder.rows("prompts"):
            raise DataError(f"{section.source}: no usable prompt: {self._reasons('prompts')}.")

    def _reasons(self, stage: str) -> str:
        found = Counter(exclusion.reason for exclusion in self.run_folder.read(f"exclusions/{stage}"))
        return ", ".join(f"{count} × {reason}" for reason, count in found.most_common(3)) or "the file holds no rows"

    async def _responses(self) -> None:
        section = self.pipeline.responses
        assert section
        models = {role: self.models[role] for role in section.models}
        per_prompt = section.samples * len(models)
        size = max(1, self.pipeline.shard_rows // per_prompt)
        signature = self._signature(
            "responses",
            section.model_dump(mode="json"),
            self.pipeline.seed,
            size,
            {role: model.identity.sha256 for role, model in models.items()},
            self.run_folder.content("prompts"),
        )
        total = self.run_folder.rows("prompts")
        with self._counting("responses", total * per_prompt):
            await self.run_folder.run_stage(
                "responses",
                signature=signature,
                source=lambda skip: self.run_folder.batches("prompts", size, skip),
                apply=Sampler(self.gateway, models, section.samples, section.sampling, self.pipeline.seed),
                nouns=[Response],
            )
        self._release()

    def _counting(self, stage: str, total: int) -> _Counting:
        """While it lasts, answered requests are this stage's progress."""
        return _Counting(self, stage, total)

    def _release(self) -> None:
        """Give back the memory of models that the next stage may not need."""
        for model in self.models.values():
            if hasattr(model, "unload"):
                model.unload()

    async def _comparisons(self) -> None:
        signature = self._signature(
            "comparisons",
            self.pipeline.comparisons.model_dump(mode="json"),
            self.pipeline.responses.samples if self.pipeline.responses else 0,
            self.run_folder.content("responses"),
        )
        total = self.run_folder.rows("prompts")
        await self.run_folder.run_stage(
            "comparisons",
            signature=signature,
            source=lambda skip: cut_any(
                grouped(self.run_folder.read("prompts"), self.run_folder.read("responses")),
                self.pipeline.shard_rows,
                skip,
            ),
            apply=Compare(self.selector),
            nouns=[Comparison],
            done=self._tell("comparisons", total),
        )
        self._need_comparisons("comparisons")

    async def _pairs(self) -> None:
        section = self.pipeline.pairs
        assert section
        settings = section.model_dump(mode="json", exclude={"source"})
        await self.run_folder.run_stage(
            "pairs",
            signature=self._signature("pairs", settings, source_hash(section.source), self.pipeline.shard_rows),
            source=lambda skip: cut_any(
                read_pairs(section.source, section.split, section.limit), self.pipeline.shard_rows, skip
            ),
            apply=ReadPairs(),
            nouns=[Prompt, Response, Comparison],
            resumable=False,
            done=self._tell("pairs", None),
        )
        self._need_comparisons("pairs")

    def _need_comparisons(self, stage: str) -> None:
        if not self.run_folder.rows("comparisons"):
            raise DataError(f"{self.folder}: nothing to compare: {self._reasons(stage)}.")

    # --- judgements, preferences --------------------------------------------------------------------------------------

    async def _judgements(self) -> None:
        assert self.labels
        size = max(1, self.pipeline.shard_rows // max(1, self.labels.per_comparison() or 1))
        signature = self._signature("judgements", self.labels.signature(), size, self.run_folder.content("comparisons"))
        each = self.labels.per_comparison()
        total = self.run_folder.rows("comparisons")
        with self._counting("judgements", total * (each or 1)):
            await self.run_folder.run_stage(
                "judgements",
                signature=signature,
                source=lambda skip: self.run_folder.batches("comparisons", size, skip),
                apply=self._within_tolerance(self.labels.label),
                nouns=[Judgement],
                done=(lambda inputs: None) if each else self._tell("judgements", total),
            )
        self._release()

    def _within_tolerance(
        self, label: Callable[[AsyncIterator[list[Comparison]]], AsyncIterator[list[Judgement]]]
    ) -> Callable[[AsyncIterator[list[Comparison]]], AsyncIterator[list[Judgement]]]:
        """``label``, stopped when the share of failed judgements passes the recipe's tolerance."""
        failed: Counter[str] = Counter()
        count = 0

        async def watched(batches: AsyncIterator[list[Comparison]]) -> AsyncIterator[list[Judgement]]:
            nonlocal count
            async for judgements in label(batches):
                count += len(judgements)
                failed.update(j.reason or "" for j in judgements if j.outcome == "failed")
                if count >= WORK_ROWS and failed.total() > self.pipeline.failure_tolerance * count:
                    reason, times = failed.most_common(1)[0]
                    raise RlaifError(
                        f"judgements: {failed.total()} of {count} failed, more than failure_tolerance "
                        f"{self.pipeline.failure_tolerance:g} allows; {times} × {reason}. Finished work is kept: mend "
                        "the cause and run again."
                    )
                yield judgements

        return watched

    async def _preferences(self) -> None:
        signature = self._signature(
            "preferences",
            self.pipeline.preferences.model_dump(mode="json"),
            self.run_folder.content("comparisons"),
            self.run_folder.content("judgements"),
        )
        await self.run_folder.run_stage(
            "preferences",
            signature=signature,
            source=lambda skip: cut_any(
                with_judgements(self.run_folder.read("comparisons"), self.run_folder.read("judgements")),
                self.pipeline.shard_rows,
                skip,
            ),
            apply=Reconcile(self.pipeline.preferences),
            nouns=[Provenance, Preference],
            done=self._tell("preferences", self.run_folder.rows("comparisons")),
        )

    # --- training -----------------------------------------------------------------------------------------------------

    def is_held_out(self, prompt_id: str) -> bool:
        return uniform("held out", self.pipeline.seed, prompt_id) < self.pipeline.held_out

    def _ended(self) -> Callable[[Preference, Sequence[Message]], bool]:
        """Whether a response ended by itself: those cut off at their length limit get no end-of-turn token."""
        cut_off = {
            (response.prompt_id, response.messages)
            for response in self.run_folder.read("responses")
            if response.finish_reason == "length"
        }
        return lambda row, response: (row.prompt_id, tuple(response)) not in cut_off

    def _training_signature(self, stage: str, identity: Identity, *parts: Any) -> str:
        return self._signature(
            stage,
            self.pipeline.seed,
            self.pipeline.held_out,
            identity.sha256,
            self.run_folder.content("preferences"),
            *parts,
        )

    async def _train(self, stage: str, folder: str, signature: str, train: Callable[[Path, Path, Any], Any]) -> None:
        """Run a blocking training in the model thread. Ctrl-C stops it after the next step, with a checkpoint."""
        from rlaif.training.trainer import Watch, quiet_libraries

        quiet_libraries()
        work = self.folder / "training" / folder
        if self.run_folder.begin(stage, signature, [folder, f"training/{folder}"]):
            return
        loop = asyncio.get_running_loop()

        def report(step: int, steps: int, figures: dict[str, float]) -> None:
            note = " ".join(f"{name} {value:.3f}" for name, value in figures.items() if name != "step")
            loop.call_soon_threadsafe(self.watcher.listen, Progress(stage, step, steps, note))

        watch = Watch(report=report)
        start = time.perf_counter()
        job = asyncio.ensure_future(self.gateway.in_worker(train, work, self.folder / folder, watch))
        try:
            result = await asyncio.shield(job)
        except asyncio.CancelledError:
            watch.stop.set()
            await asyncio.wait([job])
            raise
        write_json(self.folder / "training" / f"{folder.replace('/', '-')}.json", result)
        shutil.rmtree(work, ignore_errors=True)
        self.run_folder.finish(stage, "", time.perf_counter() - start)

    async def _reward_model(self) -> None:
        from rlaif.reward import train_reward_model

        section = self.pipeline.reward_model
        assert section
        base = self.models[section.base]
        signature = self._training_signature("reward_model", base.identity, self.reward_options.model_dump(mode="json"))
        ended = self._ended()

        def train(work: Path, out: Path, watch: Any) -> Any:
            report = train_reward_model(
                lambda: self.run_folder.read("preferences"),
                base,
                self.reward_options,
                work=work,
                out=out,
                seed=self.pipeline.seed,
                is_held_out=self.is_held_out,
                ended=ended,
                watch=watch,
            )
            return {
                "history": report.history,
                "pairs": report.pairs,
                "too_long": report.too_long,
                "gain": report.gain,
                "bias": report.bias,
                "held_out": report.held_out.__dict__,
            }

        await self._train("reward_model", "reward_model", signature, train)

    async def _policy(self, name: str) -> None:
        method = self.methods[name]
        if not method.writes_weights:
            return
        options = method.options.model_dump(mode="json")
        start = self.models["policy"]
        signature = self._training_signature(f"policies/{name}", start.identity, options)
        ended = self._ended()

        def train(work: Path, out: Path, watch: Any) -> Any:
            report = method.train(
                PolicyContext(
                    start=start,
                    preferences=lambda: self.run_folder.read("preferences"),
                    is_held_out=self.is_held_out,
                    ended=ended,
                    work=work,
                    out=out,
                    seed=self.pipeline.seed,
                    watch=watch,
                )
            )
            return report.__dict__

        await self._train(f"policies/{name}", f"policies/{name}", signature, train)

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def evaluation_prompts(self) -> list[Prompt]:
        """Held-out prompts by keyed draw, at most as many as the recipe says."""
        section = self.pipeline.evaluation
        assert section
        kept = [prompt for prompt in self.run_folder.read("prompts") if self.is_held_out(prompt.id)]
        kept.sort(key=lambda prompt: uniform("evaluation", self.pipeline.seed, prompt.id))
        return kept[: section.prompts]

    async def _evaluation(self) -> None:
        section = self.pipeline.evaluation
        assert section
        prompts = self.evaluation_prompts()
        if not prompts:
            self.watcher.notice(
                "evaluation: no held-out prompts (held_out is 0, or too few prompts): nothing to measure."
            )
        sampling = section.sampling or (self.pipeline.responses.sampling if self.pipeline.responses else None)
        if sampling is None:
            from rlaif.config import Sampling

            sampling = Sampling()
        signature = self._signature(
            "evaluation",
            section.model_dump(mode="json"),
            sampling.model_dump(mode="json"),
            self.pipeline.seed,
            [prompt.id for prompt in prompts],
            self.models["policy"].identity.sha256,
            {name: self._state_signature(f"policies/{name}") or method.options.model_dump(mode="json")
             for name, method in self.methods.items()},
            self._state_signature("reward_model"),
            self.judges.signature() if self.judges else None,
        )  # fmt: skip
        if self.run_folder.begin("evaluation", signature, ["evaluation"]):
            return
        start = time.perf_counter()
        arms = await self._arms(prompts, sampling)
        if self.judges:
            await self._contest(prompts, arms)
        if self.pipeline.reward_model:
            await self.gateway.in_worker(self._reward_arms, prompts, arms)
        await self.gateway.in_worker(self._measure_kl, prompts, arms)
        self._write_evaluation(prompts, arms)
        self.run_folder.finish("evaluation", "", time.perf_counter() - start)

    def _state_signature(self, stage: str) -> str | None:
        state = self.run_folder.state(stage)
        return state.signature if state else None

    async def _arms(self, prompts: list[Prompt], sampling: Any) -> list[Arm]:
        """The start's answers, then each policy's; equal draws for all."""
        sample = sampler_for(self.gateway, sampling, self.pipeline.seed + 1)  # not the draws that were trained on
        start = self.models["policy"]
        answered = 1 + len(self.methods)
        with self._counting("evaluation", len(prompts) * answered):
            first = await sample(start, prompts, 1)
            arms = [Arm(START, [many[0] if many else None for many in first])]
            for name, method in self.methods.items():
                model = self._tuned(name) if method.writes_weights else start
                reward = self._reward_function() if method.needs_reward else None
                arms.append(Arm(name, await method.respond(prompts, model, sample, reward), kl_bound=method.kl_bound()))
        return arms

    def _tuned(self, name: str) -> Any:
        from rlaif.models.local import LocalModel

        start = self.models["policy"]
        options = start.options.model_copy(update={"adapter": None})
        return LocalModel(
            str(self.folder / "policies" / name), options, where=f"policy {name}", notice=self.watcher.notice
        )

    def _reward_model_loaded(self) -> Any:
        from rlaif.reward import RewardModel

        section = self.pipeline.reward_model
        assert section
        options = self.models[section.base].options
        return RewardModel(self.folder / "reward_model", options, where="reward model", notice=self.watcher.notice)

    def _reward_function(self) -> Callable[[Prompt, Sequence[Response]], list[float]]:
        model = self._reward_model_loaded()

        def reward(prompt: Prompt, responses: Sequence[Response]) -> list[float]:
            ends = [(r.messages, r.finish_reason != "length") for r in responses]
            found: list[float] = model([(prompt.messages, ends)])[0]
            return found

        return reward

    async def _contest(self, prompts: list[Prompt], arms: list[Arm]) -> None:
        assert self.judges
        for number, arm in enumerate(arms[1:], 1):
            asked = contests(prompts, arms[0], arm)
            comparisons = [comparison for comparison in asked if comparison]
            judgements: list[Judgement] = []
            with self._counting(f"win rate of {arm.name}", len(comparisons) * (self.judges.per_comparison() or 1)):
                async for batch in self.judges.label(cut(comparisons, self.pipeline.shard_rows)):
                    judgements += batch
            path = self.folder / "evaluation" / "judgements" / f"part-{number:05d}.parquet"
            write_shard(path, Judgement, judgements, len(comparisons))
            read_wins(arm, arms[0], asked, judgements)
        self._release()

    def _reward_arms(self, prompts: list[Prompt], arms: list[Arm]) -> None:
        model = self._reward_model_loaded()
        for arm in arms:
            kept = [(p, r) for p, r in zip(prompts, arm.responses, strict=True) if r is not None]
            values = iter(model([(p.messages, [(r.messages, r.finish_reason != "length")]) for p, r in kept]))
            arm.rewards = [None if r is None else next(values)[0] for r in arm.responses]

    def _measure_kl(self, prompts: list[Prompt], arms: list[Arm]) -> None:
        """log π − log π_start of each arm's own samples, as they were sampled."""
        from rlaif.policy.dpo import sequence_logprobs
        from rlaif.training.batching import Group

        start = self.models["policy"]
        for arm in arms[1:]:
            if not self.methods[arm.name].writes_weights:
                continue
            tuned = self._tuned(arm.name)
            kept = [(p, r) for p, r in zip(prompts, arm.responses, strict=True) if r is not None and r.token_ids]
            groups = [Group(p.id, tuple(start.tokens.prompt_ids(p.messages)), [r.token_ids or ()]) for p, r in kept]
            if not groups:
                continue
            theirs = sequence_logprobs(tuned.network, groups, tuned.tokens.pad_id, share=False)
            ours = sequence_logprobs(start.network, groups, start.tokens.pad_id, share=False)
            values = iter(t[0] - o[0] for t, o in zip(theirs, ours, strict=True))
            arm.kl = [None if r is None or not r.token_ids else next(values) for r in arm.responses]
        start.unload()

    def _write_evaluation(self, prompts: list[Prompt], arms: list[Arm]) -> None:
        figures = {arm.name: arm_figures(prompts, arm, self.metrics) for arm in arms}
        primary = arms[1].name if len(arms) > 1 else START
        flat = {name: figure.model_dump() for name, figure in named_figures(primary, figures).items()}
        folder = self.folder / "evaluation"
        for number, arm in enumerate(arms):
            responses = [response for response in arm.responses if response]
            write_shard(folder / "responses" / f"part-{number:05d}.parquet", Response, responses, len(prompts))
        rows = [
            {
                "prompt": [message.model_dump() for message in prompt.messages],
                "category": prompt.category,
                "answers": {
                    arm.name: None
                    if (response := arm.responses[i]) is None
                    else {
                        "text": response.text,
                        "reward": arm.rewards[i] if arm.rewards else None,
                        "win": arm.wins[i] if arm.wins else None,
                    }
                    for arm in arms
                },
            }
            for i, prompt in enumerate(prompts)
        ]
        write_json(folder / "samples.json", rows)
        write_json(folder / "figures.json", flat)

    # --- accounts and report ------------------------------------------------------------------------------------------

    async def _accounts_and_report(self, *, report: bool) -> dict[str, Any]:
        from rlaif.accounts import accounts_of, metrics_of

        accounts = accounts_of(self.run_folder, self.pipeline, self.selector)
        write_json(self.folder / "accounts.json", accounts)
        metrics = metrics_of(self.run_folder, accounts)
        write_json(self.folder / "metrics.json", {name: figure.model_dump() for name, figure in metrics.items()})
        if report:
            from rlaif.report import write_report

            start = time.perf_counter()
            write_report(self.run_folder, self.pipeline, accounts, metrics)
            self.seconds["report"] = time.perf_counter() - start
        return accounts


class _Counting:
    """Answered requests as a stage's progress, while it lasts."""

    def __init__(self, road: Road, stage: str, total: int) -> None:
        self.road, self.stage, self.total, self.done = road, stage, total, 0

    def __enter__(self) -> None:
        self.road.gateway.replies = self._count

    def __exit__(self, *_: Any) -> None:
        self.road.gateway.replies = lambda count: None

    def _count(self, count: int) -> None:
        self.done += count
        self.road.watcher.listen(Progress(self.stage, self.done, max(self.total, self.done)))


async def cut_any(rows: Iterable[Any], size: int, skip: int = 0) -> AsyncIterator[list[Any]]:
    """``store.cut`` for rows that are not records."""
    async for batch in cut(rows, size, skip):  # type: ignore[type-var]
        yield batch


# --- checking ---------------------------------------------------------------------------------------------------------


def check(
    name: str,
    settings: Sequence[str] = (),
    *,
    out: Path,
    folder: Path | None = None,
    watcher: Watcher | None = None,
) -> Road:
    """A pipeline by name or path with ``--set`` applied, as a Road. Raises UserError before anything is asked."""
    catalogue = Catalogue(folder or Path.cwd())
    entry = catalogue.find("pipeline", name, where="rlaif")
    return build(load_pipeline(entry, settings), entry, catalogue, out=out, settings=settings, watcher=watcher)


def build(
    pipeline: Pipeline,
    entry: Entry,
    catalogue: Catalogue,
    *,
    out: Path,
    settings: Sequence[str] = (),
    watcher: Watcher | None = None,
) -> Road:
    """A typed pipeline as a Road: components found, options parsed, files there, models readable."""
    watcher = watcher or Watcher()
    where = str(entry.path)
    if pipeline.prompts and pipeline.prompts.source.startswith("set:"):
        found = catalogue.find("set", pipeline.prompts.source.removeprefix("set:"), where=where)
        source = pipeline.prompts.model_copy(update={"source": str(found.path)})
        pipeline = pipeline.model_copy(update={"prompts": source})
    models = {
        role: open_model(spec, f"{where}: models.{role}", watcher.notice) for role, spec in pipeline.models.items()
    }
    _check_sources(pipeline)
    _check_trainable(pipeline, models, where)
    samples = pipeline.responses.samples * len(pipeline.responses.models) if pipeline.responses else 2
    selector = open_selector(pipeline.comparisons, samples, where)
    ledger_path = catalogue.folder / pipeline.ledger
    secret = project_secret(ledger_path.parent)
    gateway = Gateway(Ledger(ledger_path))
    context = LabelContext(
        where=where,
        catalogue=catalogue,
        gateway=gateway,
        models=models,
        constitution=pipeline.constitution,
        pairs=pipeline.pairs.source if pipeline.pairs else None,
        split=pipeline.pairs.split if pipeline.pairs else "train",
        secret=secret,
        seed=pipeline.seed,
    )
    labels = _open_labels(pipeline, context, where) if pipeline.labels else None
    reward_options: Any = None
    if pipeline.reward_model:
        from rlaif.reward import RewardOptions

        reward_options = parse_model(RewardOptions, pipeline.reward_model.options, f"{where}: reward_model.options")
    methods = _open_methods(pipeline, where)
    judges, metrics = _open_evaluation(pipeline, context, where)
    for line in catalogue.shadowed:
        watcher.notice(line)
    return Road(
        pipeline, entry, tuple(settings), catalogue, out, watcher, gateway, secret, models, selector, labels,
        reward_options, methods, judges, metrics,
    )  # fmt: skip


def _check_sources(pipeline: Pipeline) -> None:
    """The first row of each input file is read, so that a wrong file is found before a model is asked."""
    if pipeline.prompts:
        from rlaif.conversations import prompt_column

        for where, row in prompt_rows(pipeline.prompts):
            prompt_column(row, pipeline.prompts.column, where)
            break
    if pipeline.pairs:
        next(iter(read_pairs(pipeline.pairs.source, pipeline.pairs.split)), None)


def _check_trainable(pipeline: Pipeline, models: dict[str, Any], where: str) -> None:
    from rlaif.models import BatchModel

    roles = [pipeline.reward_model.base] if pipeline.reward_model else []
    roles += ["policy"] if pipeline.policies or pipeline.evaluation else []
    for role in roles:
        if not isinstance(models[role], BatchModel) or not hasattr(models[role], "folder"):
            raise ConfigError(
                f"{where}: models.{role}: training needs a local model folder, not a {models[role].identity.name}."
            )


def _open_labels(pipeline: Pipeline, context: LabelContext, where: str) -> LabelSource:
    assert pipeline.labels
    kind = load(pipeline.labels.source, SOURCES, "label source", f"{where}: labels")
    options = parse_options(kind, pipeline.labels.options, f"{where}: labels.options")
    source: LabelSource = kind(options, context)
    return source


def _open_methods(pipeline: Pipeline, where: str) -> dict[str, Any]:
    methods: dict[str, Any] = {}
    for component in pipeline.policies:
        name = component.name.replace(":", ".").replace("/", "-")
        if name in methods:
            raise ConfigError(f'{where}: policies: "{component.name}" is named twice.')
        kind = load(component.name, METHODS, "policy method", f"{where}: policies")
        options = parse_options(kind, component.options, f"{where}: policies.{component.name}.options")
        methods[name] = kind(options, where)
        if methods[name].needs_reward and not pipeline.reward_model:
            raise ConfigError(f'{where}: policies: "{component.name}" needs a reward model: set reward_model.')
    return methods


def _open_evaluation(pipeline: Pipeline, context: LabelContext, where: str) -> tuple[LabelSource | None, list[Metric]]:
    section = pipeline.evaluation
    if section is None:
        return None, []
    judges: LabelSource | None = None
    if section.judges:
        from rlaif.labels.judges import JudgeLabels

        named = replace(context, constitution=section.constitution or pipeline.constitution)
        judges = JudgeLabels(JudgeLabels.Options(judges=section.judges, principles="average"), named)
    return judges, open_metrics(section.metrics, f"{where}: evaluation.metrics")


def default_out(name: str) -> Path:
    """``runs/NAME`` for a pipeline's name."""
    return Path("runs") / Path(name).name.removesuffix(".yaml")
