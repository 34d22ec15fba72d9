"""Replies as rows of a file, one at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlaif.errors import UserError
from rlaif.ledger import ENTRIES, Entry, entry_of
from rlaif.ledger_tools import Reader, Selection, date


def export(reader: Reader, target: Path, selection: Selection) -> int:
    """Write the selected replies, oldest first, to a .jsonl or .parquet file; how many. Raises UserError, StorageError."""
    import pyarrow as pa

    from rlaif.export.files import write_rows

    if target.suffix not in (".jsonl", ".parquet"):
        raise UserError(f"{target}: the name of a file ends in .jsonl or .parquet.")
    if target.resolve() == reader.path.resolve():
        raise UserError(f"{target}: is the ledger itself. Name another file.")
    candidate = pa.struct([("token", pa.string()), ("logprob", pa.float64())])
    texts = ("key", "model", "run", "created", "context", "text", "finish_reason")
    schema = pa.schema(
        [
            *((name, pa.string()) for name in texts),
            ("logprobs", pa.list_(candidate)),
            ("token_ids", pa.list_(pa.int64())),
            *((name, pa.int64()) for name in ("prompt_tokens", "output_tokens", "cached_tokens", "attempts")),
            ("served_by", pa.string()),
            ("cost_usd", pa.float64()),
            ("seconds", pa.float64()),
        ]
    )
    query = f"{ENTRIES} WHERE {selection.condition} ORDER BY replies.rowid"
    as_text = target.suffix == ".parquet"
    rows = (_row(entry_of(row), as_text) for row in reader.rows(query, selection.values))
    return write_rows(target, rows, schema)


def _row(entry: Entry, as_text: bool) -> dict[str, Any]:
    """``context`` is JSON text in a table, and an object in JSON."""
    reply = entry.reply
    return {
        "key": entry.key,
        "model": entry.model,
        "run": entry.run,
        "created": date(entry.created),
        "context": entry.context if as_text else json.loads(entry.context),
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "logprobs": [{"token": token, "logprob": value} for token, value in reply.logprobs],
        "token_ids": None if reply.token_ids is None else list(reply.token_ids),
        "prompt_tokens": reply.prompt_tokens,
        "output_tokens": reply.output_tokens,
        "cached_tokens": reply.cached_tokens,
        "attempts": entry.attempts,
        "served_by": reply.served_by,
        "cost_usd": entry.cost_usd,
        "seconds": entry.seconds,
    }
