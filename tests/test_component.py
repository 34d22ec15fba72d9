"""A user's own classes and their options: found by name, built, and refused in a line that says where."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from rlaif.catalogue import Catalogue, mapping_of
from rlaif.checking import check_file, limited, open_road
from rlaif.component import Options, load, parse_model, parse_options
from rlaif.config import Constitution, JudgeFile, Pipeline, load_pipeline
from rlaif.errors import ConfigError, UserError
from tests.test_config import PAIR, wrote
from tests.tiny import write_jsonl


@pytest.fixture
def pairs(working_folder: Path) -> Path:
    return write_jsonl(working_folder / "pairs.jsonl", [PAIR])


@pytest.fixture
def own_modules() -> Any:
    """Modules a test imports from its working folder are forgotten after it."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("own_"):
            del sys.modules[name]


def test_a_class_of_ones_own_is_found_from_the_working_folder(own_modules: None) -> None:
    wrote("own_package/__init__.py", "")
    wrote("own_package/judges.py", "class Mine:\n    class Inner: ...\n")
    assert load("own_package.judges:Mine", {}, "protocol", "here").__name__ == "Mine"
    assert load("own_package.judges:Mine.Inner", {}, "protocol", "here").__name__ == "Inner"


def test_a_judge_of_ones_own_class_judges(own_modules: None, pairs: Path) -> None:
    wrote(
        "own_shortest.py",
        "from rlaif.component import Options as Base\n"
        "from rlaif.judging import Verdict\n"
        "class Shortest:\n"
        "    class Options(Base):\n"
        "        tie_below: int = 0\n"
        "    def __init__(self, options, context):\n"
        "        self.options = options\n"
        "    async def judge(self, showing, ask):\n"
        "        a, b = (len(r.text) for r in showing.responses)\n"
        "        return Verdict(p=(0.5, 0.5) if abs(a - b) < self.options.tie_below else (float(a < b), float(a >= b)))\n",
    )
    wrote("judges/shortest.yaml", "protocol: own_shortest:Shortest\nmodel_role: null\noptions: {tie_below: 2}\n")
    wrote("own.yaml", "pairs: pairs.jsonl\nlabels: {source: judges, options: {judges: [shortest]}}\n")
    import asyncio

    road = open_road("own.yaml", out=Path("out"))
    asyncio.run(road.run("preferences"))
    preferences = list(road.run_folder.read("preferences"))
    assert [p.chosen[0].content for p in preferences] == ["No."]
    code = {file["name"]: file["sha256"] for file in road.run_folder.manifest["files"] if file["kind"] == "code"}
    assert code == {"own_shortest:Shortest": hashlib.sha256(Path("own_shortest.py").read_bytes()).hexdigest()}
    wrote("judges/shortest.yaml", "protocol: own_shortest:Shortest\noptions: {tie_belw: 2}\n")
    with pytest.raises(ConfigError, match=r'options: unknown key "tie_belw". Did you mean "tie_below"\?'):
        check_file("judges/shortest.yaml")


COMPONENTS = {
    "no such module": (
        "own_nowhere:Mine",
        'here: protocol "own_nowhere:Mine": module "own_nowhere" was not found. '
        "Install it or run where it can be imported.",
    ),
    "no such submodule": (
        "own_here.nowhere:Mine",
        'here: protocol "own_here.nowhere:Mine": module "own_here.nowhere" was not found. '
        "Install it or run where it can be imported.",
    ),
    "a module that lacks another": (
        "own_needy:Mine",
        'here: protocol "own_needy:Mine": module "own_not_installed" was not found. '
        "Install it or run where it can be imported.",
    ),
    "no such class": (
        "own_here:Mien",
        'here: protocol "own_here:Mien": "own_here" has no "Mien". Did you mean "Mine"?',
    ),
    "no module named": (
        ":Mine",
        'here: protocol ":Mine" is not known. Known: first. A class of your own is named package.module:Class.',
    ),
    "no class named": (
        "own_here:",
        'here: protocol "own_here:" is not known. Known: first. A class of your own is named package.module:Class.',
    ),
    "a relative module": (
        ".own_here:Mine",
        'here: protocol ".own_here:Mine" is not known. Known: first. A class of your own is named package.module:Class.',
    ),
    "a short name nearly right": (
        "frist",
        'here: protocol "frist" is not known. Did you mean "first"? A class of your own is named package.module:Class.',
    ),
}


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_that_cannot_be_found_is_one_clear_line(name: str, own_modules: None) -> None:
    wrote("own_here.py", "class Mine: ...\n")
    wrote("own_needy.py", "import own_not_installed\n")
    asked, message = COMPONENTS[name]
    with pytest.raises(ConfigError) as error:
        load(asked, {"first": "rlaif.judging.scripted:first"}, "protocol", "here")
    assert str(error.value) == message


def test_a_fault_inside_a_users_module_keeps_its_own_traceback(own_modules: None) -> None:
    wrote("own_broken.py", "raise RuntimeError('mine')\n")
    with pytest.raises(RuntimeError, match="mine"):
        load("own_broken:Mine", {}, "protocol", "here")


def test_a_component_without_options_accepts_none() -> None:
    class Plain: ...

    assert parse_options(Plain, {}, "here") == Options()
    with pytest.raises(ConfigError) as error:
        parse_options(Plain, {"n": 1}, "here: options")
    assert str(error.value) == 'here: options: unknown key "n".'


@pytest.mark.parametrize("model", [Pipeline, JudgeFile, Constitution])
def test_settings_that_are_no_mapping_are_refused(model: type[BaseModel]) -> None:
    with pytest.raises(ConfigError, match=r"^here: expected a mapping of settings, found list\.$"):
        parse_model(model, [], "here")


def test_a_missing_file_of_prompts_to_measure_on_is_found_before_anything_runs(
    pairs: Path, policy_folder: Path
) -> None:
    wrote("own.yaml", "pairs: pairs.jsonl\nlabels: human\n")
    with pytest.raises(
        UserError, match=r"^--set evaluation\.source=gone\.jsonl: gone\.jsonl: no such file in this folder\."
    ):
        open_road("own.yaml", ["evaluation.source=gone.jsonl", f"models.policy={policy_folder}"], out=Path("out"))


def test_a_policy_method_with_parts_missing_is_one_line(pairs: Path, policy_folder: Path, own_modules: None) -> None:
    wrote("own_method.py", "class Bare:\n    needs_reward = False\n    def __init__(self, options, where): ...\n")
    wrote("own.yaml", "pairs: pairs.jsonl\nlabels: human\npolicies: ['own_method:Bare']\n")
    with pytest.raises(ConfigError) as error:
        open_road("own.yaml", [f"models.policy={policy_folder}"], out=Path("out"))
    assert str(error.value) == (
        'own.yaml: policies.0: policy method "own_method:Bare" has no options, writes_weights, respond, kl_bound: give it to '
        "the class."
    )


def test_a_limit_is_of_the_prompts_that_are_measured_on_too() -> None:
    pipeline = limited(load_pipeline(Catalogue().find("pipeline", "quickstart", where="test")), 7)
    assert pipeline.prompts
    assert pipeline.evaluation
    assert pipeline.evaluation.source
    assert (pipeline.prompts.limit, pipeline.evaluation.source.limit) == (7, 7)


def test_settings_that_many_share_are_merged(tmp_path: Path) -> None:
    text = "options: &shared {learning_rate: 1.0e-3, epochs: 2}\nother: {<<: *shared, epochs: 3}\n"
    assert mapping_of(tmp_path / "recipe.yaml", text)["other"] == {"learning_rate": 1.0e-3, "epochs": 3}


def test_one_tracker_needs_no_list() -> None:
    data = {"pairs": "pairs.jsonl", "report_to": "tensorboard"}
    assert Pipeline.model_validate(data).report_to == ("tensorboard",)
