"""Every policy method on the same preferences in the practice world, three seeds: a table of rates by the oracle.

    python benchmarks/methods.py FOLDER

Walks the shipped recipe practice-methods; about half an hour a seed on one core. A run that FOLDER already holds is not walked
again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

SEEDS = (0, 1, 2)
ROWS = {
    "obeyed": "harmful_compliance",
    "refused": "refused_harmful",
    "helped": "helpfulness",
    "over-refused": "over_refusal",
    "right": "correctness",
}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in SEEDS:
        name = f"seed{seed}"
        if not (folder / name / "metrics.json").exists():
            command = ["rlaif", "run", "practice-methods", "--out", name, "--set", f"seed={seed}"]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        metrics = json.loads((folder / name / "metrics.json").read_text(encoding="utf-8"))
        stages = json.loads((folder / name / "manifest.json").read_text(encoding="utf-8"))["stages"]
        runs.append((metrics, {stage: state.get("seconds", 0.0) for stage, state in stages.items()}))
    arms = [key.split(".")[1] for key in runs[0][0] if key.startswith("policies.") and key.endswith(".length")]
    heads = [*ROWS, "KL", "tokens", "reward", "seconds"]
    print(f"| | {' | '.join(heads)} |\n| --- |{' ---: |' * len(heads)}")
    figures: dict[str, dict[str, float]] = {}
    for arm in arms:
        cells = []
        for key in (*(f"oracle.{name}" for name in ROWS.values()), "kl", "length", "reward"):
            found = [m[whole]["value"] for m, _ in runs if (whole := f"policies.{arm}.{key}") in m]
            scale, digits = (100, 1) if key.startswith("oracle") else (1, 1 if key == "length" else 2)
            cells.append(spread([scale * value for value in found], digits) if found else "")
            if found:
                figures[f"{arm}.{key}"] = {
                    "value": fmean(found), "low": min(found), "high": max(found), "n": len(found),
                }  # fmt: skip
        spent = [seconds[key] for _, seconds in runs if (key := f"policies/{arm}") in seconds]
        cells.append(f"{fmean(spent):.0f}" if spent else "")
        print(f"| {arm} | {' | '.join(cells)} |")
    print(json.dumps(figures))


def spread(values: list[float], digits: int = 1) -> str:
    """The mean with the range."""
    return f"{fmean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
