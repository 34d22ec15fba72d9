"""What a recipe would ask of its models, and what that takes and costs. Nothing is asked.

The requests of the stages are made as the run makes them, from the same templates, and looked up in the ledger: those
that are there are paid for. Of many prompts or comparisons a keyed draw is rendered and counted for all. Where responses
are still to be sampled, each stands in with ``max_output_tokens`` tokens of text.

Tokens are counted by the model's tokenizer where one is named, else estimated by characters; at most they are the bound
that budgets reserve. What is expected of a reply's length is the mean of those paid for, else its limit.
"""

from __future__ import annotations

import heapq
import itertools
import math
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from rlaif.catalogue import Catalogue
from rlaif.checking import build, limited
from rlaif.component import Place, code_hash, users_code
from rlaif.config import Principle, Sampling, load_pipeline
from rlaif.errors import CallError, CallFailed, CallRefused, ConfigError
from rlaif.evaluate import passed_over
from rlaif.judging import Question, Showing
from rlaif.labels import LabelSource
from rlaif.labels.human import HumanLabels
from rlaif.labels.judges import Judge, JudgeLabels
from rlaif.ledger import Ledger
from rlaif.models import ChatRequest, Notice, Reply, request_key
from rlaif.models.prices import is_paid
from rlaif.models.spending import MILLION, Price
from rlaif.offline import keyless
from rlaif.pairs import read_pairs
from rlaif.pipeline import Road, Watcher
from rlaif.prompts import ReadPrompts, prompt_rows
from rlaif.records import Comparison, Message, Prompt, Response, uniform
from rlaif.rewards import Rewards
from rlaif.rewards.judged import JudgedReward
from rlaif.sampling import Compare, ReadPairs, Sampler, reference_each
from rlaif.statistics import Figure

T = TypeVar("T")
DRAWN = 4000  # comparisons, or samples, whose requests are rendered
COUNTED = 200  # requests that a tokenizer counts
CHARACTERS = 4  # of a token, as English has it
KNOWN = 10  # paid replies from which their mean length is what is expected
FILLER = " the"  # a token of four characters


@dataclass(frozen=True)
class Line:
    """What one stage asks of one model. Calls, tokens and money are those that are not paid for yet."""

    stage: str
    judge: str  # "" where none asks
    role: str
    model: str
    items: int
    unit: str
    paid: int  # calls that the ledger answers
    calls: int  # at most
    least_calls: int
    prompt_tokens: int  # expected
    output_tokens: int
    most_prompt_tokens: int | None  # at most; None: nothing bounds them
    most_output_tokens: int
    usd: float | None  # expected; None: no price is known
    most_usd: float | None
    batch: float  # what a batch costs, as a share of that; 1 where it is asked in batches, and that is in it
    prefix_tokens: int  # that all requests under one principle begin with
    cached_from: int | None  # tokens of a prefix from which the provider caches it
    cached_usd: float  # that caching could save of what is expected
    seconds: float | None  # at most, at the given limits; None: in this process, or in batches
    limit: str  # which limit decides that

    @property
    def title(self) -> str:
        return f"{self.stage} ({self.judge or self.role})"

    @property
    def batch_usd(self) -> float | None:
        """What is expected where all is asked in batches."""
        return None if self.usd is None else self.usd * self.batch

    @property
    def most_batch_usd(self) -> float | None:
        return None if self.most_usd is None else self.most_usd * self.batch


@dataclass(frozen=True)
class Plan:
    """The lines of a recipe, and what a person should know of how they came about."""

    lines: tuple[Line, ...]
    budget_usd: float | None
    notes: tuple[str, ...]
    blocked: tuple[str, ...] = ()  # "stage by a model" of which not one request can be asked

    @property
    def usd(self) -> float | None:
        """What is expected in all; None where a price is not known."""
        return _sum(line.usd for line in self.lines)

    @property
    def most_usd(self) -> float | None:
        return _sum(line.most_usd for line in self.lines)

    @property
    def seconds(self) -> float:
        return sum(line.seconds or 0.0 for line in self.lines)

    @property
    def timed(self) -> bool:
        """Whether any of it takes a time that is known."""
        return any(line.seconds is not None for line in self.lines)

    @property
    def enough(self) -> bool | None:
        """Whether the budget suffices even at most; None without a budget or a price."""
        return None if self.budget_usd is None or self.most_usd is None else self.most_usd <= self.budget_usd

    def figures(self) -> dict[str, Figure]:
        """Every number under a dotted name; ``low`` to ``high`` is from the least to the most, not an interval."""
        found: dict[str, Figure] = {}
        for line in self.lines:
            name = f"plan.{line.stage}.{line.judge or line.role}".replace(" ", "_")
            n = line.items
            found[f"{name}.calls"] = Figure(value=line.calls, low=line.least_calls, high=line.calls, n=n)
            found[f"{name}.paid"] = Figure(value=line.paid, n=n)
            found[f"{name}.prompt_tokens"] = Figure(value=line.prompt_tokens, high=line.most_prompt_tokens, n=n)
            found[f"{name}.output_tokens"] = Figure(value=line.output_tokens, high=line.most_output_tokens, n=n)
            found[f"{name}.usd"] = Figure(value=line.usd, high=line.most_usd, n=n)
            found[f"{name}.seconds"] = Figure(value=line.seconds, n=n)
        n = sum(line.calls for line in self.lines)
        found["plan.usd"] = Figure(value=self.usd, high=self.most_usd, n=n)
        found["plan.seconds"] = Figure(value=self.seconds, n=n)
        return found


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)


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
    async with _opened(name, settings, limit, folder or Path(), notices.append) as road:
        found = await plan(road, latency_seconds=latency_seconds)
    return replace(found, notes=(*notices, *found.notes))


@asynccontextmanager
async def _opened(
    name: str, settings: Sequence[str], limit: int | None, folder: Path, notice: Notice
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
    planner = _Planner(road, latency_seconds, drawn)
    await planner.evaluation(await planner.stages())
    notes = tuple(dict.fromkeys(planner.notes))
    return Plan(tuple(planner.lines), road.pipeline.budget_usd, notes, tuple(dict.fromkeys(planner.blocked)))


# --- what is rendered -------------------------------------------------------------------------------------------------


class Draw(Generic[T]):
    """The ``size`` items with the lowest draws, and how many there were."""

    def __init__(self, size: int) -> None:
        self.size, self.count = size, 0
        self._heap: list[tuple[float, int, T]] = []  # the highest draw first

    def add(self, draw: float, item: T) -> None:
        self.count += 1
        entry = (-draw, self.count, item)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        elif entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    @property
    def items(self) -> list[T]:
        """By their draws, the lowest first."""
        return [item for _, _, item in sorted(self._heap, key=lambda entry: -entry[0])]

    @property
    def share(self) -> float:
        """How many items each of those drawn stands for."""
        return self.count / max(1, len(self._heap))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that is not paid for, and how many calls like it there will be."""

    characters: int
    bound: tuple[int, int] | None  # tokens of the prompt and of the reply, at most
    least: int
    most: int

    @property
    def expected(self) -> float:
        """Calls like it: the middle, where nobody knows."""
        return (self.least + self.most) / 2


@dataclass
class _Tally:
    """What one stage asks of one model, as far as it is rendered: it stands for ``share`` times as much."""

    stage: str
    judge: str
    role: str
    model: Any
    sampling: Sampling
    unit: str
    share: float
    items: int = 0
    asked: list[_Asked] = field(default_factory=list)
    examples: list[ChatRequest] = field(default_factory=list)
    prefixes: dict[str, tuple[tuple[Message, ...], int]] = field(default_factory=dict)  # by principle, with their calls
    paid: int = 0
    paid_output_tokens: int = 0
    objections: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)  # keys of requests
    tuned: bool = False  # by a model that this run is to train: the ledger cannot know its replies

    def pay(self, reply: Reply) -> None:
        self.paid += 1
        self.paid_output_tokens += reply.output_tokens

    def ask(self, request: ChatRequest, least: int = 1, most: int = 1, principle: str = "") -> None:
        """Count a request that would have to be made, and others like it: together so many calls."""
        model = self.model
        objection = model.objection(request) if is_paid(model) and hasattr(model, "objection") else None
        if objection:
            self.objections[objection] += 1
            return
        bound = model.upper_bound(request) if hasattr(model, "upper_bound") else None
        self.asked.append(_Asked(_characters(request), bound, least, most))
        if len(self.examples) < COUNTED:
            self.examples.append(request)
        before, calls = self.prefixes.get(principle, (request.messages[:-1], 0))
        same = next((i for i, (a, b) in enumerate(zip(before, request.messages, strict=False)) if a != b), len(before))
        self.prefixes[principle] = before[:same], calls + most

    @property
    def only_letters(self) -> bool:
        """Whether only log-probabilities are asked for: one token is written."""
        return bool(self.examples) and all(request.options for request in self.examples)

    def bounds(self) -> list[tuple[int, int, float]] | None:
        """(tokens of the prompt, of the reply, how often) of every request, at most; None where nothing bounds them."""
        found = [(*asked.bound, self.share * asked.most) for asked in self.asked if asked.bound]
        return found if len(found) == len(self.asked) else None

    def prefix(self, price: Price | None, per_character: float) -> tuple[float, float]:
        """(tokens of the shortest beginning that all requests under a principle share, US dollars that caching these
        beginnings saves): whole messages, and what the model's options let a provider cache."""
        sizes = [
            (sum(len(message.content) for message in messages) * per_character, calls * self.share)
            for messages, calls in self.prefixes.values()
        ]
        shortest = min((tokens for tokens, _ in sizes), default=0.0)
        marked = getattr(getattr(self.model, "options", None), "cache", True)
        if price is None or price.cached_input is None or price.cached_from is None or not marked:
            return shortest, 0.0
        saved = price.input - price.cached_input
        written = (price.input if price.cache_write is None else price.cache_write) - price.input
        cached = [(tokens, calls) for tokens, calls in sizes if tokens >= price.cached_from]
        usd = sum(tokens * ((calls - 1) * saved - written) for tokens, calls in cached) / MILLION
        return shortest, max(0.0, usd)


@dataclass
class _Planner:
    road: Road
    latency_seconds: float
    drawn: int
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.known = _Known(self.road.gateway.ledger)
        options = self.road.reward_options
        self.reference: Draw[Prompt] = Draw(options.normalise_on if options else 1)  # of the training prompts
        self.learnt: Draw[Prompt] = Draw(max(1, self.drawn // 16))  # likewise, of those that a policy is tuned on

    async def stages(self) -> list[Prompt]:
        """Lines for the stages up to the labels; returns the prompts to measure on."""
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
            await self._label("judgements", self.road.labels, comparisons, share)
        if self.road.samples_reference:
            self._reference()
        for name, rewards in self.road.rewards.items():
            await self._rewards(name, rewards)
        return held_out.items

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
            tally = _Tally(f"samples of {name}", "", options.sampler, server, options.sampling, "samples", share)
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
                f"{name}: the probes of its reward, 7 replies to each of {options.probes} prompts, are not counted."
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
        tally = _Tally(
            stage, judge.entry.name, str(judge.file.model_role), judge.model, judge.file.sampling, "showings", share
        )
        for prompt, response in responses:
            for principle in labels.principles_of(response.id):
                tally.items += 1
                showing = labels.alone(judge, prompt, response, principle)
                await self._put(tally, labels, judge, showing, judge.questions // 2)
        self._close(tally)

    async def evaluation(self, held_out: list[Prompt]) -> None:
        """Lines for the answers to held-out prompts, and for the win rate: what the judges are asked of each policy's
        answers, all of them still to be given."""
        road, section = self.road, self.road.pipeline.evaluation
        if not section:
            return
        prompts = self._measured(section.prompts) if road.measured else held_out
        self._answers(prompts)
        if not road.judges:
            return
        left = passed_over(prompts, section.judged, road.evaluation_seed)
        sampler = Sampler(road.gateway, {}, 1, road.evaluation_sampling, road.evaluation_seed)
        contests = []
        for prompt in (prompt for place, prompt in enumerate(prompts) if place not in left):
            pair = [_stand_in(sampler, "policy", road.models["policy"], prompt, 0, number) for number in (0, 1)]
            contests.append(Comparison(prompt=prompt, responses=tuple(pair)))
        for name in road.methods:
            self._say_stands_in(road.evaluation_sampling)
            await self._label(f"win rate of {name}", road.judges, contests, 1.0)

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

    def _measured(self, count: int) -> list[Prompt]:
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
            role: _Tally("responses", "", role, model, section.sampling, "samples", prompts.share)
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
        tally = _Tally("reference", "", "policy", road.models["policy"], sampling, "samples", 1.0)
        self._samples(tally, sampler, prompts)

    def _answers(self, prompts: list[Prompt]) -> None:
        """A line for each policy's answers to the prompts it is measured on."""
        road, sampling = self.road, self.road.evaluation_sampling
        start = _Tally("answers of start", "", "policy", road.models["policy"], sampling, "samples", 1.0)
        sampler = partial(Sampler, road.gateway, {}, sampling=sampling, seed=road.evaluation_seed)
        self._samples(start, sampler(1), prompts)
        for name, method in road.methods.items():
            tally = _Tally(f"answers of {name}", "", "policy", road.models["policy"], sampling, "samples", 1.0)
            tally.tuned = method.writes_weights
            tally.seen = set() if tally.tuned else start.seen
            self._samples(tally, sampler(getattr(method, "samples", 1)), prompts)

    def _samples(self, tally: _Tally, sampler: Sampler, prompts: list[Prompt]) -> None:
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

    def _sample(self, tally: _Tally, sampler: Sampler, prompt: Prompt, index: int, number: int) -> Response | None:
        """A response out of the ledger, or what stands in for it; None where the model refused."""
        request = sampler.request(prompt, index)
        reply, first = self.known.look(request, tally)
        if reply is None:
            if first:
                tally.ask(request)
            return _stand_in(sampler, tally.role, tally.model, prompt, index, number)
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

    async def _label(self, stage: str, source: LabelSource, comparisons: list[Comparison], share: float) -> None:
        """A line for each judge that asks a model about these comparisons, each standing for ``share``."""
        if not isinstance(source, JudgeLabels):
            if not isinstance(source, HumanLabels):
                self.notes.append(f"{stage}: a label source of your own; what it asks is not planned.")
            return
        for judge in source.judges:
            if judge.model is None:
                continue
            self._say_questions(judge)
            role, sampling = str(judge.file.model_role), judge.file.sampling
            tally = _Tally(stage, judge.entry.name, role, judge.model, sampling, "showings", share)
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
        tally: _Tally,
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
        self, tally: _Tally, source: JudgeLabels, judge: Judge, showing: Showing, questions: int, least: int = 1
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

    def _close(self, tally: _Tally) -> None:
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
                most_usd=_most(price, bounds, in_jobs),
                batch=price.batch / share_of_price if price else 1.0,
                prefix_tokens=round(prefix),
                cached_from=price.cached_from if price else None,
                cached_usd=saved,
                seconds=seconds,
                limit=limit,
            )
        )

    def _per_character(self, tally: _Tally) -> float:
        """Tokens of a character of its prompts."""
        count = _counter(tally.model)
        how = "counted by its tokenizer" if count else f"estimated at {CHARACTERS} characters each"
        name = tally.model.identity.name
        self.notes.append(
            f"Prompt tokens of {name} are {how}; at most: one for every byte of UTF-8 and for the format."
        )
        if count is None or not tally.examples:
            return 1 / CHARACTERS
        characters = sum(_characters(request) for request in tally.examples)
        return sum(map(count, tally.examples)) / max(1, characters)

    def _say_objections(self, tally: _Tally) -> None:
        for objection, times in tally.objections.items():
            name = tally.model.identity.name
            count = round(times * tally.share)
            self.notes.append(f"{tally.stage}: {count:,} requests cannot be asked of {name}: {objection}.")
        if tally.objections and not tally.asked and not tally.paid:
            self.blocked.append(f"{tally.stage} by {tally.model.identity.name}")

    def _length(self, tally: _Tally) -> float:
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
            self.notes.append(
                f"{tally.stage}: a reply is taken to have {tally.sampling.max_output_tokens} tokens (max_output_tokens): run "
                "with a small --limit first, and plans know how long they are."
            )
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


class _Known:
    """Replies that the ledger holds."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.any = ledger, len(ledger) > 0

    def look(self, request: ChatRequest, tally: _Tally) -> tuple[Reply | None, bool]:
        """The reply, if it is there, and whether the stage asks this for the first time: equal requests are one call."""
        key = request_key(request, tally.model.identity)
        first = key not in tally.seen
        tally.seen.add(key)
        entry = self.ledger.get([key]).get(key) if self.any and not tally.tuned else None
        return (entry.reply if entry else None), first


def _stand_in(sampler: Sampler, role: str, model: Any, prompt: Prompt, index: int, number: int) -> Response:
    """A response of full length in place of one that is still to be sampled; ``number`` tells those of a prompt apart."""
    text = FILLER * (sampler.sampling.max_output_tokens - 1) + f" {number:03d}"
    return sampler.response(role, model, prompt, index, Reply(text=text))


def _counter(model: Any) -> Callable[[ChatRequest], int] | None:
    """Counts the tokens of a request by the tokenizer that the model's options name."""
    folder = getattr(getattr(model, "options", None), "tokenizer", None)
    if not folder:
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{model.where}: options.tokenizer: no tokenizer is found at {folder}. Name a folder that holds one "
            "(tokenizer.json), or leave it out."
        ) from error

    def count(request: ChatRequest) -> int:
        turns = [{"role": message.role, "content": message.content} for message in request.messages]
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        else:
            text = "\n".join(turn["content"] for turn in turns)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    return count


def _most(price: Price | None, bounds: Sequence[tuple[int, int, float]] | None, batch: bool) -> float | None:
    """The most that requests of at most so many tokens, each so often, cost."""
    if price is None or (bounds is None and price.dearest(1, 1)):
        return None
    return sum(price.most(prompt, output, batch) * times for prompt, output, times in bounds or ())


def _characters(request: ChatRequest) -> int:
    return sum(len(message.content) for message in request.messages) + len(request.prefill) + len(request.json_schema)


# --- for a person -----------------------------------------------------------------------------------------------------


def told(plan: Plan) -> Iterator[str]:
    """The plan in lines for a person; the table comes last."""
    for line in plan.lines:
        calls = _range(line.least_calls, line.calls)
        paid = f", {line.paid:,} more are already in the ledger" if line.paid else ""
        limit = "" if not line.calls else f"; time by {line.limit}" if line.seconds is not None else f"; {line.limit}"
        yield f"{line.title}: {line.items:,} {line.unit}, {calls} calls of models.{line.role}, {line.model}{paid}{limit}"
    if not plan.lines:
        yield "No model is asked anything."
        return
    yield from plan.notes
    for line in plan.lines:
        yield from _caching(line)
    yield ""
    columns = ("calls", "prompt tokens", "output tokens", "USD", "at most", "batches", "at most", "time")
    widths = (15, 15, 15, 11, 11, 11, 11, 10)
    first = 2 + max(len(line.title) for line in plan.lines)
    yield " " * first + "".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))
    for line in plan.lines:
        cells = (
            _range(line.least_calls, line.calls),
            f"{line.prompt_tokens:,}",
            f"{line.output_tokens:,}",
            _money(line.usd),
            _money(line.most_usd),
            _money(line.batch_usd) if line.batch < 1 else "-",
            _money(line.most_batch_usd) if line.batch < 1 else "-",
            _time(line.seconds),
        )
        yield f"{line.title:<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    cheaper = any(line.batch < 1 for line in plan.lines)
    totals = (
        f"{sum(line.calls for line in plan.lines):,}",
        f"{sum(line.prompt_tokens for line in plan.lines):,}",
        f"{sum(line.output_tokens for line in plan.lines):,}",
        _money(plan.usd),
        _money(plan.most_usd),
        _money(_sum(line.batch_usd for line in plan.lines)) if cheaper else "-",
        _money(_sum(line.most_batch_usd for line in plan.lines)) if cheaper else "-",
        _time(plan.seconds if plan.timed else None),
    )
    yield f"{'in all':<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(totals, widths, strict=True))
    yield _budget(plan)


def _range(least: int, most: int) -> str:
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _money(usd: float | None) -> str:
    return "?" if usd is None else f"{usd:,.4f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _caching(line: Line) -> Iterator[str]:
    """What caching of the prefix could save, where the provider says from where on it caches."""
    if line.cached_usd:
        yield (
            f"{line.title}: {line.prefix_tokens:,} tokens at the beginning are the same under a principle; cached, they could "
            f"save {line.cached_usd:,.4f} USD of what is expected. Nothing below counts on it."
        )
    elif line.cached_from and line.calls and line.prefix_tokens < line.cached_from:
        yield (
            f"{line.title}: {line.prefix_tokens:,} tokens at the beginning are the same under a principle: fewer than the "
            f"{line.cached_from:,} from which they would be cached."
        )


def _budget(plan: Plan) -> str:
    if plan.blocked:
        return f"It cannot be walked as it stands: nothing can be asked for {', '.join(plan.blocked)}; see above."
    if plan.usd is None:
        unknown = ", ".join(dict.fromkeys(f"models.{line.role}" for line in plan.lines if line.usd is None))
        return f"No price is known of {unknown}: write options.price, or an entry in prices.yaml (`rlaif prices`)."
    if plan.budget_usd is None:
        return "No budget_usd is set."
    if plan.enough:
        return f"budget_usd {plan.budget_usd:g}: enough, even at most, where no attempt is lost."
    if plan.usd <= plan.budget_usd:
        return f"budget_usd {plan.budget_usd:g}: enough for what is expected, not at most."
    return f"budget_usd {plan.budget_usd:g}: not enough for what is expected; what does not fit is not asked."
