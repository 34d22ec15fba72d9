"""Anthropic's message batches: the requests go up in one body, the results come down as JSONL once all have ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, BinaryIO

import orjson

from rlaif.ledger import JobRow
from rlaif.models.failures import failed
from rlaif.models.job_http import EARLIER, JSON, PIECE, JobHttp, JobStatus, Result
from rlaif.models.transports import Received

PATH = "/v1/messages/batches"
STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}  # of an error in the results, as a call would have it
UNREACHED = {"expired": "the job expired before its turn", "canceled": "the job was canceled"}


class AnthropicJobs:
    """The batch API at one address."""

    most_lines, most_bytes = 100_000, 256 * 10**6
    opening, separator, closing = b'{"requests":[', b",", b"]}"

    def __init__(self, http: JobHttp) -> None:
        self._http = http

    def line(self, key: str, body: dict[str, Any]) -> bytes:
        return orjson.dumps({"custom_id": key, "params": body})

    async def upload(self, file: BinaryIO, job: str) -> str:
        return ""  # it goes up with the request that makes the job

    async def create(self, file: BinaryIO, uploaded: str, job: str) -> str:
        headers = {**JSON, "content-length": str(file.seek(0, 2))}
        value = await self._http.json("POST", PATH, content=_pieces(file), headers=headers)
        if not isinstance(value.get("id"), str):
            raise failed("garbled", "an answer without an id")
        return str(value["id"])

    async def status(self, name: str) -> JobStatus:
        value = await self._http.json("GET", f"{PATH}/{name}")
        counts = value.get("request_counts") or {}
        total = sum(counts.values())
        return JobStatus(
            ended=value.get("processing_status") == "ended",
            done=total - (counts.get("processing") or 0),
            total=total,
            whole=not counts.get("expired") and not counts.get("canceled"),
            files=(f"{PATH}/{name}/results",),
        )

    async def find(self, row: JobRow) -> list[str]:
        """By time and number of requests: a batch of Anthropic's carries no word of ours before its results are there."""
        found: list[str] = []
        after = ""
        while True:
            page = await self._http.json("GET", f"{PATH}?limit=100{after}")
            data = page.get("data") or []
            recent = [job for job in data if _seconds(job.get("created_at")) >= row.created - EARLIER]
            found += [str(job["id"]) for job in recent if sum((job.get("request_counts") or {}).values()) == row.lines]
            if len(recent) < len(data) or not data or not page.get("has_more"):
                return found[::-1]
            after = f"&after_id={data[-1]['id']}"

    async def results(self, name: str, status: JobStatus) -> AsyncIterator[tuple[str | None, Result]]:
        for path in status.files:
            async for line in self._http.lines(path):
                if line is None or line.strip():
                    yield read_line(line)

    async def close(self) -> None:
        await self._http.close()


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    file.seek(0)
    while piece := file.read(PIECE):
        yield piece


def _seconds(moment: Any) -> float:
    """A time in RFC 3339 as Unix time; now or later where it cannot be read, so that nothing is passed over."""
    try:
        return datetime.fromisoformat(str(moment)).timestamp()
    except ValueError:
        return float("inf")


def read_line(line: bytes | None) -> tuple[str | None, Result]:
    """One line of the results."""
    try:
        row = orjson.loads(line or b"")
        key, result = str(row["custom_id"]), row["result"]
        kind = result["type"]
        if kind == "succeeded":
            return key, Received(200, JSON, orjson.dumps(result["message"]))
        if kind != "errored":
            return key, failed("overloaded", UNREACHED.get(kind) or f"the job left it unanswered ({str(kind)[:40]})")
        error = result["error"]
        inner = error.get("error") or error
        return key, Received(STATUSES.get(inner.get("type"), 500), JSON, orjson.dumps(error))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None, failed("garbled", "a line of the results that cannot be read")
