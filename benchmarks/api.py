"""Judging through an API beside bare aiohttp, the official client and the peers. `make bench-api`.

    python benchmarks/api.py [--comparisons 5000] [--rounds 3] [--large N ...] [--peers FOLDER] [--quick]

Every client asks the shipped mock server (a process of its own, 50 ms to an answer) the same questions with 256 in
flight. Ours is the whole command `rlaif judge`: both orders, the ledger, limits, retries, costs and the shards; the
others get the rendered questions in a file. Clients take turns, round after round, each at two sizes, so that a machine
that grows busy slows all of them. As the server saw it: calls a second from the first request to the last answer, and how
many were in flight. CPU time for a call is the slope between the two sizes, so that imports and start-up do not count; ours
holds the reading of pairs and the making of preferences too. Figures are medians over rounds, ``low`` and ``high`` the
least and the greatest.

A peer is measured where `benchmarks/peers.sh FOLDER` has made an environment for it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEERS = ("distilabel", "curator", "prometheus_eval", "inspect_ai", "alpaca_eval")
IN_FLIGHT = 256
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "then",
    "it",
    "sleeps",
    "all",
    "day",
]


@dataclass(frozen=True)
class Seen:
    """One run of one client."""

    calls: int
    rate: float  # calls a second, first request to last answer
    cpu: float  # seconds, user and system
    memory_mb: float  # the most that was resident
    startup: float  # seconds to the first request
    in_flight: int  # the most that the server saw
    early_rate: float  # calls a second until 95 of 100 were answered: without those that are tried again last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--comparisons", type=int, default=5000, help="pairs of a full run; ours asks each in both orders"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, nargs="*", default=[], help="further sizes, of ours and of raw, once each")
    parser.add_argument("--peers", type=Path, help="where benchmarks/peers.sh made their environments")
    parser.add_argument("--quick", action="store_true", help="a smoke test; its figures mean little")
    args = parser.parse_args()
    if args.quick:
        args.comparisons, args.rounds = 250, 1
    from rlaif.mock import MockOptions, start

    with tempfile.TemporaryDirectory() as folder, start(MockOptions(latency="50ms")) as server:
        bench = Bench(Path(folder), server)
        clients = bench.clients(args.peers)
        rounds = [
            {
                name: (
                    bench.run(name, clients[name], args.comparisons // 5),
                    bench.run(name, clients[name], args.comparisons),
                )
                for name in clients
            }
            for _ in range(args.rounds)
        ]
        print(table(rounds))
        figures = summary(rounds)
        for size in args.large:
            figures |= bench.large(clients, size)
    print(json.dumps(figures))


class Bench:
    """A folder with questions of each size, a server that counts, and how many are in flight at most."""

    def __init__(self, folder: Path, server: Any, in_flight: int = IN_FLIGHT) -> None:
        self.folder, self.server, self.in_flight = folder, server, in_flight

    def clients(self, peers: Path | None) -> dict[str, Callable[[int], list[str]]]:
        """The command of each client, by the number of comparisons."""
        python, url = sys.executable, self.server.url

        def given(interpreter: str, script: str, *more: str) -> Callable[[int], list[str]]:
            whole = [
                interpreter,
                "-P",
                str(HERE / "clients" / script),
                url,
            ]  # -P: clients are named as what they import
            return lambda size: [*whole, str(self.requests(size)), str(self.in_flight), *more]

        found = {
            "raw": given(python, "raw.py"),
            "raw_uvloop": given(python, "raw.py", "uvloop"),
            "rlaif": self.ours,
            "openai_sdk": given(python, "openai_sdk.py"),
        }
        for name in PEERS:
            interpreter = peers / name / "bin" / "python" if peers else None
            if interpreter and interpreter.exists():
                found[name] = given(str(interpreter), f"{name}.py")
        return found

    def ours(self, size: int) -> list[str]:
        model = {
            "provider": "openai", "model": "mock-judge",
            "options": {"base_url": f"{self.server.url}/v1", "max_in_flight": self.in_flight, "price": {"input": 1.0, "output": 4.0}},
        }  # fmt: skip
        name = f"{size}-{time.monotonic_ns()}"
        return [
            sys.executable, "-m", "rlaif.cli", "judge", "compare-text", str(self.pairs(size)), "--out", str(self.folder / name),
            "--set", f"models.judge={json.dumps(model)}", "--set", f"ledger={self.folder / name}.sqlite",
            "--set", "budget_usd=1000000",
        ]  # fmt: skip

    def pairs(self, size: int) -> Path:
        path = self.folder / f"pairs-{size}.jsonl"
        if not path.exists():
            rng = random.Random(size)
            text = lambda words: " ".join(rng.choices(WORDS, k=words))  # noqa: E731
            with path.open("w", encoding="utf-8") as file:
                for i in range(size):
                    row = {
                        "prompt": f"{i}: {text(30)}?",
                        "response_a": f"{text(60)} {i}a",
                        "response_b": f"{text(60)} {i}b",
                    }
                    file.write(json.dumps(row) + "\n")
        return path

    def requests(self, size: int) -> Path:
        """The questions that ours asks of so many comparisons, rendered: the messages of each, a line each."""
        path = self.folder / f"requests-{size}.jsonl"
        if not path.exists():
            render(self.pairs(size), path)
        return path

    def run(self, name: str, command: Callable[[int], list[str]], size: int) -> Seen:
        arguments = command(size)
        self.server.reset()
        watch = Watch(self.server)
        environment = {**os.environ, "RLAIF_FENCE_SECRET": "the same in every run", "OPENAI_API_KEY": "any"}
        began = time.monotonic()
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(arguments, stdout=log, stderr=log, env=environment, cwd=self.folder)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stats = watch.stop()
        if process.returncode or stats["answered"] < 2 * size:
            sys.exit(
                f"{name} at {size}: exit code {process.returncode}, {stats['answered']} answered; {self.folder}/{name}.log:\n"
                + (self.folder / f"{name}.log").read_text()[-2000:]
            )
        return Seen(
            stats["answered"],
            stats["answered"] / max(1e-9, watch.last - watch.first),
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss / 1024,
            watch.first - began,
            stats["peak_in_flight"],
            watch.early_rate(),
        )

    def large(self, clients: dict[str, Callable[[int], list[str]]], size: int) -> dict[str, Any]:
        """Ours and raw once at another size."""
        raw, ours = (self.run(name, clients[name], size) for name in ("raw", "rlaif"))
        print(
            f"{size:,} comparisons: raw {raw.rate:,.0f} calls/s, {raw.memory_mb:,.0f} MB; rlaif {ours.rate:,.0f} calls/s, {ours.memory_mb:,.0f} MB"
        )
        return {
            f"ratio_to_raw.{size}": figure([ours.rate / raw.rate]),
            f"peak_memory_mb.{size}": figure([ours.memory_mb]),
        }


class Watch(threading.Thread):
    """Looks at the server's counts while a client runs: when the first question came, when the last answer went.

    What comes before that and is refused (one client asks for nothing, to see what limits the headers tell) is no question.
    """

    def __init__(self, server: Any) -> None:
        super().__init__(daemon=True)
        self.server, self.over = server, threading.Event()
        self.first = self.last = 0.0
        self.seen: list[tuple[float, int]] = []  # when so many had been answered
        self.start()

    def run(self) -> None:
        answered = 0
        while not self.over.wait(0.02):
            stats = self.server.stats()
            now = time.monotonic()
            if not stats["answered"] and not stats["in_flight"]:
                self.first = 0.0
            elif not self.first:
                self.first = now
            if stats["answered"] != answered:
                answered, self.last = stats["answered"], now
                self.seen.append((now, answered))

    def early_rate(self) -> float:
        """Calls a second until 95 of 100 were answered."""
        when, answered = next((now, n) for now, n in self.seen if n >= 0.95 * self.seen[-1][1])
        return answered / max(1e-9, when - self.first)

    def stop(self) -> dict[str, Any]:
        self.over.set()
        self.join()
        stats: dict[str, Any] = self.server.stats()
        return stats


def render(pairs: Path, target: Path) -> None:
    """The messages that `compare-text` puts for each pair, in both orders."""
    from rlaif.catalogue import Catalogue
    from rlaif.judging import PAIR_PLACEHOLDERS, PAIR_REQUIRED, Showing
    from rlaif.pairs import read_pairs
    from rlaif.prompting import Template, fence_for

    entry = Catalogue().find("template", "builtin:compare-two", where="bench")
    template = Template.parse(
        entry.text, where="bench", allowed=PAIR_PLACEHOLDERS, required=PAIR_REQUIRED, judged=PAIR_REQUIRED
    )
    rubric = Catalogue().find("rubric", "builtin:helpful-and-safe", where="bench").text.strip()
    with target.open("w", encoding="utf-8") as file:
        for pair in read_pairs(str(pairs), "train"):
            comparison = pair.comparison
            fence = fence_for(b"the same in every run", comparison.id, [r.text for r in comparison.responses])
            for shown in (comparison.responses, comparison.responses[::-1]):
                messages = template.fill(Showing(comparison.prompt, shown, None, rubric, fence).texts())
                file.write(json.dumps([message.model_dump() for message in messages]) + "\n")


def slope(small: Seen, full: Seen) -> float:
    """Milliseconds of CPU time for a call, start-up aside."""
    return 1000 * (full.cpu - small.cpu) / (full.calls - small.calls)


def figure(values: list[float]) -> dict[str, float]:
    return {
        "value": round(statistics.median(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
        "n": len(values),
    }


def table(rounds: list[dict[str, tuple[Seen, Seen]]]) -> str:
    lines = [f"{'':<18}{'calls/s':>10}{'CPU ms/call':>13}{'memory MB':>11}{'start s':>9}{'in flight':>11}"]
    for name in rounds[0]:
        full = [each[name][1] for each in rounds]
        middle = statistics.median
        lines.append(
            f"{name:<18}{middle(s.rate for s in full):>10,.0f}{middle(slope(*each[name]) for each in rounds):>13.3f}"
            f"{middle(s.memory_mb for s in full):>11,.0f}{middle(s.startup for s in full):>9.2f}{max(s.in_flight for s in full):>11}"
        )
    return "\n".join(lines)


def summary(rounds: list[dict[str, tuple[Seen, Seen]]]) -> dict[str, Any]:
    """The figures of the last line."""
    ours = [each["rlaif"] for each in rounds]
    found = {
        "ratio_to_raw": figure([each["rlaif"][1].rate / each["raw"][1].rate for each in rounds]),
        "ratio_to_raw_uvloop": figure([each["rlaif"][1].rate / each["raw_uvloop"][1].rate for each in rounds]),
        "ratio_to_openai_sdk": figure([each["rlaif"][1].rate / each["openai_sdk"][1].rate for each in rounds]),
        "cpu_ms_per_call": figure([slope(*pair) for pair in ours]),
        "cpu_ms_per_call.raw": figure([slope(*each["raw"]) for each in rounds]),
        "startup_seconds": figure([full.startup for _, full in ours]),
        "peak_memory_mb": figure([full.memory_mb for _, full in ours]),
    }
    peers = [name for name in rounds[0] if name in PEERS]
    if peers:
        found["ratio_to_fastest_peer"] = figure(
            [each["rlaif"][1].rate / max(each[name][1].rate for name in peers) for each in rounds]
        )
    for name in peers:
        found[f"ratio_to_{name}"] = figure([each["rlaif"][1].rate / each[name][1].rate for each in rounds])
        found[f"cpu_ms_per_call.{name}"] = figure([slope(*each[name]) for each in rounds])
    return found


if __name__ == "__main__":
    main()
