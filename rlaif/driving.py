"""What every command that asks models has in common: an event loop that Ctrl-C ends cleanly, progress, its options."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rlaif.display import Display
    from rlaif.pipeline import Watcher

T = TypeVar("T")

Settings = Annotated[list[str], typer.Option("--set", help="key=value laid over the recipe, for instance seed=1.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; made, or continued where it stands.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first N rows of the input.")]
Model = Annotated[
    str | None,
    typer.Option("--model", help="The judge's model: a local folder, openai:NAME, anthropic:NAME or scripted:…"),
]
Constitution = Annotated[str | None, typer.Option("--constitution", help="Name or path.")]


def judged_by(name: str, model: str | None, constitution: str | None) -> dict[str, Any]:
    """The part of a recipe that a judge's flags describe."""
    return {
        "labels": {"source": "judges", "options": {"judges": [name]}},
        "constitution": constitution,
        "models": {_role_of(name): model_of(model)} if model else {},
    }


def _role_of(name: str) -> str:
    """The role of the model that a judge asks. Raises ConfigError for a judge that is not there or asks none."""
    from rlaif.catalogue import Catalogue
    from rlaif.errors import ConfigError

    role = Catalogue().find("judge", name, where="the command line").yaml().get("model_role", "judge")
    if role is None:
        raise ConfigError(f"judge {name} asks no model (model_role: null): leave --model out.")
    return str(role)


def model_of(name: str) -> Any:
    """``openai:NAME``, ``anthropic:NAME``, ``scripted:package.module:function`` or a folder."""
    from rlaif.models import PROVIDERS

    provider, colon, rest = name.partition(":")
    return {"provider": provider, "model": rest} if colon and provider in PROVIDERS else name


def watched(work: Callable[[Watcher], Awaitable[T]]) -> T:
    """``work`` to its end, with its progress and its notices shown."""
    with shown() as (_, watcher):
        return run_to_end(lambda: work(watcher))


@contextmanager
def shown() -> Iterator[tuple[Display, Watcher]]:
    """A display of progress, and the watcher that tells it; the display still speaks once it is closed."""
    from rlaif.display import Display
    from rlaif.pipeline import Watcher

    collect_seldom()
    with Display() as display:
        yield display, Watcher(display.listen, display.notice)


def quiet_bitsandbytes() -> None:
    """It wishes for another package wherever it is imported, and says so."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def collect_seldom() -> None:
    """What was imported stays; and cycles are few while thousands of calls are under way."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def run_to_end(work: Callable[[], Awaitable[T]]) -> T:
    """asyncio.run where Ctrl-C and SIGTERM cancel the work, which then keeps what is finished."""

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work())
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(guarded())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where there is one: thousands of calls a second cost about half as much on it."""
    try:
        import uvloop
    except ImportError:  # not made for this system
        return None
    return uvloop.new_event_loop
