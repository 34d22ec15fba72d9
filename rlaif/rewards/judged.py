"""A judge as a reward, asked directly of what the policy says (Lee et al. 2023, RLAIF, 2309.00267 §2.2.2).

One that scores replies by themselves gives each its score, put from its scale onto −1 to 1; of several principles, the mean
by weight. One that compares gives each the mean probability with which it beats the others of its prompt, both orders and all
principles averaged as in labels, put onto −1 to 1. Equal replies are one, and tie. A reply that the judge could not read,
refused or failed on has no reward, and is no part of the others'.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from rlaif.component import Options as BaseOptions
from rlaif.config import PreferencesSection
from rlaif.labels.judges import JudgeLabels
from rlaif.models import BatchModel
from rlaif.policy import Items
from rlaif.preferences import reconcile
from rlaif.records import Comparison, Judgement, Message, Prompt, Response
from rlaif.rewards import RewardContext, Values


class JudgedReward:
    class Options(BaseOptions):
        judge: str
        principles: Literal["draw", "average", "all"] = "average"
        comparisons: Literal["all", "list"] = "all"  # of a judge that compares: every two replies, or all side by side

    def __init__(self, options: Options, context: RewardContext) -> None:
        self.options = options
        self.name = f"judge {options.judge}"
        asked = JudgeLabels.Options(judges=(options.judge,), principles=options.principles, drift_probes=0)
        self.labels = JudgeLabels(asked, context.labels)
        (self.judge,) = self.labels.judges
        self.compares = not self.judge.each_alone
        self.one_at_a_time = asyncio.Lock()

    def signature(self) -> object:
        return [self.options.model_dump(), self.labels.signature()]

    async def __call__(self, items: Items) -> Values:
        ask = self._scores if self.judge.each_alone else self._contests
        if not isinstance(self.judge.model, BatchModel):
            return await ask(items)
        async with self.one_at_a_time:  # a model in this process: what it reads together must not depend on the time
            return await ask(items)

    async def _scores(self, items: Items) -> Values:
        """Each response's score; None where it has none under one of its principles."""
        low, high = getattr(self.judge.protocol, "scale", (-1.0, 1.0))
        asked = [(prompt, response) for prompt, responses in items for response in _different(responses)]
        by_response: dict[str, list[Judgement]] = {}
        for judgement in await self.labels.judge_alone(self.judge, asked):
            by_response.setdefault(judgement.comparison_id, []).append(judgement)
        found: Values = []
        for _, responses in items:
            scores = {r.messages: _mean_score(by_response[r.id]) for r in _different(responses)}
            values = [scores[response.messages] for response in responses]
            found.append([None if v is None else (2 * v - low - high) / (high - low) for v in values])
        return found

    def comparisons(self, prompt: Prompt, responses: Sequence[Response]) -> list[Comparison]:
        """What a judge that compares is asked about responses to a prompt."""
        different = _different(responses)
        together = [tuple(different)] if self.options.comparisons == "list" else itertools.combinations(different, 2)
        return [Comparison(prompt=prompt, responses=many) for many in together if len(many) > 1]

    async def _contests(self, items: Items) -> Values:
        """Each response's mean probability of beating the others of its prompt; None where no comparison of it has a label,
        0 where all say the same."""
        groups = [self.comparisons(prompt, responses) for prompt, responses in items]
        by_comparison: dict[str, list[Judgement]] = {}
        for judgement in await self.labels.judge_all([comparison for group in groups for comparison in group]):
            by_comparison.setdefault(judgement.comparison_id, []).append(judgement)
        found: Values = []
        for (_, responses), group in zip(items, groups, strict=True):
            wins: dict[str, list[float]] = {response.id: [] for response in _different(responses)}
            for comparison in group:
                for pair in itertools.combinations(comparison.responses, 2):
                    rules = PreferencesSection()
                    preference, names = reconcile(comparison, pair, by_comparison.get(comparison.id, []), rules)
                    if preference.weight:
                        wins[names.chosen_id].append(preference.p)
                        wins[names.rejected_id].append(1 - preference.p)
            by_text = {response.messages: wins[response.id] for response in _different(responses)}
            alone = 0.0 if not group and len(responses) > 1 else None  # equal replies tie; one reply has no opponent
            found.append([2 * fmean(by_text[r.messages]) - 1 if by_text[r.messages] else alone for r in responses])
        return found


def _different(responses: Sequence[Response]) -> list[Response]:
    """The first of every text."""
    found: dict[tuple[Message, ...], Response] = {}
    for response in responses:
        found.setdefault(response.messages, response)
    return list(found.values())


def _mean_score(judgements: Sequence[Judgement]) -> float | None:
    """The mean score over principles, by their weights; None where one of them has none."""
    if any(judgement.outcome != "ranked" for judgement in judgements):
        return None
    return sum(j.weight * j.scores[0].values[0] for j in judgements) / sum(j.weight for j in judgements)
