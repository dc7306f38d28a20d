"""The machine's roof: the floating-point operations a second of all threads together, by our own micro-kernel."""

from __future__ import annotations

import time

import numba
import numpy as np
from numba import prange

from cllm_cli.kernels.ahead import Call
from cllm_cli.kernels.jit import kernel
from cllm_cli.kernels.pointers import pointer
from cllm_cli.kernels.simd import MR, columns, microkernel

DEPTH = 256  # k of the panels, which stay in the caches of a core
ROUNDS = 400
REPEATS = 9


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


def roof_call() -> Call:
    """The kernel that is timed, with its arguments."""
    threads, width = numba.get_num_threads(), columns(4)
    a = np.ones((threads, MR * DEPTH), np.float32)
    b = np.ones((threads, width * DEPTH), np.float32)
    c = np.zeros((threads, MR * width), np.float32)
    return multiply_in_cache, (c, a, b, ROUNDS)


def machine_gflops() -> float:
    """The best of a few runs on the threads that are set, in float32, in 10⁹ operations a second."""
    _, (c, a, b, rounds) = roof_call()
    multiply_in_cache(c, a, b, 1)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        multiply_in_cache(c, a, b, rounds)
        seconds.append(time.perf_counter() - started)
    return float(2 * rounds * c.size * DEPTH / min(seconds) / 1e9)
