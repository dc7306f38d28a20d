"""Kernels made ready before the first step, so that their compilation is seen, timed, and not part of a step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from cllm_cli.kernels.ahead import Call, compile_ahead
from cllm_cli.training.records import Compiled, Compiling
from cllm_cli.training.resolve import available_cores


def compile_kernels(calls: Iterable[Call]) -> Iterator[Compiling | Compiled]:
    """Compiles each kernel for its arguments in other processes, and loads it; the last record has the seconds."""
    started, total = time.monotonic(), 0
    for name, done, total, loading in compile_ahead(calls, available_cores()):
        yield Compiling(name, done, total, loading)
    yield Compiled(time.monotonic() - started, total)
