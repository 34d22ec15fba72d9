"""What a policy became, beside the start: win rate, reward, KL, length, a user's own metrics.

Every arm answers the same held-out prompts with the same keyed draws. Figures carry their n and an interval that
resamples prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rlaif.component import construct, load, parse_options, users_code
from rlaif.config import Component, Sampling
from rlaif.errors import ConfigError
from rlaif.labels import LabelSource, requests_per_comparison
from rlaif.models.gateway import Gateway
from rlaif.policy import PolicyMethod
from rlaif.preferences import alike, opinions_by_order, panel_vote, side, votes
from rlaif.records import Comparison, Judgement, Message, Prompt, Response, uniform
from rlaif.rewards.trained import together
from rlaif.sampling import Sampler
from rlaif.statistics import Figure, cluster_mean, paired_difference, wilson
from rlaif.store import cut, write_json, write_shard, write_table

if TYPE_CHECKING:
    from rlaif.training.trainer import Watch

START = "start"
Values = dict[str, list[float | None]]  # by short name; aligned to the prompts
JUDGED_ROWS = 1024  # comparisons labelled at a time


TAKEN = {  # names of the run's own figures
    "accounts", "agreement", "answered", "differences", "ended", "judge", "judgements", "kl", "kl_bound", "length",
    "orders_agree", "policies", "policy", "preferences", "reward", "reward_model", "win_rate", "words",
}  # fmt: skip


class Metric(Protocol):
    """A user's own metric: a class named ``package.module:Class``, built with (options, where).

    One may have ``meanings``: for each of its numbers by name ("" where it gives one) what it is in words, and its unit;
    with a unit that begins with "%" it is a share, and written in per cent.
    """

    name: str

    def score(self, prompt: Prompt, response: Response) -> float | Mapping[str, float] | None:
        """A number, several by name, or None where the metric does not apply; a None among several likewise."""


@dataclass
class Arm:
    """One policy's answers, aligned to the prompts; None where it gave none."""

    name: str
    responses: list[Response | None]
    rewards: list[float | None] = field(default_factory=list)
    kl: list[float | None] = field(default_factory=list)  # log π − log π_start of each response, nats
    kl_bound: float | None = None
    passed_over: frozenset[int] = frozenset()  # places of the prompts that the judges are not asked about
    wins: list[float | None] = field(default_factory=list)  # against the start: won 1, tied 0.5, lost 0
    orders_agree: list[float | None] = field(default_factory=list)  # 1 where every judge's two orders agree, else 0


@dataclass
class Evaluation:
    """What measuring needs; ``run`` writes answers, verdicts and figures into a folder."""

    gateway: Gateway
    start: Any  # the local model every arm is compared with
    methods: Mapping[str, PolicyMethod]
    tuned: Callable[[str], Any]  # a method's tuned model, by name
    reward_models: Callable[[], list[Any]] | None  # loads the run's, whose mean is the reward
    judges: LabelSource | None
    judged: int | None  # at most so many prompts are put to them; None: all
    metrics: Sequence[Metric]
    counting: Callable[[str, int], AbstractContextManager[Any]]  # answered requests become a stage's progress
    watch: Watch  # follows and stops passes in the model thread
    release: Callable[[], None]  # gives models' memory back
    notice: Callable[[str], None]
    _loaded: list[Any] = field(default_factory=list)  # the reward models

    async def run(
        self, prompts: list[Prompt], sampling: Sampling, seed: int, folder: Path, account: Mapping[str, Any]
    ) -> None:
        """``account``: what became of the rows that the prompts were read from, where they have a source of their own."""
        arms = await self._answers(prompts, sampling, seed)
        if self.judges:
            left = passed_over(prompts, self.judged, seed)
            for number, arm in enumerate(arms[1:], 1):
                arm.passed_over = left
                await self._contest(prompts, arms[0], arm, folder / "judgements" / f"part-{number:05d}.parquet")
            self.release()
        if self.reward_models:
            await self._rewards(prompts, arms)
        if is_plain(sampling):
            await self._in_worker(self._kl, prompts, arms)
        else:
            self.notice("KL is not measured: it needs samples drawn at temperature 1 without cuts or penalties.")
        write_evaluation(folder, prompts, arms, self.metrics, account)

    async def _in_worker(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """In the model thread; a cancelled caller has the pass end before the network's next layer."""
        return await self.gateway.in_worker(function, *arguments, stop=self.watch.stop.set)

    async def _answers(self, prompts: list[Prompt], sampling: Sampling, seed: int) -> list[Arm]:
        """The start's answers, then each policy's; equal draws for all."""
        sample = sampler_for(self.gateway, sampling, seed)
        with self.counting("evaluation", len(prompts) * (1 + len(self.methods))):
            first = await sample(self.start, prompts, 1)
            arms = [Arm(START, [many[0] if many else None for many in first])]
            for name, method in self.methods.items():
                model = await self.gateway.in_worker(self.tuned, name) if method.writes_weights else self.start
                reward = self._reward if method.needs_reward else None
                with users_code(method, "answering prompts"):
                    answers = await method.respond(prompts, model, sample, reward)
                    arms.append(Arm(name, answers, kl_bound=method.kl_bound()))
        return arms

    async def _reward(self, items: Sequence[tuple[Prompt, Sequence[Response]]]) -> list[list[float | None]]:
        """Rewards of responses, in the model thread; reward models are loaded once."""
        found: list[list[float | None]] = await self._in_worker(self._score, items)
        return found

    def _score(self, items: Sequence[tuple[Prompt, Sequence[Response]]]) -> list[list[float | None]]:
        assert self.reward_models
        self._loaded = self._loaded or self.reward_models()
        asked = [(p.messages, [_whole(r) for r in many]) for p, many in items]
        members = []
        for model in self._loaded:
            with self.watch.passing("rewards", model.network) as done:
                members.append(model(asked, done))
        return together(members)

    async def _contest(self, prompts: list[Prompt], start: Arm, arm: Arm, verdicts: Path) -> None:
        """The judges' verdicts on the arm against the start."""
        assert self.judges
        asked = contests(prompts, start, arm)
        comparisons = [comparison for comparison in asked if comparison]
        with self.counting(f"win rate of {arm.name}", len(comparisons) * requests_per_comparison(self.judges)):
            judgements = await judged(self.judges, comparisons, verdicts)
        read_wins(arm, start, asked, judgements)

    async def _rewards(self, prompts: list[Prompt], arms: list[Arm]) -> None:
        for arm in arms:
            given = [(p, [] if r is None else [r]) for p, r in zip(prompts, arm.responses, strict=True)]
            arm.rewards = [values[0] if values else None for values in await self._reward(given)]

    def _kl(self, prompts: list[Prompt], arms: list[Arm]) -> None:
        """log π − log π_start of each tuned arm's own samples, token for token as they were sampled."""
        from rlaif.training.batching import Group
        from rlaif.training.passes import sequence_logprobs

        for arm in arms[1:]:
            if not self.methods[arm.name].writes_weights:
                continue
            tuned = self.tuned(arm.name)
            groups = [
                Group(prompt.id, tuple(self.start.tokens.prompt_ids(prompt.messages)), [response.token_ids])
                for prompt, response in zip(prompts, arm.responses, strict=True)
                if response and response.token_ids
            ]
            both = []
            for model, name in ((tuned, f"{arm.name} under itself"), (self.start, f"{arm.name} under the start")):
                with self.watch.passing(name, model.network) as done:
                    both.append(
                        sequence_logprobs(model.network, groups, model.tokens.pad_id, share=model.share, done=done)
                    )
            values = iter(ours[0] - theirs[0] for ours, theirs in zip(*both, strict=True))
            arm.kl = [next(values) if response and response.token_ids else None for response in arm.responses]
        self.start.unload()


async def judged(judges: LabelSource, comparisons: Sequence[Comparison], verdicts: Path) -> list[Judgement]:
    """What the judges say of comparisons, kept in the file ``verdicts``."""
    found: list[Judgement] = []
    async for batch in judges.label(cut(comparisons, JUDGED_ROWS)):
        found += batch
    write_shard(verdicts, Judgement, found, len(comparisons))
    return found


def is_plain(sampling: Sampling) -> bool:
    """Whether samples come from the model's own distribution, so that their log-ratios average to the KL."""
    whole = sampling.model_copy(update={"max_output_tokens": 256, "stop": ()})
    return whole == Sampling(max_output_tokens=256)


def _whole(response: Response) -> tuple[tuple[Message, ...], bool]:
    """A response as a reward model takes it: its turns, and whether it ended by itself."""
    return response.messages, response.finish_reason != "length"


def write_evaluation(
    folder: Path, prompts: Sequence[Prompt], arms: Sequence[Arm], metrics: Sequence[Metric], account: Mapping[str, Any]
) -> None:
    """Answers, figures, and samples for the report."""
    values = {arm.name: arm_values(prompts, arm, metrics) for arm in arms}
    figures = {arm.name: arm_figures(prompts, arm, values[arm.name]) for arm in arms}
    differences = {arm.name: paired_figures(prompts, values[START], values[arm.name]) for arm in arms[1:]}
    primary = arms[1].name if len(arms) > 1 else START
    for number, arm in enumerate(arms):
        responses = [response for response in arm.responses if response]
        write_shard(folder / "responses" / f"part-{number:05d}.parquet", Response, responses, len(prompts))
    rows = []
    for i, prompt in enumerate(prompts):
        answers = {arm.name: _sample(arm, i) for arm in arms}
        turns = [message.model_dump() for message in prompt.messages]
        rows.append({"prompt_id": prompt.id, "prompt": turns, "category": prompt.category, "answers": answers})
    write_table(folder / "values.parquet", values_by_prompt(prompts, arms, values))
    write_json(folder / "samples.json", rows)
    write_json(folder / "measures.json", meanings_of(metrics))
    write_json(folder / "account.json", {**account, **evaluation_accounts(prompts, arms)})
    write_json(
        folder / "figures.json", {n: f.model_dump() for n, f in named_figures(primary, figures, differences).items()}
    )


def values_by_prompt(
    prompts: Sequence[Prompt], arms: Sequence[Arm], values: Mapping[str, Values]
) -> dict[str, list[Any]]:
    """Columns of a table: what each figure of a policy is the mean of, prompt by prompt (a ``win_rate``'s 1, 0.5 and 0)."""
    columns: dict[str, list[Any]] = {"policy": [], "figure": [], "prompt_id": [], "value": []}
    for arm in arms:
        for name, own in {**values[arm.name], "kl": arm.kl, "win_rate": arm.wins}.items():
            for prompt, value in zip(prompts, own or [None] * len(prompts), strict=True):
                if value is not None:
                    for column, cell in zip(columns.values(), (arm.name, name, prompt.id, float(value)), strict=True):
                        column.append(cell)
    return columns


def evaluation_accounts(prompts: Sequence[Prompt], arms: Sequence[Arm]) -> dict[str, Any]:
    """What became of every prompt in every arm: answered or not; and of those put to the judges: won, tied, lost,
    answered as the start did, or without a verdict."""
    accounts: dict[str, Any] = {}
    for arm in arms:
        answered = sum(response is not None for response in arm.responses)
        outcomes = {"answered": answered, "not answered": len(prompts) - answered}
        accounts[f"answers of {arm.name}"] = {
            "unit": "prompts",
            "in": len(prompts),
            "outcomes": outcomes,
            "reasons": {},
        }
        if arm.wins:
            places = [i for i in range(len(prompts)) if i not in arm.passed_over]
            both = [(arm.responses[i], arms[0].responses[i]) for i in places]
            equal = sum(o is not None and t is not None and o.messages == t.messages for o, t in both)
            wins = Counter(arm.wins[i] for i in places)
            outcomes = {
                "won": wins[1.0],
                "tied": wins[0.5] - equal,
                "lost": wins[0.0],
                "equal answers": equal,
                "unlabelled": wins[None],
            }
            accounts[f"verdicts on {arm.name}"] = {
                "unit": "prompts", "in": len(places), "outcomes": outcomes, "reasons": {},
            }  # fmt: skip
    return accounts


def _sample(arm: Arm, i: int) -> dict[str, Any] | None:
    response = arm.responses[i]
    if response is None:
        return None
    return {
        "text": response.text,
        "reward": arm.rewards[i] if arm.rewards else None,
        "win": arm.wins[i] if arm.wins else None,
    }


def open_metrics(components: Sequence[Component], where: str) -> list[Metric]:
    """The metrics a recipe names, built with their options. Raises ConfigError."""
    metrics: list[Metric] = []
    for component in components:
        kind = load(component.name, {}, "metric", where)
        options = parse_options(kind, component.options, f"{where}: {component.name}")
        metric = construct(kind, "(options, where)", options, where)
        if not isinstance(getattr(metric, "name", None), str):
            raise ConfigError(f'{where}: metric "{component.name}" has no name: give the class a text `name`.')
        if metric.name in {*TAKEN, *(other.name for other in metrics)}:
            raise ConfigError(
                f'{where}: metric "{component.name}" is called "{metric.name}", which is taken: rename it.'
            )
        if not all(_is_meaning(told) for told in getattr(metric, "meanings", {}).values()):
            raise ConfigError(
                f'{where}: metric "{component.name}": `meanings` must hold, for each number\'s name, two texts: what it is '
                'and its unit ("% of …" for a share).'
            )
        metrics.append(metric)
    return metrics


def _is_meaning(told: Any) -> bool:
    return isinstance(told, tuple | list) and len(told) == 2 and all(isinstance(text, str) for text in told)


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


def passed_over(prompts: Sequence[Prompt], judged: int | None, seed: int) -> frozenset[int]:
    """Places of the prompts that are not put to the judges: all but ``judged`` by keyed draw, or none."""
    order = sorted(range(len(prompts)), key=lambda i: uniform("judged", seed, prompts[i].id))
    return frozenset() if judged is None else frozenset(order[judged:])


def contests(prompts: Sequence[Prompt], start: Arm, arm: Arm) -> list[Comparison | None]:
    """The arm's response against the start's for each prompt; None where they are equal, one is missing, or the judges
    are not asked."""
    found: list[Comparison | None] = []
    for i, (prompt, ours, theirs) in enumerate(zip(prompts, arm.responses, start.responses, strict=True)):
        if i in arm.passed_over or ours is None or theirs is None or ours.messages == theirs.messages:
            found.append(None)
        else:
            found.append(Comparison(prompt=prompt, responses=(ours, theirs)))
    return found


def read_wins(arm: Arm, start: Arm, asked: Sequence[Comparison | None], judgements: Sequence[Judgement]) -> None:
    """Fill ``arm.wins`` from the judges, and ``arm.orders_agree``.

    A judge gives a win, or a loss, where each order it was shown in says so by however little, and else a tie (Zheng et
    al. 2023, 2306.05685 §3.4); its orders agree where they do up to near-ties (``preferences.alike``). Of several judges it is what more than half of them say, and else a tie (Verga et al. 2024,
    2404.18796). Equal responses tie. None where a response is missing, a judge has no opinion, or none was asked.
    """
    by_comparison: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        by_comparison.setdefault(judgement.comparison_id, []).append(judgement)
    arm.wins, arm.orders_agree = [], []
    for i, (comparison, ours, theirs) in enumerate(zip(asked, arm.responses, start.responses, strict=True)):
        win, agree = None, None
        if ours and theirs and comparison is None and i not in arm.passed_over:
            win = 0.5
        elif ours and theirs and comparison:
            win, agree = _contest_of(by_comparison.get(comparison.id, []), ours.id, theirs.id)
        arm.wins.append(win)
        arm.orders_agree.append(agree)


def _contest_of(judgements: Sequence[Judgement], ours: str, theirs: str) -> tuple[float | None, float | None]:
    """The majority of the judges: 1, 0.5 or 0; and whether each one's orders agree, None where none was asked in two."""
    opinions, missing = votes(judgements, ours, theirs)
    if missing or not opinions:
        return None, None
    by_order = opinions_by_order(judgements, ours, theirs)
    said: dict[str, float] = {}
    agree: list[bool] = []
    for judge, opinion in opinions.items():
        orders = list(by_order.get(judge, {}).values()) or [opinion]
        found = {side(p) for p in orders}
        said[judge] = found.pop() if len(found) == 1 else 0.5
        agree += [alike(*orders)] if len(orders) == 2 else []
    return panel_vote(said, Counter(), rule="majority"), float(all(agree)) if agree else None


def arm_figures(prompts: Sequence[Prompt], arm: Arm, values: Values) -> dict[str, Figure]:
    """An arm's figures by short name; ``values`` are those of ``arm_values``."""
    ids = [prompt.id for prompt in prompts]

    def mean(values: Sequence[float | None]) -> Figure:
        kept = [(v, i) for v, i in zip(values, ids, strict=True) if v is not None]
        return cluster_mean([v for v, _ in kept], [i for _, i in kept])

    answered = sum(response is not None for response in arm.responses)
    figures = {"answered": Figure(value=float(answered), n=len(arm.responses))}
    figures |= {name: mean(found) for name, found in values.items()}
    if arm.kl:
        figures["kl"] = mean(arm.kl)
    if arm.kl_bound is not None:
        figures["kl_bound"] = Figure(value=arm.kl_bound, n=len(arm.responses))
    if arm.wins:
        figures["win_rate"] = _win_rate(arm.wins)
    if any(agree is not None for agree in arm.orders_agree):
        figures["orders_agree"] = mean(arm.orders_agree)
    return figures


def _win_rate(wins: Sequence[float | None]) -> Figure:
    """Wins and half the ties, as a share of the prompts with a verdict.

    The interval is Wilson's where there are no ties, and else that of the paired difference between winning and losing,
    which does not shrink to nothing where all are ties.
    """
    won = np.array([win for win in wins if win is not None])
    if 0.5 not in won:
        return wilson(float(won.sum()), len(won))
    change = paired_difference(won, 1 - won, range(len(won)))  # from −1, all lost, to 1, all won
    scaled = {key: None if x is None else (1 + x) / 2 for key, x in change.model_dump(exclude={"n"}).items()}
    return Figure(**scaled, n=change.n)


def paired_figures(prompts: Sequence[Prompt], before: Values, after: Values) -> dict[str, Figure]:
    """What an arm changed, by short name: the mean over prompts of its value minus the start's.

    Over the prompts where both have one: the same prompt answered twice says more than two means do.
    """
    figures = {}
    for name, values in after.items():
        triples = zip(values, before.get(name, [None] * len(prompts)), prompts, strict=True)
        kept = [(x, y, prompt.id) for x, y, prompt in triples if x is not None and y is not None]
        figures[name] = paired_difference(*([row[i] for row in kept] for i in range(3)))
    return figures


def arm_values(prompts: Sequence[Prompt], arm: Arm, metrics: Sequence[Metric]) -> Values:
    """What is measured of every answer by itself, by short name; None where there is nothing to measure."""
    answered = arm.responses
    values: Values = {
        "length": [None if r is None or r.output_tokens is None else float(r.output_tokens) for r in answered],
        "words": [None if r is None else float(len(r.text.split())) for r in answered],
        "ended": [None if r is None else float(r.finish_reason == "stop") for r in answered],
    }
    if arm.rewards:
        values["reward"] = arm.rewards
    for metric in metrics:
        for name, found in _metric_values(metric, prompts, answered).items():
            values[_short(metric, name)] = found
    return values


def meanings_of(metrics: Sequence[Metric]) -> dict[str, tuple[str, str]]:
    """What the metrics say of their numbers, by short name: what it is, and its unit."""
    return {_short(m, name): (what, unit) for m in metrics for name, (what, unit) in _meanings(m).items()}


def _meanings(metric: Metric) -> Mapping[str, tuple[str, str]]:
    return getattr(metric, "meanings", {})


def _short(metric: Metric, name: str) -> str:
    return f"{metric.name}.{name}" if name else metric.name


def _metric_values(
    metric: Metric, prompts: Sequence[Prompt], responses: Sequence[Response | None]
) -> dict[str, list[float | None]]:
    scored: list[Mapping[str, float]] = []
    for prompt, response in zip(prompts, responses, strict=True):
        with users_code(metric, f"scoring a reply to {prompt.excerpt}"):
            value = None if response is None else metric.score(prompt, response)
            found = {} if value is None else value if isinstance(value, Mapping) else {"": value}
            scored.append({name: _number(number) for name, number in found.items() if number is not None})
    there = {name for values in scored for name in values}
    names = [*(name for name in _meanings(metric) if name in there), *sorted(there - set(_meanings(metric)))]
    return {name: [values.get(name) for values in scored] for name in names}


def _number(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(f"{value!r} is no number to average: return None where the metric does not apply")
    return number


def named_figures(
    primary: str, by_arm: Mapping[str, Mapping[str, Figure]], differences: Mapping[str, Mapping[str, Figure]]
) -> dict[str, Figure]:
    """Flat names: ``NAME.before``, ``NAME.after`` and ``NAME.difference`` for the start and the first policy,
    ``policies.ARM.NAME`` and ``differences.ARM.NAME`` for all.

    A metric that gives several numbers is named ``METRIC.before.NUMBER``.
    """
    flat: dict[str, Figure] = {}
    for arm, figures in by_arm.items():
        for name, figure in figures.items():
            flat[f"policies.{arm}.{name}"] = figure
            when = "before" if arm == START else "after" if arm == primary else None
            if when and name not in ("win_rate", "orders_agree", "kl", "kl_bound"):
                flat[_timed(name, when)] = figure
    for arm, figures in differences.items():
        flat |= {f"differences.{arm}.{name}": figure for name, figure in figures.items()}
    flat |= {_timed(name, "difference"): figure for name, figure in differences.get(primary, {}).items()}
    main = by_arm.get(primary, {})
    if "win_rate" in main:
        flat["judge.win_rate"] = main["win_rate"]
    if "kl" in main:
        flat["policy.kl"] = main["kl"]
    return flat


def _timed(name: str, when: str) -> str:
    head, dot, tail = name.partition(".")
    return f"{head}.{when}.{tail}" if dot else f"{name}.{when}"
