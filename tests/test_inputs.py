"""Files as people have them: every form a prompt, a pair or a label may take, and what is said of those that are wrong."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.config import PromptsSection
from rlaif.conversations import read_messages, split_transcript
from rlaif.errors import DataError
from rlaif.pairs import read_pairs
from rlaif.prompts import ReadPrompts, prompt_rows
from rlaif.records import Exclusion, Message, Prompt
from rlaif.rows import read_rows, source_hash
from rlaif.store import RunFolder
from tests.make import assistant, sound, system, user
from tests.tiny import write_jsonl

ROWS = [
    {"prompt": "Wie groß ist der Öltank?", "n": "1"},
    {"prompt": 'Quotes ", commas, and\na second line', "n": "2"},
    {"prompt": "数学の質問です 🙂", "n": "3"},
]
HH = "\n\nHuman: Is it late?\n\nAssistant: Yes.\n\nHuman: How late?\n\nAssistant: "


def jsonl_bytes(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def csv_bytes(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


FORMS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], bytes]]] = {
    "jsonl": ("a.jsonl", jsonl_bytes),
    "jsonl, blank lines between": ("a.jsonl", lambda rows: b"\n" + jsonl_bytes(rows).replace(b"\n", b"\n  \n")),
    "jsonl, no line end at the end": ("a.jsonl", lambda rows: jsonl_bytes(rows).rstrip()),
    "jsonl, Windows line ends": ("a.jsonl", lambda rows: jsonl_bytes(rows).replace(b"\n", b"\r\n")),
    "jsonl with a byte order mark": ("a.jsonl", lambda rows: b"\xef\xbb\xbf" + jsonl_bytes(rows)),
    "jsonl.gz": ("a.jsonl.gz", lambda rows: gzip.compress(jsonl_bytes(rows))),
    "jsonl.gz in two members": (
        "a.jsonl.gz",
        lambda rows: gzip.compress(jsonl_bytes(rows[:1])) + gzip.compress(jsonl_bytes(rows[1:])),
    ),
    "capital letters in its name": ("A.JSONL", jsonl_bytes),
    "json": ("a.json", lambda rows: json.dumps(rows, indent=1).encode()),
    "json with a byte order mark": ("a.json", lambda rows: b"\xef\xbb\xbf" + json.dumps(rows).encode()),
    "json.gz": ("a.json.gz", lambda rows: gzip.compress(json.dumps(rows).encode())),
    "csv": ("a.csv", csv_bytes),
    "csv with a byte order mark": ("a.csv", lambda rows: b"\xef\xbb\xbf" + csv_bytes(rows)),
    "csv.gz": ("a.csv.gz", lambda rows: gzip.compress(csv_bytes(rows))),
    "parquet": ("a.parquet", parquet_bytes),
}


def wrote(name: str, data: bytes) -> str:
    Path(name).write_bytes(data)
    return name


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_file_form_gives_the_same_rows(form: str) -> None:
    name, encode = FORMS[form]
    assert [row for _, row in read_rows(wrote(name, encode(ROWS)))] == ROWS


def test_rows_say_where_they_stand() -> None:
    lines = wrote("a.jsonl", b'{"a": 1}\n\n{"a": 2}\n')
    assert [where for where, _ in read_rows(lines)] == ["a.jsonl line 1", "a.jsonl line 3"]
    assert [where for where, _ in read_rows(wrote("a.json", b'[{"a": 1}]'))] == ["a.json item 1"]
    assert [where for where, _ in read_rows(wrote("a.csv", b"a\n1\n2\n"))] == ["a.csv line 2", "a.csv line 3"]
    assert [where for where, _ in read_rows(wrote("a.parquet", parquet_bytes([{"a": 1}])))] == ["a.parquet row 1"]


FAULTY: dict[str, tuple[str, bytes, str]] = {
    "a line that is not JSON": (
        "a.jsonl",
        b'{"prompt": "x"}\nprompt: y\n',
        "a.jsonl line 2: not valid JSON: Expecting value at column 1.",
    ),
    "nested too deeply": (
        "a.jsonl",
        b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        "a.jsonl line 1: lists or objects are nested deeper than anything that could be meant.",
    ),
    "a line cut off": (
        "a.jsonl",
        b'{"prompt": "x"}\n{"prompt": "y',
        "a.jsonl line 2: not valid JSON: the text that begins at column 12 does not end (cut off?).",
    ),
    "a line cut off after a comma": (
        "a.jsonl",
        b'{"prompt": "x",\n',
        "a.jsonl line 1: not valid JSON: it breaks off after column 15 (cut off?).",
    ),
    "a line that is a list": ("a.jsonl", b'["x"]\n', "a.jsonl line 1: expected an object, found list."),
    "a latin-1 byte": (
        "a.jsonl",
        b'{"prompt": "x"}\n' + '{"prompt": "Größe"}\n'.encode("latin-1"),
        "a.jsonl line 2: not UTF-8 text (byte 0xf6 at position 14). Save the file as UTF-8.",
    ),
    "UTF-16": ("a.jsonl", '{"prompt": "x"}\n'.encode("utf-16"), "a.jsonl: UTF-16 text. Save it as UTF-8."),
    "UTF-16, the other end first": (
        "a.csv",
        b"\xfe\xff" + "prompt\nx\n".encode("utf-16-be"),
        "a.csv: UTF-16 text. Save it as UTF-8.",
    ),
    "an empty file": ("a.jsonl", b"", "a.jsonl: the file is empty."),
    "blank lines only": ("a.jsonl", b"\n \n", "a.jsonl: the file is empty."),
    "an empty list": ("a.json", b"[]", "a.json: the file is empty."),
    "a header alone": ("a.csv", b"prompt,n\n", "a.csv: a header and no rows."),
    "an empty table": (
        "a.parquet",
        parquet_bytes([]),
        "a.parquet: the file holds no rows.",
    ),
    "semicolons": (
        "a.csv",
        b"prompt;chosen;rejected\na;b;c\n",
        "a.csv: looks separated by \";\", for its header is one column, 'prompt;chosen;rejected'. Save it separated by "
        "commas.",
    ),
    "tabs": (
        "a.csv",
        b"prompt\tn\na, b\tc\n",
        "a.csv: looks separated by tabs, for its header is one column, 'prompt\\tn'. Save it separated by commas.",
    ),
    "an empty CSV": ("a.csv", b"", "a.csv: the file is empty."),
    "an object instead of a list": ("a.json", b'{"prompt": "x"}', "a.json: expected a list of objects."),
    "a list of texts": ("a.json", b'["x"]', "a.json: expected a list of objects."),
    "JSON with a fault on a later line": (
        "a.json",
        b'[\n{"prompt": "x"},\n{"prompt" "y"}]',
        "a.json line 3: not valid JSON: Expecting ':' delimiter at column 11.",
    ),
    "JSON lines under the wrong name": (
        "a.json",
        b'{"prompt": "x"}\n{"prompt": "y"}\n',
        "a.json line 2: not valid JSON: Extra data at column 1. One object per line is a .jsonl file.",
    ),
    "too few fields": ("a.csv", b"prompt,n\nx\n", "a.csv line 2: expected 2 columns (prompt, n)."),
    "too many fields": ("a.csv", b"prompt,n\nx,1\ny,2,3\n", "a.csv line 3: expected 2 columns (prompt, n)."),
    "a field without end": (
        "a.csv",
        b'prompt\n"' + b"x" * 140_000,
        "a.csv line 2: not valid CSV: field larger than field limit (131072).",
    ),
    "gzip cut off": (
        "a.jsonl.gz",
        gzip.compress(jsonl_bytes(ROWS))[:-20],
        "a.jsonl.gz: not a whole gzip file: Compressed file ended before the end-of-stream marker was reached.",
    ),
    "not gzip at all": (
        "a.jsonl.gz",
        b'{"prompt": "x"}\n',
        "a.jsonl.gz: not a whole gzip file: Not a gzipped file (b'{\"').",
    ),
    "an unknown ending": (
        "a.txt",
        b"x",
        "a.txt: files end in .jsonl, .json, .csv (each also .gz) or .parquet; hub ids start with hub:.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_file_is_one_line_that_says_where(name: str) -> None:
    file, data, message = FAULTY[name]
    with pytest.raises(DataError) as error:
        list(read_rows(wrote(file, data)))
    assert str(error.value) == message


def test_what_was_read_before_a_faulty_line_is_not_lost() -> None:
    rows = read_rows(wrote("a.jsonl", b'{"prompt": "x"}\n{'))
    assert next(rows) == ("a.jsonl line 1", {"prompt": "x"})


@pytest.mark.parametrize("data", [b"not parquet at all", parquet_bytes(ROWS)[:-9], b""])
def test_a_damaged_parquet_file_is_one_line(data: bytes) -> None:
    with pytest.raises(DataError) as error:
        list(read_rows(wrote("a.parquet", data)))
    assert str(error.value).startswith("a.parquet: not a readable Parquet file: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [lambda name: list(read_rows(name)), source_hash])
def test_a_missing_file_is_one_line(read: Callable[[str], Any]) -> None:
    with pytest.raises(DataError) as error:
        read("nowhere.jsonl")
    assert str(error.value).startswith("nowhere.jsonl: no such file in this folder.")


def test_a_folder_is_not_a_file() -> None:
    Path("a.jsonl").mkdir()
    with pytest.raises(DataError) as error:
        list(read_rows("a.jsonl"))
    assert str(error.value) == (
        "a.jsonl: a folder; a file is expected. A run folder is named with --out, a dataset folder as hub:a.jsonl."
    )


CELLS: dict[str, tuple[str, str, Any]] = {
    "turns": ("messages", '[{"role": "user", "content": "Hi"}]', [{"role": "user", "content": "Hi"}]),
    "turns, from and value": ("chosen", ' [{"from": "gpt", "value": "Hi"}]', [{"from": "gpt", "value": "Hi"}]),
    "a list of labels": ("human_labels", '["a", null, "tie"]', ["a", None, "tie"]),
    "labels by name": ("human_labels", '{"ann": "a"}', {"ann": "a"}),
    "a list of words under another name": ("prompt", '["a", "b"]', '["a", "b"]'),
    "a list of other objects": ("prompt", '[{"role": "user"}]', '[{"role": "user"}]'),
    "an object": ("prompt", '{"role": "user", "content": "Hi"}', '{"role": "user", "content": "Hi"}'),
    "an empty list": ("prompt", "[]", "[]"),
    "not quite JSON": ("messages", "[{'role': 'user', 'content': 'Hi'}]", "[{'role': 'user', 'content': 'Hi'}]"),
    "a number": ("p", "0.5", "0.5"),
    "a word in brackets": ("prompt", "[sighs] Hi", "[sighs] Hi"),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_csv_cell_is_text_unless_it_holds_turns_or_labels_as_json(name: str) -> None:
    column, text, value = CELLS[name]
    ((_, row),) = read_rows(wrote("a.csv", csv_bytes([{column: text, "n": "1"}])))
    assert row == {column: value, "n": "1"}


def test_turns_and_several_labels_in_csv_cells_are_read_as_from_json_lines() -> None:
    row: dict[str, Any] = {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "response_a": "one",
        "response_b": "two",
        "human_labels": ["a", "b", "a"],
    }
    cells = {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
    (one,) = read_pairs(wrote("a.jsonl", jsonl_bytes([row])))
    (other,) = read_pairs(wrote("a.csv", csv_bytes([cells])))
    assert (sound(other).id, other.votes) == (sound(one).id, one.votes)
    assert len(other.votes) == 3


# --- the hub, by a local folder ---------------------------------------------------------------------------------------


def test_a_dataset_folder_is_read_as_a_hub_id(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.parquet").write_bytes(parquet_bytes(ROWS))
    (folder / "test.parquet").write_bytes(parquet_bytes(ROWS[:1]))
    found = list(read_rows(f"hub:{folder}"))
    assert [row for _, row in found] == ROWS
    assert found[0][0] == f"hub:{folder} train row 1"
    assert [row for _, row in read_rows(f"hub:{folder}", "test")] == ROWS[:1]


def test_a_split_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.parquet").write_bytes(parquet_bytes(ROWS))
    with pytest.raises(DataError) as error:
        list(read_rows(f"hub:{folder}", "validation"))
    assert str(error.value).startswith(f"hub:{folder}: cannot be loaded: Bad split: validation.")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: folder.mkdir()])
def test_a_dataset_that_is_not_there_is_one_line(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "nowhere")
    with pytest.raises(DataError) as error:
        list(read_rows(f"hub:{tmp_path}/nowhere"))
    assert str(error.value).startswith(f"hub:{tmp_path}/nowhere: cannot be loaded: ")
    assert "\n" not in str(error.value)


# --- prompts ----------------------------------------------------------------------------------------------------------


def read(row: dict[str, Any], **options: Any) -> Prompt | Exclusion:
    return ReadPrompts(PromptsSection(source="x", **options)).read("x line 1", row)


PROMPTS: dict[str, tuple[dict[str, Any], tuple[Message, ...]]] = {
    "text": ({"prompt": "Hi"}, (user("Hi"),)),
    "instruction": ({"instruction": "Add."}, (user("Add."),)),
    "instruction with input": ({"instruction": "Add.", "input": "2 and 3"}, (user("Add.\n\n2 and 3"),)),
    "instruction with empty input": ({"instruction": "Add.", "input": " "}, (user("Add."),)),
    "question": ({"question": "Why?"}, (user("Why?"),)),
    "text column": ({"text": "Hi", "n": 1}, (user("Hi"),)),
    "messages": (
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
        (system("Be brief."), user("Hi")),
    ),
    "turns under prompt": ({"prompt": [{"role": "user", "content": "Hi"}]}, (user("Hi"),)),
    "several turns": (
        {"messages": [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"))]},
        (user("a"), assistant("b"), user("c")),
    ),
    "from and value": (
        {"conversation": [{"from": r, "value": c} for r, c in (("system", "s"), ("human", "a"), ("gpt", "b"), ("human", "c"))]},
        (system("s"), user("a"), assistant("b"), user("c")),
    ),
    "roles in capitals": ({"messages": [{"role": "User", "content": "Hi"}]}, (user("Hi"),)),
    "an HH transcript": (
        {"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"},
        (user("a"), assistant("b"), user("c")),
    ),
    "an HH transcript that says who speaks next": (
        {"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"},
        (user("a"), assistant("b"), user("c")),
    ),
    "a system column": ({"prompt": "Hi", "system": "Be brief."}, (system("Be brief."), user("Hi"))),
    "an empty system column": ({"prompt": "Hi", "system": ""}, (user("Hi"),)),
    "messages null, prompt there": ({"messages": None, "prompt": "Hi"}, (user("Hi"),)),
    "the first usual column wins": ({"text": "other", "prompt": "Hi"}, (user("Hi"),)),
}  # fmt: skip


@pytest.mark.parametrize("name", PROMPTS)
def test_every_prompt_form_becomes_messages(name: str) -> None:
    row, messages = PROMPTS[name]
    found = read(row)
    assert isinstance(found, Prompt)
    assert found.messages == messages


def test_equal_prompts_in_different_forms_have_equal_ids() -> None:
    forms: list[dict[str, Any]] = [
        {"prompt": "Hi"},
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"conversation": [{"from": "human", "value": "Hi"}]},
        {"question": "Hi", "n": 3},
    ]
    found = [read(row) for row in forms]
    assert len({prompt.id for prompt in found if isinstance(prompt, Prompt)}) == 1


def test_the_recipes_system_prompt_yields_to_one_of_the_rows_own() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "Hi"},
        {"prompt": "Hi", "system": "own"},
        {"messages": [{"role": "system", "content": "own"}, {"role": "user", "content": "Hi"}]},
    ]
    found = [read(row, system="recipe") for row in rows]
    assert [p.messages[0].content for p in found if isinstance(p, Prompt)] == ["recipe", "own", "own"]


def test_category_and_scalar_columns_are_kept_and_the_rest_is_not() -> None:
    row = {"prompt": "Hi", "category": "greeting", "n": 1, "ok": True, "x": 0.5, "nan": float("nan"), "list": [1]}
    found = read(row)
    assert isinstance(found, Prompt)
    assert found.category == "greeting"
    assert found.metadata == {"n": 1, "ok": True, "x": 0.5}


EXCLUDED: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({"prompt": ""}, "empty prompt"),
    "spaces": ({"prompt": " \n"}, "empty prompt"),
    "null": ({"prompt": None}, "empty prompt"),
    "no turns": ({"prompt": []}, "empty prompt"),
    "no turns, but an input": ({"prompt": [], "input": "x"}, "empty prompt"),
    "only a system column": ({"prompt": "", "system": "Be brief."}, "empty prompt"),
    "a number": ({"prompt": 3}, "expected text or a list of turns, found int"),
    "ends with the assistant": (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        "the prompt ends with the assistant's turn",
    ),
    "ends with the assistant, and an input": (
        {"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "input": "x"},
        "the prompt ends with the assistant's turn",
    ),
    "a system message in the middle": (
        {"messages": [{"role": r, "content": "a"} for r in ("user", "system", "user")]},
        "a system message that is not the first",
    ),
    "an unknown role": ({"messages": [{"role": "narrator", "content": "a"}]}, 'a turn of unknown role "narrator"'),
    "a turn without a role": ({"messages": [{"content": "a"}]}, 'a turn of unknown role "none"'),
    "a turn without text": ({"messages": [{"role": "user"}]}, "a turn without text"),
    "a turn that is text": ({"messages": ["a"]}, "a turn that is not an object with role and content"),
    "half a surrogate pair": ({"prompt": "a\ud83d"}, "text that is not valid Unicode"),
    "half a surrogate pair in a turn": (
        {"messages": [{"role": "user", "content": "\udc00"}]},
        "text that is not valid Unicode",
    ),
    "half a surrogate pair in the input": ({"prompt": "a", "input": "\ud83d"}, "text that is not valid Unicode"),
    "half a surrogate pair in the system column": (
        {"prompt": "a", "system": "\ud83d"},
        "text that is not valid Unicode",
    ),
    "too long": ({"prompt": "x" * 101}, "longer than 100 characters"),
}


@pytest.mark.parametrize("name", EXCLUDED)
def test_a_row_that_is_no_prompt_is_excluded_with_its_reason(name: str) -> None:
    row, reason = EXCLUDED[name]
    found = read(row, max_characters=100)
    assert isinstance(found, Exclusion)
    assert (found.outcome, found.reason) == ("filtered", reason)


def test_half_a_surrogate_pair_beside_the_prompt_is_left_out_and_the_prompt_kept() -> None:
    found = read({"prompt": "Hi", "category": "\ud83d", "note": "\ud83d", "\ud83d": 1, "n": 2})
    assert isinstance(found, Prompt)
    assert (found.category, found.metadata) == (None, {"n": 2})


def test_repeated_prompts_are_excluded_and_counted() -> None:
    reader = ReadPrompts(PromptsSection(source="x", near_duplicates=0.6))
    text = "Please tell me how I can get the candle wax out of my new white tablecloth"
    rows = [{"prompt": text}, {"messages": [{"role": "user", "content": text}]}, {"prompt": text + " today"}]
    rows.append({"prompt": "What is the capital of France?"})
    found = [reader.read(f"x line {i}", row) for i, row in enumerate(rows, 1)]
    assert [row.reason if isinstance(row, Exclusion) else "kept" for row in found] == [
        "kept",
        "duplicate prompt",
        "near-duplicate prompt",
        "kept",
    ]


def test_a_file_of_another_shape_is_one_line() -> None:
    with pytest.raises(DataError) as error:
        read({"ask": "Hi", "n": 1})
    assert str(error.value) == (
        "x line 1: no prompt column. Found ask, n; expected one of messages, prompt, instruction, question, "
        "conversation, text, query, or name yours with prompts.column."
    )
    with pytest.raises(DataError) as error:
        read({"ask": "Hi"}, column="asks")
    assert str(error.value) == 'x line 1: prompts.column: no column "asks". Did you mean "ask"?'
    assert isinstance(read({"ask": "Hi"}, column="ask"), Prompt)


def test_the_limit_counts_rows_of_the_file() -> None:
    source = str(write_jsonl(Path("p.jsonl"), [{"prompt": str(i)} for i in range(5)]))
    assert len(list(prompt_rows(PromptsSection(source=source, limit=2)))) == 2


@given(turns=st.lists(st.tuples(st.sampled_from(["Human", "Assistant"]), st.from_regex(r"[a-z]{1,6}( [a-z]{1,6})?", fullmatch=True)), min_size=1, max_size=6))  # fmt: skip
def test_a_transcript_is_split_into_the_turns_it_was_made_of(turns: list[tuple[str, str]]) -> None:
    text = "".join(f"\n\n{name}: {words}" for name, words in turns)
    expected = [("user" if name == "Human" else "assistant", words) for name, words in turns]
    assert [(m.role, m.content) for m in split_transcript(text)] == expected


def test_words_that_only_look_like_a_transcript_stay_text() -> None:
    for text in ("Human: hi", "He said:\n\nHuman: hi", "\n\nHuman hi"):
        assert read_messages(text, "user") == (user(text),)


# --- people's answers and recorded verdicts --------------------------------------------------------------------------


def judged(source: str, *settings: str) -> list[tuple[str, float, float]]:
    """Chosen text, p and weight of a pair file's preferences."""
    import asyncio

    from rlaif.checking import open_road

    Path("own.yaml").write_text(f"pairs: {source}\nlabels: human\n", encoding="utf-8")
    road = open_road("own.yaml", settings, out=Path(f"out-{len(list(Path().glob('out-*')))}"))
    asyncio.run(road.run("preferences"))
    return [(row.chosen[0].content, row.p, row.weight) for row in road.run_folder.read("preferences")]


def test_answers_to_exported_tasks_join_their_comparisons() -> None:
    write_jsonl(Path("pairs.jsonl"), [{"prompt": "Hi", "response_a": "one", "response_b": "two"}])
    of = sound(next(read_pairs("pairs.jsonl")))
    assert [response.text for response in of.responses] == ["one", "two"]
    answers = [
        {"comparison_id": of.id, "label": "b", "annotator": "ann", "order": "ba"},
        {"comparison_id": of.id, "label": "b", "annotator": "bo"},
        {"comparison_id": of.id, "label": "a", "annotator": "cy"},
    ]
    write_jsonl(Path("answers.jsonl"), answers)
    ((chosen, p, weight),) = judged("pairs.jsonl", "labels.options.file=answers.jsonl")
    assert (chosen, weight) == ("two", 1.0)
    assert p == pytest.approx(2 / 3)


@pytest.mark.parametrize("form", ["a.csv", "a.json", "a.parquet", "a.jsonl.gz"])
def test_labelled_items_give_the_same_preferences_from_any_file(form: str) -> None:
    rows = [
        {"prompt": "Hi", "response_a": "one", "response_b": "two", "label": "b"},
        {"prompt": "Bye", "response_a": "one", "response_b": "two", "label": "tie"},
    ]
    encode = {"a.csv": csv_bytes, "a.json": lambda r: json.dumps(r).encode(), "a.parquet": parquet_bytes}
    source = wrote(form, encode.get(form, lambda r: gzip.compress(jsonl_bytes(r)))(rows))
    found = judged(source)
    assert found[0] == ("two", 1.0, 1.0)
    assert found[1][1] == 0.5


def test_a_blank_label_and_no_row_at_all_are_accounted_for_alike() -> None:
    import asyncio

    from rlaif.checking import open_road

    rows = [{"prompt": f"Question {i}", "response_a": "one", "response_b": "two"} for i in range(4)]
    write_jsonl(Path("pairs.jsonl"), rows)
    ids = [sound(pair).id for pair in read_pairs("pairs.jsonl")]
    labels = ["a", None, ""]  # and no row for the fourth
    write_jsonl(
        Path("answers.jsonl"),
        [{"comparison_id": i, "label": label} for i, label in zip(ids, labels, strict=False)],
    )
    Path("own.yaml").write_text("pairs: pairs.jsonl\nlabels: {source: human, options: {file: answers.jsonl}}\n")
    road = open_road("own.yaml", out=Path("out"))
    accounts = asyncio.run(road.run("preferences")).accounts
    assert accounts["judgements"]["outcomes"] == {"ranked": 1, "no label": 2}
    assert accounts["judgements"]["reasons"] == {}
    assert accounts["preferences"]["outcomes"] == {"labelled": 1, "no label": 3}
    assert accounts["preferences"]["reasons"] == {}


def test_unnamed_annotators_of_several_rows_are_numbered_within_their_comparison() -> None:
    row = {"prompt": "Hi", "response_a": "one", "response_b": "two"}
    write_jsonl(
        Path("pairs.jsonl"),
        [row | {"label": "a"}, row | {"label": "b", "annotator": "ann"}, row | {"label": "a"}],
    )
    ((chosen, p, _),) = judged("pairs.jsonl")
    assert (chosen, p) == ("one", pytest.approx(2 / 3))
    (provenance,) = RunFolder(Path("out-0")).read("provenance")
    assert provenance.labellers == ("human:unnamed-1", "human:ann", "human:unnamed-3")


def test_labels_cut_off_halfway_are_gone_on_with() -> None:
    import asyncio
    from dataclasses import replace

    from rlaif.checking import open_road

    rows = [{"prompt": f"Question {i}", "response_a": "one", "response_b": "two", "label": "b"} for i in range(3)]
    write_jsonl(Path("pairs.jsonl"), rows)
    Path("own.yaml").write_text(
        "pairs: pairs.jsonl\nshard_rows: 1\nlabels: {source: human, options: {file: pairs.jsonl}}\n"
    )
    asyncio.run(open_road("own.yaml", out=Path("out")).run("judgements"))
    run = RunFolder(Path("out"))
    whole = list(run.read("judgements"))
    state = run.state("judgements")
    assert state
    run.set_state("judgements", replace(state, complete=False))
    run.shards("judgements")[-1].unlink()
    asyncio.run(open_road("own.yaml", out=Path("out")).run("judgements"))
    assert list(run.read("judgements")) == whole


def test_a_file_without_any_label_is_one_line() -> None:
    write_jsonl(Path("pairs.jsonl"), [{"prompt": "Hi", "response_a": "one", "response_b": "two"}])
    with pytest.raises(DataError) as error:
        judged("pairs.jsonl")
    assert str(error.value) == ("pairs.jsonl: no row carries a label (label, human_labels, p, or chosen and rejected).")


def test_a_table_of_recorded_verdicts_judges_as_its_rows_say_whichever_way_round_they_stand() -> None:
    rows = [{"prompt": f"Question {i}", "chosen": "good", "rejected": "bad"} for i in range(12)]
    write_jsonl(Path("pairs.jsonl"), rows)
    Path("judges").mkdir()
    Path("judges/recorded.yaml").write_text("protocol: scripted\nmodel_role: null\noptions: {table: pairs.jsonl}\n")
    found = judged("pairs.jsonl", "labels.source=judges", "labels.options.judges=[recorded]")
    assert found == [("good", 1.0, 1.0)] * 12
