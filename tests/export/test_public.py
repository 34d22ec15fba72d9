"""What leaves this machine names none of its places and holds no key."""

from __future__ import annotations

import pytest

from rlaif.export.public import public, public_name, public_text


@pytest.mark.parametrize(
    ("text", "left"),
    {
        "a path": ("/home/ann/models/judge", "judge"),
        "a path with spaces": ("/home/ann/my models/the judge", "the judge"),
        "a path from home": ("~/models/judge", "judge"),
        "a path of another system": (r"C:\Users\ann\judge", "judge"),
        "a folder of the hub's form": ("hub:/home/ann/data", "hub:data"),
        "a name": ("models/judge", "models/judge"),
        "a switch of some models": ("/no_think", "/no_think"),
        "an address": ("https://api.example.com/v1/chat", "https://api.example.com/v1/chat"),
        "an address with a password": ("https://ann:word@example.com/v1", "https://example.com/v1"),
        "an address with a key": ("https://example.com/v1?key=abc&x=1", "https://example.com/v1?key=(left out)&x=1"),
        "a key": ("sk-abcdefgh1234", "(left out)"),
    }.values(),
)  # fmt: skip
def test_a_setting(text: str, left: str) -> None:
    assert public_name(text) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("cannot read /srv/data/x.jsonl: gone", "cannot read x.jsonl: gone"),
        ("Incorrect API key provided: sk-abcd****wxyz.", "Incorrect API key provided: (left out)."),
        ("Authorization: Bearer abc.def", "Authorization: Bearer (left out)"),
        ("either/or, 1/2, and/or/not", "either/or, 1/2, and/or/not"),
    ],
)
def test_free_text(text: str, left: str) -> None:
    assert public_text(text) == left


def test_what_stands_under_a_secret_s_name_is_left_out_and_a_count_of_tokens_is_not() -> None:
    options = {"api_key": "abc", "headers": {"X-Api-Key": "abc"}, "max_output_tokens": 8, "stop": ["/etc/a/b"]}
    assert public(options) == {
        "api_key": "(left out)",
        "headers": {"X-Api-Key": "(left out)"},
        "max_output_tokens": 8,
        "stop": ["b"],
    }
