"""Judges as a label source: every comparison, under its principles, in both orders."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from rlaif.catalogue import Entry
from rlaif.component import Options as BaseOptions
from rlaif.component import code_hash, construct, load, parse_model, parse_options, users_code
from rlaif.config import IN_JUDGE_FILE, Constitution, JudgeFile, Principle, load_constitution
from rlaif.errors import CallError, ConfigError
from rlaif.judging import PROTOCOLS, JudgeProtocol, ProtocolContext, Question, Showing, Verdict
from rlaif.labels import LabelContext, second_order
from rlaif.labels.drift import drift
from rlaif.labels.second_order import First, Offset, SecondOrder
from rlaif.models import BatchModel, ChatRequest, Reply, separates_turns
from rlaif.models.jobs import ANNOUNCING
from rlaif.prompting import fence_for
from rlaif.records import Comparison, Judgement, Outcome, Prompt, Response, Score, digest, uniform

Shown = tuple[Response, ...]  # in this order
SEARCHED = 256  # comparisons among which old replies are looked for


@dataclass(frozen=True)
class Judge:
    """A judge file made ready: its protocol, its model, its instructions."""

    entry: Entry
    file: JudgeFile
    protocol: JudgeProtocol
    model: Any | None
    rubric: str
    templates: tuple[str, ...]  # hashes of those its protocol uses

    @cached_property
    def labeller(self) -> str:
        return f"judge:{self.entry.tag}"

    @property
    def both_orders(self) -> bool:
        """Whether a comparison is shown in an order and its reverse."""
        return self.file.both_orders and not self.each_alone

    @property
    def each_alone(self) -> bool:
        """Whether its protocol sees the responses one by one, so that there is no order."""
        return getattr(self.protocol, "each_alone", False)

    @property
    def questions(self) -> int:
        """How many questions a showing takes at most."""
        return getattr(self.protocol, "questions", 1) if self.model else 0

    def request(self, question: Question, seed: int, fence: str) -> ChatRequest:
        """What its model is asked."""
        sampling = self.file.sampling
        return ChatRequest(
            messages=question.messages,
            prefill=question.prefill,
            options=question.options,
            sampling=sampling,
            seed=seed if sampling.temperature > 0 else None,
            sample_index=question.sample_index,
            json_schema=question.json_schema,
            fence=fence,
        )


def open_judge(name: str, context: LabelContext) -> Judge:
    """The judge called ``name`` with everything it refers to, checked. Raises ConfigError."""
    entry = context.catalogue.find("judge", name, where=context.where.naming(name))
    where = str(entry.path)
    file: JudgeFile = parse_model(JudgeFile, entry.yaml(), where)
    rubric = ""
    if file.rubric:
        rubric = context.catalogue.find("rubric", file.rubric, where=where, from_builtin=entry.builtin).text.strip()
    kind = load(file.protocol, PROTOCOLS, "protocol", where)
    options = parse_options(kind, file.options, f"{where}: options")
    offered = ProtocolContext(where, context.catalogue, entry.builtin, rubric, file.sampling)
    protocol = construct(kind, "(options, context)", options, offered)
    model = None
    if file.model_role is not None:
        if file.model_role not in context.models:
            raise ConfigError(
                f'{context.where}: judge "{name}" asks the model of role "{file.model_role}": '
                f"set models.{file.model_role} (--set models.{file.model_role}=FOLDER)."
            )
        model = context.models[file.model_role]
        for template_name, template in offered.by_turns.items():
            if not separates_turns(model, template.roles):
                raise ConfigError(
                    f'{where}: template "{template_name}" keeps what is judged apart by turns, and of '
                    f"models.{file.model_role} it is not known that control tokens stand between its turns "
                    f"({' '.join(template.roles)}): use a template with {{{{fence}}}}."
                )
    return Judge(entry, file, protocol, model, rubric, tuple(offered.templates))


def judge_sources(source: Any) -> list[JudgeLabels]:
    """Where judges label: the source itself, or what it is made of."""
    if isinstance(source, JudgeLabels):
        return [source]
    return [found for part in getattr(source, "parts", ()) for found in judge_sources(part)]


def judges_of(source: Any) -> list[Judge]:
    """The judges of a label source; none where others label."""
    return [judge for found in judge_sources(source) for judge in found.judges]


class JudgeLabels:
    """``principles``: *draw* one per comparison (Bai et al. 2022, §4.1), *average* all by weight, or *all* at once."""

    class Options(BaseOptions):
        judges: tuple[str, ...] = Field(min_length=1)
        principles: Literal["draw", "average", "all"] = "draw"
        second_order: SecondOrder | None = None  # None: always asked for, of a judge that is asked in both
        drift_probes: int = Field(default=8, ge=0)  # comparisons with old replies of a hosted model, asked again

        @classmethod
        def hint(cls, key: str) -> str:
            return IN_JUDGE_FILE

    def __init__(self, options: Options, context: LabelContext) -> None:
        self.options, self.context = options, context
        self.rehearsed = False
        self._fenced: tuple[Comparison, str] | None = None  # the last comparison with its fence
        self.judges = [open_judge(name, context) for name in options.judges]
        if len({judge.labeller for judge in self.judges}) < len(self.judges):
            raise ConfigError(f"{context.where}: labels.options.judges: the same judge is named twice.")
        self.constitution: Constitution | None = None
        self.principles: tuple[Principle, ...] = ()
        if context.constitution:
            asker = context.where.naming(context.constitution)
            self.constitution = load_constitution(context.catalogue, context.constitution, where=asker)
            self.principles = self.constitution.principles
        self.offsets: dict[str, Offset] = {}  # by labeller, of the judges asked for both orders
        if options.second_order:
            for judge in self.judges:
                if judge.both_orders:
                    model = judge.model.identity.sha256 if judge.model else ""
                    said = str(context.where.at("labels", "options", "second_order", "measured_in"))
                    run = options.second_order.measured_in
                    self.offsets[judge.labeller] = second_order.measured_offset(
                        run, judge.labeller, model, said, context.catalogue.used.values()
                    )
        if options.principles == "all" and self.principles:
            whole = "\n".join(f"- {principle.text}" for principle in self.principles)
            self.principles = (Principle(id="all", text=whole),)

    @property
    def inputs(self) -> dict[str, str]:
        """The files that protocols read, with their hashes."""
        return {name: sha for judge in self.judges for name, sha in getattr(judge.protocol, "inputs", {}).items()}

    def signature(self) -> Any:
        return {
            "source": "judges",
            "judges": [
                [
                    judge.labeller,
                    judge.entry.sha256,
                    digest(judge.rubric),
                    judge.templates,
                    getattr(judge.protocol, "source", ""),
                    code_hash(judge.protocol),
                    judge.model.identity.sha256 if judge.model else "",
                ]
                for judge in self.judges
            ],
            "principles": [[p.tag, p.weight] for p in self.principles],
            "mode": self.options.principles,
            "secret": digest(self.context.secret.hex(), length=16),
            "seed": self.context.seed,
            **self._sparing(),
        }

    def _sparing(self) -> dict[str, Any]:
        if not self.options.second_order:
            return {}
        offsets = sorted((name, offset.logit) for name, offset in self.offsets.items())
        return {"second_order": [self.options.second_order.margin, offsets]}

    def per_comparison(self) -> int | None:
        return sum(map(self.showings, self.judges))

    def requests_per_comparison(self) -> int:
        """How many questions the models are asked about a comparison, at most."""
        return sum(self.showings(judge) * judge.questions for judge in self.judges)

    def showings(self, judge: Judge) -> int:
        """How often a judge is shown one comparison."""
        orders = 2 * judge.file.shuffles if judge.both_orders and self.context.size > 2 else 1 + judge.both_orders
        return orders * (max(1, len(self.principles)) if self.options.principles == "average" else 1)

    @property
    def caveats(self) -> list[str]:
        """What the judges' files say must be said of their labels."""
        return [f"Judge {judge.entry.name}: {judge.file.caveat}" for judge in self.judges if judge.file.caveat]

    async def label(self, batches: AsyncIterator[list[Comparison]]) -> AsyncIterator[list[Judgement]]:
        async def rehearsed() -> AsyncIterator[list[Comparison]]:
            async for comparisons in batches:
                if comparisons and not self.rehearsed and not self.context.gateway.offline:
                    self.rehearsed = True
                    await self._rehearse()
                    await self._notice_drift(comparisons)
                yield comparisons

        async for judgements in self.context.gateway.in_order(self._models, rehearsed(), self.judge_all):
            yield judgements

    @property
    def _models(self) -> list[Any]:
        return [judge.model for judge in self.judges if judge.model]

    async def _all(self, showings: Iterator[tuple[Judge, Comparison, Principle | None, Shown]]) -> list[Judgement]:
        return await self.context.gateway.gather(self._models, (self.judge(*showing) for showing in showings))

    async def judge_alone(self, judge: Judge, asked: Iterable[tuple[Prompt, Response, str]]) -> list[Judgement]:
        """Of a judge that sees responses one by one: each one's judgements, one for every principle it is judged under, with
        the response's id in the place of a comparison's. A principle is drawn for the string beside a response: those that are
        to be held against each other have the same."""

        def one(prompt: Prompt, response: Response, principle: Principle | None) -> Coroutine[Any, Any, Judgement]:
            return self._put(judge, self.alone(judge, prompt, response, principle), principle, response.id)

        return await self.context.gateway.gather(
            self._models, (one(p, r, principle) for p, r, drawn in asked for principle in self.principles_of(drawn))
        )

    def alone(self, judge: Judge, prompt: Prompt, response: Response, principle: Principle | None) -> Showing:
        """A response as a judge sees it that sees responses one by one."""
        fence = fence_for(self.context.secret, response.id, [prompt.text, response.text])
        return Showing(prompt, (response,), principle, judge.rubric, fence)

    async def judge_all(self, comparisons: list[Comparison], drawn: Mapping[str, str] | None = None) -> list[Judgement]:
        """``drawn``: by comparison's id what a principle is drawn for, where that is not the comparison."""
        if self.options.second_order:
            return await self._judge_sparingly(comparisons, self.options.second_order.margin, drawn)
        return await self._all(
            (judge, comparison, principle, order)
            for comparison in comparisons
            for judge in self.judges
            for principle in self.chosen_principles(comparison, drawn)
            for order in self.orders(judge, comparison)
        )

    async def _judge_sparingly(
        self, comparisons: list[Comparison], margin: float, drawn: Mapping[str, str] | None
    ) -> list[Judgement]:
        """The first order of every comparison, the second where it is needed (see ``second_order``)."""
        asked = [(judge, c, p) for c in comparisons for judge in self.judges for p in self.chosen_principles(c, drawn)]
        audited = second_order.audited(comparisons)
        judgements = await self._all((judge, c, p, _first_order(c)) for judge, c, p in asked)
        firsts = [
            First(found, offset.corrected(found) if offset else found, c.id in audited)
            for found, (judge, c, _) in zip(judgements, asked, strict=True)
            for offset in (self.offsets.get(judge.labeller),)
        ]

        async def seconds_of(places: list[int]) -> dict[int, Judgement]:
            found = await self._all((judge, c, p, _first_order(c)[::-1]) for judge, c, p in (asked[i] for i in places))
            return dict(zip(places, found, strict=True))

        def both(i: int) -> bool:
            return asked[i][0].both_orders and firsts[i].judgement.outcome == "ranked"

        places = [i for i in range(len(asked)) if both(i)]
        seconds = await seconds_of([i for i in places if firsts[i].audited or not firsts[i].settles(margin)])
        looked = [i for i in seconds if firsts[i].audited]
        flips, known = second_order.changed([firsts[i] for i in looked], [seconds[i] for i in looked], margin)
        if flips > second_order.MOST_CHANGED * known:
            seconds |= await seconds_of([i for i in places if i not in seconds])
            if not ANNOUNCING.get():
                self.context.notice(
                    f"second order: of {known} audited labels that the first order settled, the second changed {flips}: it "
                    f"is asked for the whole batch of {len(comparisons)} comparisons."
                )
        return [
            judgement
            for i, (_, c, _) in enumerate(asked)
            for judgement in (
                second_order.in_shown_order(c, firsts[i].judgement, seconds[i]) if i in seconds else (firsts[i].alone,)
            )
        ]

    async def _rehearse(self) -> None:
        """Let a protocol that offers it try its principles, and pass on what it says of them."""
        for judge in self.judges:
            if self.principles and hasattr(judge.protocol, "rehearse"):
                with self.context.gateway.uncounted(), users_code(judge.protocol, "rehearsing its principles"):
                    for line in await judge.protocol.rehearse(self.principles, functools.partial(self.judge, judge)):
                        self.context.notice(line)

    async def _notice_drift(self, comparisons: Sequence[Comparison]) -> None:
        """Say so where a hosted model that answers the same question alike has come to answer it otherwise. Not of models
        asked in jobs: each would wait for a job of its own."""
        if ANNOUNCING.get() or not self.options.drift_probes:
            return
        for judge in self.judges:
            model = judge.model
            in_jobs = getattr(getattr(model, "options", None), "batch", None) is not None
            if model is None or isinstance(model, BatchModel) or in_jobs or judge.file.sampling.temperature > 0:
                continue
            asked = (
                (showing, functools.partial(judge.request, seed=self.context.seed, fence=showing.fence))
                for comparison in comparisons[:SEARCHED]
                for principle in self.chosen_principles(comparison)[:1]
                for showing in (self.showing(judge, comparison, principle, next(self.orders(judge, comparison))),)
            )
            about = {"asker": {"judge": judge.labeller, "purpose": "drift"}}
            with self.context.gateway.uncounted(), users_code(judge.protocol, "asking old questions again"):
                found = await drift(
                    judge.protocol, model, self.context.gateway, asked, about, self.options.drift_probes
                )
            if found and (line := found.line()):
                self.context.notice(line)

    def chosen_principles(
        self, comparison: Comparison, drawn: Mapping[str, str] | None = None
    ) -> tuple[Principle | None, ...]:
        return self.principles_of((drawn or {}).get(comparison.id, comparison.id))

    def principles_of(self, item: str) -> tuple[Principle | None, ...]:
        """The principles that what has this id is judged under."""
        if not self.principles:
            return (None,)
        if self.options.principles == "draw":
            return (draw_principle(self.principles, item, self.context.seed),)
        return self.principles

    def orders(self, judge: Judge, comparison: Comparison) -> Iterator[Shown]:
        """Both orders; where the judge wants one, which is drawn by the comparison's content. Where it sees the responses
        one by one, the comparison's own.

        Of more than two responses the orders are the comparison's own and, with ``shuffles``, others drawn by its content,
        each with its reverse: so each response stands as often before any other as after it.
        """
        if judge.each_alone:
            yield comparison.responses
        elif not judge.both_orders:
            yield _first_order(comparison)
        else:
            for order in _shuffled(comparison, judge.file.shuffles):
                yield from (order, tuple(reversed(order)))

    def may_be_spared(self, judge: Judge, comparison: Comparison, shown: Shown) -> bool:
        """Whether this order is asked for only where the other leaves doubt."""
        return self.options.second_order is not None and judge.both_orders and shown != _first_order(comparison)

    def showing(self, judge: Judge, comparison: Comparison, principle: Principle | None, shown: Shown) -> Showing:
        """A comparison as a judge sees it once, with its fence."""
        return Showing(comparison.prompt, shown, principle, judge.rubric, self.fence(comparison))

    def fence(self, comparison: Comparison) -> str:
        """The fence of a comparison, which all of its showings share."""
        if self._fenced is None or self._fenced[0] is not comparison:
            texts = [comparison.prompt.text, *(response.text for response in comparison.responses)]
            self._fenced = comparison, fence_for(self.context.secret, comparison.id, texts)
        return self._fenced[1]

    async def judge(self, judge: Judge, comparison: Comparison, principle: Principle | None, shown: Shown) -> Judgement:
        """One showing put to one judge. Whatever goes wrong with the call becomes the judgement's outcome."""
        return await self._put(judge, self.showing(judge, comparison, principle, shown), principle, comparison.id)

    async def _put(self, judge: Judge, showing: Showing, principle: Principle | None, of: str) -> Judgement:
        """A judge's judgement on what it is shown, stored as ``of`` a comparison or, seen alone, of a response."""
        keys: list[str] = []
        shown = showing.responses
        ids = tuple(response.id for response in shown)
        order = sorted(ids)
        about = {
            "asker": {"judge": judge.labeller, "principle": principle.tag if principle else None},
            "comparison": of,
            "shown": [order.index(each) for each in ids],  # not by the file's order, which another file may not share
        }

        async def ask(question: Question) -> Reply:
            if judge.model is None:
                raise ConfigError(f'{judge.entry.path}: protocol "{judge.file.protocol}" asks a model: set model_role.')
            request = judge.request(question, self.context.seed, showing.fence)
            place = len(keys)  # in the order asked: replies of questions asked together may come in any
            keys.append("")
            asked = {**about, "question": place} if place else about
            try:
                keys[place], reply = await self.context.gateway.ask(judge.model, request, asked)
            except CallError as error:
                keys[place] = error.key or ""
                raise
            return reply

        outcome: Outcome = "ranked"
        retryable = False
        try:
            with users_code(judge.protocol, lambda: f"judging replies to {showing.prompt.excerpt}"):
                verdict = await judge.protocol.judge(showing, ask)
                groups = verdict.groups(len(shown)) if verdict.readable else ()
        except CallError as error:
            outcome = error.outcome
            verdict = Verdict(reason=str(error))
            retryable, groups = error.retryable, ()
        if outcome == "ranked" and not groups:
            outcome = "unreadable"
        ranked = outcome == "ranked"
        return Judgement(
            comparison_id=of,
            labeller=judge.labeller,
            principle_id=principle.tag if principle else None,
            weight=principle.weight if principle and self.options.principles == "average" else 1.0,
            shown=None if judge.each_alone else ids,
            outcome=outcome,
            ranking=tuple(tuple(ids[place] for place in group) for group in groups),
            **_measured(verdict, groups),
            option_mass=verdict.option_mass,
            reason=None if ranked else verdict.reason or "no verdict",
            retryable=retryable,
            reply_keys=tuple(key for key in keys if key),
        )


def _first_order(comparison: Comparison) -> Shown:
    """The order that is shown first, or alone: drawn by the comparison's content."""
    return comparison.responses if uniform("order", comparison.id) < 0.5 else tuple(reversed(comparison.responses))


def draw_principle(principles: tuple[Principle, ...], comparison_id: str, seed: int) -> Principle:
    """Weighted rendezvous hashing: each principle drawn in proportion to its weight, and adding, dropping or
    re-weighting one moves only the comparisons it wins or loses. Editing a principle's text moves none."""
    return max(principles, key=lambda p: -p.weight / math.log(uniform("principle", seed, comparison_id, p.id)))


def _shuffled(comparison: Comparison, number: int) -> Iterator[tuple[Response, ...]]:
    """The comparison's own order and, of more than two responses, others drawn by its content: ``number`` in all. None
    is another's reverse; where there are fewer, all."""
    responses = comparison.responses
    seen = {tuple(response.id for response in order) for order in (responses, responses[::-1])}
    yield responses
    wanted = min(number, math.factorial(len(responses)) // 2)
    for draw in itertools.count():
        if len(seen) >= 2 * wanted:
            return
        order = tuple(sorted(responses, key=lambda r: uniform("shuffle", draw, comparison.id, r.id)))
        ids = tuple(response.id for response in order)
        if ids not in seen:
            seen |= {ids, ids[::-1]}
            yield order


def _measured(verdict: Verdict, groups: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The numbers of a verdict in the order of its ranking: p where it was measured, and scores."""
    order = [place for group in groups for place in group]
    found: dict[str, Any] = {}
    if groups and verdict.p is not None and verdict.probabilistic:
        found |= {"p": tuple(verdict.p[place] for place in order), "p_tie": verdict.p_tie}
    if groups and verdict.scores:
        found["scores"] = tuple(
            Score(name=score.name, values=tuple(score.values[place] for place in order)) for score in verdict.scores
        )
    return found
