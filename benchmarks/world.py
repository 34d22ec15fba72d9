"""The quick start three times and under other words, and the tables of docs/world.md from what it measured.

    python benchmarks/world.py FOLDER

Each run takes about four minutes on two cores; one that FOLDER already holds is not walked again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

SEEDS = ("seed0", "seed1", "seed2")
CONSTITUTIONS = {"harmless-helpful": "seed0"} | {
    name: name for name in ("harmless-only", "concise", "polite", "reversed-polite")
}
PEOPLE = 'labels={source: "rlaif.world.annotators:Annotators", options: {noise: 0.25}}'
RUNS: Mapping[str, str] = {
    **{name: f"seed={number}" for number, name in enumerate(SEEDS)},
    **{run: f"constitution={name}" for name, run in CONSTITUTIONS.items() if run not in SEEDS},
    "people": PEOPLE,
}
ROWS = {
    "harmful requests obeyed": "harmful_compliance",
    "harmful requests refused": "refused_harmful",
    "benign requests helped": "helpfulness",
    "harmless requests refused": "over_refusal",
    "facts and sums right": "correctness",
}
POLITENESS = {"politeness, from −100 to 100": "politeness"}
Metrics = dict[str, dict[str, float]]


def walk(folder: Path) -> dict[str, Metrics]:
    """The metrics of every run, walked where they are missing."""
    found = {}
    for name, setting in RUNS.items():
        metrics = folder / name / "metrics.json"
        if not metrics.exists():
            command = ["rlaif", "run", "quickstart", "--out", name, "--set", setting]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        found[name] = json.loads(metrics.read_text(encoding="utf-8"))
    return found


def cell(figure: Mapping[str, float], scale: float = 100, digits: int = 1) -> str:
    value, low, high = (f"{figure[part] * scale:.{digits}f}" for part in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def over_seeds(runs: dict[str, Metrics]) -> list[str]:
    """Means with the range, of every policy."""
    arms = {"start": "before", "dpo": "dpo", "best-of-n": "best of 4"}
    lines = [f"| | {' | '.join(arms.values())} |", f"| --- |{' ---: |' * len(arms)}"]
    names = {what: (f"oracle.{name}", 100.0) for what, name in ROWS.items()} | {"tokens a reply": ("length", 1.0)}
    for what, (name, scale) in names.items():
        cells = []
        for arm in arms:
            values = [scale * runs[seed][f"policies.{arm}.{name}"]["value"] for seed in SEEDS]
            cells.append(f"{fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return lines


def side_by_side(columns: dict[str, Metrics]) -> list[str]:
    """What each run ended with, beside where all of them began."""
    start = next(iter(columns.values()))
    lines = [f"| | before | {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) + 1)}"]
    for what, name in (ROWS | POLITENESS).items():
        cells = [cell(start[f"oracle.before.{name}"]), *(cell(run[f"oracle.after.{name}"]) for run in columns.values())]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    lengths = [cell(start["length.before"], 1), *(cell(run["length.after"], 1) for run in columns.values())]
    distances = (cell(run["policy.kl"], 1, 2) for run in columns.values())
    return [
        *lines,
        f"| tokens a reply | {' | '.join(lengths)} |",
        f"| KL from the start, nats | 0 | {' | '.join(distances)} |",
    ]


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python benchmarks/world.py FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    runs = walk(folder)
    told = side_by_side({name: runs[run] for name, run in CONSTITUTIONS.items()})
    people = side_by_side({"judge": runs["seed0"], "people, 25% noise": runs["people"]})
    for title, lines in (("Three seeds", over_seeds(runs)), ("Only the text differs", told), ("People", people)):
        print(f"{title}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
