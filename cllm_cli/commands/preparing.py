"""Kernels made ready before a command needs them, with a word to whoever waits."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def prepare(calls: Iterable[tuple[Any, tuple[Any, ...]]], quiet: bool = False) -> int:
    """Compiles or loads the kernels of `calls`; on a terminal says which, while it takes long enough to be noticed.

    Gives the number of different kernels.
    """
    from cllm_cli.reporting.terminal import is_plain, write_line
    from cllm_cli.training.compiling import compile_kernels
    from cllm_cli.training.records import Compiled, Compiling, Notice

    live, shown, kernels = not quiet and not is_plain(sys.stderr), False, 0
    for record in compile_kernels(calls):
        if isinstance(record, Compiled):
            kernels = record.kernels
        if isinstance(record, Notice):
            write_line(sys.stderr, f"note: {record.message}")
        if live and isinstance(record, Compiling) and not record.loading:
            sys.stderr.write(f"\r\x1b[Kcompiling kernels, once: {record.kernel}, {record.done} of {record.total}")
            sys.stderr.flush()
            shown = True
    if shown:
        sys.stderr.write("\r\x1b[K")
    return kernels
