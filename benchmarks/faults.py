"""Judging through an API that fails, and through one that allows half of what is offered, beside a sound one.

    python benchmarks/faults.py [--comparisons 5000] [--rounds 3] [--in-flight 64 256]

`rlaif judge` asks the shipped mock server (a process of its own, 50 ms to an answer) about every comparison in both orders:

- *clean*: no faults and no limit.
- *faults*: of all attempts, each by itself, 5% get 429 with `Retry-After: 1`, 2% get 500, 1% are reset, 1% are answered by
  what is not JSON.
- *limit*: as many calls a second are allowed as half of what *clean* reached, in a bucket of one second that the headers
  tell of; *hidden limit*: the same without those headers, told by refusals alone.

Rates are calls answered a second as the server saw them, from the first request to the last answer, so that what is refused
last is waited for; *early* ones end where 95 of 100 are answered. Every run has to end with all labels, and with no call answered twice. Runs take turns; figures are medians over
rounds, ``low`` and ``high`` the least and the greatest.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from api import Bench, Seen, figure

FAULTS = ("429=0.05", "500=0.02", "reset=0.01", "malformed=0.01")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=5000, help="pairs; each is asked in both orders")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[64, 256])
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for in_flight in args.in_flight:
            rounds = [one_round(Path(folder), in_flight, args.comparisons) for _ in range(args.rounds)]
            for name in rounds[0]:
                figures[f"{name}.{in_flight}"] = figure([each[name] for each in rounds])
                print(f"{in_flight:>4} in flight  {name:<28}{figures[f'{name}.{in_flight}']['value']:>10,.3f}")
    print(json.dumps(figures))


def one_round(folder: Path, in_flight: int, size: int) -> dict[str, float]:
    clean, _ = judged(folder, in_flight, size)
    failing, stats = judged(folder, in_flight, size, fault=FAULTS)
    found = {
        "clean calls/s": clean.rate,
        "faults / clean": failing.rate / clean.rate,
        "faults / clean, early": failing.early_rate / clean.early_rate,
        "attempts that failed / calls": sum(stats["by_fault"].values()) / (2 * size),
    }
    for name, hidden in (("limit", False), ("hidden limit", True)):
        limits = {"rpm": 30 * clean.rate, "limit_window_seconds": 1.0, "hide_limits": hidden}
        seen, stats = judged(folder, in_flight, size, **limits)
        refused = stats["by_status"].get("429", 0) / stats["requests"]
        found |= {f"{name}: rate / allowed": 2 * seen.rate / clean.rate, f"{name}: refused": refused}
    return found


def judged(folder: Path, in_flight: int, size: int, **options: Any) -> tuple[Seen, dict[str, Any]]:
    """What was seen, and the server's counts, of one whole run."""
    from rlaif.mock import MockOptions, start

    with start(MockOptions(latency="50ms", **options)) as server:
        bench = Bench(folder, server, in_flight)
        seen = bench.run("rlaif", bench.ours, size)
        stats = server.stats()
    accounts = json.loads(max(folder.glob("*/accounts.json"), key=lambda path: path.stat().st_mtime).read_text())
    if accounts["judgements"]["outcomes"] != {"ranked": 2 * size} or stats["repeats"]:
        sys.exit(f"{options}: {accounts['judgements']}, {stats['repeats']} answered twice")
    return seen, stats


if __name__ == "__main__":
    main()
