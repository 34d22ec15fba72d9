"""``rlaif certify JUDGE``: the judge asked about people's pairs and about the canaries, by the code that labels any run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rlaif.calibrating import LEAST_PROMPTS, bare, calibrate
from rlaif.canaries import CANARIES, Claims, Clear, chosen, rows
from rlaif.catalogue import Catalogue
from rlaif.certification.card import Card, Probed, figures, lines, verdict
from rlaif.certification.gate import CARD, CERTIFICATE, signature_of
from rlaif.certification.judged import replay_of
from rlaif.certification.page import write_page
from rlaif.checking import build, limited, recipe_of
from rlaif.constitutions.runs import JudgedRun, People, finished_run, people_of
from rlaif.errors import UserError
from rlaif.labels.judges import JudgeLabels
from rlaif.ledger import Entry, Ledger
from rlaif.models import Identity
from rlaif.pairs import read_pairs
from rlaif.pipeline import Road, Watcher
from rlaif.recorded.replay import Replay
from rlaif.rows import read_rows, source_hash
from rlaif.store import write_json, write_text

CLEAR = 0.99  # of people's votes for one reply of a pair, from which a canary takes the other's place
LOOKED_UP = 1000  # replies at once


@dataclass(frozen=True)
class Certified:
    """A judge's card, and what could not be said in it."""

    card: Card
    unsaid: list[str]
    replay: Replay

    def lines(self) -> list[str]:
        return [*lines(self.replay, self.card), *self.unsaid]


async def certify(
    data: dict[str, Any],
    human: str,
    out: Path,
    *,
    second: dict[str, Any] | None = None,
    settings: Sequence[str] = (),
    limit: int | None = None,
    canaries: int = 200,
    watcher: Watcher | None = None,
) -> Certified:
    """Ask the judge that ``data`` (a recipe's labels and models) describes, and write ``card.json``,
    ``card.html`` and ``certificate.json`` into ``out``, beside the runs it took. ``second`` describes a judge of another
    family of models, that is asked about the same pairs. Raises UserError."""
    watcher = watcher or Watcher()
    if not any(vote.p is not None for pair in read_pairs(human, limit=limit) for vote in pair.votes):
        raise UserError(f"{human}: no label of a person on any pair: a card says how far a judge agrees with people.")
    _need_own_folder(out, data)
    signed, claims = await _judge(data, human, out / "pairs", settings, limit, watcher)
    run = finished_run(out / "pairs")
    people = await people_of(run, human)
    replay = await replay_of(run, human, signed["models"])
    other = None
    if second:
        outside, _ = await _judge(second, human, out / "second", settings, limit, watcher)
        other = await replay_of(finished_run(out / "second"), human, outside["models"])
    probed = Probed()
    clear = chosen(list(_clear(run, people)), canaries)
    if clear and any(pair.label(run.rules) for pair in run.pairs()):  # one that says nothing is not asked in vain
        file = out / "probes.jsonl"
        write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(clear, claims)))
        await _judge(data, str(file), out / "probes", settings, None, watcher)
        probed = _probed(finished_run(out / "probes"), file, run, people)
    card, unsaid = figures(run, replay, people, probed, _entries(run), other)
    if canaries and not clear:
        unsaid.append("No canaries: of no pair do all people prefer the same reply.")
    elif canaries and not probed.wins:
        unsaid.append("No canaries: it labelled no pair, and was not asked about any.")
    try:
        found = await calibrate(out / "pairs", human, None)
        card |= {f"calibration.{name.replace(' ', '_')}": figure for name, figure in found.figures.items()}
        write_json(out / "calibration.json", found.calibration.model_dump(mode="json"))
    except UserError:
        unsaid.append(f"No calibration: it takes {LEAST_PROMPTS} prompts with a label of the judge and one of people.")
    certificate = {
        **signed,
        "verdict": verdict(card),
        "human": human,
        "sha256": source_hash(human),
        "created": run.folder.manifest["created"],
    }
    write_json(out / CARD, {name: figure.model_dump() for name, figure in card.items()})
    write_json(out / CERTIFICATE, certificate)
    write_page(out / "card.html", card, unsaid, certificate, run, people)
    return Certified(card, unsaid, replay)


def _need_own_folder(out: Path, data: dict[str, Any]) -> None:
    """Raises UserError where the folder holds another judge's card."""
    try:
        there = json.loads((out / CERTIFICATE).read_text("utf-8"))["judges"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    entries = [Catalogue().find("judge", name, where="certify") for name in data["labels"]["options"]["judges"]]
    if sorted(bare(f"judge:{entry.tag}") for entry in entries) != sorted(map(bare, there)):
        raise UserError(f"{out}: it holds the card of {', '.join(map(bare, there))}. Name another folder with --out.")


async def _judge(
    data: dict[str, Any], pairs: str, out: Path, settings: Sequence[str], limit: int | None, watcher: Watcher
) -> tuple[dict[str, Any], Claims]:
    """Label a file of pairs; says which judge did, and what could be claimed of it."""
    pipeline, entry = recipe_of("certify", {**data, "pairs": pairs}, settings)
    road = build(limited(pipeline, limit), entry, Catalogue(), out=out, settings=settings, watcher=watcher)
    try:
        await road.run("preferences")
        assert isinstance(road.labels, JudgeLabels), "certify's own recipe names judges"
        return _signed(road), Claims.before([judge.protocol for judge in road.labels.judges])
    finally:
        road.gateway.ledger.close()


def _signed(road: Road) -> dict[str, Any]:
    """Who judges: what a card is a card of."""
    labels = road.labels
    assert isinstance(labels, JudgeLabels), "certify's own recipe names judges"
    return {
        "judges": [judge.labeller for judge in labels.judges],
        "models": [_called(judge.model.identity) for judge in labels.judges if judge.model],
        "constitution": road.pipeline.constitution,
        "signature": signature_of(labels, road.pipeline.preferences),
    }


def _called(identity: Identity) -> str:
    """A model's name, and at which address it was asked."""
    host = urlsplit(dict(identity.facts).get("endpoint") or "").hostname
    return f"{identity.name} at {host}" if host else identity.name


def _clear(run: JudgedRun, people: People) -> Iterator[Clear]:
    """The pairs of which all people prefer the same reply."""
    for pair in run.pairs():
        human = people.get(pair.key)
        if human is not None and not 1 - CLEAR < human.p < CLEAR:
            better, worse = (pair.a, pair.b) if human.p > 0.5 else (pair.b, pair.a)
            yield Clear(pair.comparison, better, worse)


def _probed(probes: JudgedRun, file: Path, run: JudgedRun, people: People) -> Probed:
    """What the judge said of each canary, and of the pairs that they were made from."""
    labels = {pair.comparison.id: (pair, pair.label(probes.rules)) for pair in probes.pairs()}
    wins: dict[str, list[tuple[str, str, float]]] = {canary.name: [] for canary in CANARIES}
    unlabelled = dict.fromkeys(wins, 0)
    for row, read in zip(read_rows(str(file)), read_pairs(str(file)), strict=True):
        if isinstance(read.comparison, str) or read.comparison.id not in labels:
            continue
        name, place = row[1]["canary"], row[1]["of"]
        pair, label = labels[read.comparison.id]
        if label is None:
            unlabelled[name] += 1
        else:
            wins[name].append((pair.prompt, place, 1 - label.side if pair.a.id == read.first else label.side))
    undressed = {}
    for pair in run.pairs():
        label, human = pair.label(run.rules), people.get(pair.key)
        if label is not None and human is not None:
            undressed[pair.comparison.id] = label.side if human.side == 0 else 1 - label.side
    return Probed(wins, unlabelled, undressed)


def _entries(run: JudgedRun) -> Iterator[Entry]:
    """The replies behind the run's judgements, as the ledger has them."""
    path = run.folder.ledger()
    if path is None:
        return
    ledger = Ledger(path)
    try:
        keys = (key for judgement in run.folder.read("judgements") for key in judgement.reply_keys)
        while some := list(itertools.islice(keys, LOOKED_UP)):
            yield from ledger.get(some).values()
    finally:
        ledger.close()
