"""Kernels made ready before the first step, so that their compilation is seen, timed, and not part of a step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numba

from cllm_cli.training.records import Compiled, Compiling

Call = tuple[Any, tuple[Any, ...]]


def compile_kernels(calls: Iterable[Call]) -> Iterator[Compiling | Compiled]:
    """Compiles each kernel for its arguments, or loads it from the cache."""
    wanted: dict[tuple[Any, Any], Any] = {}
    for kernel, args in calls:
        if hasattr(kernel, "compile"):  # with the JIT off a kernel is a plain function
            wanted[kernel, tuple(map(numba.typeof, args))] = kernel
    started = time.monotonic()
    for done, ((_, types), kernel) in enumerate(wanted.items()):
        yield Compiling(kernel.__name__, done, len(wanted))
        kernel.compile(types)
    yield Compiled(time.monotonic() - started, len(wanted))
