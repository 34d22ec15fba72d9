"""What a recipe would ask of its models, and what that takes and costs. Nothing is asked.

The requests of the stages are made as the run makes them, from the same templates, and looked up in the ledger: those
that are there are paid for. Of many prompts or comparisons a keyed draw is rendered and counted for all. Where responses
are still to be sampled, each stands in with ``max_output_tokens`` tokens of text.

Tokens are counted by the model's tokenizer where one is named, else estimated by characters; at most they are the bound
that budgets reserve. What is expected of a reply's length is the mean of those paid for, else its limit.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rlaif.canaries import CANARIES
from rlaif.catalogue import Catalogue
from rlaif.checking import build, limited
from rlaif.component import Place, code_hash, users_code
from rlaif.config import Principle, Sampling, load_pipeline
from rlaif.errors import CallError, CallFailed, CallRefused
from rlaif.evaluate import passed_over
from rlaif.judging import Question, Showing
from rlaif.labels import LabelSource
from rlaif.labels.human import HumanLabels
from rlaif.labels.judges import Judge, JudgeLabels
from rlaif.labels.mixed import Blend, Noisy
from rlaif.models import ChatRequest, Notice, Reply
from rlaif.models.prices import is_paid
from rlaif.models.spending import Price
from rlaif.offline import keyless
from rlaif.pairs import read_pairs
from rlaif.pipeline import Road, Watcher
from rlaif.plan.counting import CHARACTERS, Draw, Known, Others, Tally, characters_of, most_usd_of, token_counter
from rlaif.plan.lines import Line, Plan, told
from rlaif.prompts import ReadPrompts, prompt_rows
from rlaif.records import Comparison, Prompt, Response, uniform
from rlaif.rewards import Rewards
from rlaif.rewards.judged import JudgedReward
from rlaif.sampling import Compare, ReadPairs, Sampler, reference_each

__all__ = ["Line", "Plan", "plan", "plan_pipeline", "told"]

DRAWN = 4000  # comparisons, or samples, whose requests are rendered
KNOWN = 10  # paid replies from which their mean length is what is expected
FILLER = " the"  # a token of four characters


async def plan_pipeline(
    name: str,
    settings: Sequence[str] = (),
    *,
    limit: int | None = None,
    latency_seconds: float = 2.0,
    folder: Path | None = None,
) -> Plan:
    """The plan of a pipeline by name or path, on its first ``limit`` rows. Raises UserError."""
    notices: list[str] = []
    async with opened(name, settings, folder or Path(), notices.append, limit) as road:
        found = await plan(road, latency_seconds=latency_seconds)
    return replace(found, notes=(*notices, *found.notes))


@asynccontextmanager
async def opened(
    name: str, settings: Sequence[str], folder: Path, notice: Notice, limit: int | None = None
) -> AsyncIterator[Road]:
    """A road that is not walked: it needs no key, and leaves no ledger where there is none."""
    catalogue = Catalogue(folder)
    entry = catalogue.find("pipeline", name, where="rlaif plan")
    pipeline = limited(load_pipeline(entry, settings), limit)
    where = Place(str(entry.path), tuple(settings))
    models = {role: keyless(spec, where.at("models", role)) for role, spec in pipeline.models.items()}
    pipeline = pipeline.model_copy(update={"models": models})
    with tempfile.TemporaryDirectory() as nowhere:
        if not (folder / pipeline.ledger).exists():
            pipeline = pipeline.model_copy(update={"ledger": f"{nowhere}/ledger.sqlite"})
        road = build(
            pipeline, entry, catalogue, out=Path(nowhere) / "run", settings=settings, watcher=Watcher(notice=notice)
        )
        try:
            yield road
        finally:
            road.gateway.ledger.close()


async def plan(road: Road, *, latency_seconds: float = 2.0, drawn: int = DRAWN) -> Plan:
    """What walking the road to its end would ask, of which the ledger knows what is paid for. About ``drawn``
    comparisons or samples are rendered where there are more."""
    planner = Planner(road, latency_seconds, drawn)
    await planner.whole()
    notes = tuple(dict.fromkeys([*planner.notes, *planner.guesses()]))
    return Plan(tuple(planner.lines), road.pipeline.budget_usd, notes, tuple(dict.fromkeys(planner.blocked)))


@dataclass
class Planner:
    """Goes over the stages of a road; ``others``: what other runs of a study ask is not asked again."""

    road: Road
    latency_seconds: float
    drawn: int
    others: Others | None = None
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    guessed: dict[int, list[str]] = field(default_factory=dict)  # stages whose replies are taken to have so many tokens

    def __post_init__(self) -> None:
        self.known = Known(self.road.gateway.ledger, self.others)
        options = self.road.reward_options
        self.reference: Draw[Prompt] = Draw(options.normalise_on if options else 1)  # of the training prompts
        self.learnt: Draw[Prompt] = Draw(max(1, self.drawn // 16))  # likewise, of those that a policy is tuned on

    async def whole(self) -> list[Prompt]:
        """Lines for all stages; returns the prompts to measure on."""
        measured = self.measured(await self.labels())
        await self._learning()
        await self._evaluation(measured)
        return measured

    def guesses(self, what_would_do: str = "run with a small --limit first") -> list[str]:
        """How long replies are taken to be, of which none is known."""
        return [
            f"{', '.join(dict.fromkeys(stages))}: a reply is taken to have {tokens} tokens (max_output_tokens): {what_would_do}, "
            "and plans know how long they are."
            for tokens, stages in self.guessed.items()
        ]

    async def labels(self) -> list[Prompt]:
        """Lines for the stages up to the labels; returns the prompts that are held out."""
        section = self.road.pipeline.evaluation
        held_out: Draw[Prompt] = Draw(section.prompts if section else 1)
        comparisons: list[Comparison] = []
        share = 1.0
        if self.road.pipeline.pairs:
            pairs = self._pairs(held_out)
            comparisons, share = pairs.items, pairs.share
            self._say_drawn(pairs, "comparisons")
        else:
            prompts = self._prompts(held_out)
            if self.road.pipeline.responses:
                comparisons, share = self._responses(prompts), prompts.share
                self._say_drawn(prompts, "prompts")
        if self.road.labels:
            await self._label("judgements", self.road.labels, comparisons, share, common=True)
        return held_out.items

    async def _learning(self) -> None:
        if self.road.samples_reference:
            self._reference()
        for name, rewards in self.road.rewards.items():
            await self._rewards(name, rewards)

    async def _rewards(self, name: str, rewards: Rewards) -> None:
        """Lines for what judges are asked about a policy's responses while it is tuned on their opinion."""
        from rlaif.training.online import OnlineOptions

        options = self.road.methods[name].options
        if not isinstance(options, OnlineOptions):
            self.notes.append(f"{name}: a method of your own; what its rewards ask is not planned.")
            return
        prompts = self.learnt
        steps = math.ceil(prompts.count / options.batch_prompts) * options.epochs
        share = prompts.share * options.epochs * min(1.0, (options.steps or steps) / max(1, steps))
        sampler = Sampler(self.road.gateway, {}, options.samples, options.sampling, self.road.pipeline.seed)
        policy = self.road.models["policy"]
        if options.sampler:
            server = self.road.models[options.sampler]
            tally = Tally(f"samples of {name}", "", options.sampler, server, options.sampling, "samples", share)
            tally.tuned = True
            self._samples(tally, sampler, prompts.items)
        asked = [part.source for part in rewards.parts if isinstance(part.source, JudgedReward)]
        for source in asked:
            said = [
                (prompt, [_stand_in(sampler, "policy", policy, prompt, 0, number) for number in range(options.samples)])
                for prompt in prompts.items
            ]
            self._say_stands_in(options.sampling)
            stage = f"rewards of {name}"
            if source.judge.each_alone:
                await self._scores(stage, source, [(prompt, one) for prompt, many in said for one in many], share)
            else:
                comparisons = [each for prompt, many in said for each in source.comparisons(prompt, many)]
                await self._label(stage, source.labels, comparisons, share)
        if asked and options.probes:
            self.notes.append(
                f"{name}: the probes of its reward, {1 + len(CANARIES)} replies to each of {options.probes} prompts, are not counted."
            )
        if options.watch:
            self.notes.append(
                f"{name}: what the judge {options.watch.judge} is asked while it looks on is not counted."
            )

    async def _scores(
        self, stage: str, source: JudgedReward, responses: Sequence[tuple[Prompt, Response]], share: float
    ) -> None:
        """The line of a judge that scores each response by itself."""
        judge, labels = source.judge, source.labels
        if judge.model is None:
            return
        tally = Tally(
            stage, judge.entry.name, str(judge.file.model_role), judge.model, judge.file.sampling, "showings", share
        )
        for prompt, response in responses:
            for principle in labels.principles_of(prompt.id):  # as many, whichever it is drawn for
                tally.items += 1
                showing = labels.alone(judge, prompt, response, principle)
                await self._put(tally, labels, judge, showing, judge.questions // 2)
        self._close(tally)

    def measured(self, held_out: list[Prompt]) -> list[Prompt]:
        """The prompts that policies are measured on."""
        section = self.road.pipeline.evaluation
        if not section:
            return []
        return self._of_source(section.prompts) if self.road.measured else held_out

    async def _evaluation(self, prompts: list[Prompt]) -> None:
        """Lines for the answers to held-out prompts, and for the win rate."""
        if self.road.pipeline.evaluation:
            self._answers(prompts)
            await self.contests("win rate of", self.road.judges, prompts)

    async def contests(self, what: str, source: LabelSource | None, prompts: list[Prompt], times: float = 1.0) -> None:
        """A line for what a source is asked of each policy's answers, so many times, all of them still to be given."""
        road, section = self.road, self.road.pipeline.evaluation
        if not source or not section:
            return
        left = passed_over(prompts, section.judged, road.evaluation_seed)
        sampler = Sampler(road.gateway, {}, 1, road.evaluation_sampling, road.evaluation_seed)
        contests = []
        for prompt in (prompt for place, prompt in enumerate(prompts) if place not in left):
            pair = [_stand_in(sampler, "policy", road.models["policy"], prompt, 0, number) for number in (0, 1)]
            contests.append(Comparison(prompt=prompt, responses=tuple(pair)))
        for name in road.methods:
            self._say_stands_in(road.evaluation_sampling)
            await self._label(f"{what} {name}", source, contests, times)

    # --- input --------------------------------------------------------------------------------------------------------

    def _hold_out(self, prompt: Prompt, held_out: Draw[Prompt]) -> None:
        if self.road.is_held_out(prompt.id):
            held_out.add(self.road.evaluation_order(prompt), prompt)
        else:
            self.reference.add(self.road.reference_order(prompt), prompt)
            self.learnt.add(self.road.reference_order(prompt), prompt)

    def _pairs(self, held_out: Draw[Prompt]) -> Draw[Comparison]:
        section = self.road.pipeline.pairs
        assert section
        comparisons: Draw[Comparison] = Draw(self.drawn)
        reader = ReadPairs()
        for pair in read_pairs(section.source, section.split, section.limit):
            for record in reader.of(pair):
                if isinstance(record, Comparison):
                    comparisons.add(uniform("plan", record.id), record)
                elif isinstance(record, Prompt):
                    self._hold_out(record, held_out)
        return comparisons

    def _prompts(self, held_out: Draw[Prompt]) -> Draw[Prompt]:
        section, responses = self.road.prompts, self.road.pipeline.responses
        assert section
        samples = responses.samples * len(responses.models) if responses else 1
        prompts: Draw[Prompt] = Draw(max(1, self.drawn // samples))
        reader = ReadPrompts(section)
        for where, row in prompt_rows(section):
            read = reader.read(where, row)
            if isinstance(read, Prompt):
                prompts.add(uniform("plan", read.id), read)
                self._hold_out(read, held_out)
        return prompts

    def _of_source(self, count: int) -> list[Prompt]:
        """Prompts of evaluation.source, those that the run trains on too: at most so many are measured on."""
        section = self.road.measured
        assert section
        drawn: Draw[Prompt] = Draw(count)
        reader = ReadPrompts(section, "evaluation.source")
        for where, row in prompt_rows(section):
            read = reader.read(where, row)
            if isinstance(read, Prompt):
                drawn.add(self.road.evaluation_order(read), read)
        return drawn.items

    # --- stages -------------------------------------------------------------------------------------------------------

    def _responses(self, prompts: Draw[Prompt]) -> list[Comparison]:
        """A line for each model that is to be sampled; returns the comparisons of the responses, there or to come."""
        road, section = self.road, self.road.pipeline.responses
        assert section
        models = {role: road.models[role] for role in section.models}
        sampler = Sampler(road.gateway, models, section.samples, section.sampling, road.pipeline.seed)
        tallies = {
            role: Tally("responses", "", role, model, section.sampling, "samples", prompts.share, common=True)
            for role, model in models.items()
        }
        compare = Compare(road.selector)
        found: list[Comparison] = []
        for prompt in prompts.items:
            responses = [
                response
                for number, (role, index) in enumerate(itertools.product(models, range(section.samples)))
                if (response := self._sample(tallies[role], sampler, prompt, index, number))
            ]
            found += [record for record in compare.of(prompt, responses) if isinstance(record, Comparison)]
        for tally in tallies.values():
            tally.items = len(prompts.items) * section.samples
            if tally.asked:
                self._say_stands_in(section.sampling)
            self._close(tally)
        return found

    def _reference(self) -> None:
        """A line for the samples that rewards are normalised on."""
        road = self.road
        sampling, wanted = road.reference_sampling, road.reward_options.normalise_on
        each = reference_each(wanted, len(self.reference.items))
        prompts = self.reference.items[: math.ceil(wanted / each)]
        sampler = Sampler(road.gateway, {}, each, sampling, road.reference_seed)
        tally = Tally("reference", "", "policy", road.models["policy"], sampling, "samples", 1.0, common=True)
        self._samples(tally, sampler, prompts)

    def _answers(self, prompts: list[Prompt]) -> None:
        """A line for each policy's answers to the prompts it is measured on."""
        road, sampling = self.road, self.road.evaluation_sampling
        start = Tally("answers of start", "", "policy", road.models["policy"], sampling, "samples", 1.0, common=True)
        sampler = partial(Sampler, road.gateway, {}, sampling=sampling, seed=road.evaluation_seed)
        self._samples(start, sampler(1), prompts)
        for name, method in road.methods.items():
            tally = Tally(f"answers of {name}", "", "policy", road.models["policy"], sampling, "samples", 1.0)
            tally.tuned = method.writes_weights
            tally.common = not tally.tuned
            tally.seen = set() if tally.tuned else start.seen
            self._samples(tally, sampler(getattr(method, "samples", 1)), prompts)

    def _samples(self, tally: Tally, sampler: Sampler, prompts: list[Prompt]) -> None:
        """The line of samples of prompts: as many of each as the sampler draws."""
        tally.items = len(prompts) * sampler.samples
        for prompt, index in itertools.product(prompts, range(sampler.samples)):
            request = sampler.request(prompt, index)
            reply, first = self.known.look(request, tally)
            if first and reply:
                tally.pay(reply)
            elif first:
                tally.ask(request)
        self._close(tally)

    def _sample(self, tally: Tally, sampler: Sampler, prompt: Prompt, index: int, number: int) -> Response | None:
        """A response out of the ledger, or what stands in for it; None where the model refused."""
        request = sampler.request(prompt, index)
        reply, first = self.known.look(request, tally)
        if reply is None:
            if first:
                tally.ask(request)
            return _stand_in(sampler, tally.role, tally.model, prompt, index, number)
        if first:
            tally.pay(reply)
        return (
            None
            if reply.finish_reason == "refused"
            else sampler.response(tally.role, tally.model, prompt, index, reply)
        )

    def _say_drawn(self, draw: Draw[Any], unit: str) -> None:
        if draw.share > 1:
            self.notes.append(
                f"{len(draw.items):,} of {draw.count:,} {unit} were rendered, by a keyed draw, and count for all: their "
                "bounds too, so that nothing here is quite at most."
            )

    def _say_stands_in(self, sampling: Sampling) -> None:
        self.notes.append(
            f"Responses that do not exist yet count with {sampling.max_output_tokens} tokens each (max_output_tokens); other "
            "lengths, and so other prompts to the judges, are likely."
        )

    async def _label(
        self, stage: str, source: LabelSource, comparisons: list[Comparison], share: float, *, common: bool = False
    ) -> None:
        """A line for each judge that asks a model about these comparisons, each standing for ``share``."""
        if isinstance(source, Blend):
            for n, part in enumerate(source.parts):
                own = [each for each in comparisons if source.part_of(each.prompt.id, each.id) == n]
                await self._label(stage, part, own, share, common=common)
            return
        if isinstance(source, Noisy):
            await self._label(stage, source.part, comparisons, share, common=common)
            return
        if not isinstance(source, JudgeLabels):
            if not isinstance(source, HumanLabels):
                self.notes.append(f"{stage}: a label source of your own; what it asks is not planned.")
            return
        for judge in source.judges:
            if judge.model is None:
                continue
            self._say_questions(judge)
            role, sampling = str(judge.file.model_role), judge.file.sampling
            tally = Tally(stage, judge.entry.name, role, judge.model, sampling, "showings", share, common=common)
            tally.items = len(comparisons) * source.showings(judge)
            for comparison in comparisons:
                for principle in source.chosen_principles(comparison):
                    for shown in source.orders(judge, comparison):
                        await self._show(tally, source, judge, comparison, principle, shown)
            self._close(tally)

    def _say_questions(self, judge: Judge) -> None:
        if code_hash(judge.protocol) and not hasattr(judge.protocol, "questions"):
            self.notes.append(
                f"{judge.entry.name}: its protocol does not say how many questions a showing takes (an attribute questions): "
                "1 is counted."
            )
        if hasattr(judge.protocol, "rehearse"):
            self.notes.append(f"{judge.entry.name}: what it asks while it rehearses its principles is not counted.")

    async def _show(
        self,
        tally: Tally,
        source: JudgeLabels,
        judge: Judge,
        comparison: Comparison,
        principle: Principle | None,
        shown: tuple[Response, ...],
    ) -> None:
        """A comparison shown once, as far as the ledger answers the judge's questions."""
        showing = source.showing(judge, comparison, principle, shown)
        least = 0 if source.may_be_spared(judge, comparison, shown) else 1
        await self._put(tally, source, judge, showing, judge.questions, least)

    async def _put(
        self, tally: Tally, source: JudgeLabels, judge: Judge, showing: Showing, questions: int, least: int = 1
    ) -> None:
        """What a judge asks about what it is shown, at most so many questions."""
        missing: list[ChatRequest] = []
        answered = 0

        async def ask(question: Question) -> Reply:
            nonlocal answered
            request = judge.request(question, source.context.seed, showing.fence)
            reply, first = self.known.look(request, tally)
            if reply is None:
                missing.extend([request] if first else [])
                raise CallFailed("not asked: this is a plan")
            answered += 1
            if first:
                tally.pay(reply)
            if reply.finish_reason == "refused":
                raise CallRefused("the provider declined to answer")
            return reply

        try:
            with users_code(judge.protocol, f"judging replies to {showing.prompt.excerpt}"):
                await judge.protocol.judge(showing, ask)
        except CallError:
            pass
        further = max(0, questions - answered - len(missing)) if missing else 0
        principle = showing.principle
        for request in missing:
            most = 1 + (further if request is missing[-1] else 0)
            tally.ask(request, least, most, principle.tag if principle else "")

    # --- lines --------------------------------------------------------------------------------------------------------

    def _close(self, tally: Tally) -> None:
        """The line of a tally."""
        model, share = tally.model, tally.share
        price = self.road.gateway.prices(model) if is_paid(model) else Price(0.0, 0.0)
        per_character, length = self._per_character(tally), self._length(tally)
        expected = [(asked.characters * per_character, share * asked.expected) for asked in tally.asked]
        bounds = tally.bounds()
        calls = share * sum(asked.most for asked in tally.asked)
        most_output = calls * (1 if tally.only_letters else tally.sampling.max_output_tokens)
        in_jobs = getattr(getattr(model, "options", None), "batch", None) is not None
        share_of_price = price.batch if price and in_jobs else 1.0
        seconds, limit = self._time(model, calls, sum((p + o) * n for p, o, n in bounds or ()))
        if in_jobs:
            seconds, limit = None, "in batches, most within a day"
        prefix, saved = tally.prefix(price, per_character)
        self._say_objections(tally)
        self.lines.append(
            Line(
                stage=tally.stage,
                judge=tally.judge,
                role=tally.role,
                model=f"{model.identity.name}, tuned" if tally.tuned else model.identity.name,
                items=round(share * tally.items),
                unit=tally.unit,
                paid=round(share * tally.paid),
                calls=round(calls),
                least_calls=round(share * sum(asked.least for asked in tally.asked)),
                prompt_tokens=round(sum(tokens * times for tokens, times in expected)),
                output_tokens=round(sum(times for _, times in expected) * length),
                most_prompt_tokens=None
                if bounds is None
                else round(sum(prompt * times for prompt, _, times in bounds)),
                most_output_tokens=round(most_output),
                usd=None
                if price is None
                else share_of_price * sum(price.rates(t).plain(t, length) * n for t, n in expected),
                most_usd=most_usd_of(price, bounds, in_jobs),
                batch=price.batch / share_of_price if price else 1.0,
                prefix_tokens=round(prefix),
                cached_from=price.cached_from if price else None,
                cached_usd=saved,
                seconds=seconds,
                limit=limit,
            )
        )

    def _per_character(self, tally: Tally) -> float:
        """Tokens of a character of its prompts."""
        count = token_counter(tally.model)
        how = "counted by its tokenizer" if count else f"estimated at {CHARACTERS} characters each"
        name = tally.model.identity.name
        self.notes.append(
            f"Prompt tokens of {name} are {how}; at most: one for every byte of UTF-8 and for the format."
        )
        if count is None or not tally.examples:
            return 1 / CHARACTERS
        characters = sum(characters_of(request) for request in tally.examples)
        return sum(map(count, tally.examples)) / max(1, characters)

    def _say_objections(self, tally: Tally) -> None:
        for objection, times in tally.objections.items():
            name = tally.model.identity.name
            count = round(times * tally.share)
            self.notes.append(f"{tally.stage}: {count:,} requests cannot be asked of {name}: {objection}.")
        if tally.objections and not tally.asked and not tally.paid:
            self.blocked.append(f"{tally.stage} by {tally.model.identity.name}")

    def _length(self, tally: Tally) -> float:
        """Tokens that a reply is expected to have."""
        if tally.only_letters:
            return 1.0
        if tally.paid >= KNOWN:
            mean = tally.paid_output_tokens / tally.paid
            self.notes.append(
                f"{tally.stage}: a reply has {mean:.0f} tokens, as the {tally.paid:,} in the ledger have on average."
            )
            return mean
        if tally.asked:
            self.guessed.setdefault(tally.sampling.max_output_tokens, []).append(tally.stage)
        return float(tally.sampling.max_output_tokens)

    def _time(self, model: Any, calls: float, tokens: float) -> tuple[float | None, str]:
        """Seconds at the model's limits, and which of them decides."""
        pace = getattr(model, "pace", None)
        if pace is None or not is_paid(model):
            return None, "in this process"
        self.notes.append(f"A call is taken to last {self.latency_seconds:g} s (--latency).")
        rounds = max(1.0, calls / pace.max_in_flight) if calls else 0.0
        times = {f"{pace.max_in_flight} in flight": rounds * self.latency_seconds}
        if pace.requests_per_minute:
            times[f"{pace.requests_per_minute:,.0f} requests a minute"] = 60 * calls / pace.requests_per_minute
        if pace.tokens_per_minute:
            times[f"{pace.tokens_per_minute:,.0f} tokens a minute"] = 60 * tokens / pace.tokens_per_minute
        limit = max(times, key=lambda name: times[name])
        return times[limit], limit


def _stand_in(sampler: Sampler, role: str, model: Any, prompt: Prompt, index: int, number: int) -> Response:
    """A response of full length in place of one that is still to be sampled; ``number`` tells those of a prompt apart."""
    text = FILLER * (sampler.sampling.max_output_tokens - 1) + f" {number:03d}"
    return sampler.response(role, model, prompt, index, Reply(text=text))
