"""Studies: arms that differ in who labels, walked from what they share, and held against each other."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from rlaif.catalogue import Catalogue
from rlaif.errors import ConfigError, UserError
from rlaif.records import Message, Prompt, uniform
from rlaif.statistics import flip_rate
from rlaif.store import RECIPE as RECIPE_FILE
from rlaif.store import read_shard, write_shard
from rlaif.study.measures import graded_by_their_own
from rlaif.study.policies import measured
from rlaif.study.recipe import Study, check_arms, load_study
from rlaif.study.trained import held_of
from rlaif.study.walk import need_alike
from tests.runs import kill_when, rlaif, start
from tests.test_swap import RECIPE as SWAPPED
from tests.test_swap import pairs
from tests.tiny import write_jsonl

RECIPE: dict[str, Any] = {
    **SWAPPED,
    "labels": "human",
    "held_out": 0.3,
    "evaluation": {"prompts": 8, "sampling": {"max_output_tokens": 8}, "judges": ["longest"]},
}
STUDY: dict[str, Any] = {
    "recipe": "recipe.yaml",
    "seeds": [0, 1],
    "arms": {
        "human": "human",
        "again": {"labels": {"source": "human"}},
        "longest": {"labels": {"source": "judges", "options": {"judges": ["longest"]}}},
        "slips": {
            "labels": {"source": "judges", "options": {"judges": ["longest"]}}, "noise_like": "human", "usd_per_label": 0.5,
        },
    },
    "truth": {"source": "shorter:Shorter"},  # where the judges of the policies prefer the longer
    "contests": ["judges", "truth"],
    "curves": {"labels": [10, 20], "arms": ["human", "longest"]},
    "at_once": 2,
}  # fmt: skip


SHORTER = """
from rlaif.component import Options
from rlaif.records import Judgement

class Shorter:
    class Options(Options):
        pass

    def __init__(self, options, context):
        pass

    def signature(self):
        return "shorter"

    def per_comparison(self):
        return 1

    async def label(self, batches):
        async for comparisons in batches:
            yield [self.judge(comparison) for comparison in comparisons]

    def judge(self, comparison):
        sides = sorted(comparison.responses, key=lambda response: len(response.text))
        alike = len(sides[0].text) == len(sides[1].text)
        ids = [response.id for response in sides]
        ranking = (tuple(ids),) if alike else tuple((name,) for name in ids)
        return Judgement(comparison_id=comparison.id, labeller="judge:shorter", shown=None, outcome="ranked", ranking=ranking)
"""


def seen_twice() -> list[dict[str, Any]]:
    """The pairs of the swap; in every third two people say the same, in every ninth they do not."""
    rows = pairs()
    for n, row in enumerate(rows):
        label = row.pop("label")
        other = label if label in (None, "tie") or n % 9 else {"a": "b", "b": "a"}[label]
        row["human_labels"] = {"ann": label, "bob": other} if n % 3 == 0 else {"ann": label}
    return rows


def wrote(folder: Path, **changes: Any) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    write_jsonl(folder / "pairs.jsonl", seen_twice())
    (folder / "shorter.py").write_text(SHORTER)
    path = folder / "study.yaml"
    curves = {"curves": None} if "arms" in changes else {}
    path.write_text(yaml.safe_dump(STUDY | curves | changes, sort_keys=False))
    return path


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another seed": (
        {"arms": {"a": "human", "b": {"labels": "human", "set": ["seed=3"]}}},
        'set: "seed=3": arms differ in labels, and may in preferences.calibration.',
    ),
    "another hyper-parameter": (
        {"arms": {"a": "human", "b": {"labels": "human", "set": ["reward_model.options.learning_rate=1.0e-4"]}}},
        'set: "reward_model.options.learning_rate=1.0e-4": arms differ in labels',
    ),
    "other pairs": (
        {"arms": {"a": "human", "b": {"labels": "human", "set": ["pairs.limit=5"]}}},
        'set: "pairs.limit=5": arms differ in labels',
    ),
    "one arm": ({"arms": {"a": "human"}}, '"arms"'),
    "an arm that is not there": ({"against": "humans"}, 'there is no arm "humans". Did you mean "human"?'),
    "a seed twice": ({"seeds": [1, 1]}, "seeds: one is named twice"),
    "noise like an arm that is not there": (
        {"arms": {"people": "human", "b": {"labels": "human", "noise_like": "peopel"}}},
        'b: there is no arm "peopel". Did you mean "people"?',
    ),
    "noise like that of an arm that has it from another": (
        {
            "arms": {
                "a": "human",
                "b": {"labels": "human", "noise_like": "a"},
                "c": {"labels": "human", "noise_like": "b"},
            }
        },
        "c: noise_like names an arm of people, and b has its noise from another",
    ),
    "a curve of an arm that is not there": (
        {"curves": {"labels": [10, 20], "arms": ["longst"]}},
        'there is no arm "longst". Did you mean "longest"?',
    ),
    "a curve that does not rise": (
        {"curves": {"labels": [20, 10]}},
        "rising numbers of labels are expected, such as [250, 500, 1000]",
    ),
    "settings to try that are no reward model's": (
        {"tune": ["policies.0.options.beta=1", "policies.0.options.beta=2"]},
        'tune: "policies.0.options.beta=1": settings of reward models are tried, such as reward_model.options.',
    ),
    "numbers of labels to try": (
        {"tune": ["reward_model.options.labels=10", "reward_model.options.labels=null"]},
        'tune: "reward_model.options.labels=10": every arm learns from as many labels as it has',
    ),
    "no settings to try": ({"tune": 5}, "tune"),
    "a word to try": ({"tune": "reward_model.options.epochs=2"}, "tune"),
    "one setting to try": ({"tune": ["reward_model.options.epochs=2"]}, "tune: one candidate leaves no choice"),
    "an arm called as a folder of the study": (
        {"arms": {"truth": "human", "b": "human"}},
        'arms: "truth" is taken by the study itself',
    ),
    "a name that is no folder's": (
        {"arms": {"a": "human", "../b": "human"}},
        'arms.../b: a name of letters, digits, "-"',
    ),
    "contests by a truth that is not there": (
        {"contests": ["truth"], "truth": None},
        "contests: truth is to judge policies, and the study names none: write `truth`",
    ),
    "contests by judges that the recipe has not": (
        {"set": ["evaluation.judges=[]"]},
        "contests: judges are to judge policies, and recipe.yaml names none in evaluation.judges",
    ),
    "labels for all": (
        {"set": ["labels=human"]},
        'set: "labels=human": labels is what the study sets in each run, by arms',
    ),
    "a seed for all": ({"set": ["seed=5"]}, 'set: "seed=5": seed is what the study sets in each run, by seeds'),
    "curves without the arm that others are held against": (
        {"curves": {"labels": [10, 20], "arms": ["longest"]}},
        "curves.arms: what a label is worth is told in labels of human: name it too",
    ),
    "an unknown key": ({"arm": {}}, 'unknown key "arm". Did you mean "arms"?'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_study_in_which_more_than_labels_differs_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes, line = REFUSED[name]
    with pytest.raises(ConfigError) as error:
        load_study(wrote(tmp_path, **changes), (), Catalogue())
    assert line in str(error.value)


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory, policy_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "policy").symlink_to(policy_folder)
    wrote(folder)
    said = rlaif(folder, "compare", "study.yaml", "--out", "out", seconds=400)
    assert ", labels as human 100.0%" in said
    assert "dpo.kl" not in said  # every difference stands on the page
    assert (
        "longest instead of human: this study cannot say; it is too small to find any difference in four of five tries"
        in said
    )
    return folder


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"tune": [f"reward_model.options.{name}" for name in ("epochs=1", "epohcs=2")]}, 'tune.1: .*Did you mean "epochs"'),
        (
            {"arms": {**STUDY["arms"], "slips": {**STUDY["arms"]["slips"], "noise_like": "longest"}}},
            "arms.slips.noise_like: longest is labelled by judges",
        ),
        (
            {"arms": {"human": "human", "b": {"labels": {"source": "jugdes"}}}},
            'arms.b: labels: label source "jugdes" is not known. Did you mean "judges"',
        ),
    ],
)  # fmt: skip
def test_what_would_fail_half_way_is_refused_before_anything_is_walked(
    changes: dict[str, Any], line: str, tmp_path: Path, policy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy").symlink_to(policy_folder)
    study = load_study(wrote(tmp_path, **changes), (), Catalogue())
    with pytest.raises(UserError, match=line):
        check_arms(study)


def test_arms_with_the_same_labels_end_the_same(walked: Path) -> None:
    figures = json.loads((walked / "out" / "compare.json").read_text())
    assert figures["arms.again.labels.kappa"]["value"] == 1
    assert figures["arms.longest.labels.agreement"]["value"] < 1
    assert figures["arms.human.labels.missing"]["value"] == pytest.approx(1 / 60)  # the pair that nobody labelled
    assert figures["arms.human.labels.missing"]["n"] == 60  # once, though both seeds have them
    assert figures["arms.longest.labels.missing"]["value"] == 0
    for name in ("dpo.kl", "dpo.length", "dpo.ended"):
        assert figures[f"differences.again.{name}"]["value"] == 0
        assert figures[f"differences.again.{name}"]["n"] == 16  # eight prompts, two seeds
        assert figures[f"arms.again.{name}"] == figures[f"arms.human.{name}"]
    table = {
        name: figure["value"]
        for name, figure in figures.items()
        if name.startswith("arms.") and ".reward.accuracy." in name
    }
    assert len(table) == 4 * 5
    compared = [name for name in figures if name.startswith("differences.longest.reward.accuracy.")]
    assert {name.split(".")[4] for name in compared} == {"human", "truth"}
    assert table["arms.again.reward.accuracy.longest"] == table["arms.human.reward.accuracy.longest"]


def test_what_does_not_depend_on_labels_is_made_once(walked: Path) -> None:
    shared = walked / "out" / "shared" / "seed0" / "comparisons"
    own = walked / "out" / "longest" / "seed0" / "comparisons"
    assert [path.stat().st_ino for path in sorted(shared.iterdir())] == [
        path.stat().st_ino for path in sorted(own.iterdir())
    ]
    ids = {
        json.loads((walked / "out" / arm / f"seed{seed}" / "manifest.json").read_text())["id"]
        for arm in ("shared", "truth", *STUDY["arms"])
        for seed in (0, 1)
    }
    assert len(ids) == 12


def test_labels_are_held_against_the_truth_and_against_people(walked: Path) -> None:
    figures = json.loads((walked / "out" / "compare.json").read_text())
    assert figures["arms.longest.labels.truth"]["value"] == 0
    assert figures["differences.longest.labels.truth"]["value"] < 0
    assert 0 <= figures["differences.longest.labels.truth.mcnemar_p"]["value"] < 1e-3
    between = [row["human_labels"] for row in seen_twice() if len(row["human_labels"]) == 2]
    clear = [two for two in between if set(two.values()) <= {"a", "b"}]
    agreement = sum(len(set(two.values())) == 1 for two in clear) / len(clear)
    assert 0.5 < agreement < 1
    assert figures["people.agreement"]["value"] == pytest.approx(agreement)
    slips = flip_rate(agreement)
    assert figures["people.ceiling"]["value"] == pytest.approx(1 - slips)
    recipe = json.loads((walked / "out" / "slips" / "seed1" / RECIPE_FILE).read_text())
    assert recipe["labels"]["options"]["rate"] == pytest.approx(slips, abs=1e-4)
    assert recipe["labels"]["options"]["of"]["options"] == {"judges": ["longest"]}
    assert figures["arms.slips.labels.usd_per_1000"]["value"] == 500
    assert "arms.longest.labels.usd_per_1000" not in figures


def test_what_an_earlier_recipe_measured_is_not_told(walked: Path, tmp_path: Path) -> None:
    folder = tmp_path / "seed0"
    shutil.copytree(walked / "out" / "longest" / "seed0", folder)
    assert measured(folder)
    assert held_of(folder)
    recipe = json.loads((folder / RECIPE_FILE).read_text())
    (folder / RECIPE_FILE).write_text(json.dumps(recipe | {"evaluation": None, "reward_model": None, "policies": []}))
    assert measured(folder) == {}
    assert held_of(folder) is None


def test_policies_meet_head_to_head(walked: Path) -> None:
    figures = json.loads((walked / "out" / "compare.json").read_text())
    again = figures["arms.again.dpo.head_to_head"]
    assert (again["value"], again["n"]) == (0.5, 16)
    assert again["low"] < 0.3 < 0.7 < again["high"]  # eight prompts, on which nothing differed, say little
    assert figures["arms.longest.dpo.contests_without_verdict"]["value"] == 0
    assert "arms.human.dpo.head_to_head" not in figures
    win, difference = (figures[f"{kind}.longest.dpo.head_to_head"]["value"] for kind in ("arms", "differences"))
    assert difference == pytest.approx(win - 0.5)
    lengths = {
        arm: [
            {row["prompt_id"]: len(row["messages"][0]["content"]) for row in pq.read_table(shard).to_pylist()}
            for seed in (0, 1)
            for shard in [walked / "out" / arm / f"seed{seed}" / "evaluation" / "responses" / "part-00001.parquet"]
        ]
        for arm in ("longest", "human")
    }
    wins = [
        (1 + (ours[prompt] > theirs[prompt]) - (ours[prompt] < theirs[prompt])) / 2
        for ours, theirs in zip(*lengths.values(), strict=True)
        for prompt in ours
    ]
    assert win == pytest.approx(sum(wins) / len(wins))  # the judge of this recipe prefers the longer
    assert 0 < win < 1
    assert win != 0.5
    shorter = figures["arms.longest.dpo.head_to_head_by_truth"]["value"]
    assert shorter == pytest.approx(1 - win)  # and the truth the shorter
    for arm in STUDY["arms"]:  # the one that they are held against too
        by_judges, by_truth = (figures[f"arms.{arm}.dpo.win_rate{by}"]["value"] for by in ("", "_by_truth"))
        assert by_truth == pytest.approx(1 - by_judges)
    assert figures["differences.longest.dpo.win_rate_by_truth"]["n"] == 16


def test_reward_models_of_fewer_labels_make_a_curve(walked: Path) -> None:
    figures = json.loads((walked / "out" / "compare.json").read_text())
    told = [
        json.loads(
            (walked / "out" / "curves" / "human" / f"seed{seed}" / "20" / "training" / "reward_model.json").read_text()
        )
        for seed in (0, 1)
    ]
    outcomes = [each["account"]["outcomes"] for each in told]
    assert all(0 < each["trained on"] <= 20 for each in outcomes)
    assert all(each["trained on"] + each["not drawn"] + each["held out"] == 59 for each in outcomes)
    assert figures["arms.human.curve.20.labels"]["value"] == sum(each["trained on"] for each in outcomes) / 2
    whole = figures["arms.human.curve.all.accuracy"]["value"]
    assert whole == pytest.approx(figures["arms.human.reward.accuracy.truth"]["value"])
    assert {name for name in figures if name.startswith("exchange.")} == {
        f"exchange.longest.{size}" for size in ("10", "20", "all")
    }
    assert "arms.again.curve.20.accuracy" not in figures
    shares = [figure for name, figure in figures.items() if name.startswith("arms.") and ".accuracy" in name]
    assert len(shares) > 20
    assert all(0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1 for figure in shares)


def test_the_page_holds_the_answer_the_tables_and_what_made_them(walked: Path) -> None:
    html = (walked / "out" / "compare.html").read_text()
    said = html.replace("&#39;", "'")
    assert (
        "again instead of human: this study cannot say; it is too small to find any difference in four of five tries"
        in said
    )
    assert "Careful: longest is labelled by longest, which judges the policies too" in said
    assert "Two people of human agree with each other in" in said
    for words in (
        "Cohen's kappa",
        "win rate against the policy of human",
        "preferred by human, truth",
        "What made this",
        hashlib.sha256((walked / "out" / "study.json").read_bytes()).hexdigest(),
    ):
        assert words in said, words
    assert "nan" not in said
    figures = json.loads((walked / "out" / "compare.json").read_text())
    assert all(math.isfinite(x) for figure in figures.values() for x in figure.values() if x is not None)


@pytest.mark.slow
def test_each_arm_takes_the_settings_that_suit_its_own_labels_and_a_finished_study_is_not_walked_again(
    tmp_path: Path, policy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policy").symlink_to(policy_folder)
    tried = ["reward_model.options.learning_rate=1.0e-3", "reward_model.options.learning_rate=1.0e-9"]
    arms = {name: STUDY["arms"][name] for name in ("human", "longest")}
    wrote(
        tmp_path,
        arms=arms,
        seeds=[0, 1],
        truth=None,
        contests=["judges"],
        tune=tried,
        set=["policies=[]", "evaluation=null"],
    )
    rlaif(tmp_path, "compare", "study.yaml", "--out", "out", seconds=300)
    out = tmp_path / "out"
    figures = json.loads((out / "compare.json").read_text())
    for arm in arms:
        told = [json.loads((out / "tuning" / arm / n / "training" / "reward_model.json").read_text()) for n in "12"]
        losses = [_loss(each["held_out"]) for each in told]
        assert figures[f"arms.{arm}.tuned"] == {
            "value": 1 + losses.index(min(losses)),
            "low": None,
            "high": None,
            "n": 2,
        }
        for seed in (0, 1):
            recipe = json.loads((out / arm / f"seed{seed}" / RECIPE_FILE).read_text())
            chosen = tried[losses.index(min(losses))].partition("=")[2]
            assert recipe["reward_model"]["options"]["learning_rate"] == float(chosen)
        assert len({round(loss, 6) for loss in losses}) == 2
    monkeypatch.chdir(tmp_path)
    study, run = load_study(Path("study.yaml"), (), Catalogue()), out / "longest" / "seed1"
    sound = (run / RECIPE_FILE).read_text()
    _recipe(lambda recipe: recipe["reward_model"]["options"].update(learning_rate=0.5))(run)
    with pytest.raises(UserError, match=r"longest/seed1 differs from .* in reward_model\.options\.learning_rate,"):
        need_alike(study, out)
    (run / RECIPE_FILE).write_text(sound)
    assert "Every arm tried 2 settings of its reward model" in (out / "compare.html").read_text()
    weights = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    assert len(weights) == 2 * (2 + 2)  # each arm's two seeds, and what it tried
    before = (out / "compare.json").read_bytes()
    rlaif(tmp_path, "compare", "study.yaml", "--out", "out", seconds=300)
    (tmp_path / "runs").mkdir()
    out.rename(tmp_path / "runs" / "study")
    rlaif(tmp_path, "compare", "study.yaml", seconds=300)  # its usual place
    (tmp_path / "runs" / "study").rename(out)
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert (out / "compare.json").read_bytes() == before


def _loss(held: dict[str, Any]) -> float:
    """Of the half of the held-out prompts that settings are chosen by."""
    columns = zip(held["prompt_ids"], held["differences"], held["p"], held["weight"], strict=True)
    rows = [(d, p, weight) for prompt, d, p, weight in columns if uniform("tuning", prompt) < 0.5]
    parts = [
        weight * -(p * math.log(1 / (1 + math.exp(-d))) + (1 - p) * math.log(1 / (1 + math.exp(d))))
        for d, p, weight in rows
    ]
    return sum(parts) / sum(weight for *_, weight in rows)


def test_people_who_never_label_a_pair_twice_give_no_noise_to_match(tmp_path: Path, policy_folder: Path) -> None:
    (tmp_path / "policy").symlink_to(policy_folder)
    arms = {"people": "human", "b": {"labels": "human", "noise_like": "people"}}
    wrote(tmp_path, arms=arms, seeds=[0], truth=None, contests=["judges"], curves=None)
    write_jsonl(tmp_path / "pairs.jsonl", pairs())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"pairs": "pairs.jsonl", "labels": "human"}))
    said = rlaif(tmp_path, "compare", "study.yaml", "--out", "out", seconds=200, code=2)
    line = "arms.b.noise_like: how often the people of people slip is not known: no pair has labels of two people"
    assert line in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_as_one_that_is_not(
    walked: Path, tmp_path: Path, policy_folder: Path
) -> None:
    (tmp_path / "policy").symlink_to(policy_folder)
    wrote(tmp_path)
    out = tmp_path / "out"
    for point in (
        "shared/seed0/comparisons/part-*.parquet",
        "human/seed*/training/reward_model.json",
        "longest/seed*/evaluation/responses/part-00001.parquet",
        "contests/again/seed*/judges/contest.parquet",
        "curves/human/seed*/10/training/reward_model.json",
    ):
        process = start(tmp_path, "compare", "study.yaml", "--out", "out")
        assert kill_when(process, lambda point=point: any(out.glob(point)), seconds=300), point  # type: ignore[misc]
    rlaif(tmp_path, "compare", "study.yaml", "--out", "out", seconds=400)
    assert (out / "compare.json").read_bytes() == (walked / "out" / "compare.json").read_bytes()
    for arm in ("human", "longest"):
        weights = f"{arm}/seed1/policies/dpo/model.safetensors"
        assert (out / weights).read_bytes() == (walked / "out" / weights).read_bytes()


@pytest.mark.slow
def test_of_a_truth_that_knows_the_pairs_alone_no_contest_is_told(tmp_path: Path, policy_folder: Path) -> None:
    """People who labelled the file have no opinion on what the policies say; the judges have."""
    (tmp_path / "policy").symlink_to(policy_folder)
    learning = {"name": "sft", "options": {"batch_prompts": 8, "learning_rate": 1e-2}}
    alike = {"name": "sft", "called": "alike", "options": {"batch_prompts": 8, "learning_rate": 1e-9}}
    arms = {name: STUDY["arms"][name] for name in ("human", "longest")}
    wrote(tmp_path, arms=arms, seeds=[0], truth={"source": "human"}, curves=None)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"policies": [learning, alike]}))
    said = rlaif(tmp_path, "compare", "study.yaml", "--out", "out", seconds=300)
    figures = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert figures["arms.human.labels.truth"]["value"] == 1
    assert figures["arms.longest.sft.contests_without_verdict_by_truth"]["value"] == 1
    assert "longest: 100% of the contests of sft have no verdict of the truth" in said
    assert not [name for name in figures if ".sft." in name and "by_truth" in name and "verdict" not in name]
    assert figures["arms.longest.sft.contests_without_verdict"]["value"] == 0
    assert figures["arms.longest.sft.head_to_head"]["n"] == 8
    # nobody has to be asked about equal answers; the first policy of the recipe answers, whatever is known of others
    assert figures["arms.longest.alike.head_to_head_by_truth"]["value"] == 0.5
    assert "Sft, win rate against the policy of human " in said
    assert "it is too small to find any difference in four of five tries" in said
    assert not re.search(r"\(-\d+\.\d to 1\d\d", said)  # a share is from 0 to 1


def test_a_judge_that_asks_the_model_that_judges_the_policies_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"pairs": "pairs.jsonl"}))
    judge: dict[str, Any] = {"provider": "openai", "model": "m"}
    recipe = RECIPE | {"models": {"policy": "policy", "judge": judge}, "evaluation": {"judges": ["compare-text"]}}
    folder = tmp_path / "out" / "people" / "seed0"
    (folder / RECIPE_FILE).parent.mkdir(parents=True)
    (folder / RECIPE_FILE).write_text(json.dumps(recipe))

    def said(judge: str) -> list[str]:
        labels = {"source": "judges", "options": {"judges": [judge]}}
        study = Study.model_validate(
            {"recipe": "recipe.yaml", "seeds": [0], "arms": {"people": "human", "ai": {"labels": labels}}}
        )
        return list(graded_by_their_own(study, tmp_path / "out"))

    assert said("compare-reasons") == [
        "Careful: ai is labelled by compare-reasons, whose model judges the policies too: a policy may be preferred by the model that "
        "taught it. Name another in evaluation.judges."
    ]
    assert "which judges the policies too" in said("builtin:compare-text")[0]
    assert said("longest") == []


def _recipe(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / RECIPE_FILE
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))

    return changed


def _manifest(part: str) -> Callable[[Path], None]:
    """Another version of torch, or other contents of every file that is read."""

    def changed(folder: Path) -> None:
        path = folder / "manifest.json"
        found = json.loads(path.read_text())
        if part == "environment":
            found[part]["torch"] = "1.0"
        else:
            found[part] = [{**each, "sha256": "0" * 64} for each in found[part]]
        path.unlink()
        path.write_text(json.dumps(found))

    return changed


def _other_comparisons(folder: Path) -> None:
    for path in (folder / "comparisons").iterdir():
        path.rename(folder / path.name)


def _another_prompt(folder: Path) -> None:
    (shard,) = (folder / "prompts").iterdir()
    first, *others = read_shard(shard, Prompt)
    turns = (Message(role="user", content=f"{first.messages[0].content} Please."),)
    shard.unlink()  # a link to what other arms have
    write_shard(shard, Prompt, [Prompt(messages=turns, metadata=first.metadata), *others], 60)


CHANGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a seed": (_recipe(lambda recipe: recipe.update(seed=5)), "differs from what the study gives it in seed,"),
    "a hyper-parameter": (
        _recipe(lambda recipe: recipe["policies"][0]["options"].update(learning_rate=0.5)),
        "differs from what the study gives it in policies.0.options.learning_rate,",
    ),
    "the labels of another arm": (
        _recipe(lambda recipe: recipe["labels"].update(source="human")),
        "differs from what the study gives it in labels.",
    ),
    "the comparisons": (_other_comparisons, "and out/human/seed1 differ in comparisons,"),
    "one prompt": (_another_prompt, "and out/human/seed1 differ in prompts,"),
    "an input": (_manifest("inputs"), "and out/human/seed1 differ in inputs.pairs.jsonl,"),
    "a file": (_manifest("files"), "and out/human/seed1 differ in files."),
    "a version": (
        _manifest("environment"),
        "and out/human/seed1 differ in environment.torch,",
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_an_arm_that_was_changed_afterwards_is_refused(
    name: str, walked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(walked, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    study = load_study(Path("study.yaml"), (), Catalogue())
    need_alike(study, Path("out"))
    change, line = CHANGED[name]
    change(Path("out/longest/seed1"))
    with pytest.raises(UserError) as error:
        need_alike(study, Path("out"))
    assert str(error.value).startswith(f"out/longest/seed1 {line}")
