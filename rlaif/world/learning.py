"""How the embedded models are trained: two loops, resumable, each batch a pure function of (seed, step)."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from rlaif.errors import ConfigError
from rlaif.models.caches import selected
from rlaif.models.chat_tokens import ChatTokenizer
from rlaif.models.rows import call, pad
from rlaif.world.chat import KINDS, Habits
from rlaif.world.lessons import CHOICES, CORES, Level, Reading, conversation, draw_pair, labelled, read_pair, spoilt
from rlaif.world.oracle import FAMILIES, prefers

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How long and how fast a model learns."""

    seed: int
    steps: int
    rate: float  # the highest learning rate
    batch: int  # conversations, or pairs
    principles: int = 12  # per pair
    warmup: int = 200
    save_every: int = 200
    muon: bool = False  # for the matrices of the blocks; AdamW else


class Learner:
    """A network, its optimisers and its place in the plan, kept in ``work`` so that training goes on after any stop.

    ``recipe`` is a digest of what the batches are drawn from; training goes on only with the one it began with.
    """

    def __init__(self, network: nn.Module, plan: Plan, recipe: str, work: Path, notice: Notice) -> None:
        self.network, self.plan, self.recipe, self.work, self.notice = network, plan, recipe, work, notice
        self.optimisers = optimisers(network, plan)
        self.step = 0
        self.seconds = 0.0
        self.figures: dict[str, float] = {}  # of the last look
        if self.path.is_file():
            state = torch.load(self.path, weights_only=True)
            if state["recipe"] != recipe:
                raise ConfigError(
                    f"{self.path}: this training began with other texts, another plan or another tokenizer: remove {work} "
                    "to begin again, or give another --work."
                )
            network.load_state_dict(state["network"])
            for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(kept)
            self.step, self.seconds, self.figures = state["step"], state["seconds"], state["figures"]
            notice(f"goes on at step {self.step} of {plan.steps}")

    @property
    def path(self) -> Path:
        return self.work / "checkpoint.pt"

    def save(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        state = {
            "recipe": self.recipe,
            "network": self.network.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "seconds": self.seconds,
            "figures": self.figures,
        }
        torch.save(state, self.path.with_suffix(".new"))
        os.replace(self.path.with_suffix(".new"), self.path)

    def run(
        self, loss_of: Callable[[int], tuple[Tensor, dict[str, float]]], look: Callable[[int], dict[str, float]]
    ) -> None:
        """Steps until the plan is done; ``loss_of(step)`` gives the loss and what to print, ``look`` the dev figures."""
        seen: dict[str, list[float]] = {}
        while self.step < self.plan.steps:
            start = time.monotonic()
            rate = self.rate(self.step)
            loss, figures = loss_of(self.step)
            self.network.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            for optimiser in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = rate
                optimiser.step()
            self.step += 1
            self.seconds += time.monotonic() - start
            for name, value in figures.items():
                seen.setdefault(name, []).append(value)
            if self.step % self.plan.save_every == 0 or self.step == self.plan.steps:
                means = {name: sum(values) / len(values) for name, values in seen.items()}
                seen = {}
                rounded = {name: round(value, 4) for name, value in {**means, **look(self.step)}.items()}
                self.figures = {"step": self.step, "seconds": round(self.seconds), **rounded}
                self.save()
                self._tell()

    def _tell(self) -> None:
        """The figures as a line of the log and for who watches."""
        with (self.work / "log.jsonl").open("a") as file:
            file.write(json.dumps(self.figures) + "\n")
        self.notice("  ".join(f"{name} {value:g}" for name, value in self.figures.items()))

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine down to a twentieth."""
        if step < self.plan.warmup:
            return self.plan.rate * (step + 1) / self.plan.warmup
        share = (step - self.plan.warmup) / max(1, self.plan.steps - self.plan.warmup)
        return self.plan.rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


def optimisers(network: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon (Jordan et al. 2024; as Liu et al. 2025, 2502.16982, scale it) for the matrices of the blocks and
    AdamW for the rest. With Muon a judge begins to read in little more than half as many steps."""
    if not plan.muon:
        decayed = [p for p in network.parameters() if p.dim() > 1]
        others = [p for p in network.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98))]
    matrices = {name: p for name, p in network.named_parameters() if p.dim() == 2 and ".layers." in name}
    rest = [p for name, p in network.named_parameters() if name not in matrices]
    return [
        torch.optim.Muon(matrices.values(), lr=plan.rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


# --- the policy -------------------------------------------------------------------------------------------------------


def train_policy(
    model: Any,
    tokens: ChatTokenizer,
    plan: Plan,
    habits: Callable[[float], Habits],
    recipe: str,
    work: Path,
    notice: Notice,
) -> dict[str, float]:
    """Next-token cross-entropy on what the assistant says; ``habits`` maps the share of the plan that is done to what its
    examples are like. Returns the last figures."""
    learner = Learner(model, plan, recipe, work, notice)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = Random(f"{plan.seed}/policy/{step}")
        how = habits(step / plan.steps)
        rows = [whole(tokens, conversation(rng, how)) for _ in range(plan.batch)]
        ids, mask = pad([ids for ids, _ in rows], tokens.pad_id, "cpu")
        counted = torch.zeros_like(mask, dtype=torch.bool)
        for i, (_, told) in enumerate(rows):
            counted[i, : len(told)] = torch.tensor(told)
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits[counted[:, 1:]], ids[:, 1:][counted[:, 1:]])
        return loss, {"loss": float(loss.detach())}

    learner.run(loss_of, lambda step: {})
    return learner.figures


def whole(tokens: ChatTokenizer, messages: Sequence[Any]) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation, and which of them the assistant says (end of turn included)."""
    user, assistant, end = tokens.hf.convert_tokens_to_ids(["<|user|>", "<|assistant|>", "<|end|>"])
    ids: list[int] = []
    told: list[bool] = []
    for message in messages:
        words = [*tokens.hf(message.content, add_special_tokens=False)["input_ids"], end]
        speaks = message.role == "assistant"
        ids += [assistant if speaks else user, *words]
        told += [False, *([speaks] * len(words))]
    return ids, told


# --- the judge --------------------------------------------------------------------------------------------------------

MARKS = ("reason", "offer", "asks", "warns", "sorry", "steps")


def _head(width: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))


class Helpers(nn.Module):
    """Heads that are thrown away: what a reply is like at its end, what a principle says at its own.

    They show the network early what is worth noticing; the verdict itself is learnt from option tokens alone. Each reads
    a layer of its own, low enough that the layers above can use what is found there: what a reply is like; whether what
    it states is true, and what a principle's words say; how two replies differ, and which way the principle points; then
    which reply has more of what it speaks of.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.replies, self.stated, self.between, self.found = (round(depth * n / 8) for n in (3, 4, 5, 6))
        self.core = _head(width, len(CORES))
        self.polite = _head(width, 3)
        self.marks = _head(width, len(MARKS))
        self.words = _head(width, 1)
        self.kind = _head(width, len(KINDS))
        self.truth = _head(width, 2)
        self.contrast = _head(width, 3 * len(FAMILIES))
        self.family = _head(width, len(FAMILIES))
        self.pole = _head(width, 2)
        self.turn = _head(width, 2)
        self.sign = _head(width, 2)
        self.more = _head(width, 3)

    def reply_loss(self, layers: Tensor, readings: Sequence[Reading]) -> Tensor:
        """``layers`` (layers, pairs, 2, width) at the ends of the replies: what each is like, and at the second how they
        differ."""
        hidden = layers[self.replies]
        about = [a for reading in readings for a in reading.pair.attributes]
        contrast = [int(2 * prefers(f, 1, r.pair.question, *r.pair.attributes)) for r in readings for f in FAMILIES]
        between = self.contrast(layers[self.between][:, 1]).view(-1, 3)
        kinds = torch.tensor([KINDS.index(r.pair.question.kind) for r in readings for _ in range(2)])
        hidden = hidden.flatten(0, 1)
        marks = torch.tensor([[float(getattr(a, mark)) for mark in MARKS] for a in about])
        words = torch.tensor([math.log(a.words) / 2 for a in about])
        told = [i for i, a in enumerate(about) if a.core in ("correct", "false")]
        true = torch.tensor([int(about[i].core == "correct") for i in told], dtype=torch.long)
        entropy = nn.functional.cross_entropy
        return (
            2 * entropy(between, torch.tensor(contrast))
            + entropy(self.truth(layers[self.stated].flatten(0, 1)[told]), true, reduction="sum") / max(1, len(told))
            + entropy(self.core(hidden), torch.tensor([CORES.index(a.core) for a in about]))
            + entropy(self.polite(hidden), torch.tensor([a.polite + 1 for a in about]))
            + entropy(self.kind(hidden), kinds)
            + nn.functional.binary_cross_entropy_with_logits(self.marks(hidden), marks) * 3
            + nn.functional.mse_loss(self.words(hidden)[:, 0], words)
        )

    def principle_loss(self, layers: Tensor, readings: Sequence[Reading]) -> Tensor:
        """``layers`` (layers, labels, width) at the ends of the principles: family and sign, and which reply has *more*.

        A verdict is the product of sign and difference, and a sign that of the phrase's pole and of what the frame makes
        of it. Learnt from a product alone, none of its factors is ever found: each is shown by itself.
        """
        labels = [label for reading in readings for label in reading.labels]
        said, turned, found = layers[self.stated], layers[self.between], layers[self.found]
        families = [FAMILIES.index(label.wording.family) for label in labels]
        signs = [int(label.wording.sign > 0) for label in labels]
        more = [int(2 * (label.p if label.wording.sign > 0 else 1 - label.p)) for label in labels]
        poles = [int(label.wording.pole > 0) for label in labels]
        turns = [int(label.wording.pole * label.wording.sign > 0) for label in labels]
        entropy = nn.functional.cross_entropy
        return (
            entropy(self.family(said), torch.tensor(families))
            + entropy(self.pole(said), torch.tensor(poles))
            + entropy(self.turn(said), torch.tensor(turns))
            + entropy(self.sign(turned), torch.tensor(signs))
            + entropy(self.more(found), torch.tensor(more))
        )


class Pupil(nn.Module):
    """A judge's network with its throw-away heads."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.helpers = Helpers(model.config.hidden_size, model.config.num_hidden_layers)


def hidden_states(model: Any, readings: Sequence[Reading], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of every layer at the ends of the replies (layers, pairs, 2, width) and of the principles (layers,
    labels, width), the embeddings first; and of the last layer at the verdicts (labels, width).

    Each pair goes through the network once; its principles share its cache.
    """
    ids, mask = pad([r.prefix for r in readings], pad_id, "cpu", left=True)
    cache = DynamicCache(config=model.config)
    prefix = call(model.base_model, ids, mask, cache, use_cache=True, output_hidden_states=True).hidden_states
    shift = torch.tensor([ids.shape[1] - len(r.prefix) for r in readings])
    ends = torch.tensor([r.ends for r in readings]) + shift[:, None]
    at_ends = torch.stack([layer[torch.arange(len(readings))[:, None], ends] for layer in prefix])
    owner = torch.tensor([i for i, r in enumerate(readings) for _ in r.suffixes])
    more, more_mask = pad([suffix for r in readings for suffix in r.suffixes], pad_id, "cpu")
    both = torch.cat([mask[owner], more_mask], dim=1)
    found = call(model.base_model, more, both, selected(cache, owner), use_cache=True, output_hidden_states=True)
    last = more_mask.sum(1) - 1
    rows = torch.arange(len(more))
    said = torch.stack([layer[rows, last - 1] for layer in found.hidden_states])
    return at_ends, said, found[0][rows, last]


def train_judge(
    model: Any,
    tokens: ChatTokenizer,
    plan: Plan,
    level: Callable[[float], tuple[Level, float]],
    refused: Callable[[str], bool],
    look: Callable[[int], dict[str, float]],
    recipe: str,
    work: Path,
    notice: Notice,
    spoiling: float = 0.0,
) -> dict[str, float]:
    """Cross-entropy of the option token, the soft label of a tie included. ``level`` maps the share of the plan that is
    done to how hard the questions are and to the weight of the helpers, which see no pair of a plan that spoils some of
    them: a share of ``spoiling``. Returns the last figures."""
    model.set_attn_implementation("eager")  # with bfloat16 far faster backwards than the fused one
    pupil = Pupil(model)
    learner = Learner(pupil, plan, recipe, work, notice)
    choices = [min(tokens.option_ids("<|assistant|>", choice)) for choice in CHOICES]

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        hardness, helping = level(step / plan.steps)
        readings = judge_batch(tokens, plan, step, hardness, refused, spoiling)
        terms = {"verdict": torch.zeros(()), "reply": torch.zeros(()), "principle": torch.zeros(())}
        right: list[float] = []
        for part in _alike(readings):
            losses, correct = _judge_losses(pupil, part, tokens.pad_id, choices, helped=not spoiling)
            for name, loss in losses.items():
                terms[name] = terms[name] + len(part) / len(readings) * loss
            right += correct
        loss = terms["verdict"] + helping * (0.2 * terms["reply"] + 0.5 * terms["principle"])
        figures = {name: float(term.detach()) for name, term in terms.items()}
        return loss, {**figures, "right": sum(right) / max(1, len(right))}

    learner.run(loss_of, look)
    return learner.figures


def judge_batch(
    tokens: ChatTokenizer,
    plan: Plan,
    step: int,
    hardness: Level,
    refused: Callable[[str], bool],
    spoiling: float = 0.0,
) -> list[Reading]:
    """The pairs of a step with their principles."""
    rng = Random(f"{plan.seed}/judge/{step}")
    readings = []
    for _ in range(plan.batch):
        pair = draw_pair(rng, held_out=False)
        if spoiling and rng.random() < spoiling:
            pair = spoilt(rng, pair)
        readings.append(read_pair(tokens, pair, labelled(rng, pair, plan.principles, hardness, refused)))
    return readings


def _judge_losses(
    pupil: Pupil, readings: Sequence[Reading], pad_id: int, choices: Sequence[int], *, helped: bool = True
) -> tuple[dict[str, Tensor], list[float]]:
    """The losses of a few pairs, and for each label that is no tie whether the verdict is right: 1 or 0."""
    with torch.autocast("cpu", torch.bfloat16):  # a third faster; the weights stay float32
        ends, said, verdicts = (x.float() for x in hidden_states(pupil.model, readings, pad_id))
        logprobs = pupil.model.get_output_embeddings()(verdicts).float().log_softmax(-1)
    p = torch.tensor([label.p for reading in readings for label in reading.labels])
    one, two = logprobs[:, choices[0]], logprobs[:, choices[1]]
    told = p != 0.5
    losses = {"verdict": -(p * one + (1 - p) * two).mean()}
    if helped:
        losses["reply"] = pupil.helpers.reply_loss(ends, readings)
        losses["principle"] = pupil.helpers.principle_loss(said, readings)
    return losses, ((one > two) == (p > 0.5))[told].float().tolist()


def _alike(readings: list[Reading], parts: int = 2) -> Iterator[list[Reading]]:
    """The batch in parts of like length, so that little is padding."""
    ordered = sorted(readings, key=lambda reading: len(reading.prefix))
    size = math.ceil(len(ordered) / parts)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
