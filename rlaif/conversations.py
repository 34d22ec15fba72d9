"""Conversations as files write them, as messages: the one place that knows the usual column names and forms.

Every function returns either what was asked for or, as a string, why the row cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from rlaif.errors import DataError, did_you_mean, written_as
from rlaif.records import Json, Message, Prompt, Role

PROMPT_COLUMNS = ("messages", "prompt", "instruction", "question", "conversation", "text", "query")
CATEGORY_COLUMNS = ("category", "subset", "type")
HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")
ROLES = get_args(Role)
ALIASES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


def prompt_column(row: Mapping[str, Any], asked: str | None, where: str, setting: str | None = "prompts.column") -> str:
    """The column that holds the prompt, ``asked`` by ``setting``, if there is one that names it.

    Raises DataError when there is none: the whole file is of another shape.
    """
    if asked is not None:
        if asked in row:
            return asked
        raise DataError(f'{where}: {setting}: no column "{asked}".{did_you_mean(asked, row)}')
    there = [name for name in PROMPT_COLUMNS if name in row]
    if there:
        return next((name for name in there if row[name]), there[0])
    raise DataError(
        f"{where}: no prompt column. Found {', '.join(row) or 'no columns'}; expected one of {', '.join(PROMPT_COLUMNS)}"
        f"{f', or name yours with {setting}' if setting else ''}.{written_as(row, PROMPT_COLUMNS)}"
    )


def read_prompt(
    row: Mapping[str, Any], column: str, *, system: str | None = None, drop: Sequence[str] = ()
) -> Prompt | str:
    """The prompt of a row, with its category and other scalar columns; or why there is none."""
    messages = read_messages(row[column], "user")
    if isinstance(messages, str):
        return messages
    if isinstance(row[column], str) and messages[-1] == Message(role="assistant", content=""):
        messages = messages[:-1]  # "…\n\nAssistant:" only says who speaks next
    extra = row.get("input")
    alone = isinstance(row[column], str) and len(messages) == 1
    if alone and column in ("prompt", "instruction", "question") and isinstance(extra, str) and extra.strip():
        messages = (Message(role="user", content=f"{messages[0].content}\n\n{extra}"),)
    return make_prompt(messages, row, system=system, drop=(column, "input", *drop))


def make_prompt(
    messages: tuple[Message, ...], row: Mapping[str, Any], *, system: str | None = None, drop: Sequence[str] = ()
) -> Prompt | str:
    given = row.get("system")
    system = given if isinstance(given, str) and given.strip() else system
    if system and not any(message.role == "system" for message in messages):
        messages = (Message(role="system", content=system), *messages)
    if not messages:
        return "empty prompt"
    if messages[-1].role == "assistant":
        return "the prompt ends with the assistant's turn"
    if any(message.role == "system" for message in messages[1:]):
        return "a system message that is not the first"
    if not messages[-1].content.strip():
        return "empty prompt"
    if not all(valid_unicode(message.content) for message in messages):
        return "text that is not valid Unicode"
    named = [row[name] for name in CATEGORY_COLUMNS if isinstance(row.get(name), str) and valid_unicode(row[name])]
    category = named[0] if named else None
    return Prompt(messages=messages, category=category, metadata=_scalars(row, {*drop, "system"}))


def read_messages(value: Any, role: Role) -> tuple[Message, ...] | str:
    """Text (one turn of ``role``), a list of turns, or an "Human: / Assistant:" transcript, as messages."""
    if isinstance(value, str):
        if not valid_unicode(value):
            return "text that is not valid Unicode"
        if HH_TURN.match(value):
            return split_transcript(value)
        return (Message(role=role, content=value),)
    if value is None:
        return "empty prompt" if role == "user" else "no response (null)"
    if not isinstance(value, Sequence):
        return f"expected text or a list of turns, found {type(value).__name__}"
    turns: list[Message] = []
    for turn in value:
        if not isinstance(turn, Mapping):
            return "a turn that is not an object with role and content"
        name = turn.get("role", turn.get("from"))
        content = turn.get("content", turn.get("value"))
        name = ALIASES.get(str(name).lower(), str(name).lower())
        if name not in ROLES:
            return f'a turn of unknown role "{name}"'
        if not isinstance(content, str):
            return "a turn without text"
        if not valid_unicode(content):
            return "text that is not valid Unicode"
        turns.append(Message(role=name, content=content))
    return tuple(turns)


def split_transcript(text: str) -> tuple[Message, ...]:
    r"""The HH form, ``\n\nHuman: …\n\nAssistant: …``, as messages."""
    parts = HH_TURN.split(text)
    names = parts[1::2]
    return tuple(
        Message(role="user" if name == "Human" else "assistant", content=content.strip())
        for name, content in zip(names, parts[2::2], strict=True)
    )


def common_start(a: Sequence[Message], b: Sequence[Message]) -> int:
    """How many turns two transcripts share before they answer differently: the length of their prompt.

    The shared part ends with a turn that is not the assistant's, so that what follows is a response.
    """
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    n = max(0, min(n, len(a) - 1, len(b) - 1))
    while n > 0 and (a[n - 1].role == "assistant" or a[n].role != "assistant" or b[n].role != "assistant"):
        n -= 1
    return n


def after_prompt(prompt: Sequence[Message], said: tuple[Message, ...]) -> tuple[Message, ...]:
    """What a transcript says after the prompt it repeats, with or without the prompt's system message."""
    whole = tuple(prompt)
    for turns in (whole, whole[1:] if whole[0].role == "system" else whole):
        if said[: len(turns)] == turns:
            return said[len(turns) :]
    return said


def valid_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _scalars(row: Mapping[str, Any], drop: set[str]) -> dict[str, Json]:
    kept: dict[str, Json] = {}
    for name, value in row.items():
        if name in drop or name in CATEGORY_COLUMNS or not valid_unicode(name):
            continue
        if (
            (isinstance(value, str) and len(value) <= 200 and valid_unicode(value))
            or isinstance(value, bool | int)
            or (isinstance(value, float) and value == value and abs(value) < 1e300)
        ):
            kept[name] = value
    return kept
