"""Real recorded data, where a checkout has it beside it: rows in, rows out, and figures known beforehand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from rlaif.store import RunFolder
from tests.runs import rlaif


def figures(run: Path) -> dict[str, dict[str, float]]:
    return json.loads((run / "metrics.json").read_text())


def test_hh_harmless_pairs_are_all_labelled_and_the_shorter_reply_is_often_preferred(
    recorded: Path, tmp_path: Path
) -> None:
    source = recorded / "hh_harmless" / "pairs.jsonl.gz"
    rlaif(tmp_path, "label", str(source), "--out", "run")
    with gzip.open(source, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    longer = []
    for row in rows:
        better, worse = (row["response_a"], row["response_b"])[:: 1 if row["label"] == "a" else -1]
        longer.append(0.5 if len(better) == len(worse) else float(len(better) > len(worse)))
    found = figures(tmp_path / "run")
    assert found["accounts.preferences.labelled"]["value"] == 1500
    assert found["agreement.longest"]["value"] == pytest.approx(sum(longer) / len(longer), abs=1e-12)
    assert RunFolder(tmp_path / "run").rows("preferences") == 1500


def test_pandalm_keeps_three_annotators_apart_and_their_share_becomes_p(recorded: Path, tmp_path: Path) -> None:
    rlaif(tmp_path, "label", str(recorded / "pandalm" / "items.jsonl.gz"), "--out", "run")
    run = RunFolder(tmp_path / "run")
    account = json.loads((tmp_path / "run" / "accounts.json").read_text())["pairs"]
    assert account["in"] == 500 == sum(account["outcomes"].values())
    assert {len(row.votes) % 3 for row in run.read("provenance")} == {0}
    shares = {round(row.p * 6) for row in run.read("preferences") if row.weight}
    assert shares <= {3, 4, 5, 6}
    assert len(shares) > 2


@pytest.mark.parametrize(("name", "rows"), [("prompts/hh_first_turns.jsonl.gz", 1441), ("prompts/xstest.jsonl", 450)])
def test_prompt_files_are_read_whole(recorded: Path, tmp_path: Path, policy_folder: Path, name: str, rows: int) -> None:
    (tmp_path / "recipe.yaml").write_text(f"prompts: {recorded / name}\n")
    rlaif(tmp_path, "run", "recipe.yaml", "--out", "run")
    prompts = list(RunFolder(tmp_path / "run").read("prompts"))
    assert len(prompts) == rows
    assert len({prompt.id for prompt in prompts}) == rows
