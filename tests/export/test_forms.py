"""What the rows of each form are, and that every row that is not there is counted with its reason."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rlaif.errors import StorageError, UserError
from rlaif.export import export
from rlaif.export.files import write_shards
from rlaif.export.forms import FORMS, Source, account
from rlaif.store import RunFolder
from tests.export.labelled import exported, item, labelled, words
from tests.runs import rlaif
from tests.tiny import write_jsonl


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled(tmp_path_factory.mktemp("forms"))


@pytest.mark.parametrize("form", ["trl", "openrlhf"])
def test_a_hard_label_form_drops_ties_near_ties_and_rows_without_a_label(form: str, run: Path) -> None:
    rows, said = exported(run, form)
    assert [(words(row["chosen"]), words(row["rejected"])) for row in rows] == [("x", "y"), ("y", "v"), ("good", "bad")]
    assert rows[0] == {
        "prompt": [{"role": "user", "content": "sort"}],
        "chosen": [{"role": "assistant", "content": "x"}],
        "rejected": [{"role": "assistant", "content": "y"}],
    }
    assert said[0].endswith(": 3 rows of 8 preferences")
    assert sorted(said[1:]) == [
        "left out: 1 × near-tie",
        "left out: 1 × no label, or set aside",
        "left out: 3 × tie",
    ]


def test_kto_takes_each_answer_once_by_what_most_of_its_labels_say(run: Path) -> None:
    rows, said = exported(run, "kto")
    labels = {words(row["completion"]): row["label"] for row in rows}
    assert labels == {"x": True, "v": False, "good": True, "bad": False}
    assert words(rows[0]["prompt"]) == "sort"
    assert said[0].endswith(": 4 rows of 11 answers")
    assert said[1:] == ["left out: 6 × only ties, near-ties or no label", "left out: 1 × preferred as often as not"]


def test_a_ranking_shows_scores_ties_and_how_much_stands_behind_them(run: Path) -> None:
    rows, said = exported(run, "ranked")
    found = {words(row["prompt"]): row["responses"] for row in rows}
    assert set(found) == {"sort", "sure", "even"}
    assert said == [f"{run.parent / 'ranked-rows.jsonl'}: 3 rows of 4 prompts", "left out: 1 × no label"]
    # x: 1, ½, ½; y: 0, 0.52, 1; w: ½; z: ½, 0.48; v: 0
    shown = [(words(a["response"]), round(a["score"], 6), a["rank"], a["comparisons"]) for a in found["sort"]]
    # w and z tied with the best, z lost a little to y, y won against v alone: so say the strengths, which rank
    assert shown == [("x", 0.666667, 1, 3), ("w", 0.5, 2, 1), ("z", 0.49, 3, 2), ("y", 0.506667, 4, 3), ("v", 0, 5, 1)]
    strong = [a["strength"] for a in found["sort"]]
    assert strong == sorted(strong, reverse=True)
    assert sum(strong) == pytest.approx(0)
    assert [(a["score"], a["rank"]) for a in found["even"]] == [(0.5, 1), (0.5, 1)]


def test_answers_that_no_chain_of_comparisons_connects_have_no_rank(working_folder: Path) -> None:
    run = labelled(working_folder, [item("q", "a", "b", label="a"), item("q", "c", "d", label="a")])
    (row,), _ = exported(run, "ranked")
    assert [(words(a["response"]), a["score"], a["strength"], a["rank"]) for a in row["responses"]] == [
        ("a", 1, None, None), ("c", 1, None, None), ("b", 0, None, None), ("d", 0, None, None),
    ]  # fmt: skip


def test_an_answer_that_was_only_compared_without_a_label_has_no_score(working_folder: Path) -> None:
    run = labelled(working_folder, [item("q", "a", "b", label="a"), item("q", "a", "c", label=None)])
    (row,), _ = exported(run, "ranked")
    last = row["responses"][-1]
    assert (words(last["response"]), last["score"], last["rank"], last["comparisons"]) == ("c", None, None, 0)


def test_rows_of_one_prompt_come_together_from_wherever_they_stand_in_the_file(working_folder: Path) -> None:
    rows = [item("q", "a", "b", label="a"), item("other", "c", "d", label="b"), item("q", "b", "e", label="a")]
    (first, second), _ = exported(labelled(working_folder, rows), "ranked")
    assert [words(answer["response"]) for answer in first["responses"]] == ["a", "b", "e"]
    assert words(second["prompt"]) == "other"


def test_the_whole_form_says_who_judged_in_which_order_and_by_what(working_folder: Path) -> None:
    write_jsonl(working_folder / "pairs.jsonl", [item("q", "short", "much longer", category="manners")])
    rlaif(working_folder, "judge", "longest", "pairs.jsonl", "--out", "run")
    (row,), said = exported(working_folder / "run", "jsonl")
    assert said[0].endswith("1 rows of 1 preferences")
    (vote,) = row["votes"]
    (file,) = (file for file in RunFolder(working_folder / "run").manifest["files"] if file["kind"] == "judge")
    assert vote == {"labeller": f"judge:longest@{file['sha256'][:8]}", "p": 1.0}
    assert [judgement["chosen_first"] for judgement in row["judgements"]] in ([True, False], [False, True])
    assert [judgement["p"] for judgement in row["judgements"]] == [1.0, 1.0]
    assert (row["schema_version"], row["outcome"], row["category"], row["orders_agree"]) == (
        2,
        "labelled",
        "manners",
        True,
    )
    assert row["chosen_source"]["response_id"].startswith("r-")


def test_the_whole_form_holds_every_row_with_what_became_of_it(run: Path) -> None:
    rows, _ = exported(run, "jsonl")
    found = [(words(row["prompt"]), row["p"], row["weight"], row["outcome"], row["reason"]) for row in rows]
    assert found == [
        ("sort", 1.0, 1.0, "labelled", None),
        ("sort", 0.5, 1.0, "tie", None),
        ("sort", 0.5, 1.0, "tie", None),
        ("sort", 0.52, 1.0, "labelled", None),
        ("sort", 1.0, 1.0, "labelled", None),
        ("blank", 0.5, 0.0, "no label", "no label"),
        ("sure", 0.75, 1.0, "labelled", None),
        ("even", 0.5, 1.0, "tie", None),
    ]
    assert rows[6]["votes"] == [
        {"labeller": "human:Ann Example", "p": 1.0},
        {"labeller": "human:Bob Example", "p": 0.5},
    ]
    assert rows[5]["votes"] == [{"labeller": "human:Ann Example", "p": None}]


@pytest.mark.parametrize("form", sorted(form for form in FORMS if FORMS[form].schema))
def test_parquet_and_jsonl_hold_the_same_rows(form: str, run: Path) -> None:
    rows, _ = exported(run, form)
    target = run.parent / f"{form}.parquet"
    export(run, form, target)
    assert pq.read_table(target).to_pylist() == rows


def test_shards_are_cut_by_rows(tmp_path: Path, run: Path) -> None:
    form = FORMS["jsonl"]
    assert write_shards(tmp_path, form.rows(Source(RunFolder(run))), form.schema, size=3) == 8
    assert [pq.read_metadata(path).num_rows for path in sorted(tmp_path.iterdir())] == [3, 3, 2]


def test_rows_that_are_not_accounted_for_are_an_error(run: Path) -> None:
    with pytest.raises(StorageError, match=r"out: 7 rows are accounted for of 8 preferences"):
        account(Source(RunFolder(run)), FORMS["trl"], 7, "out")


def test_where_no_row_is_fit_an_earlier_file_stays(working_folder: Path) -> None:
    run = labelled(working_folder, [item("q", "a", "b", label="tie")])
    target = working_folder / "rows.jsonl"
    target.write_text("earlier")
    with pytest.raises(UserError, match=r"no row is fit for --form trl \(1 × tie\)"):
        export(run, "trl", target)
    assert target.read_text() == "earlier"


def test_labels_that_are_not_finished_are_not_exported(working_folder: Path) -> None:
    run = labelled(working_folder)
    manifest = RunFolder(run)
    manifest.manifest["stages"]["preferences"]["complete"] = False
    manifest.save()
    with pytest.raises(UserError, match=r"its preferences are not finished\. Run it again to its end, then export\."):
        export(run, "jsonl")


def test_two_exports_are_equal(run: Path) -> None:
    def written() -> str:
        export(run, "jsonl", run.parent / "again.parquet")
        return hashlib.sha256((run.parent / "again.parquet").read_bytes()).hexdigest()

    assert written() == written()
