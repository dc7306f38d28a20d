"""Reductions whose result does not depend on threads: partial sums over a fixed number of chunks, merged in order."""

from __future__ import annotations

from numba import prange

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
def row_max(x, count):
    """The largest of the first `count` ≥ 1 elements of x. A NaN may be passed over, to be met in the sum that follows.

    Eight running maxima, since LLVM vectorises a single one only where it may assume that there is no NaN.
    """
    m0 = m1 = m2 = m3 = m4 = m5 = m6 = m7 = x[0]
    for i in range(count // 8):
        at = 8 * i
        m0 = x[at] if x[at] > m0 else m0
        m1 = x[at + 1] if x[at + 1] > m1 else m1
        m2 = x[at + 2] if x[at + 2] > m2 else m2
        m3 = x[at + 3] if x[at + 3] > m3 else m3
        m4 = x[at + 4] if x[at + 4] > m4 else m4
        m5 = x[at + 5] if x[at + 5] > m5 else m5
        m6 = x[at + 6] if x[at + 6] > m6 else m6
        m7 = x[at + 7] if x[at + 7] > m7 else m7
    for i in range(count // 8 * 8, count):
        m0 = x[i] if x[i] > m0 else m0
    m0, m1, m2, m3 = max(m0, m4), max(m1, m5), max(m2, m6), max(m3, m7)
    return max(max(m0, m1), max(m2, m3))
