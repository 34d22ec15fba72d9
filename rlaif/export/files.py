"""Rows to JSONL and Parquet, a batch at a time."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlaif.store import writing

Row = dict[str, Any]
BATCH = 1000  # rows in memory
SHARD = 50_000  # rows of one file of a dataset


def write_rows(target: Path, rows: Iterable[Row], schema: pa.Schema | None) -> int:
    """One file by its ending, whole or not at all; how many rows."""
    with writing(target) as temporary:
        if target.suffix == ".parquet":
            return _parquet(temporary, iter(rows), schema)
        return _jsonl(temporary, rows)


def write_shards(folder: Path, rows: Iterable[Row], schema: pa.Schema, size: int = SHARD) -> int:
    """Parquet files of at most ``size`` rows, ``train-00000.parquet`` and on; how many rows."""
    rows = iter(rows)
    count = 0
    for number in itertools.count():
        first = next(rows, None)
        if first is None:
            return count
        shard = itertools.chain([first], itertools.islice(rows, size - 1))
        count += _parquet(folder / f"train-{number:05d}.parquet", shard, schema)
    raise AssertionError("unreachable")


def _parquet(path: Path, rows: Iterator[Row], schema: pa.Schema | None) -> int:
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(itertools.islice(rows, BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _jsonl(path: Path, rows: Iterable[Row]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count
