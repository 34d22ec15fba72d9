"""OpenAI's files and batches: a JSONL file in, an output and an error file out."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from rlaif.mock.answering import Answering, LineResult, json_object
from rlaif.mock.jobs import Job, Jobs, Line
from rlaif.mock.talk import Rejected

ENDPOINT = "/v1/chat/completions"
MOST_LINES = 50_000
WINDOW_SECONDS = 24 * 3600
ERRORS = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "canceled": ("batch_cancelled", "This batch was cancelled before this request executed."),
}
BOUNDARY = re.compile(r'boundary="?([^";]+)"?')
FIELD = re.compile(rb'name="([^"]*)"')
FILENAME = re.compile(rb'filename="([^"]*)"')


@dataclass(slots=True)
class File:
    id: str
    name: str
    purpose: str
    data: bytes
    created: float = field(default_factory=time.time)

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.data),
            "created_at": int(self.created),
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            "expires_at": None,
        }


@dataclass(slots=True)
class OpenAIJob(Job):
    input_file: str = ""
    metadata: Any = None
    errors: list[dict[str, Any]] = field(default_factory=list)  # of a file that cannot be taken
    output_file: str | None = None
    error_file: str | None = None


class OpenAIBatches:
    """``/v1/files`` and ``/v1/batches``."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._files: dict[str, File] = {}
        self._jobs = Jobs(answering.options.batch_seconds, answering.not_asked)
        self._numbers = itertools.count(1)

    def clear(self) -> None:
        self._files.clear()
        self._jobs.clear()

    # --- files --------------------------------------------------------------------------------------------------------

    def upload(self, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        fields = _multipart(headers.get("Content-Type", ""), body)
        if "file" not in fields:
            raise Rejected(400, "'file' is a required property")
        if fields.get("purpose", ("", b""))[1] != b"batch":
            raise Rejected(400, "The mock server takes files of purpose 'batch' alone.", param="purpose")
        name, data = fields["file"]
        return self._keep(name, "batch", data).shown()

    def _keep(self, name: str, purpose: str, data: bytes) -> File:
        file = File(f"file-mock{next(self._numbers):06d}", name, purpose, data)
        self._files[file.id] = file
        return file

    def _file(self, name: str) -> File:
        if name not in self._files:
            raise Rejected(404, f"No such File object: {name}", param="id")
        return self._files[name]

    def file(self, name: str) -> dict[str, Any]:
        return self._file(name).shown()

    def content(self, name: str) -> bytes:
        return self._file(name).data

    def delete(self, name: str) -> dict[str, Any]:
        del self._files[self._file(name).id]
        return {"id": name, "object": "file", "deleted": True}

    # --- batches ------------------------------------------------------------------------------------------------------

    def create(self, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        wanted = json_object(body)
        if wanted.get("endpoint") != ENDPOINT:
            raise Rejected(
                400, f"Invalid value for 'endpoint': the mock server runs {ENDPOINT} alone.", param="endpoint"
            )
        if wanted.get("completion_window") != "24h":
            raise Rejected(400, "Invalid value for 'completion_window': '24h' is expected.", param="completion_window")
        file = self._file(str(wanted.get("input_file_id")))
        lines, errors = _lines(file.data)
        job = OpenAIJob(f"batch_mock{next(self._numbers):06d}", lines, input_file=file.id, errors=errors)
        job.metadata = wanted.get("metadata")
        self._jobs.start(job, lambda line: self._answering.line(self._answering.openai, headers, line))
        return self._shown(job)

    def retrieve(self, name: str) -> dict[str, Any]:
        return self._shown(self._job(name))

    def cancel(self, name: str) -> dict[str, Any]:
        job = self._job(name)
        if job.stage == "ended":
            raise Rejected(409, f"Cannot cancel a batch with status '{self._shown(job)['status']}'.")
        job.cancel()
        return self._shown(job)

    def list(self, query: Mapping[str, str]) -> dict[str, Any]:
        page, more = self._jobs.page(query.get("after"), None, query.get("limit", ""))
        data = [self._shown(self._job(job.id)) for job in page]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return {"object": "list", "data": data, "has_more": more, **ends}

    def _job(self, name: str) -> OpenAIJob:
        job = self._jobs.all.get(name)
        if not isinstance(job, OpenAIJob):
            raise Rejected(404, f"No batch found with id '{name}'.")
        return job

    def _shown(self, job: OpenAIJob) -> dict[str, Any]:
        status = _status(job)
        if status in ("completed", "expired", "cancelled"):
            self._write_files(job)
        counts, at = job.counts(), {name: int(when) for name, when in job.at.items()}
        return {
            "id": job.id,
            "object": "batch",
            "endpoint": ENDPOINT,
            "errors": {"object": "list", "data": job.errors} if job.errors else None,
            "input_file_id": job.input_file,
            "completion_window": "24h",
            "status": status,
            "output_file_id": job.output_file,
            "error_file_id": job.error_file,
            "created_at": at["validating"],
            "in_progress_at": at.get("in_progress") if status != "failed" else None,
            "expires_at": at["validating"] + WINDOW_SECONDS,
            "finalizing_at": at.get("finalizing") if status != "failed" else None,
            "completed_at": at.get("ended") if status == "completed" else None,
            "failed_at": at.get("in_progress") if status == "failed" else None,
            "expired_at": at.get("ended") if status == "expired" else None,
            "cancelling_at": at.get("canceled"),
            "cancelled_at": at.get("ended") if status == "cancelled" else None,
            "request_counts": {
                "total": len(job.lines),
                "completed": counts["succeeded"],
                "failed": counts["errored"] + counts["expired"] + counts["canceled"],
            },
            "metadata": job.metadata,
        }

    def _write_files(self, job: OpenAIJob) -> None:
        """The output file of a batch that ended and the file of its errors, each where there is something in it."""
        if job.output_file or job.error_file:
            return
        numbered = list(enumerate(zip(job.lines, job.results, strict=True)))
        good = [_row(job, n, line, result) for n, (line, result) in numbered if result.outcome == "succeeded"]
        bad = [_row(job, n, line, result) for n, (line, result) in numbered if result.outcome != "succeeded"]
        if good:
            job.output_file = self._keep(f"{job.id}_output.jsonl", "batch_output", b"".join(good)).id
        if bad:
            job.error_file = self._keep(f"{job.id}_error.jsonl", "batch_output", b"".join(bad)).id


def _status(job: OpenAIJob) -> str:
    if job.errors:
        return "validating" if job.stage == "validating" else "failed"
    if job.canceled:
        return "cancelled" if job.stage == "ended" else "cancelling"
    if job.stage != "ended":
        return job.stage
    return "expired" if job.counts()["expired"] else "completed"


def _row(job: OpenAIJob, number: int, line: Line, result: LineResult) -> bytes:
    """One line of an output or error file."""
    name = f"{job.id.removeprefix('batch_')}_{number}"
    row: dict[str, Any] = {"id": f"batch_req_{name}", "custom_id": line.custom_id, "response": None, "error": None}
    if result.outcome in ERRORS:
        code, message = ERRORS[result.outcome]
        row["error"] = {"code": code, "message": message}
    else:
        row["response"] = {"status_code": result.status, "request_id": f"req_{name}", "body": result.body}
    return orjson.dumps(row) + b"\n"


def _lines(data: bytes) -> tuple[list[Line], list[dict[str, Any]]]:
    """The lines of an input file, or no lines and what is wrong with it."""
    lines: list[Line] = []
    errors = []
    seen: set[str] = set()
    models = set()
    for number, text in enumerate(data.splitlines(), 1):
        fault = None
        try:
            row = orjson.loads(text)
        except orjson.JSONDecodeError:
            row = None
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("custom_id"), str)
            or not isinstance(row.get("body"), dict)
        ):
            fault = ("invalid_json_line", "This line is not parseable as a request: custom_id, method, url and body.")
        elif row["custom_id"] in seen:
            fault = ("duplicate_custom_id", f"The custom_id '{row['custom_id']}' is used more than once.")
        elif row.get("url") != ENDPOINT or row.get("method") != "POST":
            fault = ("mismatched_endpoint", f"The method and URL of a line must be POST {ENDPOINT}.")
        else:
            seen.add(row["custom_id"])
            models.add(row["body"].get("model"))
            lines.append(Line(row["custom_id"], row["body"]))
        if fault:
            errors.append({"code": fault[0], "line": number, "message": fault[1], "param": None})
    errors = errors or list(_whole_file(len(lines), len(models)))
    return ([], errors) if errors else (lines, [])


def _whole_file(lines: int, models: int) -> Iterable[dict[str, Any]]:
    if lines == 0:
        yield {"code": "empty_file", "line": None, "message": "The input file has no requests.", "param": None}
    if lines > MOST_LINES:
        message = f"A batch has at most {MOST_LINES} requests, this one {lines}."
        yield {"code": "too_many_tasks", "line": None, "message": message, "param": None}
    if models > 1:
        yield {
            "code": "mismatched_model",
            "line": None,
            "message": "All requests must name one model.",
            "param": "model",
        }


def _multipart(content_type: str, body: bytes) -> dict[str, tuple[str, bytes]]:
    """Field name -> (file name, data) of a multipart form."""
    match = BOUNDARY.search(content_type)
    if not match:
        raise Rejected(400, "Expected a multipart form with the fields 'purpose' and 'file'.")
    fields = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + match[1].encode())[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        if name := FIELD.search(head):
            file = FILENAME.search(head)
            fields[name[1].decode()] = (file[1].decode() if file else "", data)
    return fields
