"""What a whole run leaves behind says nothing of its key, though the server repeats the key wherever it can."""

from __future__ import annotations

import gzip
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.runs import start
from tests.test_api_runs import pairs

MARK = "Recognisable"
KEY = f"sk-proj-{MARK}0123456789"
FAILURES = {1: 400, 3: 500}


class Telltale(BaseHTTPRequestHandler):
    """Of sixteen questions it answers thirteen, and repeats the key in a page and in two failures; ``refusing``, in all."""

    protocol_version = "HTTP/1.1"
    turn = 0
    saw_key = refusing = False

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers.get("Authorization") or self.headers.get("x-api-key") or ""
        Telltale.saw_key |= KEY in key
        place, Telltale.turn = Telltale.turn % 16, Telltale.turn + 1
        failure = {"error": {"message": f"Incorrect API key provided: {key}", "type": key, "code": key}}
        if Telltale.refusing or place in FAILURES:
            self.answer(401 if Telltale.refusing else FAILURES[place], failure, key)
        elif place == 6:
            self.answer(200, f"<html>{key}</html>", key)
        elif "chat" in self.path:
            choice = {"index": 0, "message": {"role": "assistant", "content": "[[A]]"}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 9, "completion_tokens": 3}
            self.answer(200, {"model": "m", "choices": [choice], "usage": usage})
        else:
            text = {"type": "text", "text": "[[A]]"}
            usage = {"input_tokens": 9, "output_tokens": 3}
            whole = {"type": "message", "model": "m", "content": [text], "stop_reason": "end_turn", "usage": usage}
            self.answer(200, whole)

    def answer(self, status: int, value: Any, key: str = "") -> None:
        body = (value if isinstance(value, str) else json.dumps(value)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if key:
            self.send_header("X-Echo", key)
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None: ...


class Listening(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # connections that come at once


@contextmanager
def telltale() -> Iterator[str]:
    Telltale.turn, Telltale.saw_key, Telltale.refusing = 0, False, False
    with Listening(("127.0.0.1", 0), Telltale) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def all_text(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file's name and contents, those of tables and packed files unpacked, as text."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        text = data.decode("latin-1")
        if path.suffix == ".parquet":
            text += str(pq.read_table(path).to_pylist()) + str(pq.read_schema(path).metadata)
        elif path.suffix == ".gz":
            text += gzip.decompress(data).decode("latin-1")
        elif path.suffix == ".sqlite":
            with closing(sqlite3.connect(path)) as ledger:
                text += "\n".join(ledger.iterdump())
        yield str(path.relative_to(folder)), text


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("transport", ["fast", "sdk"])
def test_no_file_and_no_line_of_a_run_holds_the_key(tmp_path: Path, provider: str, transport: str) -> None:
    folder = pairs(tmp_path / "a", 60)
    variable = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}[provider]

    def said(*arguments: str, fails: bool = False) -> str:
        log = tmp_path / f"said-{len(list(tmp_path.iterdir()))}"
        process = start(folder, *arguments, log=log, **{variable: KEY})
        process.join(120)
        text = log.read_text()
        assert (process.exitcode != 0) == fails, text
        return text

    with telltale() as url:
        base = f"{url}/v1" if provider == "openai" else url
        model = {
            "provider": provider,
            "model": "m",
            "options": {"base_url": base, "transport": transport, "api_key_env": variable},
        }
        recipe = {
            "pairs": "pairs.jsonl", "models": {"judge": model}, "failure_tolerance": 1,
            "labels": {"source": "judges", "options": {"judges": ["compare-text"]}},
        }  # fmt: skip
        (folder / "recipe.yaml").write_text(json.dumps(recipe))
        text = said("check", "recipe.yaml") + said("plan", "recipe.yaml") + said("run", "recipe.yaml", "--out", "run")
        assert Telltale.saw_key
        Telltale.refusing = True
        other = ["--set", "failure_tolerance=0.2", "--set", "ledger=other.sqlite"]
        refusal = said("run", "recipe.yaml", "--out", "refused", *other, fails=True)
    assert "401" in refusal
    text += refusal + said("ledger", "info") + said("ledger", "export", "kept.jsonl")
    text += said("export", "run", "--form", "jsonl", "--to", "published/")
    assert MARK not in text
    files = dict(all_text(folder))
    assert {"run/report.html", ".rlaif/ledger.sqlite", "kept.jsonl", "other.sqlite"} <= files.keys()
    assert [name for name, contents in files.items() if MARK in contents] == []
    failed = json.loads(files["run/accounts.json"])["judgements"]["outcomes"]
    assert failed.get("failed", 0) > 0  # what the server said of the key went through all of that
