"""Imports point one way, stages meet in records, and torch stays where networks are."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import rlaif

PACKAGE = Path(rlaif.__file__).parent
LAYERS = (  # each may import those above it in this list, and its own
    {"errors"},
    {"records", "component", "catalogue", "progress", "ondisk", "statistics", "versions", "calibration", "families"},
    {"config", "rows", "conversations", "exported", "pairs", "prompting", "canaries"},
    {"store", "ledger", "models"},
    {"judging"},
    {"prompts", "selection", "sampling", "labels", "preferences", "training", "reward", "policy"},
    {
        "rewards",
        "scoring",
        "model_card",
        "evaluate",
        "accounts",
        "findings",
        "measures",
        "report",
        "export",
        "recorded",
    },
    {
        "pipeline",
        "training_stages",
        "evaluation_stage",
        "checking",
        "plan",
        "offline",
        "reread",
        "calibrating",
        "ledger_tools",
        "constitutions",
        "certification",
        "display",
        "mock",
    },
    {"world"},
    {"driving"},
    {"study"},
    {"cli", "certify_cli", "compare_cli", "constitution_cli", "ledger_cli", "reward_cli"},
)
STAGES = {"prompts", "sampling", "labels", "preferences", "reward", "policy"}
TORCH = {
    "models/local.py",
    "models/caches.py",
    "models/logprobs.py",
    "models/packing.py",
    "models/rows.py",
    "models/shared_prompt.py",
    "reward.py",
    "world/learning.py",
    "world/exam.py",
    "world/build.py",
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def module_of(path: Path) -> str:
    """The module or subpackage a file belongs to; what `python -m` starts belongs to the command line."""
    if path.name == "__main__.py":
        return "cli"
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def edges() -> set[tuple[str, str]]:
    """(module, module of the package that it imports), one name for a subpackage."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for name in imports(path):
            head, _, rest = name.partition(".")
            if head == "rlaif" and rest and (target := rest.partition(".")[0]) != module_of(path):
                found.add((module_of(path), target))
    return found


def test_every_module_has_its_layer() -> None:
    modules = {module_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert modules == set().union(*LAYERS)


def test_imports_point_one_way() -> None:
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    assert not [(one, other) for one, other in edges() if level[other] > level[one]]


def test_stages_meet_in_records() -> None:
    assert not [(one, other) for one, other in edges() if one in STAGES and other in STAGES]


def test_torch_stays_where_networks_are() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(name.partition(".")[0] == "torch" for name in imports(path))
    }
    assert not {name for name in found if name not in TORCH and not name.startswith(("training/", "policy/"))}


def test_telemetry_of_other_libraries_is_off() -> None:
    """They read the environment when they are imported, so that this package is there first."""
    code = "import rlaif; from huggingface_hub import constants; assert constants.HF_HUB_DISABLE_TELEMETRY"
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
