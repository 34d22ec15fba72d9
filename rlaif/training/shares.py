"""Online training in several processes: each has the whole networks and a share of every micro-batch's prompts.

The first process decides, asks for rewards and keeps the checkpoints. It sees micro-batches whole; what their prompts are
answered, what is learnt from them and every update happens in all processes, and gradients are summed before an update, so that
all of them go on with the same weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rlaif.models import Reply
from rlaif.models.local import LocalModel, LocalOptions
from rlaif.training import processes
from rlaif.training.batching import evenly
from rlaif.training.checkpoints import last_checkpoint
from rlaif.training.online import OnlineTrainer
from rlaif.training.rollouts import Rollouts, joined, stacked
from rlaif.training.trainer import Watch

Shares = list[list[Any]]  # by process
Told = tuple[
    list[Any], Tensor | None, Tensor | None
]  # what the first process knows of a share: rewards, advantages, returns


def opened(
    kind: type[OnlineTrainer], start: LocalModel, options: Any, *, watch: Watch, **settings: Any
) -> OnlineTrainer:
    """A trainer; among several processes one that leads those of the others."""
    if processes.count() == 1:
        return kind(start, options, watch=watch, **settings)
    processes.ask(_help, kind, start.name, start.options, start.where, options, settings)
    leading: type[Any] = type(kind.__name__, (_Leading, kind), {"kind": kind})
    found: OnlineTrainer = leading(start, options, watch=watch, **settings)
    return found


class _Share:
    """One process's trainer, and its shares of the micro-batches of the step."""

    def __init__(self, kind: type[OnlineTrainer], trainer: OnlineTrainer) -> None:
        self.kind, self.trainer = kind, trainer
        self.own: dict[int, Rollouts] = {}

    def sample(self, number: int, prompts: Shares, replies: Shares | None) -> list[Rollouts | None]:
        """What everyone's share of the prompts is answered."""
        place = processes.rank()
        if prompts[place]:
            self.own[number] = self.kind.sample(self.trainer, prompts[place], replies[place] if replies else None)
        return processes.to_first(self.own[number].to("cpu") if prompts[place] else None)

    def say(self, prompts: Shares, replies: Shares | None) -> list[Rollouts | None]:
        place = processes.rank()
        said = (
            self.kind.say(self.trainer, prompts[place], replies[place] if replies else None) if prompts[place] else None
        )
        return processes.to_first(said.to("cpu") if said else None)

    def learn(self, number: int, told: list[Told]) -> list[Tensor | None]:
        """Learn from everyone's share; log π of its tokens as they were sampled."""
        part = self.own.get(number)
        if part is not None:
            device = self.trainer.network.device
            part.rewarded, advantages, returns = told[processes.rank()]
            if advantages is not None:
                part.advantages = advantages.to(device)
            part.returns = None if returns is None else returns.to(device)
            self.kind.add(self.trainer, part)  # in all processes: none may stop before it alone
        return processes.to_first(None if part is None or part.old is None else part.old.cpu())

    def update(self) -> None:
        self.kind.update(self.trainer)

    def finish(self, figures: dict[str, float], responses: int) -> None:
        self.own.clear()
        self.kind.finish(self.trainer, figures, responses)

    def drop(self) -> None:
        self.own.clear()
        self.kind.drop(self.trainer)

    def load(self, folder: Path) -> None:
        self.kind.load(self.trainer, folder)


_share: _Share | None = None  # in a process that helps


def _help(
    kind: type[OnlineTrainer],
    model: str,
    model_options: LocalOptions,
    where: str,
    options: Any,
    settings: dict[str, Any],
) -> None:
    global _share
    start = LocalModel(model, model_options, where=where, notice=lambda line: None)
    _share = _Share(kind, kind(start, options, watch=Watch(), **settings))


def _do(what: str, arguments: tuple[Any, ...]) -> None:
    getattr(_share, what)(*arguments)


def _let_go() -> None:
    global _share
    _share = None


class _Leading(OnlineTrainer):
    """The first process's trainer: what it does, all do."""

    kind: type[OnlineTrainer]

    def __init__(self, start: LocalModel, options: Any, **settings: Any) -> None:
        super().__init__(start, options, **settings)
        self.share_of = _Share(self.kind, self)
        self.numbers = itertools.count()

    def _all(self, what: str, *arguments: Any) -> Any:
        processes.ask(_do, what, arguments)
        return getattr(self.share_of, what)(*arguments)

    def sample(self, prompts: Sequence[Any], replies: Sequence[Reply] | None = None) -> Rollouts:
        shares, number = _shares(prompts, 1), next(self.numbers)
        theirs = _shares(replies, self.options.samples)
        found = joined([part for part in self._all("sample", number, shares, theirs) if part]).to(self.network.device)
        found.number, found.shares = number, tuple(map(len, shares))
        return found

    def say(self, prompts: Sequence[Any], replies: Sequence[Reply] | None = None) -> Rollouts:
        return joined([part for part in self._all("say", _shares(prompts, 1), _shares(replies, 1)) if part])

    def learn(self, rollouts: Rollouts) -> None:
        self.watch.look()
        told: list[Told] = []
        first = 0
        for prompts in rollouts.shares:
            rewarded = rollouts.rewarded[first : first + prompts]
            advantages = _rows(rollouts, rollouts.advantages, first, prompts)
            told.append((rewarded, advantages, _rows(rollouts, rollouts.returns, first, prompts)))
            first += prompts
        old = self._all("learn", rollouts.number, told)
        if rollouts.old is None:
            found = stacked([each for each in old if each is not None])
            rollouts.old = None if found is None else found.to(self.network.device)

    def update(self) -> None:
        self._all("update")

    def finish(self, figures: dict[str, float], responses: int) -> None:
        self._all("finish", figures, responses)

    def drop(self) -> None:
        self._all("drop")

    def load(self, folder: Path | None = None) -> None:
        folder = folder or last_checkpoint(self.work)
        if folder:
            self._all("load", folder)

    def write(self, out: Path) -> None:
        super().write(out)
        processes.ask(_let_go)


def _shares(rows: Sequence[Any] | None, each: int) -> Any:
    """Everyone's share of what there is for each of some prompts, ``each`` rows of it a prompt."""
    if rows is None:
        return None
    of_prompts = [rows[first : first + each] for first in range(0, len(rows), each)]
    return [[row for many in share for row in many] for share in evenly(of_prompts, processes.count())]


def _rows(rollouts: Rollouts, values: Tensor | None, first: int, prompts: int) -> Tensor | None:
    """The rows of so many prompts, no wider than their longest response."""
    if values is None or not prompts:
        return None
    before = sum(len(group.responses) for group in rollouts.groups[:first])
    groups = rollouts.groups[first : first + prompts]
    own = values[before : before + sum(len(group.responses) for group in groups)].cpu()
    width = max(len(ids) for group in groups for ids in group.responses)
    return own[:, :width] if own.dim() > 1 else own
