"""A model that a function or a table speaks for: for tests, for documentation, for trying a pipeline before paying.

``model`` names either ``package.module:function``, called with the ChatRequest and returning a string or a Reply, or a
JSONL file of ``{"contains": "...", "reply": "..."}`` rows, the first whose ``contains`` stands in the last message
wins. A request that offers options and gets a plain string back is answered as if the model were sure of that word.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlaif.component import Options as BaseOptions
from rlaif.component import load, users_code
from rlaif.errors import CallFailed, ConfigError
from rlaif.models import ChatRequest, Identity, Notice, Reply
from rlaif.models.pacing import Pace
from rlaif.records import Role
from rlaif.rows import need_source, read_rows, source_hash


class ScriptedModel:
    """A CallModel: answers one request at a time, at once."""

    pace = Pace(attempts=1)  # a script says the same again
    free = True

    class Options(BaseOptions):
        default: str | None = None  # a table's answer where no row matches; None: the call fails

    def __init__(self, model: str, options: Options, *, where: str, notice: Notice) -> None:
        self.options = options
        path = Path(model)
        if path.suffix == ".jsonl":
            need_source(model, where)
            self._answer: Callable[[ChatRequest], Any] = self._table(model)
            source = source_hash(model)
            self.inputs = {model: source}
        else:
            self._answer = load(model, {}, "function", where)
            source = _source_hash(self._answer)
        self.identity = Identity(
            f"scripted:{model}", None, (("provider", "scripted"), ("source", source), ("default", str(options.default)))
        )

    def separates_turns(self, roles: Sequence[Role]) -> bool:
        """A function sees the turns themselves, not a text made of them."""
        return True

    async def complete(self, request: ChatRequest) -> Reply:
        with users_code(self._answer, "answering a request"):
            answer = self._answer(request)
            if inspect.isawaitable(answer):
                answer = await answer
        if isinstance(answer, str):
            logprobs = ((answer, 0.0),) if request.options else ()
            return Reply(text=answer, logprobs=logprobs, output_tokens=len(answer.split()))
        if not isinstance(answer, Reply):
            raise CallFailed(f"{self.identity.name} returned {type(answer).__name__}, not a string or a Reply")
        return answer

    def _table(self, file: str) -> Callable[[ChatRequest], str]:
        rows: list[tuple[str, str]] = []
        for where, row in read_rows(file):
            if set(row) != {"contains", "reply"} or not all(isinstance(value, str) for value in row.values()):
                raise ConfigError(f'{where}: expected {{"contains": …, "reply": …}}, both text.')
            rows.append((row["contains"], row["reply"]))

        def answer(request: ChatRequest) -> str:
            text = request.messages[-1].content
            for needle, reply in rows:
                if needle in text:
                    return reply
            if self.options.default is None:
                raise CallFailed("no row of the table matches")
            return self.options.default

        return answer


def _source_hash(function: Any) -> str:
    """The function's name and source text, so that an edited script is asked again."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = ""
    name = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', repr(type(function)))}"
    return hashlib.sha256(f"{name}\n{source}".encode()).hexdigest()
