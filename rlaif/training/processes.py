"""Training in several processes, as ``accelerate launch`` starts them: the first walks the road, the others help it train.

Every process but the first waits in ``follow`` for work; ``everywhere`` has a function called in all of them. What they tell each
other beside gradients (lists, sums, a request to stop) goes over gloo, whatever the networks themselves use. In one process
all of this is the function itself, the list of one, the same sum.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # that a process waits for another: the first may be judging for days
if "WORLD_SIZE" in os.environ:
    os.environ.setdefault(
        "TORCH_CPP_LOG_LEVEL", "ERROR"
    )  # DDP looks for unused weights, experts of a mixture, and wonders aloud
_control: Any = None  # the group they talk in


def count() -> int:
    """How many processes were started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's place among them, from 0."""
    return int(os.environ.get("RANK", "0"))


def sharding() -> str:
    """What splits weights between processes, "FSDP" or "DeepSpeed", or "" where each holds them whole."""
    variables = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
    used = [name for variable, name in variables.items() if os.environ.get(variable, "").lower() in ("true", "1")]
    return used[0] if count() > 1 and used else ""


@contextmanager
def leading() -> Iterator[None]:
    """What the first process does for the others: it lets them go at the end. An error ends them with it."""
    if count() == 1:
        yield
        return
    _join()
    yield
    _broadcast(None)
    _part()


def follow() -> None:
    """What another process does: whatever the first asks for, until it is let go."""
    import signal

    from rlaif.training.trainer import Interrupted, quiet_libraries

    for kind in (signal.SIGINT, signal.SIGTERM):  # the first one decides when training stops
        signal.signal(kind, signal.SIG_IGN)
    quiet_libraries()
    _join()
    while (asked := _broadcast(None)) is not None:
        function, arguments = asked
        try:
            function(*arguments)
        except Interrupted:
            continue
    _part()


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
    """Every parameter's gradient becomes the sum of all processes'; of one that has none it counts as 0."""
    if count() == 1:
        return
    import torch
    import torch.distributed as dist

    for parameter in parameters:
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
    import torch.distributed as dist

    dist.destroy_process_group()


def _broadcast(value: Any) -> Any:
    """The first process's value, in each of them."""
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0, group=_control)
    return box[0]
