"""Kernels made ready before a command needs them, with a word to whoever waits."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cllm_cli.errors import ConfigError

Call = tuple[Any, tuple[Any, ...]]


def prepare(calls: Iterable[Call], quiet: bool = False) -> int:
    """Compiles or loads the kernels of `calls`; on a terminal says which, while it takes long enough to be noticed.

    Gives the number of different kernels.
    """
    from cllm_cli.reporting.terminal import tell_note
    from cllm_cli.training.compiling import compile_kernels
    from cllm_cli.training.records import Compiled, Compiling, Notice

    progress, kernels = _Progress(quiet), 0
    for record in compile_kernels(calls):
        if isinstance(record, Compiled):
            kernels = record.kernels
        if isinstance(record, Notice):
            tell_note(record.message)
        if isinstance(record, Compiling) and not record.loading:
            progress.show(record.kernel, record.done, record.total)
    progress.clear()
    return kernels


def prepare_for(level: str, folder: Path, calls: Iterable[Call], quiet: bool = False) -> int:
    """Compiles the kernels of `calls` for a CPU level into a new folder; gives how many there are.

    Raises ConfigError for an unknown level, and for a folder that is there or cannot be made.
    """
    from cllm_cli.errors import nearest
    from cllm_cli.kernels.ahead import compile_for
    from cllm_cli.kernels.levels import LEVELS
    from cllm_cli.training.machine import available_cores

    if level not in LEVELS:
        raise ConfigError(f"unknown --level '{level}'", nearest(level, LEVELS))
    if folder.exists() or not folder.parent.is_dir():
        raise ConfigError(f"cannot make {folder}: it is there, or the folder that it is in is not", "choose another")
    progress, total = _Progress(quiet), 0
    for name, done, total in compile_for(level, folder, calls, available_cores()):
        progress.show(name, done, total)
    progress.clear()
    return total


def every_call() -> list[Call]:
    """Every kernel of every command, with arguments of the right types."""
    from cllm_cli.checks.selection import chosen_checks
    from cllm_cli.config import make_settings
    from cllm_cli.model.decode import Decoder
    from cllm_cli.optim import OPTIMIZERS
    from cllm_cli.presets import preset
    from cllm_cli.profiling.roof import roof_calls
    from cllm_cli.text.copying import copying_calls
    from cllm_cli.training.evaluate import Evaluator
    from cllm_cli.training.session import rehearsal

    # Kernels are compiled for types, not for sizes: any model will do.
    calls = [*roof_calls(), *chosen_checks(None, None, True, 0).calls]
    for name in OPTIMIZERS:
        session = rehearsal(make_settings(preset("nano"), {"optimizer": name, "dropout": 0.1}), 256)
        calls += session.stepper.calls()
    model, corpus = session.model, session.corpus
    calls += Evaluator(model, corpus.val, corpus.tokenizer, session.stepper.batch).calls()
    return [*calls, *Decoder(model).calls(), *copying_calls()]


class _Progress:
    """A line on a terminal that says which kernel is being compiled."""

    def __init__(self, quiet: bool) -> None:
        from cllm_cli.reporting.terminal import is_plain

        self._live, self._shown = not quiet and not is_plain(sys.stderr), False

    def show(self, kernel: str, done: int, total: int) -> None:
        if self._live:
            sys.stderr.write(f"\r\x1b[Kcompiling kernels, once: {kernel}, {done} of {total}")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
