"""Checkpoints that are whole or not there: while training, and the finished model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rlaif.models.local import LocalModel

COMPLETE = "rlaif-complete"  # marks a checkpoint folder that was written to its end


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; unfinished ones are removed."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        if (path / COMPLETE).is_file():
            whole.append(path)
        else:
            shutil.rmtree(path)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def save_whole(network: Any, base: LocalModel, out: Path) -> None:
    """Weights and tokenizer as an ordinary model folder, renamed into place when complete."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    network.save_pretrained(str(partial))
    base.tokens.hf.save_pretrained(str(partial))
    generation = base.folder / "generation_config.json"
    if generation.is_file() and not (partial / "generation_config.json").exists():
        shutil.copy(generation, partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
