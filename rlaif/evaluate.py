"""What a policy became, beside the start: win rate, reward, KL, length, a user's own metrics.

Every arm answers the same held-out prompts with the same keyed draws. Figures carry their n and an interval that
resamples prompts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlaif.component import load, parse_options
from rlaif.config import Component
from rlaif.models.gateway import Gateway
from rlaif.preferences import mean_vote, votes
from rlaif.records import Comparison, Judgement, Prompt, Response
from rlaif.sampling import Sampler
from rlaif.statistics import Figure, cluster_mean

START = "start"


class Metric(Protocol):
    """A user's own metric: a class named ``package.module:Class``, built with (options, where)."""

    name: str

    def score(self, prompt: Prompt, response: Response) -> float | Mapping[str, float] | None:
        """A number, several by name, or None where the metric does not apply."""


@dataclass
class Arm:
    """One policy's answers, aligned to the prompts; None where it gave none."""

    name: str
    responses: list[Response | None]
    rewards: list[float | None] = field(default_factory=list)
    kl: list[float | None] = field(default_factory=list)  # log π − log π_start of each response, nats
    kl_bound: float | None = None
    wins: list[float | None] = field(default_factory=list)  # P(better than the start's response); 0.5 for a tie


def open_metrics(components: Sequence[Component], where: str) -> list[Metric]:
    """The metrics a recipe names, built with their options. Raises ConfigError."""
    metrics: list[Metric] = []
    for component in components:
        kind = load(component.name, {}, "metric", where)
        metrics.append(kind(parse_options(kind, component.options, f"{where}: {component.name}"), where))
    return metrics


def sampler_for(gateway: Gateway, sampling: Any, seed: int) -> Callable[[Any, Sequence[Prompt], int], Any]:
    """``sample(model, prompts, k)``: the k responses of each prompt, through the gateway and the ledger."""

    async def sample(model: Any, prompts: Sequence[Prompt], k: int) -> list[list[Response]]:
        stage = Sampler(gateway, {"policy": model}, k, sampling, seed)
        found: dict[str, list[Response]] = {prompt.id: [] for prompt in prompts}
        async for batch in stage(_one(list(prompts))):
            for record in batch:
                if isinstance(record, Response):
                    found[record.prompt_id].append(record)
        return [found[prompt.id] for prompt in prompts]

    return sample


async def _one(batch: list[Any]) -> AsyncIterator[list[Any]]:
    yield batch


def contests(prompts: Sequence[Prompt], start: Arm, arm: Arm) -> list[Comparison | None]:
    """The arm's response against the start's for each prompt; None where they are equal or one is missing."""
    found: list[Comparison | None] = []
    for prompt, ours, theirs in zip(prompts, arm.responses, start.responses, strict=True):
        if ours is None or theirs is None or ours.messages == theirs.messages:
            found.append(None)
        else:
            found.append(Comparison(prompt=prompt, responses=(ours, theirs)))
    return found


def read_wins(arm: Arm, start: Arm, asked: Sequence[Comparison | None], judgements: Sequence[Judgement]) -> None:
    """Fill ``arm.wins`` from the judges: the mean over labellers; equal responses tie; the unlabelled are None."""
    by_comparison: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        by_comparison.setdefault(judgement.comparison_id, []).append(judgement)
    arm.wins = []
    for comparison, ours, theirs in zip(asked, arm.responses, start.responses, strict=True):
        if ours is None or theirs is None:
            arm.wins.append(None)
        elif comparison is None:
            arm.wins.append(0.5)
        else:
            arm.wins.append(mean_vote(*votes(by_comparison.get(comparison.id, []), ours.id, theirs.id)))


def arm_figures(prompts: Sequence[Prompt], arm: Arm, metrics: Sequence[Metric]) -> dict[str, Figure]:
    """An arm's figures by short name."""
    ids = [prompt.id for prompt in prompts]

    def mean(values: Sequence[float | None]) -> Figure:
        kept = [(v, i) for v, i in zip(values, ids, strict=True) if v is not None]
        return cluster_mean([v for v, _ in kept], [i for _, i in kept])

    answered = arm.responses
    figures = {
        "answered": Figure(value=float(sum(r is not None for r in answered)), n=len(answered)),
        "length": mean([None if r is None or r.output_tokens is None else float(r.output_tokens) for r in answered]),
        "words": mean([None if r is None else float(len(r.text.split())) for r in answered]),
        "ended": mean([None if r is None else float(r.finish_reason == "stop") for r in answered]),
    }
    if arm.rewards:
        figures["reward"] = mean(arm.rewards)
    if arm.kl:
        figures["kl"] = mean(arm.kl)
    if arm.kl_bound is not None:
        figures["kl_bound"] = Figure(value=arm.kl_bound, n=len(answered))
    if arm.wins:
        figures["win_rate"] = mean(arm.wins)
    for metric in metrics:
        for name, values in _metric_values(metric, prompts, answered).items():
            figures[f"{metric.name}.{name}" if name else metric.name] = mean(values)
    return figures


def _metric_values(
    metric: Metric, prompts: Sequence[Prompt], responses: Sequence[Response | None]
) -> dict[str, list[float | None]]:
    scored: list[Mapping[str, float]] = []
    for prompt, response in zip(prompts, responses, strict=True):
        value = None if response is None else metric.score(prompt, response)
        scored.append({} if value is None else value if isinstance(value, Mapping) else {"": float(value)})
    names = sorted({name for values in scored for name in values})
    return {name: [values.get(name) for values in scored] for name in names}


def named_figures(primary: str, by_arm: Mapping[str, Mapping[str, Figure]]) -> dict[str, Figure]:
    """Flat names: ``NAME.before`` and ``NAME.after`` for the start and the first policy, ``policies.ARM.NAME`` for all.

    A metric that gives several numbers is named ``METRIC.before.NUMBER``.
    """
    flat: dict[str, Figure] = {}
    for arm, figures in by_arm.items():
        for name, figure in figures.items():
            flat[f"policies.{arm}.{name}"] = figure
            if name in ("win_rate", "kl", "kl_bound"):
                continue
            when = "before" if arm == START else "after" if arm == primary else None
            if when:
                head, dot, tail = name.partition(".")
                flat[f"{head}.{when}.{tail}" if dot else f"{name}.{when}"] = figure
    main = by_arm.get(primary, {})
    if "win_rate" in main:
        flat["judge.win_rate"] = main["win_rate"]
    if "kl" in main:
        flat["policy.kl"] = main["kl"]
    return flat
