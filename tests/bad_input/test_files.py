"""Files that are missing, malformed or of the wrong shape: one clear line, a fitting exit code, no traceback, finished work kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import GONE, GOOD, OTHER, SHORT, Rlaif, prompts, records
from tests.tiny import write_jsonl

Wrong = tuple[dict[str, bytes], list[str], str]
JUDGE = ["judge", "longest"]


WRONG_FILES: dict[str, Wrong] = {
    "pairs missing": ({}, [*JUDGE, "nowhere.jsonl"], f"rlaif judge: pairs.source: nowhere.jsonl: {GONE}"),
    "labels missing": (
        {"pairs.jsonl": b""},
        ["label", "pair.jsonl"],
        'pair.jsonl: no such file in this folder. Did you mean "pairs.jsonl"?',
    ),
    "a line that is not JSON": (
        {"p.jsonl": b'{"prompt": "a", "chosen": "b", "rejected": "c"}\nprompt,chosen\n'},
        [*JUDGE, "p.jsonl"],
        "p.jsonl line 2: not valid JSON: Expecting value at column 1.",
    ),
    "a file cut off": (
        {"p.jsonl": b'{"prompt": "a", "chosen": "b"'},
        [*JUDGE, "p.jsonl"],
        "p.jsonl line 1: not valid JSON: it breaks off after column 29 (cut off?).",
    ),
    "an empty file": ({"p.jsonl": b""}, [*JUDGE, "p.jsonl"], "p.jsonl: the file is empty."),
    "a header alone": (
        {"p.csv": b"prompt,chosen,rejected\n"},
        [*JUDGE, "p.csv"],
        "p.csv: a header and no rows.",
    ),
    "an ending no one knows": (
        {"p.xlsx": b"PK"},
        [*JUDGE, "p.xlsx"],
        "p.xlsx: files end in .jsonl, .json, .csv (each also .gz) or .parquet; hub ids start with hub:.",
    ),
    "latin-1 among UTF-8": (
        {"p.jsonl": json.dumps(GOOD).encode() + b"\n" + '{"prompt": "Wie groß?"}\n'.encode("latin-1")},
        [*JUDGE, "p.jsonl"],
        "p.jsonl line 2: not UTF-8 text (byte 0xdf at position 19). Save the file as UTF-8.",
    ),
    "UTF-16": (
        {"p.csv": "prompt,chosen,rejected\na,b,c\n".encode("utf-16")},
        [*JUDGE, "p.csv"],
        "p.csv: UTF-16 text. Save it as UTF-8.",
    ),
    "gzip cut off": (
        {"p.jsonl.gz": b"\x1f\x8b\x08\x00"},
        [*JUDGE, "p.jsonl.gz"],
        "p.jsonl.gz: not a whole gzip file: Compressed file ended before the end-of-stream marker was reached.",
    ),
    "wrong columns": (
        {"p.jsonl": b'{"question": "a", "good": "b", "bad": "c"}\n'},
        [*JUDGE, "p.jsonl"],
        "p.jsonl line 1: not a pair. Found question, good, bad; expected chosen and rejected, or response_a and "
        "response_b with a label.",
    ),
    "a label no one could mean": (
        {"p.jsonl": b'{"prompt": "a", "response_a": "b", "response_b": "c", "label": "left"}\n'},
        ["label", "p.jsonl"],
        'p.jsonl line 1: label \'left\'; expected "a", "b", "tie" or null.',
    ),
    "no labels": (
        {"p.jsonl": b'{"prompt": "a", "response_a": "b", "response_b": "c"}\n'},
        ["label", "p.jsonl"],
        "p.jsonl: no row carries a label (label, human_labels, p, or chosen and rejected).",
    ),
    "identical responses only": (
        {"p.jsonl": b'{"prompt": "a", "chosen": "b", "rejected": "b"}\n' * 2},
        [*JUDGE, "p.jsonl"],
        "p.jsonl: nothing to compare: 2 × identical responses.",
    ),
    "empty prompts only": (
        {"p.jsonl": b'{"prompt": " ", "chosen": "b", "rejected": "c"}\n'},
        [*JUDGE, "p.jsonl"],
        "p.jsonl: nothing to compare: 1 × empty prompt.",
    ),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_file_of_pairs_is_one_line_and_exit_code_2(name: str, rlaif: Rlaif) -> None:
    files, arguments, message = WRONG_FILES[name]
    for file, data in files.items():
        Path(file).write_bytes(data)
    said = rlaif(*arguments, "--out", "out")
    assert (said.code, said.line, said.out) == (2, f"rlaif: {message}", "")


WRONG_PROMPTS = {
    "missing": (None, f"rlaif sample: prompts.source: p.jsonl: {GONE}"),
    "wrong columns": (
        b'{"ask": "a", "n": 1}\n',
        "p.jsonl line 1: no prompt column. Found ask, n; expected one of messages, prompt, instruction, question, "
        "conversation, text, query, or name yours with prompts.column.",
    ),
    "empty prompts only": (
        b'{"prompt": ""}\n{"prompt": " "}\n{"prompt": null}\n',
        "p.jsonl: no usable prompt: 3 × empty prompt.",
    ),
    "all answered": (
        b'{"prompt": [{"role": "assistant", "content": "a"}]}\n',
        "p.jsonl: no usable prompt: 1 × the prompt ends with the assistant's turn.",
    ),
}


@pytest.mark.parametrize("name", WRONG_PROMPTS)
def test_a_wrong_file_of_prompts_is_one_line_and_exit_code_2(name: str, rlaif: Rlaif, policy_folder: Path) -> None:
    data, message = WRONG_PROMPTS[name]
    if data is not None:
        Path("p.jsonl").write_bytes(data)
    said = rlaif("sample", "--model", policy_folder, "p.jsonl", "--out", "out")
    assert (said.code, said.line) == (2, f"rlaif: {message}")


def test_a_column_that_is_not_there_offers_a_near_one(rlaif: Rlaif, policy_folder: Path) -> None:
    write_jsonl(Path("p.jsonl"), [{"query_text": "Hi"}])
    said = rlaif("sample", "--model", policy_folder, "p.jsonl", "--set", "prompts.column=query_txt")
    assert (said.code, said.line) == (
        2,
        'rlaif: p.jsonl line 1: prompts.column: no column "query_txt". Did you mean "query_text"?',
    )


def test_rows_that_cannot_be_used_are_counted_by_reason_and_the_rest_goes_on(rlaif: Rlaif) -> None:
    rows = [
        GOOD,
        GOOD,
        OTHER,
        {"prompt": "a", "chosen": "same", "rejected": "same"},
        {"prompt": " ", "chosen": "b", "rejected": "c"},
        {"prompt": "", "chosen": "b", "rejected": "c"},
        {"prompt": "", "chosen": "c", "rejected": "d"},
        {"prompt": "a", "chosen": "\ud83d", "rejected": "c"},
    ]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    said = rlaif("judge", "longest", "p.jsonl", "--out", "out")
    assert said.code == 0
    assert "pairs                       8 rows: 2 passed on, 5 filtered, 1 joined" in said.text
    counted = json.loads(Path("out/accounts.json").read_text())["pairs"]["reasons"]
    assert counted == {
        "no prompt and no shared beginning": 2,
        "the same row again, no annotator named: read as another person's votes": 1,
        "identical responses": 1,
        "empty prompt": 1,
        "chosen: text that is not valid Unicode": 1,
    }
    lines = [line.strip() for line in said.err.splitlines()]
    assert "2 × no prompt and no shared beginning" in lines
    assert "1 more reasons: accounts.json" in lines
    assert len(records("out", "preferences")) == 2


def test_repeated_prompts_are_sampled_once_and_counted(rlaif: Rlaif, policy_folder: Path) -> None:
    said = rlaif(
        "sample", "--model", policy_folder, prompts("Hi", "Hi", "Bye"), "--samples", "2",
        "--out", "out", *SHORT,
    )  # fmt: skip
    assert said.code == 0
    assert "3 rows: 2 passed on, 1 filtered" in said.text
    assert "1 × duplicate prompt" in said.text
    assert len(records("out", "responses")) == 4
