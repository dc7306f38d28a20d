"""A run that takes a tenth of a second, and what it has learned."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cllm_cli.training import train
from cllm_cli.training.records import Record

SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "batch_size": 2, "dropout": 0.1, "threads": 1}
LENGTH = {"steps": 12, "eval_every": 4, "save_every": 3, "log_every": 1, "sample_every": 0, "seed": 3}
SETTINGS = SIZES | LENGTH
TEXT = "".join(f"line {n} of {n * n % 97}, and {n * 7 % 13}\n" for n in range(90))
MEMORY = Path("/dev/shm")


def in_memory() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder in memory, where there is such a place: a flush costs nothing there."""
    return tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)


def text_in(place: Path) -> Path:
    """A text of about 2 kB there."""
    path = place / "text.txt"
    path.write_text(TEXT, "utf-8")
    return path


def start(text: Path, run: Path, **more: Any) -> Iterator[Record]:
    """Trains anew."""
    return train([text], run, **SETTINGS | more)


def resumed(text: Path, run: Path) -> Iterator[Record]:
    """Goes on."""
    return train([text], run, resume=True, threads=1)


def resume(text: Path, run: Path) -> list[Record]:
    """Goes on to the end."""
    return list(resumed(text, run))


def bits(run: Path) -> dict[str, bytes]:
    """The best weights, and weights and moments of the last step; of a run that is not at its end, of the last save."""
    last = max(run.glob("checkpoint/step-*/state.safetensors"))
    return {str(path.relative_to(run)): path.read_bytes() for path in (run / "model.safetensors", last)}


def copied(source: Path, target: Path) -> Path:
    """A copy in place of what is at `target`."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


def strays(run: Path) -> list[str]:
    """Temporary files that a writer has left behind."""
    return [str(path) for path in run.rglob(".tmp-*")]
