"""Ctrl-C, and a mistake in a real process: one clear line, a fitting exit code, no traceback, finished work kept."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.command_line import GONE, command, pairs
from tests.runs import ledger_rows

SLOW = """
import asyncio
async def speak(request):
    with open("asked.txt", "a") as file:
        file.write("x")
    if open("speed.txt").read() == "slow":
        await asyncio.sleep(3 if len(open("asked.txt").read()) > 4 else 0)
    return "[[A]]"
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_keeps_its_work_and_goes_on_from_there(number: signal.Signals) -> None:
    Path("own_slow.py").write_text(SLOW)
    Path("speed.txt").write_text("slow")
    rows = [{"prompt": f"Question {i}", "chosen": "good", "rejected": "bad"} for i in range(4)]
    arguments = command(
        "judge", "compare-text", pairs(*rows), "--model", "scripted:own_slow:speak", "--out", "out",
        "--set", "shard_rows=2",
    )  # fmt: skip
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    asked = Path("asked.txt")
    deadline = time.monotonic() + 60
    while (not asked.exists() or asked.stat().st_size <= 4) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "calls are in flight: their replies are waited for" in err
    assert err.endswith("rlaif: interrupted: finished work is kept, the same command goes on from here.\n")
    finished = ledger_rows(Path())
    assert finished == asked.stat().st_size >= 4, "what was in flight is waited for and kept"
    before = asked.stat().st_size
    Path("speed.txt").write_text("fast")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 rows: 4 passed on" in done.stderr
    assert "8 showings: 8 ranked" in done.stderr
    assert asked.stat().st_size - before == 8 - finished, "only what was not finished is asked again"


def test_an_interruption_while_files_are_checked_is_the_same_line() -> None:
    Path("own_wait.py").write_text(
        "import time\nopen('waiting', 'w').close()\ntime.sleep(60)\ndef speak(request): ...\n"
    )
    process = subprocess.Popen(
        command("judge", "compare-text", pairs(name="p.jsonl"), "--model", "scripted:own_wait:speak"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not Path("waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "rlaif: interrupted: finished work is kept, the same command goes on from here.\n"


def test_a_mistake_in_a_real_process_is_one_line_on_stderr() -> None:
    done = subprocess.run(
        command("judge", "longest", "nowhere.jsonl"), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        f"rlaif: rlaif judge: pairs.source: nowhere.jsonl: {GONE}\n",
    )
