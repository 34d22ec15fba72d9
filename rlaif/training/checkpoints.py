"""Checkpoints that are whole or not there: while training, and the finished model."""

from __future__ import annotations

import copy
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError

from rlaif.models.local import LocalModel, as_published
from rlaif.store import disk_error

COMPLETE = "rlaif-complete"  # marks a checkpoint folder that was written to its end
TORCH_WRITER = ("PytorchStreamWriter", "inline_container")  # in what torch says when a file could not be written
NEARLY_FULL = 2**20  # bytes left from which a failed write is put down to a full disk


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; unfinished ones are removed."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        if (path / COMPLETE).is_file():
            whole.append(path)
        else:
            shutil.rmtree(path)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def prune_checkpoints(folder: Path, planned: Callable[[int], bool], best: int) -> None:
    """Remove all but the newest, the two newest that were planned, and the one after ``best`` steps."""
    found = {int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoint-*")}
    kept = {max(found), best, *sorted(filter(planned, found))[-2:]}
    for step in found.keys() - kept:
        shutil.rmtree(found[step])


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """While weights are written: what the disk has against it becomes one StorageError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
        cause = _of_the_disk(path, error)
        if cause is None:
            raise
        raise disk_error(path, cause) from error


def _of_the_disk(path: Path, error: Exception) -> OSError | None:
    """A failed write as the operating system would put it; None for an error that is no failed write."""
    place = path.parent if path.parent.is_dir() else Path.cwd()
    written = isinstance(error, SafetensorError) or any(word in str(error) for word in TORCH_WRITER)
    if (isinstance(error, OSError) or written) and shutil.disk_usage(place).free < NEARLY_FULL:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return OSError(errno.EIO, str(error)) if written else None


def save_whole(
    network: Any,
    base: LocalModel,
    out: Path,
    *,
    pad_id: int | None = None,
    beside: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Weights and tokenizer as an ordinary model folder, renamed into place when complete; ``beside``: folders that are moved
    into it, by their names there."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with saving(out):
        partial.mkdir(parents=True)
        with as_published(network):
            network.save_pretrained(str(partial))
        base.tokens.hf.save_pretrained(str(partial))
        if pad_id is not None and pad_id != base.tokens.hf.pad_token_id:
            words = copy.deepcopy(base.tokens.hf)
            words.pad_token = words.convert_ids_to_tokens(pad_id)
            words.save_pretrained(str(partial))
        generation = base.folder / "generation_config.json"
        if generation.is_file() and not (partial / "generation_config.json").exists():
            shutil.copy(generation, partial)
        for name, folder in beside.items():
            folder.rename(partial / name)
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
