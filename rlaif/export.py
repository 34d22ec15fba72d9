"""A run's preferences in the forms other tools take, and blank tasks for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlaif.errors import UserError, did_you_mean
from rlaif.preferences import NEAR_TIE, hard_labels
from rlaif.records import Message, Preference
from rlaif.store import RunFolder, writing

Row = dict[str, Any]


def export(folder: Path, form: str = "trl", to: Path | None = None) -> list[str]:
    """Write one form; returns lines saying what was written and what was left out. Raises UserError.

    * ``trl``: conversational ``prompt``, ``chosen``, ``rejected``, the rows that a trainer without probabilities may
      use: ties, near-ties and unlabelled rows are left out, counted;
    * ``jsonl``: every preference with ``p`` and ``weight``;
    * ``tasks``: every comparison as a blank task for ``rlaif label``.
    """
    forms: dict[str, Callable[[RunFolder, Counter[str]], Iterator[Row]]] = {
        "trl": _trl,
        "jsonl": _jsonl,
        "tasks": _tasks,
    }
    if form not in forms:
        raise UserError(f'export: unknown form "{form}".{did_you_mean(form, forms)}')
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{folder}: not a run folder (it has no manifest.json).")
    run = RunFolder(folder)
    noun = "comparisons" if form == "tasks" else "preferences"
    if not run.shards(noun):
        raise UserError(f"{folder}: it holds no {noun} yet.")
    suffixes = (".jsonl", ".parquet") if form == "trl" else (".jsonl",)
    target = to or folder / f"{form}{suffixes[-1]}"
    if target.suffix not in suffixes:
        raise UserError(f"{target}: --form {form} is written to a file that ends in {' or '.join(suffixes)}.")
    left_out: Counter[str] = Counter()
    written = _write(target, forms[form](run, left_out))
    if not written:
        why = ", ".join(f"{count:,} × {reason}" for reason, count in left_out.most_common())
        target.unlink()
        raise UserError(
            f"{folder}: no row is fit for --form {form} ({why}); --form jsonl writes all with p and weight."
        )
    lines = [f"{target}: {written:,} rows of {run.rows(noun):,}"]
    return lines + [f"left out: {count:,} × {reason}" for reason, count in left_out.most_common()]


def _turns(messages: tuple[Message, ...]) -> list[Row]:
    return [message.model_dump() for message in messages]


def _trl(run: RunFolder, left_out: Counter[str]) -> Iterator[Row]:
    for row in hard_labels(run.read("preferences"), NEAR_TIE):
        if isinstance(row, Preference):
            yield {"prompt": _turns(row.prompt), "chosen": _turns(row.chosen), "rejected": _turns(row.rejected)}
        else:
            left_out[row] += 1


def _jsonl(run: RunFolder, left_out: Counter[str]) -> Iterator[Row]:
    for row in run.read("preferences"):
        yield row.model_dump()


def _tasks(run: RunFolder, left_out: Counter[str]) -> Iterator[Row]:
    for comparison in run.read("comparisons"):
        if len(comparison.responses) != 2:
            left_out["more than two responses"] += 1
            continue
        a, b = comparison.responses
        yield {
            "comparison_id": comparison.id,
            "prompt": comparison.prompt.text,
            "reply_a": a.text,
            "reply_b": b.text,
            "label": None,
            "annotator": None,
        }


def _write(target: Path, rows: Iterator[Row]) -> int:
    """JSONL, or Parquet by batches; whole or not at all."""
    count = 0
    with writing(target) as temporary:
        if target.suffix == ".parquet":
            turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
            schema = pa.schema([(name, turns) for name in ("prompt", "chosen", "rejected")])
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                batch: list[Row] = []
                for row in rows:
                    batch.append(row)
                    count += 1
                    if len(batch) == 1000:
                        writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                        batch = []
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
        else:
            with temporary.open("w", encoding="utf-8") as file:
                for row in rows:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    count += 1
    return count
