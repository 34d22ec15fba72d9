"""Preferences to a reward model, and scoring with it.

A scalar head on any causal language model, read at the last token of the response. All pairs of a prompt are trained
together on one shared prompt (Ouyang et al. 2022, 2203.02155 §3.5), under the soft loss. The checkpoint is an ordinary
sequence-classification folder; its ``config.json`` keeps the gain and bias that give rewards mean 0 and standard
deviation 1 on samples of the policy (Ziegler et al. 2019, 1909.08593).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from rlaif.errors import ModelError
from rlaif.models.chat_tokens import ChatTokenizer, TurnsRefused
from rlaif.models.local import LocalModel, LocalOptions, load_network
from rlaif.models.rows import Rows
from rlaif.models.shared_prompt import hidden_self_test, last_hidden, sharing_works
from rlaif.records import Message, Preference, uniform
from rlaif.training.batching import Group, drawn, group_preferences, need_labels, worths
from rlaif.training.losses import plackett_luce_loss, soft_preference_loss, with_margin
from rlaif.training.networks import by_head
from rlaif.training.passes import Done, per_response
from rlaif.training.trainer import SHOWN, PreferenceTrainer, ShownPrompts, TrainingOptions, Watch, fit

Answers = tuple[
    tuple[Message, ...], Sequence[tuple[tuple[Message, ...], bool]]
]  # prompt, [(response, ended by itself)]


SAME = 1e-5  # of their mean, at least of 1: a standard deviation below it is float32 noise between equal rewards


class RewardOptions(TrainingOptions):
    normalise_on: int = Field(default=1024, ge=2)  # reference responses behind gain and bias, at most
    loss: Literal["pairs", "plackett-luce"] = "pairs"  # the soft loss of each pair, or of a prompt's whole ranking
    margin: float = Field(default=0.0, ge=0)  # of pairs: the gap that a sure label asks for

    @model_validator(mode="after")
    def _margin_of_pairs(self) -> Self:
        if self.margin and self.loss != "pairs":
            raise ValueError('"margin" is of loss: pairs')
        return self


class _RewardTrainer(PreferenceTrainer):
    options: RewardOptions
    head = True

    def outputs(self, model: Any, rows: Rows) -> torch.Tensor:
        return raw_rewards(model, rows, self.pad_id, share=self.share)

    def values(self, model: Any, rows: Rows, groups: Sequence[Group], first: int) -> torch.Tensor:
        return self.outputs(model, rows)

    def say(self) -> list[dict[str, Any]]:
        """What it makes, as it is, of the responses to a few of its prompts, before gain and bias."""
        texts = {name: prompt.text for name, prompt in self.prompts.items()}
        groups = [group for group in self.groups if group.prompt_id in texts][:SHOWN]
        network: Any = self.model
        with self.options.autocast(network):
            rewards = score_groups(network.eval(), groups, self.pad_id, share=self.share)
        network.train()
        return [
            {
                "prompt": texts[group.prompt_id],
                "response": self.base.tokens.decode(ids),
                "reward": reward,
                "label": label,
            }
            for group, many in zip(groups, rewards, strict=True)
            for ids, reward, label in zip(group.responses, many, _in_words(group), strict=True)
        ]

    def total(
        self, one: torch.Tensor, other: torch.Tensor, p: torch.Tensor, weight: torch.Tensor, first: int
    ) -> torch.Tensor:
        return soft_preference_loss(with_margin(one - other, p, self.options.margin), p, weight)


class _RankingTrainer(_RewardTrainer):
    """Whole rankings: a prompt's responses in the order of their mean p against the others, by Plackett–Luce.

    A prompt counts with the weight of its pairs. A ranking holds no probabilities: of a label its side alone is learnt, which
    ``train_reward_model`` says. A prompt with two responses, or whose labels do not compare every two of its responses, has none:
    its pairs are learnt as pairs, with their p.
    """

    def total(
        self, one: torch.Tensor, other: torch.Tensor, p: torch.Tensor, weight: torch.Tensor, first: int
    ) -> torch.Tensor:
        return self.part_of(one, other, p, weight, torch.ones_like(weight), first)

    def part_of(
        self,
        one: torch.Tensor,
        other: torch.Tensor,
        p: torch.Tensor,
        weight: torch.Tensor,
        own: torch.Tensor,
        first: int,
    ) -> torch.Tensor:
        """A ranking is of all its pairs together: those that are ``own`` have of its loss what they have of its weight."""
        groups = [self.groups[i] for i in self.plan.batches[first]]
        parts: list[torch.Tensor] = []
        start = 0
        for group in groups:
            pairs = slice(start, start + len(group.pairs))
            start = pairs.stop
            counted = weight[pairs] * own[pairs]
            if places := ranked_places(group, weight[pairs].tolist()):
                rewards = _rewards_of(group, one[pairs], other[pairs])
                found = plackett_luce_loss(rewards, torch.tensor(places, device=rewards.device)) * counted.sum()
            else:
                found = soft_preference_loss(one[pairs] - other[pairs], p[pairs], counted)
            parts.append(found)
        return torch.stack(parts).sum()


def _in_words(group: Group) -> list[str]:
    """Of each response whether its labels prefer it to the others."""
    worth = worths(group)
    return ["preferred" if w > 0 else "not preferred" if w < 0 else "" for w in worth]


def ranked_places(group: Group, weight: Sequence[float]) -> list[int]:
    """The place of each response, 0 for the best, by its summed p against the others; equal sums share one. Empty of fewer than
    three, and where not every two responses are compared, with a weight."""
    count = len(group.responses)
    known = {frozenset(pair) for pair, w in zip(group.pairs, weight, strict=True) if w > 0}
    if count < 3 or len(known) < count * (count - 1) // 2:
        return []
    wins = [0.0] * count
    for (a, b), p, w in zip(group.pairs, group.p, weight, strict=True):
        if w > 0:
            wins[a] += p
            wins[b] += 1 - p
    levels = sorted({round(value, 9) for value in wins}, reverse=True)
    return [levels.index(round(value, 9)) for value in wins]


def soft_labels_in_rankings(groups: Sequence[Group]) -> int:
    """How many labels say more than a ranking holds: probabilities that are neither sure nor a tie."""
    ranked = (group for group in groups if ranked_places(group, group.weight))
    return sum(p not in (0.0, 0.5, 1.0) for group in ranked for p in group.p)


def _rewards_of(group: Group, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Each response's reward, from those of the pairs it stands in."""
    where: dict[int, tuple[torch.Tensor, int]] = {}
    for n, (a, b) in enumerate(group.pairs):
        where.setdefault(a, (one, n))
        where.setdefault(b, (other, n))
    return torch.stack([side[n] for side, n in (where[i] for i in range(len(group.responses)))])


def raw_rewards(network: Any, rows: Rows, pad_id: int, *, share: bool) -> torch.Tensor:
    """Reward of each row before gain and bias, at least float32, of shape (rows,)."""
    return by_head(network, last_hidden(network, rows, pad_id, share=share))


@dataclass(frozen=True)
class HeldOut:
    """What a reward model says of held-out pairs, aligned by index."""

    prompt_ids: list[str]
    pair_ids: list[str]
    differences: list[float]  # raw reward of the first response of each pair minus the second
    p: list[float]
    weight: list[float]
    longer: list[float]  # 1 where the first response is the longer in tokens, 0.5 where equal


@dataclass(frozen=True)
class RewardReport:
    history: list[dict[str, float]]
    held_out: HeldOut
    account: dict[str, Any]  # what became of the pairs, of those held out too
    gain: float
    bias: float
    reference: int  # responses that gain and bias were set on; 0 where rewards stay as the network gives them
    samples: list[dict[str, Any]]  # what it made of a few responses along the way, before gain and bias


def train_reward_model(
    preferences: Callable[[], Iterable[Preference]],
    base: LocalModel,
    options: RewardOptions,
    *,
    reference: Sequence[Answers] | None,
    work: Path,
    out: Path,
    seed: int,
    is_held_out: Callable[[str], bool],
    ended: Callable[[Preference, Sequence[Message]], bool],
    watch: Watch,
    source_of: Callable[[Preference], str] | None = None,
    labels_seed: int | None = None,
) -> RewardReport:
    """Train on the prompts that are not held out and write the model to ``out``, whole or not at all.

    Gain and bias give rewards mean 0 and standard deviation 1 on ``reference``, the policy's own samples, those longer
    than ``max_tokens`` left out. Where it is None, with no policy to sample, they are set on responses that were trained
    on. Fewer than two different rewards have no deviation: gain and bias then are 1 and 0, and rewards stay as the
    network gives them. ``labels_seed``: of the draw of ``options.labels``; None: ``seed``. Raises RlaifError where no label is left
    to train on.
    """
    train = group_preferences(
        watch.through(preferences()),
        base.tokens,
        options.room(base.context),
        keep=lambda prompt: not is_held_out(prompt),
        ended=ended,
        source_of=source_of,
    )
    train = drawn(train, options.labels, seed if labels_seed is None else labels_seed)
    need_labels(train, "reward_model", options.room(base.context))
    shown = ShownPrompts({group.prompt_id for group in train.groups[:SHOWN]}.__contains__)
    test = group_preferences(
        shown.of_preferences(watch.through(preferences())),
        base.tokens,
        options.room(base.context),
        keep=is_held_out,
        ended=ended,
    )
    pad_id = padding_of(base)
    kind = _RankingTrainer if options.loss == "plackett-luce" else _RewardTrainer
    if kind is _RankingTrainer and (soft := soft_labels_in_rankings(train.groups)):
        base.notice(
            f"Careful: reward_model: plackett-luce learns the order of a prompt's responses: {soft:,} of {train.pairs:,} labels are "
            "probabilities, of which it learns the side alone. loss: pairs learns them."
        )
    trained, history, samples = fit(
        kind, base, train.groups, options, work=work, seed=seed, watch=watch, pad_id=pad_id, prompts=shown.prompts
    )
    network, share = trained.network.eval(), trained.share
    if reference is None:
        known = reference_groups(train.groups, options.normalise_on, seed)
    else:
        known = groups_of(reference, base.tokens, options.room(base.context))
    with watch.passing("reference rewards", network) as done:
        gain, bias, reference_count = set_scale(network, score_groups(network, known, pad_id, share=share, done=done))
    trained.save(out, pad_id=pad_id)
    with watch.passing("held-out rewards", network) as done:
        scored = score_groups(network, test.groups, pad_id, share=share, done=done)
    held = held_out_differences(test.groups, scored)
    too_long, refused = train.too_long + test.too_long, train.refused + test.refused
    whole = replace(train, too_long=too_long, refused=refused, held_out=test.pairs)
    return RewardReport(
        history,
        held,
        account=whole.account,
        gain=gain,
        bias=bias,
        reference=reference_count,
        samples=samples,
    )


def set_scale(network: Any, rewards: Sequence[Sequence[float]]) -> tuple[float, float, int]:
    """Give the network the gain and bias of these rewards; both, and of how many they are: 0 where they do not differ."""
    values = torch.tensor([value for many in rewards for value in many], dtype=torch.float64)
    found = normalisation(values)
    gain, bias = found or (1.0, 0.0)
    network.config.rlaif_gain, network.config.rlaif_bias = gain, bias
    return gain, bias, len(values) if found else 0


def normalisation(rewards: torch.Tensor) -> tuple[float, float] | None:
    """Gain and bias that give ``rewards`` mean 0 and standard deviation 1; None where they do not differ."""
    if not len(rewards):
        return None
    mean, spread = float(rewards.mean()), float(rewards.std(correction=0))
    if spread <= SAME * max(1.0, abs(mean)):
        return None
    gain = 1.0 / spread
    return gain, -gain * mean


def padding_of(base: LocalModel) -> int:
    """A padding token that no response ends with: transformers reads a classifier at the last token that is not it."""
    hf = base.tokens.hf
    found = [base.tokens.pad_id, *(i for i in (hf.unk_token_id, hf.bos_token_id) if i is not None)]
    return next((i for i in found if i not in base.tokens.eos_ids), base.tokens.pad_id)


def reference_groups(groups: Sequence[Group], count: int, seed: int) -> list[Group]:
    """Training groups with about ``count`` responses to set gain and bias on: a keyed draw of prompts, never by label."""
    chosen: list[Group] = []
    total = 0
    for group in sorted(groups, key=lambda group: uniform("reference", seed, group.prompt_id)):
        if total >= count:
            break
        chosen.append(group)
        total += len(group.responses)
    return chosen


def groups_of(items: Sequence[Answers], tokens: ChatTokenizer, max_tokens: int) -> list[Group]:
    """Prompts with their responses that can be read, an empty one left out: a group for each item that has any, in order."""
    read = [read_item(item, tokens, max_tokens) for item in items]
    groups = [Group(str(i), prompt, [ids for ids in said if ids]) for i, (prompt, said) in enumerate(read)]
    return [group for group in groups if group.responses]


def read_item(
    item: Answers, tokens: ChatTokenizer, max_tokens: int
) -> tuple[tuple[int, ...], list[tuple[int, ...] | None]]:
    """Token ids of a prompt, and of its responses: None for one that is longer, with its prompt, than ``max_tokens``, or whose turns
    the chat template refuses."""
    messages, responses = item
    prompt: tuple[int, ...] = ()
    found: list[tuple[int, ...] | None] = []
    for turns, ended in responses:
        try:
            prompt = prompt or tuple(tokens.prompt_ids(messages))
            ids = tuple(tokens.response_ids(messages, turns, ended=ended))
        except TurnsRefused:
            found.append(None)
        else:
            found.append(ids if len(prompt) + len(ids) <= max_tokens else None)
    return prompt, found


def score_groups(
    network: Any, groups: Sequence[Group], pad_id: int, *, share: bool, done: Done = lambda groups, total: None
) -> list[list[float]]:
    """Raw reward of every response of every group."""
    return per_response(groups, lambda rows: raw_rewards(network, rows, pad_id, share=share), done)


def held_out_differences(groups: Sequence[Group], scored: Sequence[Sequence[float]]) -> HeldOut:
    held = HeldOut([], [], [], [], [], [])
    for group, rewards in zip(groups, scored, strict=True):
        for (a, b), p, weight, name in zip(group.pairs, group.p, group.weight, group.pair_ids, strict=True):
            la, lb = len(group.responses[a]), len(group.responses[b])
            held.prompt_ids.append(group.prompt_id)
            held.pair_ids.append(name)
            held.differences.append(rewards[a] - rewards[b])
            held.p.append(p)
            held.weight.append(weight)
            held.longer.append(0.5 if la == lb else float(la > lb))
    return held


class RewardModel:
    """A trained reward model as a function from conversations to floats: mean 0 and deviation 1 on its reference, or
    as the network gives them where there was nothing to normalise on."""

    def __init__(self, folder: Path, options: LocalOptions, *, where: str, notice: Callable[[str], None]) -> None:
        need_head(folder, where)
        self.tokens = ChatTokenizer(folder, where=where, trust_remote_code=options.trust_remote_code, notice=notice)
        self.network = load_network(folder, options, "float32", where, head=True).eval()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = config.get("text_config", config)
        self.context: int = text.get("max_position_embeddings") or text.get("n_positions") or 2**20
        self.gain, self.bias = config.get("rlaif_gain", 1.0), config.get("rlaif_bias", 0.0)
        self.share, _ = sharing_works(self.network, self.tokens.pad_id, test=hidden_self_test)

    def __call__(self, items: Sequence[Answers], done: Done = lambda groups, total: None) -> list[list[float | None]]:
        """Rewards of the responses of each item; None for one that cannot be read: longer, with its prompt, than the network
        reads, or of turns that its chat template refuses."""
        read = [read_item(item, self.tokens, self.context) for item in items]
        groups = [Group(str(i), ids, [one for one in said if one is not None]) for i, (ids, said) in enumerate(read)]
        asked = [group for group in groups if group.responses]
        scored = score_groups(self.network, asked, self.tokens.pad_id, share=self.share, done=done)
        raw = iter([reward for rewards in scored for reward in rewards])
        return [[None if ids is None else self.gain * next(raw) + self.bias for ids in said] for _, said in read]


def need_head(folder: Path, where: str) -> None:
    """Raises ModelError for a folder whose weights have no scalar head: transformers would make one up at random."""
    from safetensors import safe_open

    for path in folder.glob("*.safetensors"):
        with safe_open(str(path), framework="pt") as weights:
            if any(name.endswith("score.weight") for name in weights.keys()):  # noqa: SIM118  (no mapping)
                return
    raise ModelError(f"{where}: {folder} is no reward model: its weights have no score head.")
