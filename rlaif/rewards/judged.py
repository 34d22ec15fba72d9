"""A judge as a reward, asked directly of what the policy says (Lee et al. 2023, RLAIF, 2309.00267 §2.2.2).

One that scores replies by themselves gives each its score, put from its scale onto −1 to 1; of several principles, the mean
by weight over those under which all replies to its prompt have a score. One that compares gives each the mean probability with which it beats the others of its prompt, both orders and all
principles averaged as in labels, put onto −1 to 1. A principle that is drawn is one for all replies to a prompt that are sampled together: they
are held against each other. Equal replies are one, and tie. A reply that the judge could not read,
refused or failed on has no reward, and is no part of the others'. Where it compares, so many are left out, those with the most
comparisons that have no label first, that the rest are all compared with one another: the opponents of one are those of all.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal

from rlaif.component import Options as BaseOptions
from rlaif.config import PreferencesSection
from rlaif.errors import ConfigError
from rlaif.labels.judges import JudgeLabels
from rlaif.models import BatchModel
from rlaif.policy import Items
from rlaif.preferences import reconcile
from rlaif.records import Comparison, Judgement, Message, Prompt, Response, digest
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
        if not self.compares and "comparisons" in options.model_fields_set:
            raise ConfigError(
                f"{context.where}: comparisons is of a judge that compares, and {options.judge} scores each reply alone."
            )
        self.one_at_a_time = asyncio.Lock()
        self.unlabelled: Counter[str] = Counter()  # judgements without an opinion, by what became of them

    def signature(self) -> object:
        return [self.options.model_dump(), self.labels.signature()]

    async def __call__(self, items: Items) -> Values:
        ask = self._scores if self.judge.each_alone else self._contests
        if not isinstance(self.judge.model, BatchModel):
            return await ask(items)
        async with self.one_at_a_time:  # a model in this process: what it reads together must not depend on the time
            return await ask(items)

    def _counted(self, judgements: Sequence[Judgement]) -> Sequence[Judgement]:
        for judgement in judgements:
            if judgement.outcome != "ranked":
                principle = (judgement.principle_id or "").partition("@")[0]
                self.unlabelled[judgement.outcome + (f" under {principle}" if principle else "")] += 1
        return judgements

    @property
    def why(self) -> str:
        """Of judgements that are no opinion the most frequent kinds."""
        return ", ".join(f"{count} {kind}" for kind, count in self.unlabelled.most_common(3))

    async def _scores(self, items: Items) -> Values:
        """Each response's score; None where it has too few."""
        low, high = getattr(self.judge.protocol, "scale", (-1.0, 1.0))
        asked = [
            (prompt, response, _group(responses)) for prompt, responses in items for response in _different(responses)
        ]
        by_response: dict[str, list[Judgement]] = {}
        for judgement in self._counted(await self.labels.judge_alone(self.judge, asked)):
            by_response.setdefault(judgement.comparison_id, []).append(judgement)
        found: Values = []
        for _, responses in items:
            different = _different(responses)
            means = _mean_scores([by_response[response.id] for response in different])
            scores = {response.messages: mean for response, mean in zip(different, means, strict=True)}
            values = [scores[response.messages] for response in responses]
            found.append([None if v is None else (2 * v - low - high) / (high - low) for v in values])
        return found

    def comparisons(self, prompt: Prompt, responses: Sequence[Response]) -> list[Comparison]:
        """What a judge that compares is asked about responses to a prompt."""
        different = _different(responses)
        together = [tuple(different)] if self.options.comparisons == "list" else itertools.combinations(different, 2)
        return [Comparison(prompt=prompt, responses=many) for many in together if len(many) > 1]

    async def _contests(self, items: Items) -> Values:
        """Each response's mean probability of beating the others of its prompt that have one; 0 where all say the same."""
        groups = [self.comparisons(prompt, responses) for prompt, responses in items]
        by_comparison: dict[str, list[Judgement]] = {}
        drawn = {
            comparison.id: _group(responses)
            for (_, responses), group in zip(items, groups, strict=True)
            for comparison in group
        }
        for judgement in self._counted(
            await self.labels.judge_all([each for group in groups for each in group], drawn)
        ):
            by_comparison.setdefault(judgement.comparison_id, []).append(judgement)
        found: Values = []
        for (_, responses), group in zip(items, groups, strict=True):
            different = _different(responses)
            p: dict[tuple[str, str], float] = {}  # that one is better than another
            for comparison in group:
                for pair in itertools.combinations(comparison.responses, 2):
                    rules = PreferencesSection()
                    preference, names = reconcile(comparison, pair, by_comparison.get(comparison.id, []), rules)
                    if preference.weight:
                        p[names.chosen_id, names.rejected_id] = preference.p
                        p[names.rejected_id, names.chosen_id] = 1 - preference.p
            kept = _all_compared([response.id for response in different], p)
            alone = 0.0 if not group and len(responses) > 1 else None  # equal replies tie; one reply has no opponent
            worth: dict[tuple[Message, ...], float | None] = {}
            for one in different:
                chances = [p[one.id, other] for other in kept if other != one.id] if one.id in kept else []
                worth[one.messages] = 2 * fmean(chances) - 1 if chances else alone
            found.append([worth[response.messages] for response in responses])
        return found


def _all_compared(names: Sequence[str], p: Mapping[tuple[str, str], float]) -> list[str]:
    """Those that are left when whoever lacks the most comparisons goes, the last of equal ones, until none lacks any."""
    kept = list(names)
    while kept:
        lacking = [sum(other != one and (one, other) not in p for other in kept) for one in kept]
        most = max(lacking)
        if not most:
            break
        del kept[len(kept) - 1 - lacking[::-1].index(most)]
    return kept


def _different(responses: Sequence[Response]) -> list[Response]:
    """The first of every text."""
    found: dict[tuple[Message, ...], Response] = {}
    for response in responses:
        found.setdefault(response.messages, response)
    return list(found.values())


def _group(responses: Sequence[Response]) -> str:
    """What names replies to a prompt that are held against each other."""
    return digest([response.id for response in responses])


def _mean_scores(replies: Sequence[Sequence[Judgement]]) -> list[float | None]:
    """Of a prompt's different replies each one's mean score by weight, over the principles under which all that have one were scored: so
    that a failure moves no reply from the others.

    Those have more than half of the weight, and are chosen such that as many replies as may be have one, then for their weight. A
    reply that is left alone needs a score under each.
    """
    weights = {j.principle_id: j.weight for judgements in replies for j in judgements}
    known = [{j.principle_id: j.scores[0].values[0] for j in some if j.outcome == "ranked"} for some in replies]

    def weight(shared: frozenset[str | None]) -> float:
        return sum(weights[each] for each in weights if each in shared)

    half = sum(weights.values()) / 2
    own = {frozenset(scores) for scores in known}
    closed: set[frozenset[str | None]] = set()  # what some of the replies have in common
    found = {shared for shared in own if weight(shared) > half}
    while found:
        closed |= found
        found = {each & other for each in found for other in own if weight(each & other) > half} - closed

    def worth(shared: frozenset[str | None]) -> tuple[int, float, list[bool]]:
        return sum(shared <= scores.keys() for scores in known), weight(shared), [each in shared for each in weights]

    fit = [shared for shared in closed if worth(shared)[0] > 1 or len(shared) == len(weights)]
    if not fit:
        return [None] * len(replies)
    shared = max(fit, key=worth)
    return [
        sum(weights[each] * scores[each] for each in weights if each in shared) / weight(shared)
        if shared <= scores.keys()
        else None
        for scores in known
    ]
