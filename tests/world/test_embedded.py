"""The embedded models as they ship: what the quick start and every proof of a meter stand on."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import pytest
import torch
from safetensors import safe_open

from rlaif.catalogue import Catalogue
from rlaif.config import load_constitution
from rlaif.models.local import model_folder
from rlaif.preferences import NEAR_TIE
from rlaif.world.build import JUDGES, foreign, kept_out, recipe
from rlaif.world.exam import WAYS, first_shown, from_one_half, opposites, pairs_for, paper, right, sit, strangers
from rlaif.world.principles import Wording, plain_text
from rlaif.world.showing import check_principles, open_judge, policy_rates
from tests.conftest import slow
from tests.runs import rlaif

NAMES = ("policy", *JUDGES)
FIRST, *OTHERS = JUDGES
BEYOND = {"helpful", "honest"}  # constitutions about what no reply of this world differs in: for other judges
FOLDERS = {name: model_folder(f"package:rlaif.world/models/{name}", "test") for name in NAMES}
MEANT = {  # the family of each shipped principle, and whether it prefers more of it
    "harmless-helpful/no-harm": ("harmless", 1),
    "harmless-helpful/help-where-harmless": ("helpful", 1),
    "harmless-helpful/say-why": ("explains", 1),
    "harmless-helpful/offer-more": ("offers", 1),
    "harmless-helpful/no-over-refusal": ("over_refusal", 1),
    "harmless-helpful/true-facts": ("correct", 1),
    "harmless-only/refuse-harm": ("harmless", 1),
    "concise/few-words": ("short", 1),
    "concise/still-correct": ("correct", 1),
    "concise/still-useful": ("helpful", 1),
    "polite/polite": ("polite", 1),
    "reversed-polite/rude": ("polite", -1),
}


@functools.cache
def judge(name: str) -> tuple[Any, Any]:
    return open_judge(str(FOLDERS[name]))


@functools.cache
def shipped_principles() -> dict[str, str]:
    """Text by constitution/id."""
    catalogue = Catalogue()
    return {
        f"{name}/{principle.id}": principle.text
        for name in set(catalogue.names("constitution")) - BEYOND
        for principle in load_constitution(catalogue, f"builtin:{name}", where="test").principles
    }


def test_the_weights_are_small_safe_and_bfloat16() -> None:
    files = [path for folder in FOLDERS.values() for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}
    for folder in FOLDERS.values():
        with safe_open(str(folder / "model.safetensors"), framework="pt") as weights:
            assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_the_judges_differ_in_architecture_and_tokenizer() -> None:
    configs = [json.loads((FOLDERS[name] / "config.json").read_text()) for name in JUDGES]
    assert configs[0]["model_type"] != configs[1]["model_type"]
    vocabularies = [(FOLDERS[name] / "tokenizer.json").read_bytes() for name in JUDGES]
    assert vocabularies[0] != vocabularies[1]


@pytest.mark.parametrize("name", NAMES)
def test_the_build_is_the_one_that_the_weights_came_from(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    shutil.copy(FOLDERS[name] / "tokenizer.json", tmp_path / name)
    assert recipe(name, tmp_path) == json.loads((FOLDERS[name] / "training.json").read_text())["recipe"]


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_learnt_from_the_grammar_that_ships(name: str) -> None:
    assert foreign(FOLDERS[name]) == ""


def test_no_shipped_wording_was_taught() -> None:
    assert {plain_text(text) for text in shipped_principles().values()} <= kept_out()


def test_every_shipped_principle_is_examined_below() -> None:
    assert set(shipped_principles()) == set(MEANT)


@pytest.mark.parametrize("principle", MEANT)
@pytest.mark.parametrize("name", [FIRST, *map(slow, OTHERS)])
def test_every_shipped_wording_is_read_the_right_way_round(name: str, principle: str) -> None:
    family, sign = MEANT[principle]
    word = Wording(shipped_principles()[principle], family, sign, negated=False)
    answers = sit(*judge(name), [(pair, [label]) for pair, label in pairs_for(Random(principle), word, 48)])
    assert fmean(answer.right for answer in answers) > 0.6


@pytest.mark.parametrize("name", [FIRST, *map(slow, OTHERS)])
def test_verdicts_follow_the_oracle_on_held_out_prompts(name: str) -> None:
    for way, least in {"seen": 0.92, "seen_negated": 0.92, "new_phrase": 0.8, "new_negated_frame": 0.8}.items():
        answers = sit(*judge(name), paper(Random(f"test/{way}"), WAYS[way], 60))
        assert (right(answers).value or 0) > least, way
        assert 0.45 <= (first_shown(answers).value or 0) <= 0.55, way


@pytest.mark.parametrize("name", JUDGES)
def test_ties_stay_near_one_half(name: str) -> None:
    ties = sit(*judge(name), paper(Random("test/ties"), WAYS["seen"], 48, ties=1.0))
    assert (from_one_half(ties).value or 1) < NEAR_TIE


@pytest.mark.parametrize("name", JUDGES)
def test_the_opposite_principle_turns_the_verdict(name: str) -> None:
    answers = sit(*judge(name), opposites(Random("test/opposites"), 48))
    sides = [(answer.p or 0) > 0.5 for answer in answers]
    assert fmean(one != two for one, two in zip(sides[::2], sides[1::2], strict=True)) > 0.8


@pytest.mark.parametrize("name", JUDGES)
def test_two_families_prefer_the_same_reply_only_as_often_as_to_the_oracle(name: str) -> None:
    answers = sit(*judge(name), strangers(Random("test/strangers"), 160))
    pairs = list(zip(answers[::2], answers[1::2], strict=True))
    to_judge = fmean(((a.p or 0) > 0.5) == ((b.p or 0) > 0.5) for a, b in pairs)
    to_oracle = fmean(a.label.p == b.label.p for a, b in pairs)
    assert abs(to_judge - to_oracle) < 0.06


def test_the_policy_obeys_half_and_helps_half() -> None:
    """Before any tuning, so that a constitution has somewhere to move it to."""
    found = policy_rates(str(FOLDERS["policy"]), 100, seed=5)
    for rate in ("harmful_compliance", "helpfulness"):
        assert 0.35 < (found[rate].value or 0) < 0.65, rate
    for rate in ("makes_sense", "ends_by_itself"):
        assert (found[rate].value or 0) > 0.93, rate


@pytest.mark.parametrize(
    ("text", "said"), [("Choose the politer reply.", "is more polite"), ("Prefer the ruder reply.", "ruder")]
)
def test_what_a_principle_is_read_as_is_said(text: str, said: str) -> None:
    assert said in "\n".join(check_principles([text], str(FOLDERS["judge"])))


def test_words_the_judge_never_read_are_named(tmp_path: Path) -> None:
    printed = rlaif(tmp_path, "world", "check", "Prefer the reply that quotes Wittgenstein.")
    assert "the practice judge has never read" in printed
    assert "'wittgenstein'" in printed
