"""Training in several processes, as ``accelerate launch`` starts them: the first walks the road, the others help it train.

Every process but the first waits in ``follow`` for work; ``everywhere`` has a function called in all of them. What they tell each
other beside gradients (lists, sums, a request to stop) goes over gloo, whatever the networks themselves use. In one process
all of this is the function itself, the list of one, the same sum.
"""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from rlaif.errors import ConfigError

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # that a process waits for another: the first may be judging for days
if "TORCHELASTIC_RUN_ID" in os.environ:
    os.environ.setdefault(
        "TORCH_CPP_LOG_LEVEL", "ERROR"
    )  # DDP looks for unused weights, experts of a mixture, and wonders aloud
STARTER = "TORCHELASTIC_RUN_ID"  # what torchrun, and with it accelerate, leaves in the environment
LOST = re.compile(r"connection (?:closed|reset)|broken pipe|timed out", re.IGNORECASE)  # by a process that is gone
_control: Any = None  # the group they talk in


def count() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if STARTER in os.environ else 1


def rank() -> int:
    """This process's place among them, from 0."""
    return int(os.environ.get("RANK", "0")) if STARTER in os.environ else 0


def layout() -> str:
    """How weights lie in this start's processes, as far as a checkpoint depends on it."""
    return f"{sharding()} of {count()}" if sharding() else "whole"


def sharding() -> str:
    """What splits weights between processes, "FSDP" or "DeepSpeed", or "" where each holds them whole."""
    variables = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
    used = [name for variable, name in variables.items() if os.environ.get(variable, "").lower() in ("true", "1")]
    return used[0] if count() > 1 and used else ""


def lead(work: Callable[[], T]) -> T:
    """``work``, in the first process, which lets the others go when it has come to its end. Whatever else it comes to (an
    error, a stop in the midst of what all were doing) ends this process, and the others with it."""
    if count() == 1:
        return work()
    if os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":
        raise ConfigError(
            "zero_stage 3 is not led: the start model is to be whole in each process at first. What would do: zero_stage 2, or the "
            "configuration fsdp, which splits weights too."
        )
    _join()
    found = work()
    if not found:  # no exit code
        _broadcast(None)
        _part()
    return found


def follow() -> None:
    """What another process does: whatever the first asks for, until it is let go, or the first is gone."""
    import signal

    from rlaif.errors import RlaifError, UserError
    from rlaif.training.trainer import Interrupted, quiet_libraries

    for kind in (signal.SIGINT, signal.SIGTERM):  # the first one decides when training stops
        signal.signal(kind, signal.SIG_IGN)
    quiet_libraries()
    _join()
    try:
        while (asked := _broadcast(None)) is not None:
            function, arguments = asked
            with suppress(Interrupted):
                function(*arguments)
        _part()
    except (RlaifError, UserError):
        return  # the first one says it
    except RuntimeError as error:
        if not LOST.search(str(error)):
            raise


def ask(function: Callable[..., Any], *arguments: Any) -> None:
    """Have ``function(*arguments)`` called in the other processes."""
    if count() > 1:
        _broadcast((function, arguments))


def everywhere(function: Callable[..., T], *arguments: Any, **here: Any) -> T:
    """``function(*arguments, **here)`` in the first process and ``function(*arguments)`` in the others; what the first gives."""
    ask(function, *arguments)
    return function(*arguments, **here)


def gathered(value: T) -> list[T]:
    """What every process has, in their order, in each of them."""
    if count() == 1:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * count()
    dist.all_gather_object(found, value, group=_control)
    return found


def to_first(value: T) -> list[T]:
    """What every process has, in their order, in the first; nothing in the others."""
    if count() == 1:
        return [value]
    import torch.distributed as dist

    found: list[Any] | None = [None] * count() if rank() == 0 else None
    dist.gather_object(value, found, dst=0, group=_control)
    return found or []


def of_first(make: Callable[[], T]) -> T:
    """What ``make`` gives in the first process, in each of them; the others wait for it."""
    if count() == 1:
        return make()
    found: T = _broadcast(make() if rank() == 0 else None)
    return found


def total(sums: Mapping[str, float]) -> dict[str, float]:
    """Sums of all processes, added up by name."""
    found: dict[str, float] = defaultdict(float)
    for each in gathered(dict(sums)):
        for name, value in each.items():
            found[name] += value
    return found


def add_gradients(parameters: Iterable[Any]) -> None:
    """Every parameter's gradient becomes the sum of all processes'. One that has none counts as 0 where another has."""
    if count() == 1:
        return
    import torch
    import torch.distributed as dist

    every = list(parameters)
    with_one = torch.tensor([p.grad is not None for p in every], dtype=torch.int32, device=every[0].device)
    dist.all_reduce(with_one)
    for parameter, there in zip(every, with_one.tolist(), strict=True):
        if not there:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)


def _join() -> None:
    global _control
    import torch
    import torch.distributed as dist

    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = (
        "false"  # each process passes through the reference, so each needs it
    )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    _control = dist.new_group(backend="gloo", timeout=PATIENCE)


def _part() -> None:
    global _control
    import torch.distributed as dist

    _control = None
    dist.destroy_process_group()


def leave(code: int) -> None:
    """End one of several processes with what it has said: at an ordinary end threads of theirs that are still there abort it."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _broadcast(value: Any) -> Any:
    """The first process's value, in each of them."""
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0, group=_control)
    return box[0]
