"""Worked examples before the question, as data: zero-shot without, few-shot with them.

A file in ``prompts/sets``, one JSON object a line: the columns of the template's judged text (``prompt``, and
``response``, ``response_1`` and ``response_2``, or ``responses``, a list), the ``reply`` a good judge gives, and
``principle`` where it is judged by one of its own (Bai et al. 2022, Constitutional AI, 2212.08073, §4.1). Each is rendered through the judge's own
template, a user turn and its reply; instructions in a system turn stand once, before all of them.

Examples are not free: Lee et al. 2023 (RLAIF, 2309.00267) Table 2 find that they mostly lower agreement with people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlaif.errors import ConfigError
from rlaif.judging import ProtocolContext
from rlaif.prompting import Template
from rlaif.records import Message
from rlaif.rows import read_rows

REPLY, PRINCIPLE, RESPONSES = "reply", "principle", "responses"
Row = Mapping[str, Any]  # text by column, and a list of texts as responses


@dataclass(frozen=True)
class Exemplars:
    """Examples by the placeholders they fill, each with its reply."""

    rows: tuple[Row, ...] = ()

    @classmethod
    def read(
        cls, name: str | None, context: ProtocolContext, template: Template, columns: tuple[str, ...]
    ) -> Exemplars:
        """The examples of the named set; none for None. Raises ConfigError."""
        if name is None:
            return cls()
        path = str(context.entry("set", name).path)
        rows: list[Row] = []
        for where, row in read_rows(path):
            rows.append(_checked(where, row, columns, template))
        if not rows:
            raise ConfigError(f"{path}: no example in it.")
        return cls(tuple(rows))

    def fill(
        self, template: Template, values: Mapping[str, str], shown_as: Callable[[Row], Mapping[str, str]] = dict
    ) -> tuple[Message, ...]:
        """The messages of a question: instructions, examples and their replies, then what is asked. ``shown_as`` makes the
        template's placeholders of an example's columns, where they differ."""
        asked = template.fill(values)
        head = next(i for i, message in enumerate(asked) if message.role != "system")
        shown: list[Message] = []
        for row in self.rows:
            shown += template.fill({**values, **shown_as(row)})[head:]
            shown.append(Message(role="assistant", content=template.prefill + row[REPLY]))
        return (*asked[:head], *shown, *asked[head:])


def _checked(where: str, row: Row, columns: tuple[str, ...], template: Template) -> Row:
    wanted = {*columns, REPLY}
    if not wanted <= set(row) <= {*wanted, PRINCIPLE} or not all(_fits(*column) for column in row.items()):
        raise ConfigError(
            f"{where}: an example has {', '.join(sorted(wanted))} and, if you like, {PRINCIPLE}, all text"
            + (f", {RESPONSES} a list of 2 to 26 texts." if RESPONSES in columns else ".")
        )
    if PRINCIPLE in row and any(role == "system" and "{{principle}}" in body for role, body in template.sections):
        raise ConfigError(
            f"{where}: an example with a principle of its own needs a template that has {{{{principle}}}} in the user's "
            "turn, as compare-two-local does: the system turn stands once, before all examples."
        )
    return dict(row)


def _fits(name: str, value: Any) -> bool:
    if name == RESPONSES:
        return isinstance(value, list) and 2 <= len(value) <= 26 and all(isinstance(each, str) for each in value)
    return isinstance(value, str)
