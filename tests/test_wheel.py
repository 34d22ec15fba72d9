"""The wheel a user installs: built, unpacked elsewhere, run from there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from this checkout, unpacked into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def from_wheel(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m rlaif.cli`` with the unpacked wheel first on the path, not the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "rlaif.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_only_our_package_lands_in_site_packages(unpacked: Path) -> None:
    names = {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"rlaif"}


def test_the_catalogue_ships_whole(unpacked: Path, tmp_path: Path) -> None:
    for folder in ("judges", "prompts", "pipelines"):
        shipped = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
        packed = {
            path.relative_to(unpacked / "rlaif" / "_builtin")
            for path in (unpacked / "rlaif" / "_builtin" / folder).rglob("*")
            if path.is_file()
        }
        assert shipped == packed
    listed = from_wheel(unpacked, tmp_path, "list")
    assert listed.returncode == 0, listed.stderr
    assert "ai-preferences" in listed.stdout
    assert "(local)" not in listed.stdout


def test_a_run_from_the_wheel_judges_with_its_own_files(unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "q", "response_a": "short", "response_b": "much longer"}\n')
    done = from_wheel(unpacked, tmp_path, "judge", "longest", "pairs.jsonl", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "1 labelled" in done.stderr
    where = from_wheel(unpacked, tmp_path, "show", "longest")
    assert "function: longest" in where.stdout


def test_a_checkout_finds_the_same_catalogue_as_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    site = subprocess.run(
        [sys.executable, "-m", "rlaif.cli", "list"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert site.stdout == from_wheel(unpacked, tmp_path, "list").stdout
