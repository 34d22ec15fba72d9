"""What kind of label a reward model and DPO learn best from, where the probabilities are known. Practice world.

    python benchmarks/soft_labels.py FOLDER [--seeds 5] [--levels 3] [--prompts 600] [--at-once 2]

Every two replies of the embedded policy have a true probability p* = σ(t/τ): t is the difference of their worth to the world's
values, τ the level of noise. A judge says q = σ(2.5·t/τ + ε), ε normal with deviation 0.5: it ranks well and is far too sure. On
the same pairs, prompts, seeds and hyper-parameters six kinds of label are learnt from:

    truth       p* itself
    person      one draw with probability p*, hard
    judge       q
    judge hard  q > ½
    clamped     q clipped to [0.4, 0.6] (Bai et al. 2022, 2212.08073, §4.3)
    calibrated  q through a temperature fitted on one person's labels of a share of the prompts

The reward model is measured against p* on held-out pairs, the policy by how often the world's values prefer its replies to
the start's, on held-out prompts. Means over seeds with 95% intervals (t). Each cell of (level, seed, label) is kept in
FOLDER/cells.jsonl as soon as it is done; a study that was stopped goes on. Processes of one thread each share the work.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from scipy import stats

from rlaif.catalogue import builtin_root
from rlaif.config import PromptsSection, Sampling
from rlaif.models.local import LocalModel, LocalOptions
from rlaif.policy import PolicyContext
from rlaif.policy.dpo import DPO
from rlaif.prompts import ReadPrompts, prompt_rows
from rlaif.records import Message, Preference, Prompt, uniform
from rlaif.reward import RewardOptions, train_reward_model
from rlaif.statistics import calibration_figure, log_loss
from rlaif.statistics.calibrators import apply, fit
from rlaif.training.batching import held_out
from rlaif.training.rollouts import PolicySampler
from rlaif.training.trainer import Watch, quiet_libraries
from rlaif.world.annotators import VALUES, opinion
from rlaif.world.oracle import attributes, prefers, read

LEVELS = {"little": 0.5, "some": 1.5, "much": 4.0}  # τ
LABELS = ("truth", "person", "judge", "judge hard", "clamped", "calibrated")
SURE, SCATTER = 2.5, 0.5  # of the judge
HELD_OUT, CALIBRATION = 0.15, 0.15  # shares of prompts
SAMPLES = 4
Pair = tuple[Prompt, str, str, float]  # prompt, two replies, t


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--at-once", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / "cells.jsonl"
    done = {(cell["level"], cell["seed"], cell["label"]) for cell in cells_of(path)}
    work = []
    for seed, level in itertools.product(range(args.seeds), list(LEVELS)[: args.levels]):
        if missing := [label for label in LABELS if (level, seed, label) not in done]:
            work.append((path, seed, level, missing, args.prompts))
    with ProcessPoolExecutor(args.at_once, multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(learn, *zip(*work, strict=True)) if work else ():
            pass
    table(cells_of(path))


def cells_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def learn(path: Path, seed: int, level: str, labels: Sequence[str], prompts: int) -> None:
    """Cells of a level and a seed, each written down as soon as it is there."""
    quiet_libraries()
    torch.set_num_threads(1)
    start = LocalModel("package:rlaif.world/models/policy", LocalOptions(device="cpu"), where="study", notice=print)
    pairs = list(pairs_of(start, seed, prompts))
    for label in labels:
        cell = {"level": level, "seed": seed, "label": label, **learnt(start, pairs, label, LEVELS[level], seed)}
        with path.open("a") as file:
            file.write(json.dumps(cell) + "\n")
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in cell.items()}, flush=True)


def practice(name: str, count: int) -> list[Prompt]:
    section = PromptsSection(source=str(builtin_root() / "prompts" / "sets" / f"{name}.jsonl"), limit=count)
    reader = ReadPrompts(section)
    return [read for where, row in prompt_rows(section) if isinstance(read := reader.read(where, row), Prompt)]


def said_by(start: LocalModel, network: Any, prompts: Sequence[Prompt], samples: int, seed: int) -> list[list[str]]:
    """What a network says to prompts, so many replies each."""
    sampling = Sampling(max_output_tokens=96)
    sampler = PolicySampler(start, network, caches=True, sampling=sampling, samples=samples, seed=seed)
    return [[response.text for response in many] for many in sampler.sample(prompts, 0).responses]


def pairs_of(start: LocalModel, seed: int, count: int) -> Iterator[Pair]:
    """Every two different replies of the start to a prompt, with the difference of their worth."""
    prompts = practice("practice", count)
    for prompt, replies in zip(prompts, said_by(start, start.network, prompts, SAMPLES, seed), strict=True):
        question = read(prompt.messages)
        assert question
        for one, other in itertools.combinations(dict.fromkeys(replies), 2):
            a, b = attributes(question, one), attributes(question, other)
            yield prompt, one, other, sum(2 * w * (prefers(f, 1, question, a, b) - 0.5) for f, w in VALUES.items())


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def draw(kind: str, seed: int, pair: Pair) -> float:
    return uniform(kind, seed, pair[0].id, pair[1], pair[2])


def labels_of(pairs: Sequence[Pair], label: str, tau: float, seed: int) -> list[float]:
    """The probability that the first reply of each pair is better, as this kind of label has it."""
    truth = [sigma(t / tau) for *_, t in pairs]
    person = [float(draw("person", seed, pair) < p) for pair, p in zip(pairs, truth, strict=True)]
    scatter = [SCATTER * float(stats.norm.ppf(draw("judge", seed, pair))) for pair in pairs]
    judge = [sigma(SURE * pair[3] / tau + e) for pair, e in zip(pairs, scatter, strict=True)]
    if label == "calibrated":
        asked = [held_out(pair[0].id, CALIBRATION, seed + 1) for pair in pairs]
        known = [(q, y) for q, y, kept in zip(judge, person, asked, strict=True) if kept]
        found = fit("temperature", [q for q, _ in known], [y for _, y in known])
        return [float(p) for p in apply(found, judge)]
    return {
        "truth": truth,
        "person": person,
        "judge": judge,
        "judge hard": [0.5 if q == 0.5 else float(q > 0.5) for q in judge],
        "clamped": [min(max(q, 0.4), 0.6) for q in judge],
    }[label]


def preferences(pairs: Sequence[Pair], p: Sequence[float]) -> list[Preference]:
    rows = []
    for number, ((prompt, one, other, _), q) in enumerate(zip(pairs, p, strict=True)):
        chosen, rejected = (one, other) if q >= 0.5 else (other, one)
        sides = [(Message(role="assistant", content=text),) for text in (chosen, rejected)]
        rows.append(
            Preference(
                prompt=prompt.messages,
                chosen=sides[0],
                rejected=sides[1],
                p=max(q, 1 - q),
                weight=1.0,
                prompt_id=prompt.id,
                comparison_id=str(number),
            )
        )
    return rows


def learnt(start: LocalModel, pairs: Sequence[Pair], label: str, tau: float, seed: int) -> dict[str, float]:
    """A reward model and a policy from one kind of label, measured by the truth."""
    rows = preferences(pairs, labels_of(pairs, label, tau, seed))
    kept_out = lambda prompt: held_out(prompt, HELD_OUT, seed)  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        train_reward_model(
            lambda: rows,
            start,
            RewardOptions(learning_rate=1e-3, epochs=2, batch_prompts=8, checkpoints=1),
            reference=None,
            work=work / "rm-work",
            out=work / "rm",
            seed=seed,
            is_held_out=kept_out,
            ended=lambda row, response: True,
            watch=Watch(),
        )
        figures = by_truth(start, work / "rm", [pair for pair in pairs if kept_out(pair[0].id)], tau)
        context = PolicyContext(
            start=start,
            prompts=list,
            preferences=lambda: rows,
            is_held_out=kept_out,
            ended=lambda row, response: True,
            work=work / "dpo-work",
            out=work / "dpo",
            seed=seed,
            watch=Watch(),
            in_worker=asyncio.to_thread,
        )
        options = DPO.Options(learning_rate=3e-4, epochs=2, batch_prompts=8, beta=0.1, checkpoints=1)
        DPO(options, "study").train(context)
        tuned = LocalModel(str(work / "dpo"), LocalOptions(device="cpu"), where="study", notice=print)
        figures["policy.win_rate"] = wins(start, tuned, seed)
    return figures


def by_truth(start: LocalModel, folder: Path, pairs: Sequence[Pair], tau: float) -> dict[str, float]:
    """The reward model on held-out pairs: log-loss and calibration against p*, and whether it has the better one higher."""
    from rlaif.reward import RewardModel

    model = RewardModel(folder, LocalOptions(device="cpu"), where="study", notice=print)
    said = [(Message(role="assistant", content=text),) for _, *both, _ in pairs for text in both]
    items = [(pair[0].messages, [(said[2 * i], True), (said[2 * i + 1], True)]) for i, pair in enumerate(pairs)]
    rewards = [[(value - model.bias) / model.gain for value in both] for both in model(items)]  # as they were learnt
    predicted = np.array([sigma(a - b) for a, b in rewards])
    truth = np.array([sigma(t / tau) for *_, t in pairs])
    order = np.argsort(predicted, kind="stable")
    names = [pairs[i][0].id for i in order]
    clear = [(a > b) == (pair[3] > 0) for (a, b), pair in zip(rewards, pairs, strict=True) if pair[3]]
    floor = float(np.mean(log_loss(truth, truth)))
    return {
        "reward.excess_log_loss": float(np.mean(log_loss(predicted, truth))) - floor,
        "reward.calibration_error": float(calibration_figure(predicted[order], truth[order], names).value or 0.0),
        "reward.accuracy": fmean(clear),
    }


def wins(start: LocalModel, tuned: LocalModel, seed: int) -> float:
    """How often the world's values prefer the tuned policy's reply to the start's, a tie counting one half."""
    prompts = practice("practice-held-out", 3250)[::3]
    both = [said_by(start, model.network, prompts, 1, seed + 1000) for model in (tuned, start)]
    found = []
    for prompt, (ours,), (theirs,) in zip(prompts, *both, strict=True):
        question = read(prompt.messages)
        assert question
        found.append(opinion(VALUES, question, attributes(question, ours), attributes(question, theirs)))
    return fmean(found)


def table(cells: Sequence[dict[str, Any]]) -> None:
    names = ["reward.excess_log_loss", "reward.calibration_error", "reward.accuracy", "policy.win_rate"]
    figures: dict[str, dict[str, float]] = {}
    print(f"\n| noise | labels | {' | '.join(names)} |\n| --- | --- |{' ---: |' * len(names)}")
    for level, label in itertools.product(LEVELS, LABELS):
        own = [cell for cell in cells if (cell["level"], cell["label"]) == (level, label)]
        if not own:
            continue
        texts = []
        for name in names:
            values = [cell[name] for cell in own]
            mean, half = fmean(values), 0.0
            if len(values) > 1:
                half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
            key = f"{level}.{label.replace(' ', '_')}.{name}"
            figures[key] = {"value": mean, "low": mean - half, "high": mean + half, "n": len(values)}
            scale, digits = (1, 3) if name.endswith("log_loss") else (100, 1)
            texts.append(f"{scale * mean:.{digits}f} ± {scale * half:.{digits}f}")
        print(f"| {level} | {label} | {' | '.join(texts)} |")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
