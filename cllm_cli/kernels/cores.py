"""A core of its own for each thread while kernels run.

Kernels of microseconds wait for their last thread. Left alone, the system wakes a thread on the core of the one that it
waits for and moves threads about: short steps take 10 to 20 % longer, for seconds at a time twice as long
(docs/log.md). The thread that calls is let go afterwards, so that neither what it starts nor what others ask of the
system (`taskset`, say) meets a process that is tied to one core.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import get_thread_id, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from cllm_cli.kernels.ahead import Call
from cllm_cli.kernels.jit import BINDING, kernel, twin
from cllm_cli.kernels.pointers import pointer

WORD = 64  # the system's masks are arrays of words, a bit a core


@twin(lambda mask, words: None)
@intrinsic
def set_affinity(typingctx: Any, mask: Any, words: Any) -> Any:
    """set_affinity(pointer, words): keeps the calling thread on the cores of a mask of so many 64-bit words."""
    if not isinstance(mask, types.CPointer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place, count = args
        # int sched_setaffinity(pid_t pid, size_t bytes, const cpu_set_t *mask); 0 is the calling thread. Where it
        # fails, the thread stays where it may be.
        number = ir.IntType(32)
        shape = ir.FunctionType(number, [number, count.type, place.type])
        function = cgutils.get_or_insert_function(builder.module, shape, "sched_setaffinity")
        builder.call(function, [number(0), builder.mul(count, count.type(WORD // 8)), place])
        return context.get_dummy_value()

    return types.void(mask, types.intp), codegen


@kernel
def bind_threads(masks):
    """Each thread of a parallel loop stays on the cores of its own row of `masks`."""
    words = masks.shape[1]
    for _ in prange(masks.shape[0]):
        set_affinity(pointer(masks, get_thread_id() * words), words)


@functools.cache
def masks_of(cores: tuple[int, ...]) -> np.ndarray:
    """A row for each core: the mask of that core alone, (cores, words)."""
    masks = np.zeros((len(cores), max(cores) // WORD + 1), np.uint64)
    for row, core in enumerate(cores):
        masks[row, core // WORD] = np.uint64(1) << np.uint64(core % WORD)
    return masks


def bind_calls() -> list[Call]:
    """What `own_cores` runs, for whoever compiles it: with a mask of no core, which the system refuses."""
    return [(bind_threads, (np.zeros((1, 1), np.uint64),))] if BINDING else []


@contextmanager
def own_cores(threads: int) -> Iterator[None]:
    """Sets the number of threads, and within it each of them, the calling one among them, has a core to itself.

    Only where they are as many as the cores that the process may use: several runs on a few threads each would all
    choose the same ones. And not where the user has told OpenMP what to do.
    """
    numba.set_num_threads(threads)
    cores = _free_cores(threads)
    if not cores:
        yield
        return
    try:
        # Each time anew: OpenMP may have started other threads, and others may have moved them.
        bind_threads(masks_of(cores))
        yield
    finally:
        if os.sched_getaffinity(0) == {cores[0]}:  # or somebody has moved the process meanwhile
            with contextlib.suppress(OSError):  # the cores were taken away
                os.sched_setaffinity(0, cores)


def _free_cores(threads: int) -> tuple[int, ...]:
    """The cores to be had for so many threads, one each; none where threads are to be left alone."""
    if threads < 2 or not BINDING or numba.threading_layer() != "omp":
        return ()
    cores = tuple(sorted(os.sched_getaffinity(0)))
    return cores if len(cores) == threads else ()
