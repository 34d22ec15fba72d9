"""Are a study's conclusions right? Studies in the practice world whose answer is known, again and again.

    python benchmarks/planted_studies.py FOLDER [--repetitions 20]               reward models
    python benchmarks/planted_studies.py FOLDER --policies --repetitions 1    policies too

People slip in 25% of their labels. Beside them label three who know the truth and slip in 5% (planted better), in 25% (equal) and in
40% (worse), none of them where people do for that reason. Each repetition has prompts, responses, draws and seeds of its own. Said
falsely is "better" or "worse" of the other sign or of the equal arm, whose labels are worth exactly as much; and "equivalent" where the
difference lies beyond the margin, which is taken from the mean over all repetitions. "Inconclusive" is counted apart. An interval should
hold 0 of the equal arm, and of the others the mean over the other repetitions. What a repetition has done is kept in FOLDER. Exits with
1 where more is said falsely than chance makes of one in twenty; beside how often stands how often it may be, a bound of 95%.
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
from scipy.stats import binomtest

from rlaif.statistics.studies import ALPHA, answer

PEOPLE = "rlaif.world.annotators:Annotators"
PLANTED = {"better": (0.05, 1), "equal": (0.25, 0), "worse": (0.4, -1)}  # how often they slip; sign of the difference
MEASURES = ("reward.accuracy.truth", "dpo.win_rate_by_truth", "dpo.head_to_head_by_truth")
MARGIN = 0.05


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
        said = (f"{arm} {answered(found[-1], arm, MEASURES[0])}" for arm in PLANTED)
        print(f"{name}: {', '.join(said)}", flush=True)
    figures: dict[str, dict[str, Any]] = {}
    too_many = []
    for measure in MEASURES if args.policies else MEASURES[:1]:
        figures |= table(found, measure)
        for arm in PLANTED:
            false = round(figures[f"{measure}.{arm}.false"]["value"] * len(found))
            if binomtest(false, len(found), ALPHA, alternative="greater").pvalue <= ALPHA:
                too_many.append(f"{measure}, planted {arm}: {false} of {len(found)} say what is not so")
    for line in too_many:
        print(line)
    print(json.dumps(figures))
    sys.exit(1 if too_many else 0)


def study(seeds: list[int], at_once: int, *, policies: bool) -> dict[str, Any]:
    truth = {"source": PEOPLE}
    arms: dict[str, Any] = {"people": {"labels": {"source": PEOPLE, "options": {"noise": 0.25}}}}
    for name, (rate, _) in PLANTED.items():
        arms[name] = {"labels": {"source": "noisy", "options": {"of": truth, "rate": rate}}}
    common = ["prompts.limit=200", "held_out=0.4", "evaluation.judges=[]", "evaluation.prompts=500"]
    common += ["reward_model.options.epochs=4", "reward_model.options.batch_prompts=4"]  # few labels: small steps
    common += (
        ["policies=[{name: dpo, options: {learning_rate: 3.0e-4, epochs: 2, batch_prompts: 8}}]"]
        if policies
        else ["policies=[]", "evaluation=null"]
    )
    return {
        "recipe": "quickstart", "set": common, "seeds": seeds, "at_once": at_once, "arms": arms, "truth": truth,
        "contests": ["truth"] if policies else [], "margin": MARGIN,
    }  # fmt: skip


def answered(figures: dict[str, Any], arm: str, measure: str) -> str:
    head = f"differences.{arm}.{measure}"
    return answer(*(figures[name]["value"] for name in (head, f"{head}.p", f"{head}.p_equivalent")))


def table(found: list[dict[str, Any]], measure: str) -> dict[str, dict[str, Any]]:
    print(
        f"\n{measure}\n| planted | mean difference | better | worse | equivalent | inconclusive | said falsely | interval holds it |"
    )
    print("| --- |" + " ---: |" * 7)
    figures: dict[str, dict[str, Any]] = {}
    for arm, (_, sign) in PLANTED.items():
        differences = [each[f"differences.{arm}.{measure}"] for each in found]
        values = [each["value"] for each in differences]
        mean = fmean(values)
        answers = Counter(answered(each, arm, measure) for each in found)
        is_known = sign == 0 or len(found) > 1  # of one repetition the equal arm's difference alone
        is_false = {"better": sign < 1, "worse": sign > -1, "equivalent": sign != 0 and is_known and abs(mean) > MARGIN}
        false = sum(count for said, count in answers.items() if is_false.get(said))
        known = [0.0 if sign == 0 else others(values, n) for n in range(len(values))] if is_known else []
        holds = sum(each["low"] <= true <= each["high"] for each, true in zip(differences, known, strict=False))
        said = " | ".join(str(answers[name]) for name in ("better", "worse", "equivalent", "inconclusive"))
        told = f"{holds} of {len(found)}" if is_known else "not known"
        most = binomtest(false, len(found)).proportion_ci(0.9).high  # a one-sided bound of 95%
        print(
            f"| {arm} | {100 * mean:+.1f} points | {said} | {false} of {len(found)} (at most {100 * most:.0f}%) | {told} |"
        )
        if sign and abs(mean) <= MARGIN:
            print(
                f"Careful: what was planted as {arm} lies within the margin on average: equivalent is not held to be false of it."
            )
        told_of = {"false": false / len(found), "difference": mean, "holds": holds / len(found) if is_known else None}
        for name, value in told_of.items():
            figures[f"{measure}.{arm}.{name}"] = {"value": value, "low": None, "high": None, "n": len(found)}
    return figures


def others(values: list[float], place: int) -> float:
    """The mean of all but one."""
    return fmean(values[:place] + values[place + 1 :])


if __name__ == "__main__":
    main()
