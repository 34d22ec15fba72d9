"""The road, top to bottom: prompts -> responses -> comparisons -> judgements -> preferences -> reward model -> policy
-> report. Human labels join at *judgements*; from there the code is one.

``checking.build`` has turned the recipe into objects and found every mistake it could without asking a model anything.
``Road.run`` walks the stages; each is skipped when the run folder holds its output under the same signature.
"""

from __future__ import annotations

import errno
import heapq
import json
import math
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from rlaif.accounts import accounts_of, metrics_of, reward_stages
from rlaif.catalogue import KEPT, Catalogue, Entry
from rlaif.component import code_hash, own_code, users_code
from rlaif.config import Constitution, PairsSection, Pipeline, PromptsSection, Sampling
from rlaif.errors import DataError, RlaifError, UserError
from rlaif.evaluate import Metric
from rlaif.evaluation_stage import EvaluationStage
from rlaif.findings import READABLE, mass_seen
from rlaif.labels import LabelSource, caveats, labelled, requests_per_comparison
from rlaif.measures import Measures, normalised
from rlaif.models import TOO_LONG
from rlaif.models.gateway import Gateway
from rlaif.pairs import read_pairs
from rlaif.policy import PolicyMethod
from rlaif.policy.serving import Serving
from rlaif.preferences import Reconcile, with_judgements
from rlaif.progress import Listener, Progress, silent
from rlaif.prompts import ReadPrompts, prompt_rows
from rlaif.records import (
    Comparison,
    Judgement,
    Preference,
    Prompt,
    Provenance,
    Response,
    digest,
    uniform,
)
from rlaif.rewards import Rewards
from rlaif.rewards.watched import Gold
from rlaif.rows import source_hash
from rlaif.sampling import Compare, ReadPairs, Sampler, draw_seed, grouped, reference_each
from rlaif.selection import Selector
from rlaif.statistics import Figure
from rlaif.store import RECIPE, RunFolder, StageState, cut, disk_error, environment, write_json
from rlaif.training.batching import held_out
from rlaif.training_stages import TrainingStages

Until = Literal["responses", "comparisons", "judgements", "preferences", "policy", "report"]
STAGES: tuple[Until, ...] = ("responses", "comparisons", "judgements", "preferences", "policy", "report")
VERSION = 4  # of the stages' meaning; part of every signature
WORK_ROWS = 64  # comparisons before the failed share is first held against the tolerance


@dataclass(frozen=True)
class Outcome:
    """What a walk came to: the account of each stage, and every figure by name."""

    accounts: dict[str, Any]
    metrics: dict[str, Figure]
    measures: Measures


@dataclass
class Watcher:
    """How a caller follows a run: progress, and lines for a person, the same one once; ``said`` keeps all of those."""

    listen: Listener = silent
    notice: Callable[[str], None] = lambda line: None
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        tell = self.notice

        def notice(line: str) -> None:
            again = line in self.said
            self.said.append(line)
            if not again:
                tell(line)

        self.notice = notice


TELL_SECONDS = 0.1  # between two words on how far a stage is: thousands of replies may come in a second


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
    prompts: PromptsSection | None  # as they are read: a set's name has become its path
    selector: Selector
    labels: LabelSource | None
    reward_options: Any
    methods: dict[str, PolicyMethod]
    rewards: dict[str, Rewards]  # of the methods that learn from them
    golds: dict[str, Gold]  # of those that a judge looks on at
    serving: dict[str, Serving]  # of those that a server samples from
    measured: PromptsSection | None  # evaluation.source, likewise
    judges: LabelSource | None  # for the win rate
    metrics: list[Metric]
    card: dict[str, Any] | None = None  # of the judges, where the recipe requires one
    seconds: dict[str, float] = field(default_factory=dict)

    # --- running ------------------------------------------------------------------------------------------------------

    async def run(self, until: Until = "report") -> Outcome:
        """Walk the stages up to ``until``. Whatever interrupts, finished work is kept."""
        wanted = STAGES[: STAGES.index(until) + 1]
        self.run_folder = RunFolder(self.folder, self.watcher.notice)
        self.gateway.run = self.run_folder.id
        with self.run_folder.alone():
            return await self._walk(wanted)

    async def _walk(self, wanted: Sequence[Until]) -> Outcome:
        self._check_beginning()
        before = self.run_folder.recipe()
        preferences = self.run_folder.state("preferences")
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
                    if "policy" not in wanted:
                        self._say_trained_before(preferences)
            if "policy" in wanted and (self.pipeline.reward_model or self.methods):
                training = TrainingStages(self)
                if self.labels:
                    self._need_labels()
                if self.pipeline.reward_model:
                    if self.samples_reference:
                        await self._timed("reference", self._reference)
                    for stage in reward_stages(self.pipeline):
                        await self._timed(stage, training.reward_model, stage)
                for name in self.methods:
                    await self._timed(f"policies/{name}", training.policy, name)
            if "report" in wanted and self.pipeline.evaluation:
                await self._timed("evaluation", EvaluationStage(self).run)
            return await self._accounts_and_report(report="report" in wanted)
        except UserError:
            self.run_folder.restore(before)  # later commands go on with the recipe that could be followed
            raise
        finally:
            await self.gateway.close()

    def _check_beginning(self) -> None:
        """Pairs do not take the place of what was sampled: people may be answering its tasks."""
        if self.pipeline.pairs and self.run_folder.state("responses"):
            raise UserError(
                f"{self.folder}: its comparisons were sampled from prompts, and {self.pipeline.pairs.source} holds pairs "
                "of its own. Choose another --out; answers to the tasks exported from here have a comparison_id each."
            )

    async def _timed(self, stage: str, work: Callable[..., Any], *arguments: Any) -> None:
        start, said = time.perf_counter(), len(self.watcher.said)
        try:
            await work(*arguments)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
                raise
            raise disk_error(self.folder, error) from error
        finally:
            self.run_folder.note(stage, self.watcher.said[said:])
        self.seconds[stage] = time.perf_counter() - start
        self.watcher.listen(Progress(stage, 0, None, finished=True))

    def _describe(self) -> None:
        """The manifest's facts and a copy of every file used; what changed since the last walk is said."""
        before: dict[tuple[str, str], set[str]] = {}
        for file in self.run_folder.manifest["files"]:
            before.setdefault((file["kind"], file["name"]), set()).add(file["sha256"])
        used = sorted(self.catalogue.used.values(), key=lambda e: (e.kind, e.name, e.builtin, e.sha256))
        now: dict[tuple[str, str], list[str]] = {}  # two files may share a name: a user's and a shipped one
        for entry in used:
            now.setdefault((entry.kind, entry.name), []).append(entry.sha256)
        for entry in used:
            kind, name, same_name = entry.kind, entry.name, now[entry.kind, entry.name]
            first = entry.sha256 == same_name[0]
            if kind in KEPT and first and before.get((kind, name)) and not before[kind, name] & set(same_name):
                self.watcher.notice(f'{kind} "{name}" has changed since this run folder was made.')
            suffix = entry.path.name.removeprefix(Path(entry.name).name)
            self.run_folder.keep_file(kind, f"{name if first else entry.tag}{suffix}", entry.data)
        effective = self.pipeline.model_dump(mode="json", exclude_defaults=True)
        text = json.dumps(effective, indent=2, ensure_ascii=False).encode() + b"\n"
        self.run_folder.keep_file("pipeline", RECIPE.name, text)
        code = own_code([effective, *(entry.yaml() for entry in used if entry.kind == "judge")])
        if self.card:
            self.run_folder.keep_file("card", "card.json", json.dumps(self.card, indent=2).encode() + b"\n")
        self.run_folder.describe(
            pipeline=self.entry.tag,
            settings=list(self.settings),
            files=[
                {"kind": entry.kind, "name": entry.name, "sha256": entry.sha256, "builtin": entry.builtin}
                for entry in used
            ]
            + [{"kind": "code", "name": name, "sha256": code[name], "builtin": False} for name in sorted(code)],
            models={
                role: {"name": model.identity.name, "sha256": model.identity.sha256, **dict(model.identity.facts)}
                for role, model in self.models.items()
            },
            inputs=[{"source": source, "sha256": sha256} for source, sha256 in self._inputs().items()],
            ledger=os.path.relpath(self.gateway.ledger.path.resolve(), self.folder.resolve()),
            fence_secret=digest(self.secret.hex(), length=12),
            environment=environment(),
            caveats=list(dict.fromkeys(line for part in (self.labels, self.judges) for line in caveats(part))),
        )

    def _inputs(self) -> dict[str, str]:
        """The hash of every file of rows that the run reads, by the name that the recipe gives it."""
        named = dict(self.inputs)
        for method in self.methods.values():
            named |= getattr(method, "inputs", {})
        return named

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Of those the ones that are not a method's own."""
        evaluation = self.pipeline.evaluation
        sections: list[tuple[PromptsSection | PairsSection | None, PromptsSection | PairsSection | None]] = [
            (self.pipeline.prompts, self.prompts),
            (self.pipeline.pairs, self.pipeline.pairs),
            (evaluation.source if evaluation else None, self.measured),
        ]
        found = {named.source: source_hash(read.source) for named, read in sections if named and read}
        for part in (self.labels, self.judges, *self.models.values()):
            found |= getattr(part, "inputs", {})
        return found

    def signature(self, stage: str, *parts: Any) -> str:
        """What a stage's output is kept under: everything that it depends on."""
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
        section = self.prompts
        assert section
        settings = section.model_dump(mode="json", exclude={"source"})
        await self.run_folder.run_stage(
            "prompts",
            signature=self.signature("prompts", settings, source_hash(section.source)),
            size=self.pipeline.shard_rows,
            source=lambda skip: cut(prompt_rows(section), self.pipeline.shard_rows, skip),
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
        signature = self.signature(
            "responses",
            section.model_dump(mode="json"),
            self.pipeline.seed,
            size,
            {role: model.identity.sha256 for role, model in models.items()},
            self.run_folder.content("prompts"),
        )
        total = self.run_folder.rows("prompts")
        with self.counting("responses", total * per_prompt):
            await self.run_folder.run_stage(
                "responses",
                signature=signature,
                size=size,
                source=lambda skip: self.run_folder.batches("prompts", size, skip),
                apply=Sampler(self.gateway, models, section.samples, section.sampling, self.pipeline.seed),
                nouns=[Response],
            )
        self.release()

    def counting(self, stage: str, total: int) -> _Counting:
        """While it lasts, answered requests are this stage's progress."""
        return _Counting(self, stage, total)

    def release(self) -> None:
        """Give back the memory of models that the next stage may not need."""
        for model in self.models.values():
            if hasattr(model, "unload"):
                model.unload()

    async def _comparisons(self) -> None:
        signature = self.signature(
            "comparisons",
            self.pipeline.comparisons.model_dump(mode="json"),
            self.pipeline.responses.samples if self.pipeline.responses else 0,
            [code_hash(self.selector), getattr(self.selector, "source", "")],
            self.run_folder.content("prompts"),
            self.run_folder.content("responses"),
        )
        total = self.run_folder.rows("prompts")
        await self.run_folder.run_stage(
            "comparisons",
            signature=signature,
            size=self.pipeline.shard_rows,
            source=lambda skip: cut(
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
            signature=self.signature("pairs", settings, source_hash(section.source)),
            size=self.pipeline.shard_rows,
            source=lambda skip: cut(
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
            source = self.pipeline.pairs.source if self.pipeline.pairs else self.folder
            raise DataError(f"{source}: nothing to compare: {self._reasons(stage)}.{self._unanswered(stage)}")

    def _unanswered(self, stage: str) -> str:
        """Why prompts have no response, and what would do."""
        if stage != "comparisons" or not self.run_folder.rows("exclusions/responses"):
            return ""
        said = f" Samples without a reply: {self._reasons('responses')}."
        remedy = " Ask for fewer new tokens, --set responses.sampling.max_output_tokens=N, or bring shorter prompts."
        return said + (remedy if TOO_LONG in said else "")

    # --- judgements, preferences --------------------------------------------------------------------------------------

    def _judging(self) -> tuple[int | None, int, str]:
        """Judgements of each comparison, where that is fixed; comparisons in a shard; and the stage's signature."""
        assert self.labels
        with users_code(self.labels, "asked for its signature"):
            each, own = self.labels.per_comparison(), self.labels.signature()
        signature = self.signature("judgements", own, code_hash(self.labels), self.run_folder.content("comparisons"))
        return each, max(1, self.pipeline.shard_rows // (each or 1)), signature

    async def _judgements(self) -> None:
        assert self.labels
        each, size, signature = self._judging()
        total = self.run_folder.rows("comparisons")
        with self.counting("judgements", total * requests_per_comparison(self.labels)):
            await self.run_folder.run_stage(
                "judgements",
                signature=signature,
                size=size,
                source=lambda skip: self.run_folder.batches("comparisons", size, skip),
                apply=self._within_tolerance(partial(labelled, self.labels)),
                nouns=[Judgement],
                before=self._check_labels,
                done=(lambda inputs: None) if each else self._tell("judgements", total),
            )
        self.release()

    def _check_labels(self) -> None:
        """Before earlier labels make way for others: whether those fit, and whose they take the place of."""
        if self.labels and hasattr(self.labels, "check"):
            self.labels.check(self.run_folder.read("comparisons"))
        labels = Counter(row.labeller for row in self.run_folder.read("judgements") if row.outcome == "ranked")
        people = {name.removeprefix("human:"): n for name, n in labels.items() if name.startswith("human:")}
        if people:
            names = ", ".join(list(people)[:3]) + (f" and {len(people) - 3} more" if len(people) > 3 else "")
            self.watcher.notice(
                f"judgements: {sum(people.values()):,} labels by {names} make way for the new ones and move to "
                f"superseded/. Several people's answers go in together: rlaif label FILE FILE --out {self.folder}."
            )

    def _within_tolerance(
        self, label: Callable[[AsyncIterator[list[Comparison]]], AsyncIterator[list[Judgement]]]
    ) -> Callable[[AsyncIterator[list[Comparison]]], AsyncIterator[list[Judgement]]]:
        """``label``, stopped when the share of failed judgements passes the recipe's tolerance; those of an earlier
        walk count, and a batch that passes it is not written."""

        async def watched(batches: AsyncIterator[list[Comparison]]) -> AsyncIterator[list[Judgement]]:
            failed: Counter[str] = Counter()
            count = 0

            def look(judgements: Iterable[Judgement], at_least: int) -> None:
                nonlocal count
                for judgement in judgements:
                    count += 1
                    failed.update([judgement.reason or ""] if judgement.outcome == "failed" else [])
                if count >= at_least and failed.total() > self.pipeline.failure_tolerance * count:
                    reason, times = failed.most_common(1)[0]
                    raise RlaifError(
                        f"judgements: {failed.total()} of {count} failed, more than failure_tolerance "
                        f"{self.pipeline.failure_tolerance:g} allows; {times} × {reason}. Finished work is kept: mend "
                        "the cause and run again."
                    )

            look(self.run_folder.read("judgements"), WORK_ROWS)
            async for judgements in label(batches):
                look(judgements, WORK_ROWS)
                yield judgements
            look([], 1)

        return watched

    async def _preferences(self) -> None:
        signature = self.signature(
            "preferences",
            self.pipeline.preferences.model_dump(mode="json"),
            self.run_folder.content("comparisons"),
            self.run_folder.content("judgements"),
        )
        await self.run_folder.run_stage(
            "preferences",
            signature=signature,
            size=self.pipeline.shard_rows,
            source=lambda skip: cut(
                with_judgements(self.run_folder.read("comparisons"), self.run_folder.read("judgements")),
                self.pipeline.shard_rows,
                skip,
            ),
            apply=Reconcile(self.pipeline.preferences),
            nouns=[Provenance, Preference],
            done=self._tell("preferences", self.run_folder.rows("comparisons")),
        )

    def _say_trained_before(self, earlier: StageState | None) -> None:
        """Which trained models belong to ``earlier`` preferences, where those were others."""
        now = self.run_folder.state("preferences")
        trained = [
            name
            for name in self.run_folder.manifest["stages"]
            if name.startswith(("reward_model", "reward_members/", "policies/"))
        ]
        if trained and earlier and now and earlier.content != now.content:
            called = {section.policy: section.name for section in self.pipeline.policies}
            policies = (name.removeprefix("policies/") for name in trained if name.startswith("policies/"))
            named = (
                *["reward"] * any(name.startswith("reward_") for name in trained),
                *(called.get(p, p) for p in policies),
            )
            methods = dict.fromkeys(named)
            ways = ", ".join(f"rlaif train {method} --out {self.folder}" for method in methods)
            self.watcher.notice(
                f"preferences: trained on the labels before these: {', '.join(trained)}. To train on these: {ways}."
            )

    def _need_labels(self) -> None:
        """Training on nothing would still give numbers: it is refused."""
        if not any(row.weight > 0 for row in self.run_folder.read("preferences")):
            reasons = Counter(row.reason or row.outcome for row in self.run_folder.read("provenance"))
            found = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(3))
            raise RlaifError(f"preferences: not one label to train on ({found}).{self._unread()}")

    def _unread(self) -> str:
        """What to do where a model's replies could not be read, with the option mass seen."""
        replies = [row for row in self.run_folder.read("judgements") if row.reply_keys]
        masses = [row.option_mass for row in replies if row.option_mass is not None]
        if all(row.outcome != "unreadable" for row in replies):
            return ""
        return f" {mass_seen(fmean(masses) if masses else None)}{READABLE}"

    # --- training -----------------------------------------------------------------------------------------------------

    def is_held_out(self, prompt_id: str) -> bool:
        own = self.pipeline.held_out_seed
        return held_out(prompt_id, self.pipeline.held_out, self.pipeline.seed if own is None else own)

    def reference_noun(self) -> str | None:
        """Where the policy's samples that rewards are normalised on lie: among the run's responses, or in a stage of
        their own where those are not the policy's; None without a policy."""
        if "policy" not in self.models:
            return None
        responses = self.pipeline.responses
        return "responses" if responses and "policy" in responses.models else "reference/responses"

    @property
    def samples_reference(self) -> bool:
        """Whether a stage of its own samples the policy for the scale of rewards."""
        return self.pipeline.reward_model is not None and self.reference_noun() == "reference/responses"

    @property
    def reference_seed(self) -> int:
        return draw_seed("reference", self.pipeline.seed)

    def reference_order(self, prompt: Prompt) -> float:
        """The draw by which training prompts are taken for it, the lowest first."""
        return uniform("reference", self.pipeline.seed, prompt.id)

    @property
    def reference_sampling(self) -> Sampling:
        """How the samples were drawn that rewards are normalised on."""
        section, responses = self.pipeline.reward_model, self.pipeline.responses
        if self.reference_noun() == "responses" and responses:
            return responses.sampling
        return (section.sampling if section else None) or (responses.sampling if responses else Sampling())

    def reference_prompts(self) -> list[Prompt]:
        """Training prompts, at most as many as rewards are normalised on, in the order of a keyed draw."""
        count = self.reward_options.normalise_on
        prompts = (prompt for prompt in self.run_folder.read("prompts") if not self.is_held_out(prompt.id))
        return heapq.nsmallest(count, prompts, key=self.reference_order)

    async def _reference(self) -> None:
        """Samples of the policy on training prompts, one each, or several where there are too few prompts."""
        sampling = self.reference_sampling
        policy, wanted = self.models["policy"], self.reward_options.normalise_on
        prompts = self.reference_prompts()
        each = reference_each(wanted, len(prompts))
        prompts = prompts[: math.ceil(wanted / each)]
        size = max(1, self.pipeline.shard_rows // each)
        seed = self.reference_seed
        signature = self.signature(
            "reference",
            sampling.model_dump(mode="json"),
            [each, seed],
            policy.identity.sha256,
            [prompt.fingerprint() for prompt in prompts],
        )
        with self.counting("reference", len(prompts) * each):
            await self.run_folder.run_stage(
                "reference",
                signature=signature,
                size=size,
                source=lambda skip: cut(prompts, size, skip),
                apply=Sampler(self.gateway, {"policy": policy}, each, sampling, seed),
                nouns=[Response],
                under="reference",
            )
        self.release()
        if prompts and not self.run_folder.rows("reference/responses"):
            raise RlaifError(
                "reference: the policy gave not one sample to normalise rewards on: "
                f"{self._reasons('reference')}. Set reward_model.sampling to what it can answer."
            )

    # --- evaluation ---------------------------------------------------------------------------------------------------

    @property
    def evaluation_seed(self) -> int:
        return draw_seed("evaluation", self._measuring)

    @property
    def evaluation_sampling(self) -> Sampling:
        """How policies answer the prompts that they are measured on."""
        section, responses = self.pipeline.evaluation, self.pipeline.responses
        return (section.sampling if section else None) or (responses.sampling if responses else Sampling())

    def evaluation_order(self, prompt: Prompt) -> float:
        """The draw by which prompts are taken to measure on, the lowest first."""
        return uniform("evaluation", self._measuring, prompt.id)

    @property
    def _measuring(self) -> int:
        section = self.pipeline.evaluation
        return self.pipeline.seed if section is None or section.seed is None else section.seed

    def state_signature(self, stage: str) -> str | None:
        state = self.run_folder.state(stage)
        return state.signature if state else None

    # --- accounts and report ------------------------------------------------------------------------------------------

    async def _accounts_and_report(self, *, report: bool) -> Outcome:
        accounts = accounts_of(
            self.run_folder,
            self.pipeline,
            self.selector,
            reference=self.reward_options.normalise_on if self.reward_options else 0,
        )
        write_json(self.folder / "accounts.json", accounts)
        metrics = metrics_of(self.run_folder, accounts)
        write_json(self.folder / "metrics.json", {name: figure.model_dump() for name, figure in metrics.items()})
        measures = Measures(self.run_folder.evaluated("measures"), normalised=normalised(metrics))
        if not report:
            self.run_folder.set_aside_report()
        else:
            from rlaif.report import write_report

            start = time.perf_counter()
            write_report(self.run_folder, self.pipeline, self._told(), accounts, metrics, measures)
            self.seconds["report"] = time.perf_counter() - start
        return Outcome(accounts, metrics, measures)

    def _told(self) -> list[tuple[str, Constitution]]:
        """What the judges were told to prefer, and what their verdicts became: labels, the win rate, or both."""
        told: list[tuple[str, Constitution]] = []
        for use, source in (("the labels", self.labels), ("the win rate", self.judges)):
            constitution = getattr(source, "constitution", None)
            if told and told[0][1] == constitution:
                told[0] = (f"{told[0][0]} and {use}", told[0][1])
            elif constitution:
                told.append((use, constitution))
        return told


class _Counting:
    """Answered requests as a stage's progress, while it lasts."""

    def __init__(self, road: Road, stage: str, total: int) -> None:
        self.road, self.stage, self.total, self.done = road, stage, total, 0
        self.told = 0.0

    def __enter__(self) -> None:
        self.road.gateway.replies = self._count

    def __exit__(self, *_: Any) -> None:
        self.road.gateway.replies = lambda count: None
        self._tell()

    def _count(self, count: int) -> None:
        self.done += count
        if (now := time.monotonic()) >= self.told + TELL_SECONDS:
            self.told = now
            self._tell()

    def _tell(self) -> None:
        road = self.road
        road.watcher.listen(Progress(self.stage, self.done, max(self.total, self.done), road.gateway.standing()))
