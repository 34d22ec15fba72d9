"""A dataset folder as the Hub and ``datasets.load_dataset`` read it.

FOLDER/
  README.md            the card; its header names licence, size and data files
  card.json            the card's numbers: dotted name to {value, low, high, n}
  recipe.json          the settings of the run
  data/train-00000.parquet …
  config/judges/ config/constitutions/ config/rubrics/ config/templates/     what judges were given
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from rlaif.errors import UserError
from rlaif.export import card
from rlaif.export.card import UNKNOWN
from rlaif.export.facts import Facts, Kept
from rlaif.export.files import write_shards
from rlaif.export.forms import FORMS, Source, account, fit_rows
from rlaif.export.public import public, public_text
from rlaif.labels.human import is_unnamed
from rlaif.store import RunFolder, disk_error, write_json

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def write_dataset(run: RunFolder, form: str, target: Path, licence: str | None = None) -> list[str]:
    """The folder, whole or not at all; returns lines saying what was written. Raises UserError.

    ``licence``: its name on the Hub, such as cc-by-4.0; "unknown" is what the card then says.
    """
    chosen = FORMS[form]
    if chosen.schema is None:
        raise UserError(f"{target}: --form {form} is for people to fill in: name a file that ends in .jsonl.")
    licence = licence or UNKNOWN
    if not LICENCE.fullmatch(licence):
        raise UserError(
            f'--license {licence}: licences are named as on the Hub, in lower case: apache-2.0, cc-by-4.0, mit; "other" for one '
            "of your own."
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: exists already. Remove it, or name another folder with --to.")
    facts = Facts(run)
    source = Source(run, facts.constitution_tag, name=numbered_people(), text=public_text)
    rows = fit_rows(form, source)
    with _writing_folder(target) as folder:
        (folder / "data").mkdir()
        written = write_shards(folder / "data", rows, chosen.schema)
        lines = account(source, chosen, written, str(target))
        flat = card.numbers(facts, written, source.left_out)
        write_json(folder / "card.json", {name: figure.model_dump() for name, figure in flat.items()})
        write_json(folder / "recipe.json", public({k: v for k, v in facts.recipe.items() if k != "ledger"}))
        for file in facts.kept:
            _copy(file, folder / "config" / f"{file.kind}s")
        text = card.text(facts, target.name, form, flat, source.left_out, licence)
        (folder / "README.md").write_text(text, encoding="utf-8")
    if licence == UNKNOWN:
        lines.append("The card says that the licence is unknown: --license names one, and `rlaif push` needs it.")
    return lines


def numbered_people() -> Callable[[str], str]:
    """Names for labellers: people by number in the order they come, judges and votes without a name as they are."""
    numbers: dict[str, str] = {}

    def name(labeller: str) -> str:
        if not labeller.startswith("human:") or is_unnamed(labeller):
            return labeller
        return numbers.setdefault(labeller, f"human:{len(numbers) + 1}")

    return name


def _copy(file: Kept, folder: Path) -> None:
    """A judge's file byte for byte; where one of its settings is a path of this machine or a key, without that."""
    target = folder / file.path.name
    folder.mkdir(parents=True, exist_ok=True)
    data = file.path.read_bytes()
    if file.path.suffix == ".yaml":
        value: Any = file.yaml()
        if public(value) != value:
            data = yaml.safe_dump(public(value), sort_keys=False, allow_unicode=True).encode()
    target.write_bytes(data)


@contextmanager
def _writing_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its name when the block ends; faults of the disk are one line."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        try:
            yield temporary
            temporary.replace(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise disk_error(target, error) from error


def licence_of(readme: str) -> str | None:
    """The licence that a card's header names; None where there is none."""
    _, opened, rest = readme.partition("---\n")
    head, closed, _ = rest.partition("\n---")
    try:
        header = yaml.safe_load(head) if opened and closed else None
    except yaml.YAMLError:
        return None
    found = header.get("license") if isinstance(header, dict) else None
    return None if found in (None, "", UNKNOWN) else json.dumps(found) if isinstance(found, list) else str(found)
