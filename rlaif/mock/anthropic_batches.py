"""Anthropic's message batches: requests in one body, results as JSONL once the batch has ended."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from rlaif.mock.answering import Answering, LineResult, json_object
from rlaif.mock.jobs import Job, Jobs, Line
from rlaif.mock.talk import Rejected

WINDOW_SECONDS = 24 * 3600
OUTCOMES = ("succeeded", "errored", "expired", "canceled")


class AnthropicBatches:
    """``/v1/messages/batches``. ``url`` is where the server stands, for the address of the results."""

    def __init__(self, answering: Answering, url: str) -> None:
        self._answering = answering
        self._jobs = Jobs(answering.options.batch_seconds, answering.not_asked)
        self._numbers = itertools.count(1)
        self._url = url

    def clear(self) -> None:
        self._jobs.clear()

    def create(self, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        requests = json_object(body).get("requests")
        if not isinstance(requests, list) or not requests:
            raise Rejected(400, "requests: List should have at least 1 item")
        seen: set[str] = set()
        for place, request in enumerate(requests):
            if (
                not isinstance(request, dict)
                or not isinstance(request.get("custom_id"), str)
                or "params" not in request
            ):
                raise Rejected(400, f"requests.{place}: custom_id and params are required")
            if request["custom_id"] in seen:
                raise Rejected(400, f"requests.{place}.custom_id: '{request['custom_id']}' is used more than once")
            seen.add(request["custom_id"])
        lines = [Line(request["custom_id"], request["params"]) for request in requests]
        job = Job(f"msgbatch_mock{next(self._numbers):06d}", lines)
        self._jobs.start(job, lambda line: self._answering.line(self._answering.anthropic, headers, line))
        return self._shown(job)

    def retrieve(self, name: str) -> dict[str, Any]:
        return self._shown(self._job(name))

    def cancel(self, name: str) -> dict[str, Any]:
        job = self._job(name)
        if job.stage == "ended":
            raise Rejected(400, f"Batch {name} cannot be canceled because it has already ended.")
        job.cancel()
        return self._shown(job)

    def results(self, name: str) -> bytes:
        job = self._job(name)
        if job.stage != "ended":
            raise Rejected(404, f"Batch {name} has no available results: it has not ended.")
        return b"".join(_row(line, result) for line, result in zip(job.lines, job.results, strict=True))

    def delete(self, name: str) -> dict[str, Any]:
        if self._job(name).stage != "ended":
            raise Rejected(400, f"Batch {name} cannot be deleted before it has ended.")
        del self._jobs.all[name]
        return {"id": name, "type": "message_batch_deleted"}

    def list(self, query: Mapping[str, str]) -> dict[str, Any]:
        page, more = self._jobs.page(query.get("after_id"), query.get("before_id"), query.get("limit", ""))
        data = [self._shown(job) for job in page]
        ids = [item["id"] for item in data] or [None]
        return {"data": data, "has_more": more, "first_id": ids[0], "last_id": ids[-1]}

    def _job(self, name: str) -> Job:
        if name not in self._jobs.all:
            raise Rejected(404, f"Batch {name} not found")
        return self._jobs.all[name]

    def _shown(self, job: Job) -> dict[str, Any]:
        ended, counts = job.stage == "ended", job.counts()
        return {
            "id": job.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else "canceling" if job.canceled else "in_progress",
            "request_counts": {
                "processing": 0 if ended else len(job.lines),
                **{outcome: counts[outcome] if ended else 0 for outcome in OUTCOMES},
            },
            "created_at": _written(job.at["validating"]),
            "expires_at": _written(job.at["validating"] + WINDOW_SECONDS),
            "ended_at": _written(job.at["ended"]) if ended else None,
            "cancel_initiated_at": _written(job.at["canceled"]) if job.canceled else None,
            "archived_at": None,
            "results_url": f"{self._url}/v1/messages/batches/{job.id}/results" if ended else None,
        }


def _row(line: Line, result: LineResult) -> bytes:
    """One line of the results."""
    value: dict[str, Any] = {"type": result.outcome}
    if result.outcome == "succeeded":
        value["message"] = result.body
    elif result.outcome == "errored":
        value["error"] = result.body
    return orjson.dumps({"custom_id": line.custom_id, "result": value}) + b"\n"


def _written(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat().replace("+00:00", "Z")
