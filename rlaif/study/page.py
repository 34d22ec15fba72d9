"""``compare.html``: a study on one page that can be passed on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rlaif.evaluate import START
from rlaif.measures import Measure as Meaning
from rlaif.records import Comparison, Response, uniform
from rlaif.report import page
from rlaif.report.figures import Plots
from rlaif.rows import source_hash
from rlaif.statistics import Figure
from rlaif.store import RunFolder, read_shard, write_text
from rlaif.study.labelled import labels_of
from rlaif.study.measures import OF_CONTESTS, Answered, Measured
from rlaif.study.policies import CONTEST, EQUAL, HEAD, HEAD_TO_HEAD, HEAD_TRUE, WIN, WIN_TRUE
from rlaif.study.recipe import JUDGES, STUDY_FILE, TRUTH, Study
from rlaif.study.telling import answers, first_measure, meant, named
from rlaif.study.walk import BEFORE_LABELS, contest_folder, folder_of
from rlaif.training.batching import pair_id, side_digest

SHOWN = 6  # pairs that two arms label differently
ANSWERS = 4  # pairs of answers of two arms' policies
LONGEST = 1200  # characters of a text shown
COIN = 0.5  # accuracy of a reward model that knows nothing
OF_LABELS = {  # rows of the first table
    "labels.truth": Meaning("labelled as the truth, ties left out", "%"),
    "labels.agreement": Meaning("labelled alike, ties left out", "%"),
    "labels.agreement_with_ties": Meaning("labelled alike, a tie being an opinion", "%"),
    "labels.kappa": Meaning("the same beyond chance, a tie being an opinion (Cohen's kappa)"),
    "labels.kappa_without_ties": Meaning("the same beyond chance, ties left out"),
    "labels.agreement.longest": Meaning("rule: the longer reply, on the same pairs", "%"),
    "labels.agreement.first": Meaning("rule: the first reply, likewise", "%"),
    "labels.agreement.random": Meaning("rule: a coin, likewise", "%"),
    "labels.agreement_with_one": Meaning("as one person labels (of people: as another does)", "%"),
    "labels.noise_corrected": Meaning("right, where people's slips are taken out", "%"),
    "labels.alt_test.omega.crowd": Meaning("may stand in for a crowd worker (omega; 0.5 is needed)"),
    "labels.alt_test.rho": Meaning("as close to the others as a person is (rho)", "%"),
    "labels.first_rate": Meaning("first shown preferred", "%"),
    "labels.orders_agree": Meaning("both orders agree", "%"),
    "labels.longer_rate": Meaning("longer preferred", "%"),
    "labels.undecided": Meaning("undecided under every principle", "%"),
    "labels.missing": Meaning("pairs without a label", "%"),
    "labels.usd_per_1000": Meaning("US dollars for 1,000 labels"),
    "labels.seconds_per_1000": Meaning("seconds of model or person for 1,000 labels"),
}


@dataclass(frozen=True)
class Cell:
    value: str
    interval: str = ""
    n: str = ""
    change: str = ""  # from the arm that it is held against
    change_interval: str = ""
    answer: str = ""


def write_page(path: Path, study: Study, out: Path, found: Measured) -> None:
    plots, figures = Plots(), found.figures
    first = folder_of(out, study.baseline, study.seeds[0])
    manifest, pairs = RunFolder(first).manifest, labels_of(first).prompts
    html = page("compare.html.j2").render(
        study=study,
        name=out.name,
        size=(len(pairs), len(set(pairs.values()))),
        answers=answers(study, found),
        unsaid=found.unsaid,
        cares=_cares(study, out),
        made_of=_made_of(study, out),
        people={name: figures[name] for name in figures if name.startswith("people.")},
        labels=list(_rows(study, found, OF_LABELS)),
        rewards=list(_rows(study, found, {name: found.meanings[name] for name in _rewards(found)})),
        policies=list(_rows(study, found, _called(found), start=True)),
        arms={
            **{name: _told(arm.model_dump(mode="json", exclude_defaults=True)) for name, arm in study.arms.items()},
            **({TRUTH: _told({"labels": study.truth.model_dump(mode="json")})} if study.truth else {}),
        },
        tuned={
            arm: ", ".join(study.tune[int(figures[f"arms.{arm}.tuned"].value or 1) - 1])
            for arm in study.arms
            if study.tune
        },
        exchange=list(_exchange(study, figures)),
        answered=[(each, meant(each)) for each in found.answers.values()],
        plots=_plots(study, found, plots),
        pairs=_of_each(study, lambda other: _pairs(study, out, other)),
        contests=_of_each(study, lambda other: _contests(study, out, other)),
        decided_by=_decided_by(study),
        manifest=manifest,
        runs=list(_runs(study, out)),
        study_sha=source_hash(str(out / STUDY_FILE)),
    )
    write_text(path, html)


def _rewards(found: Measured) -> list[str]:
    return [name for name in found.meanings if name.startswith("reward.")]


def _policies(found: Measured) -> list[str]:
    """Contests between arms first, then against the start, then what was measured of the answers."""
    ends = (*(name for name in OF_CONTESTS if name != WIN_TRUE), WIN, EQUAL, WIN_TRUE, "kl", "reward")

    def place(name: str) -> int:
        return next((n for n, end in enumerate(ends) if name.endswith(f".{end}")), len(ends))

    return sorted(found.policies, key=lambda name: (found.policies[name], place(name)))


def _called(found: Measured) -> dict[str, Meaning]:
    """What the figures of policies are; with several policies, of which."""
    several = len(set(found.policies.values())) > 1
    return {
        name: found.meanings[name]._replace(what=f"{found.policies[name]}, {found.meanings[name].what}")
        if several
        else found.meanings[name]
        for name in _policies(found)
    }


Row = tuple[str, str, str, list[Cell]]  # name, what it is, its unit, a cell for each arm


def _rows(study: Study, found: Measured, meanings: Mapping[str, Meaning], *, start: bool = False) -> Iterator[Row]:
    for name, meaning in meanings.items():
        cells = [_cell(arm, name, meaning, found) for arm in [*([START] if start else []), *study.arms]]
        if any(cell.value != "–" for cell in cells):
            unit = meaning.unit.removeprefix("% of ") if meaning.unit.startswith("% of ") else meaning.unit.strip("%")
            yield name, meaning.what, unit, cells


def _cell(arm: str, name: str, meaning: Meaning, found: Measured) -> Cell:
    head = f"{START}.{name.removeprefix(found.policies.get(name, '') + '.')}" if arm == START else f"arms.{arm}.{name}"
    figure = found.figures.get(head)
    key = f"differences.{arm}.{name}"
    said: Answered | None = found.answers.get(key)
    told = named(said.conclusion, more_is_better=said.measure.more_is_better) if said else ""
    against_itself = said is not None and said.measure.none_at is not None  # whose value says it all
    change = None if against_itself else found.figures.get(key)
    n = f"n {figure.n:,}" if figure and figure.value is not None else ""
    return Cell(
        meaning.value(figure), meaning.interval(figure), n, meaning.signed(change), meaning.interval(change, "+"), told
    )


def _told(labels: Any) -> str:
    return json.dumps(labels, ensure_ascii=False)


def _exchange(study: Study, figures: Mapping[str, Figure]) -> Iterator[str]:
    """What one label of the arm that is held against is worth, in words: where its reward models surely beat a coin, for what does as
    well as a coin is worth nothing."""
    for name, figure in figures.items():
        if name.startswith("exchange."):
            _, arm, size = name.split(".", 2)
            own = f"arms.{study.baseline}.curve.{size}"
            if (figures[f"{own}.accuracy"].low or 0.0) <= COIN:
                continue
            labels = figures[f"{own}.labels"].value or 0
            yield f"Where {study.baseline} has {labels:,.0f} labels, one of them is worth {worth(figure)} of {arm}."


def worth(figure: Figure) -> str:
    """An exchange rate with its interval; an end that is not known is open."""
    if figure.value is not None:
        if figure.low is None and figure.high is None:
            return f"{figure.value:.2g} (how sure that is, is not known)"
        if figure.low is None or figure.high is None:
            known = f"at most {figure.high:.2g}" if figure.low is None else f"at least {figure.low:.2g}"
            return f"{figure.value:.2g} ({known})"
        return f"{figure.value:.2g} ({figure.low:.2g} to {figure.high:.2g})"
    if figure.high is None:
        return f"more than {figure.low:.2g}" if figure.low is not None else "an unknown number"
    return f"at most {figure.high:.2g}"


def _plots(study: Study, found: Measured, plots: Plots) -> dict[str, str]:
    figures = found.figures

    def of(name: str) -> list[tuple[str, Figure]]:
        return [(arm, figures[f"arms.{arm}.{name}"]) for arm in study.arms if f"arms.{arm}.{name}" in figures]

    names = _policies(found)
    policy = found.policies.get(first_measure(found) or "") or (found.policies[names[0]] if names else "")
    main, win, kl = (
        next((f"{policy}.{end}" for end in ends if f"{policy}.{end}" in names), None)
        for ends in ((HEAD_TRUE, HEAD), (WIN_TRUE, WIN), ("kl",))
    )
    by_truth = [", by the truth" if name and name.endswith("by_truth") else "" for name in (main, win)]
    truth = f"reward.accuracy.{TRUTH if study.truth else study.baseline}"
    agreement = [*of("labels.truth" if study.truth else "labels.agreement")]
    if "people.agreement" in figures and not study.truth:
        agreement.append(("two people", figures["people.agreement"]))
    against = TRUTH if study.truth else study.baseline
    curves = {
        arm: [
            (figures[key.removesuffix("accuracy") + "labels"].value or 0.0, figures[key])
            for key in figures
            if key.startswith(f"arms.{arm}.curve.") and key.endswith(".accuracy")
        ]
        for arm in study.arms
    }
    return {
        "agreement": plots.forest(agreement, f"share labelled as {against}", f"Labels: agreement with {against}", lines=(0.5,)),
        "reward": plots.forest(of(truth), f"right on held-out labels of {against}", "Reward models", lines=(0.5,)),
        "contests": plots.forest(
            of(main) if main else [], f"win rate against {study.baseline}'s policy{by_truth[0]}", "Policies head to head", lines=(0.5,)
        ),
        "curves": plots.growth({arm: points for arm, points in curves.items() if points}, "share right", "Learning curves"),
        "frontier": plots.frontier(
            {arm: (figures[f"arms.{arm}.{kl}"], figures[f"arms.{arm}.{win}"]) for arm in study.arms
             if f"arms.{arm}.{kl}" in figures and f"arms.{arm}.{win}" in figures},
            "KL to the start, nats per answer", f"win rate against the start{by_truth[1]}", "How far each policy went, and what it won",
        ) if kl and win else "",
    }  # fmt: skip


# --- to be read -------------------------------------------------------------------------------------------------------


def _of_each(study: Study, look: Callable[[str], list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """What there is to read of each arm beside the one that it is held against."""
    return {arm: found for arm in study.arms if arm != study.baseline and (found := look(arm))}


def _decided_by(study: Study) -> str:
    """Who says which answers are better: whoever gives the study's answer."""
    return TRUTH if TRUTH in study.contests else JUDGES


def _pairs(study: Study, out: Path, other: str) -> list[dict[str, Any]]:
    """Pairs that two arms label differently, by a keyed draw, one of a prompt at most."""
    seed = study.seeds[0]
    names = [study.baseline, other, *([TRUTH] if study.truth else [])]
    choices = {name: labels_of(folder_of(out, name, seed)).choices for name in names}
    apart = {key for key, said in choices[study.baseline].items() if {said, choices[names[1]].get(key)} == {"a", "b"}}
    found: dict[str, tuple[str, Comparison, tuple[Response, ...]]] = {}
    comparisons: Iterator[Comparison] = RunFolder(folder_of(out, study.baseline, seed)).read("comparisons")
    for comparison in sorted(comparisons, key=lambda each: uniform("read", seed, each.id)):
        for pair in itertools.combinations(comparison.responses, 2):
            key = pair_id(comparison.id, *(response.messages for response in pair))
            if key in apart:
                found.setdefault(comparison.prompt.id, (key, comparison, pair))
        if len(found) == SHOWN:
            break
    return [
        {
            "prompt": [(message.role, _cut(message.content)) for message in comparison.prompt.messages],
            "answers": [
                (_cut(response.text), [name for name in names if choices[name].get(key) == side], "")
                for side, response in zip("ab", sorted(pair, key=lambda each: side_digest(each.messages)), strict=True)
            ],
        }
        for key, comparison, pair in found.values()
    ]


def _contests(study: Study, out: Path, other: str) -> list[dict[str, Any]]:
    """Answers of two arms' policies to the same prompt, won and lost in turn, by a keyed draw."""
    seed = study.seeds[0]
    path = contest_folder(out, other, seed) / _decided_by(study) / CONTEST
    rows = [row for row in pq.read_table(path).to_pylist() if row["kind"] == HEAD_TO_HEAD] if path.is_file() else []
    if not rows:
        return []
    policy = rows[0]["policy"]
    decided = [row for row in rows if row["policy"] == policy and row["win"] in (0.0, 1.0)]
    decided.sort(key=lambda row: uniform("read", seed, row["prompt_id"]))
    shown = [row for win in (1.0, 0.0) for row in [r for r in decided if r["win"] == win][: ANSWERS // 2]]
    answers = [_answers(folder_of(out, name, seed), policy) for name in (other, study.baseline)]
    prompts = _prompts(folder_of(out, other, seed))
    return [
        {
            "prompt": [(role, _cut(text)) for role, text in prompts.get(row["prompt_id"], [])],
            "answers": [
                (_cut(own[row["prompt_id"]].text), [name] if won else [], name)
                for name, own, won in zip(
                    (other, study.baseline), answers, (row["win"] == 1, row["win"] == 0), strict=True
                )
            ],
        }
        for row in shown
        if all(row["prompt_id"] in own for own in answers)
    ]


def _answers(folder: Path, policy: str) -> dict[str, Response]:
    samples = json.loads((folder / "evaluation" / "samples.json").read_text(encoding="utf-8"))
    names = list(samples[0]["answers"]) if samples else []
    if policy not in names:
        return {}
    shard = folder / "evaluation" / "responses" / f"part-{names.index(policy):05d}.parquet"
    return {row.prompt_id: row for row in read_shard(shard, Response)}


def _prompts(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """The prompts that policies were measured on, by the id that their answers name."""
    samples = json.loads((folder / "evaluation" / "samples.json").read_text(encoding="utf-8"))
    return {row["prompt_id"]: [(turn["role"], turn["content"]) for turn in row["prompt"]] for row in samples}


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


# --- what made it -----------------------------------------------------------------------------------------------------


def _cares(study: Study, out: Path) -> list[str]:
    """What must be read wherever these labels are looked at, as the runs say it; what is so of some arms with their names."""
    said: dict[str, list[str]] = {}
    for arm in study.arms:
        for line in RunFolder(folder_of(out, arm, study.seeds[0])).cares():
            said.setdefault(line, []).append(arm)
    return [line if len(arms) == len(study.arms) else f"{', '.join(arms)}: {line}" for line, arms in said.items()]


def _made_of(study: Study, out: Path) -> list[tuple[str, str, str]]:
    """Kind, name and hash of every file and model that any arm was made of."""
    found: dict[tuple[str, str, str], None] = {}
    arms = [*study.arms, *([TRUTH] if study.truth else [])]
    for arm, seed in itertools.product(arms, study.seeds):
        manifest = RunFolder(folder_of(out, arm, seed)).manifest
        for file in manifest["files"]:
            found[file["kind"] + " (built-in)" * file["builtin"], file["name"], file["sha256"]] = None
        found |= {("input", each["source"], each["sha256"]): None for each in manifest["inputs"]}
        found |= {(f"model “{role}”", each["name"], each["sha256"]): None for role, each in manifest["models"].items()}
    return list(found)


def _runs(study: Study, out: Path) -> Iterator[tuple[str, int, str, str, str]]:
    """Arm, seed, the run's id and what its labels and what they were made of hash to."""
    for arm in study.arms:
        for seed in study.seeds:
            run = RunFolder(folder_of(out, arm, seed))
            shared = "-".join(run.content(noun)[:8] for noun in BEFORE_LABELS)
            yield arm, seed, run.id, shared, run.content("preferences")[:16]
