"""How a recorded raw reply becomes a verdict: readers by name.

A reader takes the reply and the row it stands in, and says what the judge picked as it was shown: "first", "second",
"tie", or None where that cannot be read. Who was shown first is put in afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from rlaif.component import load, users_code
from rlaif.errors import UserError
from rlaif.judging.reading import read_choice
from rlaif.judging.statements import read_statement

Reader = Callable[[str, Mapping[str, Any]], str | None]

READERS = {
    "own": "rlaif.recorded.readers:own",
    "llmbar": "rlaif.recorded.readers:llmbar",
}
SHOWN = ("first", "second", "tie")
WORDS = ((("A", "B"), "C"), (("1", "2"), "tie"))  # and each with a noun and in brackets: "Output (a)"
STATED = tuple(re.compile(rf"Output \({letter}\) is better.") for letter in "ab")
OPENING = tuple(re.compile(rf"(?:^|\n) ?Output \({letter}\)") for letter in "ab")


def find_reader(name: str) -> Reader:
    """The reader called ``name``, or a function of one's own, ``package.module:function``. Raises ConfigError."""
    reader = load(name, READERS, "reader", "--reader")

    def checked(reply: str, row: Mapping[str, Any]) -> str | None:
        with users_code(reader, lambda: f"the reply {reply[:60]!r} could not be read"):
            shown: str | None = reader(reply, row)
        if shown is not None and shown not in SHOWN:
            raise UserError(f'--reader {name}: gave {shown!r}; expected "first", "second", "tie" or None.')
        return shown

    return checked


def own(reply: str, row: Mapping[str, Any]) -> str | None:
    """This project's reading: a marked verdict between A and B (C: tie) or 1 and 2; else the last sentence that claims
    one side to be better.
    """
    for words, tie in WORDS:
        choice = read_choice(reply, words, tie)
        if choice is not None:
            return SHOWN[choice]
    claimed = read_statement(reply)
    return None if claimed is None else SHOWN[claimed]


def llmbar(reply: str, row: Mapping[str, Any]) -> str | None:
    """The rule of LLMBar's own evaluators (Zeng et al. 2023, 2310.07641): where the form for the first response is
    found anywhere it wins, even over a later one for the second.

    The form is a line that opens with "Output (a)"; for a chain of thought it is "Output (a) is better." (whose full
    stop stands for any character), except for PaLM2's CoT, which the source read by opening lines. Swap thinks in its
    drafts alone; its final row repeats the draft where both drafts agree, so there the one form is tried, then the other.
    """
    method, stage = str(row.get("method")), row.get("stage")
    if "CoT" in method:
        tried = [OPENING if (row.get("judge"), method) == ("PaLM2", "CoT") else STATED]
    elif method == "Swap":
        tried = [STATED] if stage == "draft" else [STATED, OPENING]
    else:
        tried = [OPENING]
    found = (shown for forms in tried for shown, form in zip(SHOWN, forms, strict=False) if form.search(reply.strip()))
    return next(found, None)
