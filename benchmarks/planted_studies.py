"""Are a study's conclusions right? Studies in the practice world whose answer is known, again and again.

    python benchmarks/planted_studies.py FOLDER [--repetitions 20]               reward models
    python benchmarks/planted_studies.py FOLDER --policies --repetitions 1    policies too

People slip in 25% of their labels. Beside them label three who know the truth and slip in 5% (planted better), in 25% (equal) and in
40% (worse), none of them where people do for that reason. Each repetition has prompts, responses, draws and seeds of its own. What an arm's labels are really worth,
for a reward model of this size, is taken to be the mean difference over all repetitions; said falsely is "better" or "worse" of the
other sign or of the equal arm, and "equivalent" of one whose mean lies beyond the margin. "Inconclusive" is counted apart. What a
repetition has done is kept in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

PEOPLE = "rlaif.world.annotators:Annotators"
RATES = {"better": 0.05, "equal": 0.25, "worse": 0.4}
MARGIN = 0.05
ALPHA = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)  # with three no difference of these is sure
    parser.add_argument("--policies", action="store_true")
    parser.add_argument("--at-once", type=int, default=2)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(args.repetitions):
        name = f"{'policies' if args.policies else 'rewards'}-{number:02d}"
        told = args.folder / name / "compare.json"
        if not told.exists():
            path = args.folder / f"{name}.yaml"
            seeds = [1000 * (number + 1) + k for k in range(args.seeds)]
            path.write_text(yaml.safe_dump(study(seeds, args.at_once, policies=args.policies), sort_keys=False))
            command = [sys.executable, "-m", "rlaif", "compare", path.name, "--out", name]
            subprocess.run(command, cwd=args.folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found.append(json.loads(told.read_text(encoding="utf-8")))
        print(
            f"{name}: " + ", ".join(f"{arm} {answer(found[-1], arm, measures(found[-1])[0])}" for arm in RATES),
            flush=True,
        )
    figures: dict[str, dict[str, Any]] = {}
    for measure in measures(found[0]):
        figures |= table(found, measure)
    print(json.dumps(figures))


def study(seeds: list[int], at_once: int, *, policies: bool) -> dict[str, Any]:
    truth = {"source": PEOPLE}
    arms: dict[str, Any] = {"people": {"labels": {"source": PEOPLE, "options": {"noise": 0.25}}}}
    for name, rate in RATES.items():
        arms[name] = {"labels": {"source": "noisy", "options": {"of": truth, "rate": rate}}}
    common = ["prompts.limit=200", "held_out=0.4", "evaluation.judges=[]", "evaluation.prompts=500"]
    common += ["reward_model.options.epochs=4", "reward_model.options.batch_prompts=4"]  # few labels: small steps
    common += (
        ["policies=[{name: dpo, options: {learning_rate: 3.0e-4, epochs: 2, batch_prompts: 8}}]"]
        if policies
        else ["policies=[]", "evaluation=null"]
    )
    return {
        "recipe": "quickstart", "set": common, "seeds": seeds, "at_once": at_once, "arms": arms, "truth": truth, "margin": MARGIN,
    }  # fmt: skip


def measures(figures: dict[str, Any]) -> list[str]:
    """Names of the figures that have an answer: the reward model on the truth, and shares of policies."""
    names = [key.removeprefix("differences.better.").removesuffix(".p") for key in figures if key.endswith(".p")]
    names = [
        name
        for name in dict.fromkeys(names)
        if not name.startswith(("differences.", "labels.")) and not name.endswith("people")
    ]
    return sorted(names, key=lambda name: not name.startswith("reward."))


def answer(figures: dict[str, Any], arm: str, measure: str) -> str:
    head = f"differences.{arm}.{measure}"
    if figures[f"{head}.p_equivalent"]["value"] < ALPHA:
        return "equivalent"
    if figures[f"{head}.p"]["value"] < ALPHA:
        return "better" if figures[head]["value"] > 0 else "worse"
    return "inconclusive"


def table(found: list[dict[str, Any]], measure: str) -> dict[str, dict[str, Any]]:
    print(
        f"\n{measure}\n| planted | mean difference | better | worse | equivalent | inconclusive | said falsely | interval holds the mean |"
    )
    print("| --- |" + " ---: |" * 7)
    figures: dict[str, dict[str, Any]] = {}
    for arm in RATES:
        differences = [each[f"differences.{arm}.{measure}"] for each in found]
        mean = fmean(each["value"] for each in differences)
        answers = Counter(answer(each, arm, measure) for each in found)
        signs = {
            "better": arm == "equal" or mean < 0,
            "worse": arm == "equal" or mean > 0,
            "equivalent": abs(mean) > MARGIN,
        }
        false = sum(count for said, count in answers.items() if signs.get(said))
        holds = sum(each["low"] <= mean <= each["high"] for each in differences)
        said = " | ".join(str(answers[name]) for name in ("better", "worse", "equivalent", "inconclusive"))
        print(f"| {arm} | {100 * mean:+.1f} points | {said} | {false} of {len(found)} | {holds} of {len(found)} |")
        for name, value in (("false", false / len(found)), ("difference", mean), ("holds", holds / len(found))):
            figures[f"{measure}.{arm}.{name}"] = {"value": value, "low": None, "high": None, "n": len(found)}
    return figures


if __name__ == "__main__":
    main()
