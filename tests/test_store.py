"""The run folder: stages that stop anywhere and go on, whole files only, accounts that add up."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rlaif.errors import DataError, StorageError, UserError
from rlaif.records import Exclusion, Preference, Prompt, Provenance, Record, digest
from rlaif.store import RunFolder, cut, read_shard, write_json, write_shard, writing
from tests import make

PROMPTS = [make.prompt(f"question {i}") for i in range(23)]
SIZE = 4  # 23 prompts: five batches of four and one of three


class Stopped(Exception):
    """Stands for Ctrl-C, kill or a crash."""


class Labels:
    """A stage from prompts to preferences with provenance; every fifth prompt is filtered. It may be stopped."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.batches = 0

    async def __call__(self, batches: AsyncIterator[list[Prompt]]) -> AsyncIterator[list[Record]]:
        async for batch in batches:
            if self.batches == self.stop_after:
                raise Stopped
            self.batches += 1
            yield [record for prompt in batch for record in self.of(prompt)]

    def of(self, prompt: Prompt) -> list[Record]:
        number = int(prompt.text.split()[1])
        if number % 5 == 0:
            return [Exclusion(item_id=prompt.id, outcome="filtered", reason="a multiple of five")]
        preference = Preference(
            prompt=prompt.messages,
            chosen=(make.assistant("good"),),
            rejected=(make.assistant("bad"),),
            p=0.5 + number / 100,
            weight=1.0,
            prompt_id=prompt.id,
            comparison_id=f"c-{number}",
        )
        return [
            Provenance(comparison_id=f"c-{number}", chosen_id="r-1", rejected_id="r-2", outcome="labelled"),
            preference,
        ]


def run(
    folder: RunFolder, stage: Labels, *, signature: str = "s1", prompts: list[Prompt] = PROMPTS, **settings: Any
) -> list[int]:
    """Run the stage; returns what its progress was told and remembers from where its input was read."""
    done: list[int] = []
    starts: list[int] = []

    def source(skip: int) -> AsyncIterator[list[Any]]:
        starts.append(skip)
        return cut(prompts, SIZE, skip)

    work = folder.run_stage(
        "preferences",
        signature=signature,
        size=SIZE,
        source=source,
        apply=stage,
        nouns=[Provenance, Preference],
        done=done.append,
        **settings,
    )
    asyncio.run(work)
    return done


def run_prompts(folder: RunFolder) -> None:
    """A stage that passes prompts on."""

    async def apply(batches: AsyncIterator[list[Prompt]]) -> AsyncIterator[list[Prompt]]:
        async for batch in batches:
            yield batch

    work = folder.run_stage(
        "prompts",
        signature="s",
        size=len(PROMPTS),
        source=lambda skip: cut(PROMPTS, len(PROMPTS), skip),
        apply=apply,
        nouns=[Prompt],
    )
    asyncio.run(work)


def files(folder: Path) -> dict[str, str]:
    """Every file of the stage's output, with the hash of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.parquet"))
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an uninterrupted run writes."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(RunFolder(folder), Labels())
    return files(folder)


# --- resume -----------------------------------------------------------------------------------------------------------


def test_each_batch_of_inputs_is_one_shard_of_each_noun(whole: dict[str, str]) -> None:
    nouns = ("exclusions/preferences", "preferences", "provenance")
    assert list(whole) == [f"{noun}/part-{i:05d}.parquet" for noun in nouns for i in range(6)]


WRITES = [(batch, noun) for batch in range(6) for noun in ("exclusions/preferences", "provenance", "preferences")]


@given(cuts=st.lists(st.integers(0, len(WRITES)), min_size=1, max_size=3))
@example(cuts=[0])
@example(cuts=[len(WRITES)])
@settings(max_examples=25, deadline=None)
def test_a_run_stopped_after_any_file_ends_with_the_bytes_of_an_uninterrupted_one(
    whole: dict[str, str], cuts: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "run"
        for writes in sorted(cuts):
            kill_after(path, writes)
        run(RunFolder(path), Labels())
        assert files(path) == whole


def kill_after(path: Path, writes: int) -> None:
    """Leave in ``path`` what a process killed after its n-th file leaves: batches are begun in order, and the files of
    one batch are written in the order of WRITES. The batch in flight runs to its end, then its later files go again."""
    begun = -(-writes // 3)
    stage = Labels(stop_after=begun - len(RunFolder(path).shards("preferences")))
    with contextlib.suppress(Stopped):
        run(RunFolder(path), stage)
    for batch, noun in WRITES[writes:]:
        (path / noun / f"part-{batch:05d}.parquet").unlink(missing_ok=True)
    folder = RunFolder(path)
    folder.manifest["stages"]["preferences"] |= {"complete": False, "content": ""}
    folder.save()


def test_a_resumed_stage_reads_and_computes_only_what_is_missing(working_folder: Path) -> None:
    folder, stage = RunFolder(working_folder / "run"), Labels()
    with pytest.raises(Stopped):
        run(folder, Labels(stop_after=2))
    done = run(RunFolder(folder.path), stage)
    assert stage.batches == 4  # six batches, two of them done before
    assert done == [8, 4, 4, 4, 3]  # eight inputs of before at once, then batch by batch
    assert sum(done) == len(PROMPTS)


def test_the_batches_before_the_cut_are_skipped_by_count() -> None:
    async def batches(skip: int) -> list[list[int]]:
        return [batch async for batch in cut(range(10), 4, skip)]

    assert asyncio.run(batches(0)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert asyncio.run(batches(2)) == [[8, 9]]
    assert asyncio.run(batches(3)) == []


def test_a_complete_stage_is_not_run_again(working_folder: Path) -> None:
    run(RunFolder(working_folder / "run"), Labels())
    assert run(RunFolder(working_folder / "run"), Labels(stop_after=0)) == []


def test_a_stage_stopped_after_its_last_shard_completes_without_work(working_folder: Path) -> None:
    folder = RunFolder(working_folder / "run")
    run(folder, Labels())
    folder.manifest["stages"]["preferences"]["complete"] = False
    folder.save()
    stage = Labels()
    run(RunFolder(folder.path), stage)
    assert stage.batches == 0
    assert (state := RunFolder(folder.path).state("preferences"))
    assert state.complete


def test_a_stage_with_memory_starts_over_when_it_was_cut_off(working_folder: Path, whole: dict[str, str]) -> None:
    folder, stage = RunFolder(working_folder / "run"), Labels()
    with pytest.raises(Stopped):
        run(folder, Labels(stop_after=5), resumable=False)
    run(folder, stage, resumable=False)
    assert stage.batches == 6
    assert files(folder.path) == whole


# --- signatures -------------------------------------------------------------------------------------------------------


def test_a_changed_signature_moves_the_old_output_aside_and_runs_again(working_folder: Path) -> None:
    folder, stage = RunFolder(working_folder / "run"), Labels()
    run(folder, Labels(), signature="signature-1", prompts=PROMPTS[:4])
    old = files(folder.path)
    run(folder, stage, signature="signature-2", prompts=PROMPTS[4:8])
    assert stage.batches == 1
    found = files(folder.path)
    first = digest("signature-1", SIZE)[:8]
    aside = {
        "exclusions/preferences/part-00000.parquet": f"superseded/exclusions-preferences-{first}/part-00000.parquet",
        "preferences/part-00000.parquet": f"superseded/preferences-{first}/part-00000.parquet",
        "provenance/part-00000.parquet": f"superseded/provenance-{first}/part-00000.parquet",
    }
    assert {name: found[aside[name]] for name in old} == old
    assert [row.comparison_id for row in folder.read("preferences")] == ["c-4", "c-6", "c-7"]


def test_a_half_finished_stage_under_another_signature_is_not_resumed(working_folder: Path) -> None:
    folder, stage = RunFolder(working_folder / "run"), Labels()
    with pytest.raises(Stopped):
        run(folder, Labels(stop_after=3), signature="a")
    run(folder, stage, signature="b")
    assert stage.batches == 6


def test_what_another_stage_left_in_a_folder_is_neither_resumed_nor_believed_later(working_folder: Path) -> None:
    """The same run folder for a recipe that samples, then for one that reads pairs, then the first again."""
    folder = RunFolder(working_folder / "run")

    async def same(batches: AsyncIterator[list[Prompt]]) -> AsyncIterator[list[Record]]:
        async for batch in batches:
            yield batch

    def walk(stage: str, prompts: list[Prompt]) -> list[Prompt]:
        asyncio.run(
            folder.run_stage(
                stage,
                signature=stage,
                size=SIZE,
                source=lambda skip: cut(prompts, SIZE, skip),
                apply=same,
                nouns=[Prompt],
            )
        )
        return list(folder.read("prompts"))

    assert walk("prompts", PROMPTS[:8]) == PROMPTS[:8]
    assert walk("pairs", PROMPTS[8:12]) == PROMPTS[8:12]
    assert walk("prompts", PROMPTS[:8]) == PROMPTS[:8]


# --- accounts and shards ----------------------------------------------------------------------------------------------


def test_the_account_adds_up_with_a_reason_for_each_exclusion(working_folder: Path) -> None:
    folder = RunFolder(working_folder / "run")
    run(folder, Labels())
    # 0, 5, 10, 15 and 20 of 0..22 are multiples of five
    assert folder.account("preferences", "preferences") == {
        "in": 23, "out": 18, "excluded": {"filtered": 5}, "reasons": {"a multiple of five": 5},
    }  # fmt: skip
    excluded = [exclusion.item_id for exclusion in folder.read("exclusions/preferences")]
    assert excluded == [PROMPTS[i].id for i in range(0, 23, 5)]


def test_no_input_gives_an_empty_table_with_the_right_columns(working_folder: Path) -> None:
    folder = RunFolder(working_folder / "run")
    run(folder, Labels(), prompts=[])
    assert folder.account("preferences", "preferences") == {"in": 0, "out": 0, "excluded": {}, "reasons": {}}
    assert pq.read_schema(folder.shards("preferences")[0]).names == list(Preference.model_fields)
    assert run(folder, Labels(stop_after=0), prompts=[]) == []


def test_content_depends_on_the_records_and_their_order_alone(working_folder: Path) -> None:
    def content(name: str, prompts: list[Prompt]) -> str:
        folder = RunFolder(working_folder / name)
        run(folder, Labels(), prompts=prompts)
        return folder.content("preferences")

    assert content("one", PROMPTS) == content("two", PROMPTS)
    assert content("three", PROMPTS[::-1]) != content("one", PROMPTS)


def test_a_shard_that_is_no_parquet_is_a_users_error(working_folder: Path) -> None:
    (working_folder / "x.parquet").write_text("not parquet")
    with pytest.raises(DataError, match=r"x\.parquet: not a readable Parquet file"):
        list(read_shard(working_folder / "x.parquet", Prompt))


def test_a_shard_of_another_hand_is_checked_when_it_is_read(working_folder: Path) -> None:
    folder = RunFolder(working_folder / "run")
    run_prompts(folder)
    assert list(folder.read("prompts")) == PROMPTS
    shard = folder.shards("prompts")[0]
    table = pq.read_table(shard)
    other = table.set_column(0, "id", [table["id"].to_pylist()[::-1]])
    pq.write_table(other, shard)
    with pytest.raises(ValidationError, match="does not belong to this content"):
        list(RunFolder(working_folder / "run").read("prompts"))


def test_a_shard_without_a_column_that_came_later_is_read_again_and_again(working_folder: Path) -> None:
    folder = RunFolder(working_folder / "run")
    run_prompts(folder)
    shard = folder.shards("prompts")[0]
    pq.write_table(pq.read_table(shard).drop_columns(["category"]), shard)
    again = RunFolder(working_folder / "run")
    assert list(again.read("prompts")) == list(again.read("prompts")) == PROMPTS


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_run_folder_of_another_format_is_refused(working_folder: Path) -> None:
    write_json(working_folder / "run" / "manifest.json", {"format": 99})
    with pytest.raises(
        UserError, match=r"run: run folder format 99, this version reads 1 to 2\. A newer rlaif wrote it"
    ):
        RunFolder(working_folder / "run")


def test_a_folder_with_other_things_in_it_is_refused(working_folder: Path) -> None:
    (working_folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty and not a run folder"):
        RunFolder(working_folder)


def test_a_run_killed_while_it_wrote_its_first_file_can_be_started_again(working_folder: Path) -> None:
    (working_folder / ".manifest.json.123.tmp").write_text('{"form')
    assert RunFolder(working_folder).manifest["stages"] == {}


def test_a_place_that_cannot_be_written_is_one_clear_line(working_folder: Path) -> None:
    (working_folder / "file").write_text("")
    with pytest.raises(StorageError, match=r"run: cannot be written: Not a directory\. Choose a writable place"):
        RunFolder(working_folder / "file" / "run")


# --- whole files only -------------------------------------------------------------------------------------------------


def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(working_folder: Path) -> None:
    path = working_folder / "sub" / "figures.json"
    write_json(path, {"old": True})
    with pytest.raises(Stopped), writing(path) as temporary:
        temporary.write_text('{"new"')
        raise Stopped
    assert path.read_text() == '{\n  "old": true\n}\n'
    assert [found.name for found in path.parent.iterdir()] == ["figures.json"]


def test_a_full_disk_is_one_clear_line(working_folder: Path) -> None:
    with pytest.raises(StorageError, match=r"x\.txt: cannot be written: No space left .* Free some space"):  # noqa: SIM117
        with writing(working_folder / "x.txt"), open("/dev/full", "w", encoding="utf-8") as full:
            full.write("x" * 100_000)
    assert list(working_folder.iterdir()) == []


def test_records_a_stage_did_not_announce_are_a_bug(working_folder: Path) -> None:
    async def wrong(batches: AsyncIterator[list[Prompt]]) -> AsyncIterator[list[Record]]:
        async for batch in batches:
            yield batch

    folder = RunFolder(working_folder / "run")
    with pytest.raises(KeyError):
        run(folder, wrong)  # type: ignore[arg-type]
    assert folder.shards("preferences") == []


def test_a_config_file_is_kept_as_it_was_used(working_folder: Path) -> None:
    folder = RunFolder(working_folder / "run")
    for data in (b"one: 1\n", b"one: 2\n"):
        folder.keep_file("judge", "mine.yaml", data)
        assert (folder.path / "config" / "judges" / "mine.yaml").read_bytes() == data


def test_equal_shards_are_equal_files(working_folder: Path) -> None:
    for name in ("a", "b"):
        write_shard(working_folder / name, Prompt, PROMPTS, 23)
    assert (working_folder / "a").read_bytes() == (working_folder / "b").read_bytes()
