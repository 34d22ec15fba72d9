"""A run's labels in the forms other tools take: one file, or a dataset folder with a card that says how it was made.

forms.py    what the rows are, and what is left out
files.py    rows to JSONL and Parquet
facts.py    what a run folder knows of how its labels were made
card.py     the same in words and numbers
dataset.py  the folder: data, card, numbers, recipe, the files that judges were given
public.py   no place of this machine and no key in any of them
push.py     the folder to the Hub
"""

from __future__ import annotations

import os
from pathlib import Path

from rlaif.errors import UserError, did_you_mean
from rlaif.export.dataset import write_dataset
from rlaif.export.facts import Facts
from rlaif.export.files import write_rows
from rlaif.export.forms import FORMS, Form, Source, account, fit_rows
from rlaif.store import RunFolder


def export(folder: Path, form: str = "trl", to: Path | str | None = None, licence: str | None = None) -> list[str]:
    """Write one form; returns lines saying what was written and what was left out. Raises UserError.

    ``to`` is a file (.jsonl or .parquet), or a folder: a dataset of the Hub's shape, with a card. Forms: ``trl`` and
    ``openrlhf`` (prompt, chosen, rejected), ``kto`` (prompt, completion, label), ``ranked`` (a prompt's answers with
    scores), ``jsonl`` (every preference with probability, weight and provenance), ``tasks`` (blank ones for people).
    """
    if form not in FORMS:
        raise UserError(f'export: unknown form "{form}".{did_you_mean(form, FORMS)}')
    chosen = FORMS[form]
    run = _open(folder, chosen)
    suffix = ".parquet" if chosen.schema and form != "jsonl" else ".jsonl"
    target = Path(to or folder / f"{form}{suffix}")
    if target.is_dir() or str(to or target).endswith(os.sep) or not target.suffix:
        return write_dataset(run, form, target, licence)
    if licence:
        raise UserError(f"{target}: --license stands on the card of a dataset: name a folder with --to.")
    _check_ending(target, form, chosen)
    source = Source(run, constitution=Facts(run).constitution_tag)
    written = write_rows(target, fit_rows(form, source), chosen.schema)
    return account(source, chosen, written, str(target))


def _open(folder: Path, form: Form) -> RunFolder:
    """The run folder, with all that the form is made from."""
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{folder}: not a run folder (it has no manifest.json).")
    run = RunFolder(folder)
    noun = "preferences" if form.schema else "comparisons"
    if not run.shards(noun):
        raise UserError(f"{folder}: it holds no {noun} yet.")
    unfinished = [stage for stage in ("judgements", "preferences") if not run.is_complete(stage)]
    if form.schema and unfinished:
        raise UserError(f"{folder}: its {unfinished[0]} are not finished. Run it again to its end, then export.")
    return run


def _check_ending(target: Path, name: str, form: Form) -> None:
    endings = (".jsonl", ".parquet") if form.schema else (".jsonl",)
    if target.suffix not in endings:
        folder = ", or to a folder" if form.schema else ""
        raise UserError(f"{target}: --form {name} is written to a file that ends in {' or '.join(endings)}{folder}.")
