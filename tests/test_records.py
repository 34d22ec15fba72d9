"""Records: ids from content, nothing malformed, nothing lost on the way to a file and back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rlaif.records import (
    Comparison,
    Exclusion,
    Judgement,
    Message,
    Preference,
    Prompt,
    Provenance,
    Record,
    Response,
    canonical_json,
    digest,
    uniform,
)
from rlaif.store import from_row, read_shard, schema_of, to_row, write_shard
from tests import make

# --- ids --------------------------------------------------------------------------------------------------------------


def test_equal_content_has_equal_ids_and_a_changed_letter_another() -> None:
    assert make.prompt("hello").id == make.prompt("hello").id
    assert make.prompt("hello").id != make.prompt("hellO").id


def test_an_id_is_the_same_on_every_machine() -> None:
    # printf '%s' '["p",{"messages":[{"content":"hello","role":"user"}]}]' | sha256sum | cut -c1-20
    assert make.prompt("hello").id == "p-69a6d9dfb1f02030176c"


def test_a_prompt_id_does_not_depend_on_what_only_describes_it() -> None:
    assert make.prompt("hello", category="greeting", metadata={"row": 3}).id == make.prompt("hello").id


@pytest.mark.parametrize("field", [{"generator": "policy@1"}, {"sample_index": 1}])
def test_equal_texts_from_two_draws_are_two_responses(field: dict[str, Any]) -> None:
    to = make.prompt()
    assert make.response(to, "yes", **field).id != make.response(to, "yes").id


def test_a_response_id_does_not_depend_on_how_it_was_counted() -> None:
    to = make.prompt()
    counted = make.response(to, "yes", output_tokens=1, token_ids=(5,), finish_reason="stop", sampling="{}")
    assert counted.id == make.response(to, "yes").id


@given(make.comparisons(), st.randoms())
@settings(max_examples=30)
def test_a_comparison_in_another_order_is_the_same_comparison(comparison: Comparison, random: Any) -> None:
    shuffled = list(comparison.responses)
    random.shuffle(shuffled)
    assert Comparison(prompt=comparison.prompt, responses=tuple(shuffled)).id == comparison.id


@pytest.mark.parametrize("record", [make.prompt(), make.response(make.prompt(), "yes"), make.comparison()])
def test_a_wrong_id_is_refused(record: Any) -> None:
    fields = record.model_dump() | {"id": record.id[:-1] + ("0" if record.id[-1] != "0" else "1")}
    with pytest.raises(ValidationError, match="does not belong to this content"):
        type(record).model_validate(fields)


def test_the_right_id_is_accepted() -> None:
    comparison = make.comparison()
    assert Comparison.model_validate(comparison.model_dump()) == comparison


# --- shape ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", make.RECORDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=5)
def test_records_are_frozen_and_refuse_unknown_fields(kind: type[Record], data: st.DataObject) -> None:
    record = data.draw(make.RECORDS[kind])
    name = next(iter(kind.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(record, name, getattr(record, name))
    with pytest.raises(ValidationError, match="Extra inputs"):
        kind.model_validate(record.model_dump() | {"surprise": 1})


PAIR = make.comparison("a", "b")
A, B = (response.id for response in PAIR.responses)
RANKED = {
    "comparison_id": PAIR.id,
    "labeller": "human:x",
    "shown": (A, B),
    "outcome": "ranked",
    "ranking": ((A,), (B,)),
}
SAID = {
    "prompt": PAIR.prompt.messages,
    "chosen": PAIR.responses[0].messages,
    "rejected": PAIR.responses[1].messages,
    "p": 0.9,
    "weight": 1.0,
    "prompt_id": PAIR.prompt.id,
    "comparison_id": PAIR.id,
}
WRONG: dict[str, tuple[type[Record], dict[str, Any], str]] = {
    "no turns at all": (Prompt, {"messages": ()}, "not the assistant"),
    "prompt ends with the assistant": (
        Prompt,
        {"messages": (make.user("a"), make.assistant("b"))},
        "not the assistant",
    ),
    "response ends with the user": (Response, {"prompt_id": "p", "messages": (make.user("a"),)}, "assistant turn"),
    "empty response": (Response, {"prompt_id": "p", "messages": ()}, "assistant turn"),
    "unknown role": (Message, {"role": "wizard", "content": ""}, "role"),
    "one response": (Comparison, {"prompt": PAIR.prompt, "responses": PAIR.responses[:1]}, "at least two"),
    "equal responses": (Comparison, {"prompt": PAIR.prompt, "responses": (PAIR.responses[0],) * 2}, "must differ"),
    "equal texts of two draws": (
        Comparison,
        {"prompt": PAIR.prompt, "responses": (PAIR.responses[0], make.response(PAIR.prompt, "a", sample_index=1))},
        "must differ",
    ),
    "another prompt's response": (
        Comparison,
        {"prompt": PAIR.prompt, "responses": (PAIR.responses[0], make.response(make.prompt("else"), "b"))},
        "answer its prompt",
    ),
    "ranked without a ranking": (Judgement, RANKED | {"ranking": ()}, "ranking exists exactly"),
    "a ranking of the unreadable": (
        Judgement,
        RANKED | {"outcome": "unreadable", "reason": "x"},
        "ranking exists exactly",
    ),
    "failed without a reason": (Judgement, RANKED | {"outcome": "failed", "ranking": ()}, "reason exists exactly"),
    "ranked with a reason": (Judgement, RANKED | {"reason": "x"}, "reason exists exactly"),
    "p that sums to 0.9": (Judgement, RANKED | {"p": (0.6, 0.3)}, "probability for each"),
    "p outside [0, 1]": (Judgement, RANKED | {"p": (1.5, -0.5)}, "probability for each"),
    "p that is not a number": (Judgement, RANKED | {"p": (float("nan"), 1.0)}, "probability for each"),
    "p for three of two": (Judgement, RANKED | {"p": (0.5, 0.3, 0.2)}, "one number per ranked"),
    "a response ranked twice": (Judgement, RANKED | {"ranking": (("x",), ("x",))}, "twice"),
    "weight 0": (Judgement, RANKED | {"weight": 0.0}, "weight is positive"),
    "outcome 'tie'": (Judgement, RANKED | {"outcome": "tie"}, "outcome"),
    "chosen is rejected": (Preference, SAID | {"rejected": SAID["chosen"]}, "the same"),
    "p below one half": (Preference, SAID | {"p": 0.49}, "must lie in"),
    "p above one": (Preference, SAID | {"p": 1.01}, "must lie in"),
    "negative weight": (Preference, SAID | {"weight": -1.0}, "must not be negative"),
    "excluded as ranked": (Exclusion, {"item_id": "x", "outcome": "ranked", "reason": "y"}, "outcome"),
    "provenance of nothing": (Provenance, {"comparison_id": "c", "outcome": "ranked"}, "outcome"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_a_malformed_record_is_refused(case: tuple[type[Record], dict[str, Any], str]) -> None:
    kind, fields, message = case
    with pytest.raises(ValidationError, match=message):
        kind.model_validate(fields)


def test_a_tie_is_a_ranking_with_one_group() -> None:
    assert Judgement(**RANKED | {"ranking": ((A, B),)}).outcome == "ranked"


# --- canonical text and keyed draws -----------------------------------------------------------------------------------


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == canonical_json({"a": "é", "b": 1}) == '{"a":"é","b":1}'


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_has_no_canonical_text(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(value)


def test_parts_of_a_digest_are_not_run_together() -> None:
    assert digest("ab", "c") != digest("a", "bc")


@given(make.texts, st.integers())
def test_a_keyed_draw_is_a_pure_function_strictly_between_zero_and_one(text: str, number: int) -> None:
    draw = uniform(text, number)
    assert 0 < draw < 1
    assert draw == uniform(text, number)


def test_keyed_draws_are_spread_evenly() -> None:
    below = sum(uniform("spread", i) < 0.25 for i in range(4000))
    # 4000 draws at 1/4: mean 1000, standard deviation sqrt(4000 · 3/16) = 27.4; four of them either way
    assert 890 < below < 1110


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", make.RECORDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_record_survives_arrow_and_parquet_unchanged(kind: type[Record], data: st.DataObject) -> None:
    records = data.draw(st.lists(make.RECORDS[kind], max_size=3))
    table = pa.Table.from_pylist([to_row(record) for record in records], schema=schema_of(kind))
    assert [from_row(kind, row) for row in table.to_pylist()] == records
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part-00000.parquet"
        write_shard(path, kind, records, len(records))
        back = list(read_shard(path, kind))
        assert back == records
        assert repr(list(read_shard(path, kind, sound=True))) == repr(back)  # each value of the same type, too
        assert pq.read_schema(path).equals(schema_of(kind))


def test_metadata_keep_the_types_of_their_values() -> None:
    kept = make.prompt(metadata={"whole": 1, "part": 1.0, "flag": True, "none": None, "big": 2**70, "text": "1"})
    back = from_row(Prompt, to_row(kept))
    assert {name: type(value) for name, value in back.metadata.items()} == {
        "whole": int, "part": float, "flag": bool, "none": type(None), "big": int, "text": str,
    }  # fmt: skip


def test_datasets_reads_a_folder_of_preferences(working_folder: Path) -> None:
    from datasets import load_dataset

    for part, text in enumerate(("yes", "\U0001f469\u200d\U0001f52c")):
        rows = [Preference(**SAID | {"chosen": (make.assistant(text),)})]
        write_shard(working_folder / "preferences" / f"part-{part:05d}.parquet", Preference, rows, 1)
    found = load_dataset(
        "parquet", data_files=str(working_folder / "preferences" / "*.parquet"), split="train", cache_dir="cache"
    )
    assert found.num_rows == 2
    assert found[1]["chosen"] == [{"role": "assistant", "content": "\U0001f469\u200d\U0001f52c"}]
    assert found[0]["p"] == 0.9
    assert set(found.column_names) == set(Preference.model_fields)
