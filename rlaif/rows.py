"""Rows of a user's file: JSONL, JSON, CSV (each also .gz), Parquet, a ``datasets`` hub id, or a shipped prompt set.

A file that cannot be parsed stops the command with the line at fault; what is wrong with a single row's content is the
reader's affair (it becomes an exclusion with a reason).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlaif.component import Place
from rlaif.errors import DataError, did_you_mean
from rlaif.records import digest

Row = dict[str, Any]
NESTED = "lists or objects are nested deeper than anything that could be meant."
SEPARATORS = {";": '";"', "\t": "tabs", "|": '"|"'}  # of files that go by the name of CSV
LABEL_COLUMNS = ("human_labels", "labels")
MANY_FILES = 1000  # in a folder, from which a near name is not looked for


def read_rows(source: str, split: str = "train") -> Iterator[tuple[str, Row]]:
    """``(where, row)`` for every row; ``where`` names file and line. Raises DataError."""
    if source.startswith("hub:"):
        yield from _hub(source.removeprefix("hub:"), split)
        return
    path = Path(source)
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    need_source(source)
    if kind == "parquet":
        yield from _parquet(path)
    elif kind == "csv":
        yield from _csv(path)
    elif kind == "json":
        yield from _json(path)
    elif kind == "jsonl":
        yield from _jsonl(path)
    else:
        raise DataError(
            f"{source}: files end in .jsonl, .json, .csv (each also .gz) or .parquet; hub ids start with hub:."
        )


def need_source(source: str, where: str | Place | None = None) -> None:
    """Raises DataError where there is no such file; ``where``: the setting that names it."""
    path = Path(source)
    if source.startswith("hub:") or path.is_file():
        return
    if path.is_dir():
        raise DataError(
            f"{f'{where}: ' if where else ''}{source}: a folder; a file is expected. A run folder is named with --out, a "
            f"dataset folder as hub:{source}."
        )
    beside = [other.name for other in path.parent.iterdir() if other.is_file()] if path.parent.is_dir() else []
    near = did_you_mean(path.name, beside) if len(beside) < MANY_FILES else ""
    raise DataError(
        f"{f'{where}: ' if where else ''}{source}: no such file in {'this folder' if path.parent == Path() else path.parent}."
        f"{near if 'Did you mean' in near else ' Name one that is there.'}"
    )


def source_hash(source: str) -> str:
    """SHA-256 of a file, or of all files of a local dataset folder; a hub id stands for itself."""
    if source.startswith("hub:"):
        folder = Path(source.removeprefix("hub:"))
        files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
        return digest(source, [[str(path.relative_to(folder)), source_hash(str(path))] for path in files])
    need_source(source)
    try:
        with open(source, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{source}: {error.strerror}.") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise DataError(f"{path}: UTF-16 text. Save it as UTF-8.")
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path} line {number}: not UTF-8 text (byte 0x{raw[error.start]:02x} at position "
                        f"{error.start}). Save the file as UTF-8."
                    ) from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: not a whole gzip file: {error}.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    empty = True
    for number, line in _lines(path):
        if not line.strip():
            continue
        empty = False
        where = f"{path} line {number}"
        try:
            row = json.loads(line.rstrip())
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not valid JSON: {_fault(error)}.") from error
        except RecursionError:
            raise DataError(f"{where}: {NESTED}") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object, found {type(row).__name__}.")
        yield where, row
    if empty:
        raise DataError(f"{path}: the file is empty.")


def _fault(error: json.JSONDecodeError) -> str:
    """What is wrong, and where on its line; of a text that breaks off, where it does."""
    if error.msg.startswith("Unterminated string"):
        return f"the text that begins at column {error.colno} does not end (cut off?)"
    if error.pos >= len(error.doc):
        return f"it breaks off after column {error.colno - 1} (cut off?)"
    return f"{error.msg} at column {error.colno}"


def _json(path: Path) -> Iterator[tuple[str, Row]]:
    text = "".join(line for _, line in _lines(path))
    try:
        rows = json.loads(text.rstrip())
    except json.JSONDecodeError as error:
        remedy = " One object per line is a .jsonl file." if error.msg == "Extra data" else ""
        raise DataError(f"{path} line {error.lineno}: not valid JSON: {_fault(error)}.{remedy}") from error
    except RecursionError:
        raise DataError(f"{path}: {NESTED}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected a list of objects.")
    if not rows:
        raise DataError(f"{path}: the file is empty.")
    for number, row in enumerate(rows, 1):
        yield f"{path} item {number}", row


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    text = io.StringIO("".join(line for _, line in _lines(path)), newline="")
    reader = csv.DictReader(text)
    if not reader.fieldnames:
        raise DataError(f"{path}: the file is empty.")
    _check_header(path, reader.fieldnames)
    where = None
    try:
        for row in reader:
            where = f"{path} line {reader.line_num}"
            if None in row or None in row.values():
                raise DataError(f"{where}: expected {len(reader.fieldnames)} columns ({', '.join(reader.fieldnames)}).")
            yield where, {name: _cell(name, text) for name, text in row.items()}
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num + 1}: not valid CSV: {error}.") from error
    if where is None:
        raise DataError(f"{path}: a header and no rows.")


def _check_header(path: Path, names: Sequence[str]) -> None:
    """A single column whose name holds a separator is a table that was saved with it."""
    separator = next((mark for mark in SEPARATORS if len(names) == 1 and mark in names[0]), None)
    if separator:
        raise DataError(
            f"{path}: looks separated by {SEPARATORS[separator]}, for its header is one column, {names[0]!r}. Save it "
            "separated by commas."
        )


def _cell(name: str, text: str) -> Any:
    """The list that a cell holds as JSON, of turns or of labels (a mapping, too); any other cell is its text."""
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    turns = isinstance(value, list) and bool(value) and all(_is_turn(item) for item in value)
    return value if turns or name in LABEL_COLUMNS else text


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and ({"role", "content"} <= set(value) or {"from", "value"} <= set(value))


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        file = pq.ParquetFile(path)
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}.") from error
    if not number:
        raise DataError(f"{path}: the file holds no rows.")


def _hub(name: str, split: str) -> Iterator[tuple[str, Row]]:
    """A dataset of the Hugging Face hub, or a local dataset folder, through ``datasets``."""
    from datasets import load_dataset

    repository, _, config = name.partition(":")
    try:
        dataset = load_dataset(repository, config or None, split=split, streaming=True)
        for number, row in enumerate(dataset, 1):
            yield f"hub:{name} {split} row {number}", dict(row)
    except (OSError, ValueError, ConnectionError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"hub:{name}: cannot be loaded: {first}") from error
