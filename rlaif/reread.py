"""Label a run again from the ledger alone: with a mended parser, other options of a judge, other rules for preferences.

No model is asked, so it costs nothing. What is read now is first compared with what stood before, row by row, and put in
its place only then: a comparison that had a label never loses it for want of a reply, unless that is allowed.
"""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from rlaif.catalogue import Catalogue
from rlaif.checking import recipe_of_folder
from rlaif.component import Place
from rlaif.config import Pipeline
from rlaif.errors import UserError
from rlaif.labels import labelled, requests_per_comparison
from rlaif.ledger import Ledger
from rlaif.models.calls import NOT_KEPT
from rlaif.models.gateway import Gateway
from rlaif.offline import open_offline
from rlaif.pipeline import Outcome, Road, Watcher
from rlaif.preferences import reconcile
from rlaif.records import Comparison, Judgement, Preference, Provenance
from rlaif.selection import open_selector
from rlaif.store import RECIPE, RunFolder, places_of, write_batch

MADE_BEFORE = ("prompts", "pairs", "responses", "comparisons")  # stages that are taken as they stand
FIXED = ("seed", "prompts", "pairs", "responses", "comparisons")  # the settings behind them
HAD_LABEL = ("labelled", "tie", "filtered")
NOT_ASKED = ("failed", "over budget", "refused")  # outcomes that may stand without a reply

R = TypeVar("R")
Row = tuple[Preference, Provenance]


@dataclass
class Changes:
    """What is read now beside what stood before; ``"unreadable -> ranked": 31``."""

    showings: int = 0
    judgements: Counter[str] = field(default_factory=Counter)
    pairs: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    missing: int = 0  # replies that are not in the ledger
    lost: int = 0  # comparisons that had a label and lack a reply for it
    same_judgements: bool = True  # down to the last field
    same_labels: bool = True

    def lines(self) -> list[str]:
        """For a person."""
        found = [f"judgements: {self.showings:,} showings read again, {self.judgements.total():,} changed"]
        found += [f"{'':<20}{count:>9,} × {change}" for change, count in self.judgements.most_common()]
        found.append(f"labels: {self.pairs:,} comparisons, {self.labels.total():,} changed")
        return found + [f"{'':<20}{count:>9,} × {change}" for change, count in self.labels.most_common()]


class Ahead(Generic[R]):
    """Rows in the order of the comparisons, taken comparison by comparison. What is not asked for waits."""

    def __init__(self, rows: Iterable[R], comparison: Callable[[R], str]) -> None:
        self._groups = itertools.groupby(rows, key=comparison)
        self._held = self._next()

    def _next(self) -> tuple[str, list[R]] | None:
        return next(((name, list(group)) for name, group in self._groups), None)

    def __call__(self, comparison_id: str) -> list[R]:
        """The rows of the next comparison, if it is this one."""
        if self._held is None or self._held[0] != comparison_id:
            return []
        found, self._held = self._held[1], self._next()
        return found

    @property
    def ended(self) -> bool:
        return self._held is None


def open_reread(
    folder: Path, judges: Sequence[str] = (), settings: Sequence[str] = (), watcher: Watcher | None = None
) -> Reread:
    """A run folder ready to be labelled again, by ``judges`` in place of those of its recipe. Raises UserError."""
    watcher = watcher or Watcher()
    data = {"labels": _by(judges, folder)} if judges else {}
    pipeline, entry = recipe_of_folder("reread", folder, data, settings)
    _need_same_beginning(pipeline, folder)
    catalogue = Catalogue()
    gateway = Gateway(Ledger(ledger_of_run(folder, pipeline, settings)), offline=True)
    try:
        opened = open_offline(
            folder, pipeline, entry, catalogue=catalogue, gateway=gateway, settings=tuple(settings), watcher=watcher
        )
        samples = pipeline.responses.samples * len(pipeline.responses.models) if pipeline.responses else 2
        selector = open_selector(pipeline.comparisons, samples, Place(str(entry.path), tuple(settings)))
    except BaseException:
        gateway.ledger.close()
        raise
    for line in catalogue.notices:
        watcher.notice(line)
    return Reread(
        pipeline, entry, tuple(settings), catalogue, folder, watcher, gateway, opened.secret, opened.models, None,
        selector, opened.labels, None, {}, {}, {}, {}, None, None, [],
    )  # fmt: skip


def _by(judges: Sequence[str], folder: Path) -> dict[str, Any]:
    """The labels of the run's recipe with these judges; how they draw principles stays."""
    path = folder / RECIPE
    stood = json.loads(path.read_text(encoding="utf-8")).get("labels") if path.is_file() else None
    options = stood.get("options", {}) if stood and stood["source"] == "judges" else {}
    return {"source": "judges", "options": {**options, "judges": list(judges)}}


def _need_same_beginning(pipeline: Pipeline, folder: Path) -> None:
    """Raises UserError where a setting is about what comes before the labels."""
    stood, _ = recipe_of_folder("reread", folder, {}, ())
    for name in FIXED:
        if getattr(pipeline, name) != getattr(stood, name):
            raise UserError(
                f'reread: --set {name}: the comparisons of {folder} stay as they are, and "{name}" is about how they came '
                "about. rlaif run makes others."
            )


def ledger_of_run(folder: Path, pipeline: Pipeline, settings: Sequence[str]) -> Path:
    """The ledger that a setting names, else the run's own, wherever the command is given. Raises UserError."""
    named = Path(pipeline.ledger) if any(setting.startswith("ledger=") for setting in settings) else None
    found = named or RunFolder(folder).ledger()
    if found is None or not found.is_file():
        place = found or RunFolder(folder).manifest.get("ledger", pipeline.ledger)
        raise UserError(f"{folder}: its ledger, {place}, is not there: name it with --set ledger=PATH.")
    return found


class Reread(Road):
    """A road of which only the labels are walked, with the ledger alone to answer."""

    async def reread(self, *, allow_missing: bool = False) -> tuple[Changes, Outcome]:
        """Read every reply again and put what comes of it in place. Raises UserError, before anything is changed, where
        comparisons that have labels would lose them for want of a reply."""
        self.run_folder = RunFolder(self.folder, self.watcher.notice)
        self.gateway.run = self.run_folder.id
        made = self.folder / ".reread"
        with self.run_folder.alone():
            try:
                shutil.rmtree(made, ignore_errors=True)
                self._need_comparisons_made()
                changes = await self._read_again(made)
                if changes.lost and not allow_missing:
                    raise UserError(self._refusal(changes))
                return changes, await self._put_in_place(changes, made)
            finally:
                shutil.rmtree(made, ignore_errors=True)
                await self.gateway.close()

    def asking(self) -> str:
        """The command that would ask for what is missing."""
        assert self.pipeline.labels
        options = dict(self.pipeline.labels.options)
        judges = list(options.pop("judges", ()))
        settings = [f"labels.options.{name}={json.dumps(value)}" for name, value in options.items()] + list(
            self.settings
        )
        if len(judges) > 1:
            settings.insert(0, f"labels.options.judges=[{', '.join(judges)}]")
        if not judges:
            return "rlaif run with its recipe"
        words = ["rlaif", "judge", judges[0], "--out", str(self.folder)]
        return shlex.join([*words, *(word for setting in settings for word in ("--set", setting))])

    def _refusal(self, changes: Changes) -> str:
        return (
            f"reread: {self.folder}: {changes.missing:,} replies are not in the ledger, and {changes.lost:,} comparisons "
            f"would lose their labels for it: nothing was changed. `{self.asking()}` asks for them; --allow-missing "
            "leaves these comparisons without a label."
        )

    def _need_comparisons_made(self) -> None:
        if not any(self.run_folder.is_complete(stage) for stage in ("pairs", "comparisons")):
            raise UserError(f"{self.folder}: it has no finished comparisons yet: rlaif run goes on with it.")
        for stage in MADE_BEFORE:
            if self.run_folder.is_complete(stage):
                self.run_folder.walked.add(stage)
                self.run_folder.kept.add(stage)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _read_again(self, made: Path) -> Changes:
        """Write what is read now under ``made``, and say how it differs from what stands."""
        assert self.labels
        _, size, _ = self._judging()
        changes = Changes()
        stood = Ahead(self.run_folder.read("judgements"), lambda row: row.comparison_id)
        rows = zip(self.run_folder.read("preferences"), self.run_folder.read("provenance"), strict=False)
        stood_rows = Ahead(rows, lambda row: row[1].comparison_id)
        batches: list[list[Comparison]] = []

        async def taken() -> AsyncIterator[list[Comparison]]:
            async for batch in self.run_folder.batches("comparisons", size):
                batches.append(batch)
                yield batch

        index = 0
        total = self.run_folder.rows("comparisons") * requests_per_comparison(self.labels)
        with self.counting("reading again", total):
            async for judgements in labelled(self.labels, taken()):
                comparisons, found = batches.pop(0), Ahead(judgements, lambda row: row.comparison_id)
                kept: list[Judgement] = []
                for comparison in comparisons:
                    kept += self._compare(changes, comparison, found(comparison.id), stood, stood_rows)
                write_batch(made, index, len(comparisons), kept, places_of("judgements", [Judgement]))
                index += 1
        changes.same_judgements &= stood.ended
        changes.same_labels &= stood_rows.ended
        changes.missing = sum(account.missing for account in self.gateway.accounts.values())
        return changes

    def _compare(
        self,
        changes: Changes,
        comparison: Comparison,
        found: list[Judgement],
        stood: Ahead[Judgement],
        stood_rows: Ahead[Row],
    ) -> list[Judgement]:
        """The judgements of a comparison as they are to be kept; how they and its labels differ is counted."""
        before, rows = stood(comparison.id), stood_rows(comparison.id)
        now, short = _compare_judgements(changes, found, before)
        had = any(row.outcome in HAD_LABEL for _, row in rows) if rows else any(j.outcome == "ranked" for j in before)
        changes.lost += short and had
        self._compare_labels(changes, comparison, now, rows)
        return now

    def _compare_labels(
        self, changes: Changes, comparison: Comparison, judgements: list[Judgement], stood: list[Row]
    ) -> None:
        by_pair = {frozenset((row.chosen_id, row.rejected_id)): (preference, row) for preference, row in stood}
        for pair in itertools.combinations(comparison.responses, 2):
            now = reconcile(comparison, pair, judgements, self.pipeline.preferences)
            before = by_pair.get(frozenset(response.id for response in pair))
            changes.pairs += 1
            changes.same_labels &= now == before
            if change := _label_change(before, now):
                changes.labels[change] += 1

    # --- putting in place ---------------------------------------------------------------------------------------------

    async def _put_in_place(self, changes: Changes, made: Path) -> Outcome:
        _, size, signature = self._judging()
        before = self.run_folder.state("preferences")
        self._describe()
        if changes.same_judgements and self.run_folder.is_made("judgements", signature, size):
            self.run_folder.walked.add("judgements")
            self.run_folder.kept.add("judgements")
        else:
            self._check_labels()
            self.run_folder.adopt("judgements", signature, size, [Judgement], made)
        if not changes.same_labels:
            self.run_folder.outdate("preferences")
        await self._timed("preferences", self._preferences)
        self._say_trained_before(before)
        return await self._accounts_and_report(report=False)

    def _describe(self) -> None:
        """As for any walk; what only other stages use stays in the manifest as it was."""
        stood = dict(self.run_folder.manifest)
        super()._describe()
        now = self.run_folder.manifest
        named = {(file["kind"], file["name"]) for file in now["files"]}
        others = [file for file in stood["files"] if (file["kind"], file["name"]) not in named]
        self.run_folder.describe(models={**stood["models"], **now["models"]}, files=[*now["files"], *others])

    def _inputs(self) -> dict[str, str]:
        stood = {item["source"]: item["sha256"] for item in self.run_folder.manifest.get("inputs", [])}
        for part in (self.labels, *self.models.values()):
            stood |= getattr(part, "inputs", {})
        return stood


def _compare_judgements(
    changes: Changes, found: Sequence[Judgement], before: Sequence[Judgement]
) -> tuple[list[Judgement], bool]:
    """The judgements of one comparison as they are to be kept, and whether one of them lacks a reply that it had.

    What had no reply before, a failed call for instance, stays what it was.
    """
    stood = dict(zip(showings(before), before, strict=True))
    now: list[Judgement] = []
    short = False
    for showing, judgement in zip(showings(found), found, strict=True):
        old = stood.pop(showing, None)
        if judgement.outcome == "failed" and judgement.reason == NOT_KEPT:
            if old and old.outcome in NOT_ASKED:
                judgement = old.model_copy(update={"labeller": judgement.labeller, "weight": judgement.weight})
            else:
                short = True
        changes.showings += 1
        changes.same_judgements &= judgement == old
        if change := _judgement_change(old, judgement):
            changes.judgements[change] += 1
        now.append(judgement)
    for old in stood.values():
        changes.same_judgements = False
        changes.judgements[f"{old.outcome} -> not shown any more"] += 1
    return now, short


def showings(judgements: Sequence[Judgement]) -> list[Hashable]:
    """What tells the showings of one comparison apart. A labeller is its place among them: an edit of its file changes its
    name."""
    labellers = list(dict.fromkeys(judgement.labeller for judgement in judgements))
    return [(labellers.index(each.labeller), each.principle_id, each.shown) for each in judgements]


def _judgement_change(before: Judgement | None, now: Judgement) -> str | None:
    """What became of a showing's judgement, in words; None where it says the same."""
    if before is None:
        return f"not judged -> {now.outcome}"
    if before.outcome != now.outcome:
        return f"{before.outcome} -> {now.outcome}"
    if now.outcome != "ranked":
        return f"{now.outcome}, for another reason" if before.reason != now.reason else None
    if before.ranking != now.ranking:
        return "ranked -> ranked in another order"
    return "ranked, with another probability" if before.p != now.p else None


def _label_change(before: Row | None, now: Row) -> str | None:
    """What became of a pair's label, in words; None where it is the same."""
    (preference, row) = now
    if before is None:
        return f"none yet -> {row.outcome}"
    (stood, stood_row) = before
    if stood_row.outcome != row.outcome:
        return f"{stood_row.outcome} -> {row.outcome}"
    if stood.weight == preference.weight == 0:
        return f"{row.outcome}, for another reason" if stood_row.reason != row.reason else None
    if stood_row.chosen_id != row.chosen_id:
        return f"{row.outcome} -> {row.outcome} the other way"
    return (
        f"{row.outcome}, with another probability"
        if (stood.p, stood.weight) != (preference.p, preference.weight)
        else None
    )
