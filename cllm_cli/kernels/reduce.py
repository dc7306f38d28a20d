"""Reductions whose result does not depend on threads: partial sums over a fixed number of chunks, merged in order."""

from __future__ import annotations

from numba import prange

from cllm_cli.kernels.bits import order, unorder
from cllm_cli.kernels.jit import inner

CHUNKS = 16  # K: partial sums of a reduction over rows; also the most threads that share one


@inner
def merge_chunks(total, part):
    """total (C) += the rows of part (K, C), in order."""
    for c in range(total.shape[0]):
        value = total[c]
        for k in range(part.shape[0]):
            value += part[k, c]
        total[c] = value


@inner
def add_column_sums(total, part, x):
    """total (C) += Σ_n x (N, C); part (K, C) is scratch."""
    rows, chunks = x.shape[0], part.shape[0]
    for k in prange(chunks):
        part[k, :] = 0
        for n in range(k * rows // chunks, (k + 1) * rows // chunks):
            for c in range(x.shape[1]):
                part[k, c] += x[n, c]
    merge_chunks(total, part)


@inner
def share_of(count, k, parts):
    """Where the k-th of `parts` nearly equal parts of `count` elements begins and ends."""
    return k * count // parts, (k + 1) * count // parts


@inner
def row_max(x, count):
    """The largest of the first `count` ≥ 1 elements of x. A NaN may be passed over, to be met in the sum that follows.

    By whole numbers, since LLVM vectorises a maximum of floats only where it may assume that there is no NaN.
    """
    largest = order(x[0])
    for i in range(count):
        largest = max(largest, order(x[i]))
    return unorder(largest, x[0])
