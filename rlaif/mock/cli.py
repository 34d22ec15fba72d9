"""``rlaif mock-server``: flags made of the fields of MockOptions, so that none is written twice."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from rlaif.component import parse_model
from rlaif.mock.faults import FAULTS
from rlaif.mock.options import MockOptions
from rlaif.mock.workers import serve

EPILOG = "Faults: " + "; ".join(f"{fault.name} ({fault.effect})" for fault in FAULTS.values()) + "."


def run(arguments: Sequence[str]) -> None:
    """Parse flags and serve until Ctrl-C. Raises ConfigError and the like for what does not fit."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(epilog=EPILOG)(command())
    app(list(arguments), prog_name="rlaif mock-server", standalone_mode=False)


def command() -> Any:
    """The function behind the command, with one parameter for each option."""

    def mock_server(**values: Any) -> None:
        """A mock LLM server with the wire formats of OpenAI and Anthropic, on which nothing costs anything."""
        given = {name: value for name, value in values.items() if value is not None and value != []}
        stats = serve(parse_model(MockOptions, given, "mock-server"), lambda line: print(line, flush=True))
        print(
            f"{stats['requests']:,} requests, {stats['answered']:,} answered, {stats['repeats']:,} of them repeatedly"
        )

    fields = MockOptions.model_fields
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=_flag(name, field))
        for name, field in fields.items()
    ]
    mock_server.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    mock_server.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return mock_server


def _flag(name: str, field: FieldInfo) -> Any:
    kind: Any = field.annotation
    if get_origin(kind) is tuple:
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
    flag = f"--{name.replace('_', '-')}"
    return Annotated[kind, typer.Option(flag, help=field.description)]


def _default(field: FieldInfo) -> Any:
    return list(field.default) if isinstance(field.default, tuple) else field.default
