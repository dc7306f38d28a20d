"""The machine's roofs on all threads: operations a second by our own micro-kernel, bytes a second by a copy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from numba import prange

from cllm_cli.kernels.ahead import Call
from cllm_cli.kernels.cores import bind_calls, own_cores
from cllm_cli.kernels.jit import kernel
from cllm_cli.kernels.pointers import pointer
from cllm_cli.kernels.simd import MR, columns, microkernel

DEPTH = 256  # k of the panels, which stay in the caches of a core
ROUNDS = 400
SECONDS = 0.2  # of trying: a few milliseconds may all pass before each thread has a core to itself
COPIED = 1 << 24  # elements of the arrays that are copied, far more than the caches hold


@dataclass(frozen=True)
class Roof:
    """10⁹ floating-point operations and 10⁹ bytes moved (each read and each write counts) a second, in float32."""

    gflops: float
    gbytes: float


@kernel
def multiply_in_cache(c, a, b, rounds):
    """Each row of c, a, b is a task of its own: `rounds` times the same tile from the same panels."""
    depth, width = a.shape[1] // MR, b.shape[1] // (a.shape[1] // MR)
    no = np.bool_(False)
    for task in prange(c.shape[0]):
        panel_a, panel_b = pointer(a, task * a.shape[1]), pointer(b, task * b.shape[1])
        tile = pointer(c, task * c.shape[1])
        for _ in range(rounds):
            microkernel(depth, panel_a, panel_b, tile, width, tile, width, no, MR)


@kernel
def copy_memory(out, x):
    """out = x; by rows, so that each thread's part is one piece."""
    for n in prange(x.shape[0]):
        for c in range(x.shape[1]):
            out[n, c] = x[n, c]


def roof_calls() -> list[Call]:
    """The kernels that are timed, with their arguments."""
    threads, width = numba.get_num_threads(), columns(4)
    a = np.ones((threads, MR * DEPTH), np.float32)
    b = np.ones((threads, width * DEPTH), np.float32)
    c = np.zeros((threads, MR * width), np.float32)
    x = np.ones((256, COPIED // 256), np.float32)
    return [(multiply_in_cache, (c, a, b, ROUNDS)), (copy_memory, (np.zeros_like(x), x)), *bind_calls()]


def measure_roof() -> Roof:
    """The best of many runs each, on the threads that are set."""
    (multiply, (c, a, b, rounds)), (copy, (out, x)), *_ = roof_calls()
    flops = 2 * rounds * c.size * DEPTH
    with own_cores(numba.get_num_threads()):
        return Roof(
            flops / _least(lambda: multiply(c, a, b, rounds)) / 1e9, 2 * x.nbytes / _least(lambda: copy(out, x)) / 1e9
        )


def _least(run: Callable[[], None]) -> float:
    """Seconds of the fastest of many runs, after one that touches the memory."""
    run()
    least, end = math.inf, time.perf_counter() + SECONDS
    while (started := time.perf_counter()) < end:
        run()
        least = min(least, time.perf_counter() - started)
    return least
