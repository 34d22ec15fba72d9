"""A labelled run seen by principle, people's labels of the same pairs, and the run's judges opened to be asked again."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from rlaif.catalogue import Catalogue, Entry, Kind
from rlaif.checking import identify, kept_files, label_context, open_labels, prices_of, recipe_of_folder
from rlaif.component import Place
from rlaif.config import Pipeline, PreferencesSection, Principle, load_constitution
from rlaif.errors import ConfigError, UserError
from rlaif.labels import LabelContext
from rlaif.labels.human import HumanLabels
from rlaif.labels.judges import JudgeLabels
from rlaif.ledger import Ledger
from rlaif.models import open_model
from rlaif.models.gateway import Gateway
from rlaif.offline import AsKept, WhenUsed
from rlaif.pairs import read_pairs
from rlaif.pipeline import Watcher
from rlaif.preferences import labeller_opinion, reconcile, side, tie_likeliest, votes, with_judgements
from rlaif.prompting import project_secret
from rlaif.records import Comparison, Judgement, Response
from rlaif.store import RunFolder

LABELLED = ("labelled", "tie")
PEOPLE = PreferencesSection(missing_votes="ignore")  # one of several people who gave no answer takes no label away


@dataclass(frozen=True)
class Label:
    """What is preferred of a pair: ``p`` is the probability in [0, 1] that its first response is better. ``tie``: that they
    are as good is likelier than either."""

    p: float
    tie: bool = False

    @property
    def side(self) -> float:
        """1: the first response, 0: the second, 0.5: neither."""
        return 0.5 if self.tie else side(self.p)


@dataclass(frozen=True)
class Pair:
    """Two responses of a comparison, by id, and everything that was said of the comparison."""

    comparison: Comparison
    a: Response
    b: Response
    judgements: tuple[Judgement, ...]

    @property
    def prompt(self) -> str:
        """The id of the prompt: pairs that share it are not independent."""
        return self.comparison.prompt.id

    @property
    def key(self) -> tuple[str, str]:
        return self.a.id, self.b.id

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """The principles that it was judged by, as ``id@hash``."""
        return tuple(dict.fromkeys(j.principle_id for j in self.judgements if j.principle_id))

    def label(self, rules: PreferencesSection, without: str | None = None) -> Label | None:
        """The label by the run's own rules, as if nobody had been asked by the principle ``without``; None where there is
        none, or a rule sets it aside."""
        kept = [j for j in self.judgements if without is None or j.principle_id != without]
        if not kept:
            return None
        preference, row = reconcile(self.comparison, (self.a, self.b), kept, rules)
        if row.outcome not in LABELLED:
            return None
        p = preference.p if row.chosen_id == self.a.id else 1 - preference.p
        return Label(p, tie_likeliest(kept, self.a.id, self.b.id))

    def people_label(self) -> Label | None:
        """The label of people's judgements: p is the mean of their opinions, and a tie is what more than half call one."""
        label = self.label(PEOPLE)
        said, _ = votes(self.judgements, self.a.id, self.b.id)
        most = 2 * sum(p == 0.5 for p in said.values()) > len(said)
        return replace(label, tie=True) if label and most else label

    def opinion(self, tag: str) -> float | None:
        """P(a is better) under one principle: both orders averaged, then the labellers who have an opinion on the pair as a
        whole; None where nobody has one."""
        heard, _ = votes(self.judgements, self.a.id, self.b.id)
        found = []
        for labeller in heard or {j.labeller: 0.5 for j in self.judgements}:
            own = [j for j in self.judgements if j.labeller == labeller and j.principle_id == tag]
            said = labeller_opinion(own, self.a.id, self.b.id) if own else None
            found += [said] if isinstance(said, float) else []
        return sum(found) / len(found) if found else None

    def shares(self) -> dict[str, float]:
        """Each principle's part of the whole weight: positive, together 1."""
        weights = {j.principle_id: j.weight for j in self.judgements if j.principle_id}
        whole = sum(weights.values())
        return {tag: weight / whole for tag, weight in weights.items()}


def pairs_of(comparison: Comparison, judgements: Sequence[Judgement]) -> Iterator[Pair]:
    """Every two responses of a comparison, in the order of the run's preferences."""
    for pair in itertools.combinations(comparison.responses, 2):
        a, b = sorted(pair, key=lambda response: response.id)
        yield Pair(comparison, a, b, tuple(judgements))


@dataclass(frozen=True)
class JudgedRun:
    """A run folder with finished judgements by principle."""

    folder: RunFolder
    pipeline: Pipeline
    entry: Entry
    settings: tuple[str, ...]
    principles: tuple[Principle, ...]  # of the constitution that it was judged by, in its order
    mode: str  # draw or average

    @property
    def rules(self) -> PreferencesSection:
        return self.pipeline.preferences

    def pairs(self) -> Iterator[Pair]:
        for comparison, judgements in self.judged():
            yield from pairs_of(comparison, judgements)

    def judged(self) -> Iterator[tuple[Comparison, list[Judgement]]]:
        return with_judgements(self.folder.read("comparisons"), self.folder.read("judgements"))

    @cached_property
    def names(self) -> dict[str, str]:
        """The id of each principle by its tag; the tag itself where two wordings share an id."""
        shared = Counter(principle.id for principle in self.principles)
        return {p.tag: p.id if shared[p.id] == 1 else p.tag for p in self.principles}


def finished_run(path: Path, settings: Sequence[str] = ()) -> JudgedRun:
    """A run with finished judgements, whoever gave them, its principles left aside. Raises UserError."""
    pipeline, entry = recipe_of_folder("rlaif", path, {}, settings)
    folder = RunFolder(path)
    if not folder.is_complete("judgements"):
        raise UserError(f"{path}: it has no finished judgements yet: rlaif run goes on with it.")
    return JudgedRun(folder, pipeline, entry, tuple(settings), (), "draw")


def open_run(path: Path, settings: Sequence[str] = ()) -> JudgedRun:
    """A run that judges labelled under a constitution. Raises UserError where principles cannot be told apart in it."""
    found = finished_run(path, settings)
    pipeline = found.pipeline
    if pipeline.labels is None or pipeline.labels.source != "judges" or pipeline.constitution is None:
        raise UserError(
            f"{path}: its labels are not by judges under a constitution, so that no principle stands behind them."
        )
    mode = pipeline.labels.options.get("principles", "draw")
    if mode == "all":
        raise UserError(
            f"{path}: its judges were shown all principles at once (principles: all), and what each of them did cannot be "
            "told. Label again with --set labels.options.principles=average."
        )
    catalogue = AsKept(kept=kept_files(path))
    constitution = load_constitution(catalogue, pipeline.constitution, where=str(found.entry.path))
    return replace(found, principles=constitution.principles, mode=mode)


# --- people -----------------------------------------------------------------------------------------------------------

People = Mapping[tuple[str, str], Label]  # by the ids of a pair's responses


async def people_of(run: JudgedRun, named: str | None) -> People:
    """People's labels of the run's pairs: of the file of pairs, the answers or the run folder that is named; else of the
    run's own file of pairs, where it is there and has any."""
    said = await people_judgements(run, named)
    found: dict[tuple[str, str], Label] = {}
    for comparison in run.folder.read("comparisons"):
        for pair in pairs_of(comparison, said.get(comparison.id, ())):
            label = pair.people_label()
            if label is not None:
                found[pair.key] = label
    if named and not found:
        raise UserError(f"--people {named}: no label of a person on a pair of {run.folder.path}.")
    return found


async def people_judgements(run: JudgedRun, named: str | None) -> dict[str, list[Judgement]]:
    """What every person said, by the id of the comparison; ``named`` as for ``people_of``."""
    if named is None and not _own_labels(run):
        return {}
    if named and (Path(named) / "manifest.json").is_file():
        other = RunFolder(Path(named))
        judged = with_judgements(other.read("comparisons"), other.read("judgements"))
        return {c.id: [j for j in judgements if j.labeller.startswith("human:")] for c, judgements in judged}
    return await _read_people(run, named)


def _own_labels(run: JudgedRun) -> bool:
    section = run.pipeline.pairs
    if section is None or not Path(section.source).is_file():
        return False
    return any(vote.p is not None for pair in read_pairs(section.source, limit=section.limit) for vote in pair.votes)


async def _read_people(run: JudgedRun, named: str | None) -> dict[str, list[Judgement]]:
    section = run.pipeline.pairs
    context = LabelContext(
        where=Place("--people"),
        catalogue=Catalogue(),
        gateway=cast(Any, None),  # files are read, nobody is asked
        models={},
        constitution=None,
        pairs=section.source if section else None,
        split=section.split if section else "train",
        limit=section.limit if section else None,
        secret=b"",
        seed=run.pipeline.seed,
    )
    labels = HumanLabels(HumanLabels.Options(file=named), context)
    found: dict[str, list[Judgement]] = {}
    async for judgements in labels.label(run.folder.batches("comparisons", run.pipeline.shard_rows)):
        for judgement in judgements:
            found.setdefault(judgement.comparison_id, []).append(judgement)
    return found


# --- judges to be asked -----------------------------------------------------------------------------------------------


class KeptButConstitutions(AsKept):
    """A run's own copies of judges, rubrics and templates; constitutions as they are now."""

    def _look(self, kind: Kind, name: str, from_builtin: bool) -> Entry | None:
        if kind == "constitution":
            return Catalogue._look(self, kind, name, from_builtin)
        return super()._look(kind, name, from_builtin)


@dataclass(frozen=True)
class Judges:
    """A recipe's judges and what they share. ``close`` when done."""

    pipeline: Pipeline
    where: Place
    catalogue: Catalogue
    gateway: Gateway
    models: WhenUsed
    secret: bytes
    watcher: Watcher

    def under(self, constitution: str | None) -> JudgeLabels:
        """The judges under this constitution. Raises ConfigError."""
        pipeline = self.pipeline.model_copy(update={"constitution": constitution})
        context = label_context(
            pipeline, self.where, self.catalogue, self.gateway, self.models, self.secret, self.watcher
        )
        labels = open_labels(pipeline, context, self.where)
        if not isinstance(labels, JudgeLabels):
            raise ConfigError(f"{self.where}: its labels are not by judges.")
        self.gateway.prices = prices_of(self.pipeline, self.models.opened, self.catalogue, self.where).of
        return labels

    @property
    def asked(self) -> int:
        """Requests that went to a model."""
        return sum(account.asked for account in self.gateway.accounts.values())

    @property
    def saved(self) -> int:
        """Requests that the ledger answered."""
        return sum(account.from_ledger for account in self.gateway.accounts.values())

    async def close(self) -> None:
        await self.gateway.close()
        self.gateway.ledger.close()


def open_judges(
    pipeline: Pipeline,
    entry: Entry,
    catalogue: Catalogue,
    ledger: Path,
    *,
    settings: Sequence[str] = (),
    watcher: Watcher | None = None,
    run: str = "",
) -> Judges:
    """A recipe's judges, to be asked through the ledger of this path; no other model of the recipe is opened."""
    watcher = watcher or Watcher()
    where = Place(str(entry.path), tuple(settings))

    def opened(role: str) -> Any:
        model = open_model(pipeline.models[role], where.at("models", role), watcher.notice)
        identify(model, role, watcher)
        return model

    gateway = Gateway(Ledger(ledger), run=run, budget_usd=pipeline.budget_usd, notice=watcher.notice)
    models = WhenUsed(pipeline.models, opened)
    return Judges(pipeline, where, catalogue, gateway, models, project_secret(ledger.parent), watcher)
