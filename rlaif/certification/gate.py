"""A recipe that requires a card: of this very judge, and good enough."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlaif.calibration import PANEL, Calibration
from rlaif.component import Place
from rlaif.config import GateSection, PreferencesSection
from rlaif.errors import ConfigError, did_you_mean
from rlaif.labels import LabelSource
from rlaif.labels.judges import JudgeLabels
from rlaif.records import digest
from rlaif.statistics import Figure

CARD, CERTIFICATE = "card.json", "certificate.json"
COUNTS = ("labels", "items")  # figures without an interval that a bound may be set on
DECIDING = {
    "minimum_margin",
    "consistent_orders_only",
    "panel",
    "missing_votes",
}  # rules that decide which side is preferred


def signature_of(labels: JudgeLabels, rules: PreferencesSection) -> str:
    """Who judges, by what, and how labels are made of it: another judge file, rubric, template, protocol, model, principle
    or rule is another judge. What a judge is called, the order of principles and what leaves the preferred side as it is
    (a clamp, the map of a probability) are not."""
    found = labels.signature()
    kept = rules.model_dump(mode="json", include=DECIDING)
    if isinstance(rules.calibration, Calibration) and rules.calibration.map.kind == PANEL:
        kept["weights"] = sorted(rules.calibration.map.weights.values())
    judges = sorted((each[1:] for each in found["judges"]), key=repr)
    return digest(judges, sorted(found["principles"]), found["mode"], found.get("second_order"), kept)


def need_card(gate: GateSection, labels: LabelSource | None, rules: PreferencesSection, where: Place) -> dict[str, Any]:
    """The card that a recipe requires, its certificate under ``certificate``. Raises ConfigError where it is of another
    judge, or not good enough."""
    if not isinstance(labels, JudgeLabels):
        raise ConfigError(f"{where}: a card is of judges, and this recipe's labels are by others. Leave gate out.")
    folder = Path(gate.card).parent if Path(gate.card).name == CARD else Path(gate.card)
    judges = " ".join(judge.entry.name for judge in labels.judges)
    remedy = f"`rlaif certify {judges} --human FILE --out {folder}` makes one"
    try:
        card = {name: Figure(**figure) for name, figure in json.loads((folder / CARD).read_text("utf-8")).items()}
        certificate = json.loads((folder / CERTIFICATE).read_text("utf-8"))
        signature = certificate["signature"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ValidationError) as error:
        raise ConfigError(f"{where}: {folder} holds no card that can be read ({error}): {remedy}.") from error
    if signature != signature_of(labels, rules):
        of = ", ".join(certificate["judges"])
        raise ConfigError(
            f"{where}: {folder} is the card of {of}, and not of these judges as they are now (judge file, rubric, template, "
            f"code, model, principles or rules for preferences differ): {remedy}."
        )
    for name in (*gate.at_least, *gate.at_most):
        if name not in card:
            raise ConfigError(f'{where}: {folder / CARD} has no figure "{name}".{did_you_mean(name, card)}')
    for bounds, line in _short(gate, card):
        remedy = (
            f"change the bound in gate.{bounds}"
            if bounds in gate.model_fields_set
            else f"set gate.{bounds}: this bound is the usual one"
        )
        raise ConfigError(f"{where}: {line}. See {folder / 'card.html'}, or {remedy}.")
    return {"certificate": certificate, **{name: figure.model_dump() for name, figure in card.items()}}


def _short(gate: GateSection, card: dict[str, Figure]) -> Iterator[tuple[str, str]]:
    """Every bound that a figure does not keep: the field it stands in, and a line."""
    for field, end in (("at_least", "low"), ("at_most", "high")):
        for name, bound in getattr(gate, field).items():
            figure, word = card[name], field.replace("_", " ")
            if name in COUNTS or name.endswith("_per_1000") or name.startswith("alt_test.omega"):
                kept, said = figure.value, f"{word} {bound:g}, and is {_end(figure.value)}"
            else:
                interval = f"{_end(figure.value)} ({_end(figure.low)} to {_end(figure.high)})"
                kept, said = getattr(figure, end), f"{word} {bound:g}, its whole interval, and is {interval}"
            if kept is None or (kept < bound if end == "low" else kept > bound):
                yield field, f"{name} is to be {said}"


def _end(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
