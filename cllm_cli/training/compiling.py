"""Kernels made ready before the first step, so that their compilation is seen, timed, and not part of a step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from cllm_cli.kernels.ahead import HERE, LOAD, Call, compile_ahead
from cllm_cli.training.records import Compiled, Compiling, Notice
from cllm_cli.training.resolve import available_cores


def compile_kernels(calls: Iterable[Call]) -> Iterator[Compiling | Compiled | Notice]:
    """Compiles each kernel for its arguments in other processes, and loads it; the last record has the seconds."""
    started, total = time.monotonic(), 0
    for name, done, total, doing in compile_ahead(calls, available_cores()):
        if doing == HERE:
            yield Notice(f"{name} had to be compiled in this process: later runs may differ in the last bits")
        yield Compiling(name, done, total, loading=doing == LOAD)
    yield Compiled(time.monotonic() - started, total)
