"""Prompts are not kept: a request is rendered again from a run's files, and its key says whether it is the one that was
sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rlaif.checking import recipe_of_folder
from rlaif.component import Place
from rlaif.config import Pipeline
from rlaif.errors import CallFailed, CallRefused
from rlaif.labels import LabelSource
from rlaif.labels.judges import judge_sources
from rlaif.ledger import Entry
from rlaif.ledger_tools import Reader, run_folder
from rlaif.models import ChatRequest, Model, Reply, open_model, request_key
from rlaif.models.calls import NOT_KEPT
from rlaif.models.gateway import Gateway
from rlaif.offline import AsKept, keyless, open_offline
from rlaif.records import Comparison, Judgement, Prompt, Record
from rlaif.sampling import draw_seed
from rlaif.store import NOUNS, RunFolder, from_row

CHANGED = (
    "rendered again as {} asks today it has another key: the run's judges or principles, the model's options or the code have "
    "changed since, and what was sent cannot be shown."
)


class Asked(Gateway):
    """Answers from a ledger that is only read, and remembers the request it was opened for."""

    def __init__(self, reader: Reader, key: str = "") -> None:
        super().__init__(reader, offline=True)  # type: ignore[arg-type]  # only ``get`` and ``path`` are used
        self.key = key
        self.request: ChatRequest | None = None

    async def ask(self, model: Model, request: ChatRequest, context: dict[str, Any]) -> tuple[str, Reply]:
        key = request_key(request, model.identity)
        if key == self.key:
            self.request = request
        entry = self.ledger.get([key]).get(key)
        if entry is None:
            raise CallFailed(NOT_KEPT, retryable=True)
        if entry.reply.finish_reason == "refused":
            raise CallRefused("the provider declined to answer", key=key)
        return key, entry.reply


class Labels:
    """A run folder's labels as its own copies of files make them, and the replies that a ledger holds for them."""

    def __init__(self, folder: Path, reader: Reader, key: str = "") -> None:
        self.run: RunFolder = run_folder(folder)
        self.pipeline, entry = recipe_of_folder("ledger", folder, {}, ())
        self.where = Place(str(entry.path))
        self.gateway = Asked(reader, key)
        self.source: LabelSource = open_offline(
            folder, self.pipeline, entry, catalogue=AsKept(), gateway=self.gateway
        ).labels

    async def again(self) -> AsyncIterator[list[Judgement]]:
        """The judgements of all comparisons, read again."""
        each = self.source.per_comparison() or 1
        size = max(1, self.pipeline.shard_rows // each)  # as in the run: what is asked may depend on the batch
        async for batch in self.source.label(self.run.batches("comparisons", size)):
            yield batch


async def request_of(entry: Entry, folder: Path, reader: Reader) -> ChatRequest | str:
    """The request behind a reply; or why it cannot be shown. Raises UserError where the run folder cannot be opened."""
    context = json.loads(entry.context)
    if "sample" in context:
        return _sample(entry, context, folder)
    asker = context.get("asker", {})
    if "comparison" not in context or "judge" not in asker:
        return "its context does not say what was asked about."
    labels = Labels(folder, reader, entry.key)
    comparison = find(labels.run, Comparison, context["comparison"])
    if comparison is None:
        return f"{folder} has no comparison {context['comparison']} (a win rate's, or another run's)."
    sources = judge_sources(labels.source)
    if not sources:
        return f"{folder} is labelled by {type(labels.source).__name__}, which asks in its own way."
    order = sorted(comparison.responses, key=lambda response: response.id)
    shown = tuple(order[place] for place in context["shown"])
    judges = [(source, judge) for source in sources for judge in source.judges]
    for source, judge in sorted(judges, key=lambda each: each[1].labeller != asker["judge"]):
        for principle in (each for each in (None, *source.principles) if (each and each.tag) == asker.get("principle")):
            await source.judge(judge, comparison, principle, shown)
            if labels.gateway.request:  # another judge may be an edit of the one that asked, and ask the same
                return labels.gateway.request
    return CHANGED.format(asker["judge"])


def _sample(entry: Entry, context: dict[str, Any], folder: Path) -> ChatRequest | str:
    """The request behind a response of the run, or behind a sample that something was measured on."""
    run = run_folder(folder)
    pipeline, recipe = recipe_of_folder("ledger", folder, {}, ())
    prompt = find(run, Prompt, context["sample"])
    if prompt is None:
        return f"{folder} has no prompt {context['sample']}."
    where = Place(str(recipe.path))
    for role, spec in pipeline.models.items():
        model = open_model(keyless(spec, where.at("models", role)), where.at("models", role))
        for sampling, seed in _samplings(pipeline):
            request = ChatRequest(messages=prompt.messages, sampling=sampling, seed=seed, sample_index=context["index"])
            if request_key(request, model.identity) == entry.key:
                return request
    return CHANGED.format("the run")


def _samplings(pipeline: Pipeline) -> Iterator[tuple[Any, int]]:
    """How a run draws samples, and with which seed: responses, and those that rewards and policies are measured on."""
    sections = [pipeline.responses, pipeline.reward_model, pipeline.evaluation]
    settings = [section.sampling for section in sections if section and section.sampling]
    for sampling in settings:
        measuring = pipeline.evaluation.seed if pipeline.evaluation else None
        drawn = draw_seed("evaluation", pipeline.seed if measuring is None else measuring)
        for seed in (pipeline.seed, draw_seed("reference", pipeline.seed), drawn):
            yield sampling, seed


def find(run: RunFolder, record: type[Record], wanted: str) -> Any:
    """The record of a run with this id, or None; no more than one shard is held in memory."""
    for shard in run.shards(NOUNS[record]):
        ids = pq.read_table(shard, columns=["id"])["id"].to_pylist()
        if wanted in ids:
            return from_row(record, pq.read_table(shard).slice(ids.index(wanted), 1).to_pylist()[0])
    return None


def lines_of(request: ChatRequest) -> Iterator[str]:
    """A request as it was sent, for a person."""
    for message in request.messages:
        yield f"=== {message.role}"
        yield message.content
    if request.prefill:
        yield "=== assistant (the reply goes on from here)"
        yield request.prefill
    if request.options:
        yield f"=== log-probabilities of {', '.join(request.options)}"
    if request.json_schema:
        yield f"=== schema\n{request.json_schema}"
    sampling = request.sampling.model_dump(mode="json", exclude_defaults=True)
    drawn = {"seed": request.seed, "sample": request.sample_index} | sampling
    yield "=== sampling " + ", ".join(f"{name} {value}" for name, value in drawn.items() if value is not None)
