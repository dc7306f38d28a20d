"""Kernels made ready before the first step, so that their compilation is seen, timed, and not part of a step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from cllm_cli.kernels.ahead import COMPILE, HERE, LOAD, UNKEPT, Call, compile_ahead
from cllm_cli.kernels.jit import CACHE_VARIABLE, TARGET
from cllm_cli.kernels.levels import NATIVE, shipped_levels
from cllm_cli.training.machine import available_cores
from cllm_cli.training.records import Compiled, Compiling, Notice


def compile_kernels(calls: Iterable[Call]) -> Iterator[Compiling | Compiled | Notice]:
    """Compiles each kernel for its arguments in other processes, and loads it; the last record has the seconds."""
    started, total = time.monotonic(), 0
    others = shipped_levels() if TARGET == NATIVE else []
    told = False
    for name, done, total, doing in compile_ahead(calls, available_cores()):
        if doing == COMPILE and others:
            yield Notice(f"the kernels that came along are for {' and '.join(others)}: compiling for this CPU, once")
            others = []
        if doing == HERE:
            yield Notice(f"{name} had to be compiled in this process: later runs may differ in the last bits")
        if doing == UNKEPT and not told:
            yield Notice(
                "compiled kernels are not kept, so every command compiles anew: "
                f"set {CACHE_VARIABLE} to a folder that only you can write to"
            )
            told = True
        yield Compiling(name, done, total, loading=doing == LOAD)
    yield Compiled(time.monotonic() - started, total)
