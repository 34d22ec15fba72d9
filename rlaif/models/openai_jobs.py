"""OpenAI's batch API: a JSONL file goes up, a job is made of it, an output and an error file come down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, BinaryIO

import orjson

from rlaif.ledger import JobRow
from rlaif.models.failures import failed, in_words
from rlaif.models.job_http import EARLIER, JSON, JobHttp, JobStatus, Result
from rlaif.models.transports import Address, Received

ENDPOINT = "/v1/chat/completions"
WINDOW = "24h"
MARK = "rlaif_job"  # the entry of a job's metadata by which it is found again
ENDED = ("completed", "expired", "cancelled", "failed")
UNREACHED = {"batch_expired": "the job expired before its turn", "batch_cancelled": "the job was canceled"}


class OpenAIJobs:
    """The batch API at one address."""

    most_lines, most_bytes = 50_000, 200 * 10**6
    opening, separator, closing = b"", b"\n", b"\n"

    def __init__(self, address: Address, http: JobHttp) -> None:
        self._address, self._http = address, http

    def line(self, key: str, body: dict[str, Any]) -> bytes:
        return orjson.dumps({"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body})

    async def upload(self, file: BinaryIO, job: str) -> str:
        file.seek(0)
        form = {"file": (f"rlaif-{job}.jsonl", file, "application/jsonl")}
        kind = {"content-type": f"multipart/form-data; boundary={job}"}  # the same bytes each time it is sent
        uploaded = await self._http.json("POST", "/files", data={"purpose": "batch"}, files=form, headers=kind)
        return _name(uploaded)

    async def create(self, file: BinaryIO, uploaded: str, job: str) -> str:
        wanted = {
            "input_file_id": uploaded,
            "endpoint": ENDPOINT,
            "completion_window": WINDOW,
            "metadata": {MARK: job},
        }
        return _name(await self._http.json("POST", "/batches", json=wanted))

    async def status(self, name: str) -> JobStatus:
        value = await self._http.json("GET", f"/batches/{name}")
        counts, state = value.get("request_counts") or {}, value.get("status")
        return JobStatus(
            ended=state in ENDED,
            done=(counts.get("completed") or 0) + (counts.get("failed") or 0),
            total=counts.get("total") or 0,
            refused=self._why(value) if state == "failed" else "",
            whole=state == "completed",
            files=tuple(value[name] for name in ("output_file_id", "error_file_id") if value.get(name)),
        )

    def _why(self, value: dict[str, Any]) -> str:
        """What the provider says against a file."""
        errors = (value.get("errors") or {}).get("data") or [{}]
        code, message, line = (errors[0].get(name) for name in ("code", "message", "line"))
        where = f"line {line}: " if line else ""
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        return where + in_words(f"{code or 'failed'}: {message or 'no reason given'}", self._address) + more

    async def find(self, row: JobRow) -> list[str]:
        after = ""
        while True:
            page = await self._http.json("GET", f"/batches?limit=100{after}")
            data = page.get("data") or []
            found = [str(job["id"]) for job in data if (job.get("metadata") or {}).get(MARK) == row.job]
            older = any(job.get("created_at", row.created) < row.created - EARLIER for job in data)
            if found or older or not data or not page.get("has_more"):
                return found
            after = f"&after={data[-1]['id']}"

    async def results(self, name: str, status: JobStatus) -> AsyncIterator[tuple[str | None, Result]]:
        for file in status.files:
            async for line in self._http.lines(f"/files/{file}/content"):
                if line is None or line.strip():
                    yield read_line(line)

    async def close(self) -> None:
        await self._http.close()


def _name(value: dict[str, Any]) -> str:
    if not isinstance(value.get("id"), str):
        raise failed("garbled", "an answer without an id")
    return str(value["id"])


def read_line(line: bytes | None) -> tuple[str | None, Result]:
    """One line of an output or error file."""
    try:
        row = orjson.loads(line or b"")
        key, answer, error = row["custom_id"], row.get("response"), row.get("error") or {}
        if answer:
            return str(key), Received(answer["status_code"], JSON, orjson.dumps(answer["body"]))
        code = str(error.get("code"))
        return str(key), failed("overloaded", UNREACHED.get(code) or f"the job left it unanswered ({code[:40]})")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None, failed("garbled", "a line of the results that cannot be read")
