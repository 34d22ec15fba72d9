"""Check one file of the catalogue; make a recipe of a command's flags, or of a run folder and more flags."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rlaif.catalogue import FOLDERS, Catalogue, Entry, Kind
from rlaif.component import load, parse_model, parse_options
from rlaif.config import Constitution, JudgeFile, Pipeline, apply_settings
from rlaif.errors import ConfigError, UserError, did_you_mean


def check_file(name: str, settings: Sequence[str] = ()) -> str:
    """One line saying that the file is sound. Raises UserError otherwise."""
    catalogue = Catalogue()
    kind, entry = _kind_of(catalogue, name)
    if kind == "pipeline":
        from rlaif.pipeline import check

        with tempfile.TemporaryDirectory() as nowhere:
            road = check(name, settings, out=Path(nowhere))
            road.gateway.ledger.close()
        return f"{entry.path}: sound; {len(road.models)} models, {len(road.catalogue.used)} files."
    if kind == "constitution":
        constitution: Constitution = parse_model(Constitution, entry.yaml(), str(entry.path))
        return f"{entry.path}: sound; {len(constitution.principles)} principles."
    _check_judge(catalogue, entry)
    return f"{entry.path}: sound."


def _kind_of(catalogue: Catalogue, name: str) -> tuple[Kind, Entry]:
    kinds: tuple[Kind, ...] = ("pipeline", "judge", "constitution")
    path = Path(name)
    if path.suffix == ".yaml" and path.is_file():
        kind = _kind_by_keys(path)
        return kind, catalogue.find(kind, name, where="check")
    for kind in kinds:
        if name.removeprefix("builtin:") in catalogue.names(kind):
            return kind, catalogue.find(kind, name, where="check")
    known = [each for kind in kinds for each in catalogue.names(kind)]
    raise ConfigError(f'check: "{name}" is neither a file nor in the catalogue.{did_you_mean(name, known)}')


def _kind_by_keys(path: Path) -> Kind:
    for kind, (folder, _) in FOLDERS.items():
        if path.resolve().parent.as_posix().endswith(folder):
            return kind
    data = Entry("pipeline", path.stem, path, False, path.read_bytes()).yaml()
    return "constitution" if "principles" in data else "judge" if "protocol" in data else "pipeline"


def _check_judge(catalogue: Catalogue, entry: Entry) -> None:
    """A judge without a model: its protocol, options, rubric and template."""
    from rlaif.judging import PROTOCOLS, ProtocolContext

    where = str(entry.path)
    file: JudgeFile = parse_model(JudgeFile, entry.yaml(), where)
    if file.rubric:
        catalogue.find("rubric", file.rubric, where=where, from_builtin=entry.builtin)
    kind = load(file.protocol, PROTOCOLS, "protocol", where)
    kind(parse_options(kind, file.options, f"{where}: options"), ProtocolContext(where, catalogue, entry.builtin, ""))


def recipe_of(name: str, data: dict[str, Any], settings: Sequence[str]) -> tuple[Pipeline, Entry]:
    """A recipe written down from flags, as if it had been a file."""
    data = apply_settings({key: value for key, value in data.items() if value not in (None, {})}, settings)
    pipeline: Pipeline = parse_model(Pipeline, data, f"rlaif {name}")
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode()
    return pipeline, Entry("pipeline", name, Path(f"rlaif {name}"), False, text)


def recipe_of_folder(name: str, folder: Path, data: dict[str, Any], settings: Sequence[str]) -> tuple[Pipeline, Entry]:
    """The recipe a run folder was made with, and ``data`` laid over it."""
    kept = folder / "config" / "pipelines" / "effective.json"
    if not kept.is_file():
        raise UserError(f"{folder}: not a run folder (it has no {kept.relative_to(folder)}).")
    base = json.loads(kept.read_text(encoding="utf-8"))
    for key, value in data.items():
        if value in (None, {}) and key not in ("evaluation", "reward_model"):
            continue
        if isinstance(value, dict) and isinstance(base.get(key), dict) and key != "labels":
            value = {**base[key], **value}
        if isinstance(value, list) and isinstance(base.get(key), list):
            names = {item if isinstance(item, str) else item["name"] for item in base[key]}
            value = [*base[key], *(item for item in value if item not in names)]
        base[key] = value
    return recipe_of(name, base | {k: {} for k in ("evaluation", "reward_model") if base.get(k) == {}}, settings)
