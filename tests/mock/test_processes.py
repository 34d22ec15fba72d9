"""The server as processes: started from Python and from the command line, alone and as several workers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rlaif.cli import main
from rlaif.errors import ConfigError, UserError
from rlaif.mock import MockOptions, MockServer, start
from rlaif.mock.cli import run
from rlaif.mock.faults import FAULTS
from tests.conftest import ROOT
from tests.mock.serving import BRACKETS, chat, pair, post
from tests.mock.test_batches import ended
from tests.mock.test_formats import openai_client


def command(*arguments: str, **others: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    whole = [sys.executable, "-m", "rlaif.cli", "mock-server", *arguments]
    return subprocess.Popen(
        whole,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored where tests run behind
        **others,
    )


def test_workers_share_port_counts_attempts_and_limits() -> None:
    async def drive(url: str) -> list[list[int]]:
        connector = aiohttp.TCPConnector(force_close=True)  # each request finds its worker anew
        async with aiohttp.ClientSession(url, connector=connector) as session:

            async def ask(i: int) -> list[int]:
                return [(await post(session, chat(f"{i}")))[0] for _ in range(4)]

            statuses = await asyncio.gather(*map(ask, range(30)))
            async with session.get("/_mock/requests") as response:
                rows = await response.json()
            assert sorted({row["body"]["messages"][0]["content"] for row in rows}, key=int) == [
                str(i) for i in range(30)
            ]
            assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
            assert len(rows) == 120
        return list(statuses)

    with start(MockOptions(workers=3, fault=("500=first:2",))) as server:
        assert asyncio.run(drive(server.url)) == [[500, 500, 200, 200]] * 30
        stats = server.stats()
        assert (stats["requests"], stats["answered"], stats["repeats"]) == (120, 60, 30)
        assert stats["by_status"] == {"200": 60, "500": 60}
        server.reset()
        assert server.stats()["requests"] == 0
    with start(MockOptions(workers=3, rpm=5)) as server:

        async def press() -> list[int]:
            connector = aiohttp.TCPConnector(force_close=True)
            async with aiohttp.ClientSession(server.url, connector=connector) as session:
                replies = await asyncio.gather(*(post(session, chat(f"{i}")) for i in range(30)))
            return [status for status, _, _ in replies]

        statuses = asyncio.run(press())
        assert (statuses.count(200), statuses.count(429)) == (5, 25)


def test_batches_and_files_live_in_one_of_the_workers() -> None:
    async def drive(server: Any) -> None:
        line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": chat()}
        for _ in range(4):  # new connections each time
            async with openai_client(server) as client:
                file = await client.files.create(
                    file=("in.jsonl", str(line).replace("'", '"').encode()), purpose="batch"
                )
            async with openai_client(server) as client:
                batch = await client.batches.create(
                    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
                )
            async with openai_client(server) as client:
                await ended(lambda client=client, batch=batch: client.batches.retrieve(batch.id))

    with start(MockOptions(workers=3, batch_seconds=0)) as server:
        asyncio.run(drive(server))
        assert server.stats()["batch"]["lines"] == {"succeeded": 4}


def test_a_process_answers_as_the_library_does() -> None:
    body = chat(temperature=0) | {"messages": pair(BRACKETS, "one", "two")}

    async def ask(url: str) -> Any:
        async with aiohttp.ClientSession(url) as session:
            return (await post(session, body))[1]["choices"]

    async def here() -> Any:
        async with MockServer(MockOptions(seed=3)) as server:
            return await ask(server.url)

    with start(MockOptions(seed=3)) as server:
        assert asyncio.run(ask(server.url)) == asyncio.run(here())


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
def test_a_server_ends_with_the_process_that_started_it() -> None:
    script = "import time; from rlaif.mock import *; s = start(MockOptions(workers=2)); print(s._process.pid, flush=True); time.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    children = [int(name) for name in (Path("/proc") / str(pid) / "task" / str(pid) / "children").read_text().split()]
    assert len(children) == 1
    parent.kill()
    parent.wait()
    while any(map(_alive, (pid, *children))):
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        return "Z" not in (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_command_line_serves_until_it_is_interrupted() -> None:
    process = command("--fault", "500=first:1", "--position-bias", "0", "--latency", "1ms")
    assert process.stdout
    line = process.stdout.readline()
    match = re.fullmatch(r"mock server at (http://127\.0\.0\.1:\d+)\n", line)
    assert match
    url = match[1]

    async def ask() -> list[int]:
        async with aiohttp.ClientSession(url) as session:
            return [(await post(session, chat()))[0] for _ in range(2)]

    assert asyncio.run(ask()) == [500, 200]
    assert "base URL for OpenAI clients" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert "2 requests, 1 answered, 0 of them repeatedly" in out


def test_every_option_is_a_flag_and_every_fault_is_named_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    for name in MockOptions.model_fields:
        assert f"--{name.replace('_', '-')} " in out
    assert not [name for name in FAULTS if f" {name} (" not in out]


MISTAKES = {
    "unknown fault": (("--fault", "resett=0.1"), 'unknown fault "resett". Did you mean "reset"?'),
    "out of range": (("--skill", "2"), '"skill": must be less than or equal to 1'),
    "no script": (("--script", "nowhere.jsonl"), "nowhere.jsonl: not a script that can be read"),
    "a script without replies": (("--script", "script.yaml"), 'script.yaml: row 1: "reply" is missing'),
    "a script that is no expression": (
        ("--script", "script.jsonl"),
        'script.jsonl:1: "match" is no regular expression',
    ),
}


@pytest.mark.parametrize("row", MISTAKES)
def test_a_mistake_is_named(row: str, tmp_path: Path) -> None:
    (tmp_path / "script.yaml").write_text("- {match: egg}\n")
    (tmp_path / "script.jsonl").write_text('{"match": "(", "reply": ""}\n')
    arguments, words = MISTAKES[row]
    with pytest.raises(UserError) as raised:
        run(arguments)
    assert words in str(raised.value)


def test_a_mistake_is_one_line_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlaif", "mock-server", "--latncy", "5ms"])
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capsys.readouterr()
    assert (stopped.value.code, out, err.count("\n")) == (2, "", 1)
    assert "--latency" in err


def test_a_port_that_is_taken_is_said() -> None:
    async def twice() -> None:
        async with MockServer() as server:
            port = int(server.url.rpartition(":")[2])
            with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}"):
                async with MockServer(MockOptions(port=port)):
                    pass

    asyncio.run(twice())


def test_several_workers_need_processes() -> None:
    with pytest.raises(ConfigError, match=r"rlaif\.mock\.start"):
        MockServer(MockOptions(workers=2))


def test_nothing_heavy_is_imported() -> None:
    script = "import sys, rlaif.mock; print([m for m in ('torch', 'transformers', 'datasets', 'numpy', 'openai', 'anthropic') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
