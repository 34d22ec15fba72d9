"""A judge behind an API rewards what a policy says while it is tuned: how long training waits for it, and what its failures do.

    python benchmarks/overlap.py [--rounds 3] [--latency 500ms]

The mock server answers each question after ``--latency``, withholds one reply in twenty, which is no reward and moves nothing,
and fails one call in fifty, which is asked again. The shipped recipe direct-rewards tunes the practice world's policy for ten steps of
32 prompts, four responses each, with steps whole and split in 2, 4 and 8: while the rewards of one part are on their way,
the next is sampled and those before are learnt from. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path
from statistics import median

from rlaif.mock import MockOptions, start

SPLITS = (1, 2, 4, 8)
WAITED = re.compile(r"of (\d+) s of training (\d+)% were waiting for rewards")


def run(url: str, folder: Path, split: int) -> dict[str, float]:
    options = f"{{rewards: [{{source: judge, options: {{judge: score-text}}}}], accumulation: {split}, learning_rate: 1.0e-4, max_new_tokens: 96, steps: 10, probes: 0}}"
    settings = [
        "models.policy=package:rlaif.world/models/policy",
        f"models.judge={{provider: openai, model: mock-judge, options: {{base_url: '{url}/v1'}}}}",
        "prompts=set:practice",
        f"policies=[{{name: rloo, options: {options}}}]",
        "evaluation=null",
    ]
    command = ["rlaif", "run", "direct-rewards", "--out", str(folder), *(f"--set={each}" for each in settings)]
    said = subprocess.run(command, cwd=folder.parent, check=True, capture_output=True, text=True)
    found = WAITED.search(said.stdout + said.stderr)
    assert found, said.stderr
    history = json.loads((folder / "training" / "policies-rloo.json").read_text())["history"]
    lost = sum(step["no_reward"] for step in history) / len(history)
    return {"seconds": float(found[1]), "waiting": float(found[2]) / 100, "without_reward": lost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", default="500ms")
    args = parser.parse_args()
    found: dict[int, list[dict[str, float]]] = {split: [] for split in SPLITS}
    faults = ("content-filter=0.05", "500=0.02")
    with tempfile.TemporaryDirectory() as folder, start(MockOptions(fault=faults, latency=args.latency)) as server:
        for number in range(args.rounds):
            for split in SPLITS:  # each in a folder of its own: nothing comes from another's ledger
                place = Path(folder) / f"{number}-{split}"
                place.mkdir()
                found[split].append(run(server.url, place / "run", split))
    print(
        "| parts of a step | seconds | waiting for rewards | responses without a reward |\n| ---: | ---: | ---: | ---: |"
    )
    figures: dict[str, dict[str, float]] = {}
    for split, rows in found.items():
        middle = {name: median(row[name] for row in rows) for name in rows[0]}
        waits = [row["waiting"] for row in rows]
        print(
            f"| {split} | {middle['seconds']:.0f} | {middle['waiting']:.0%} ({min(waits):.0%} to {max(waits):.0%}) | "
            f"{middle['without_reward']:.1%} |"
        )
        for name, value in middle.items():
            seen = [row[name] for row in rows]
            figures[f"split_{split}.{name}"] = {"value": value, "low": min(seen), "high": max(seen), "n": len(seen)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
