"""The tied output head with cross-entropy over the vocabulary, worked off in chunks of rows.

    l = x Wᵀ        loss_n = ln Σ_v exp l_nv − l_n,target        p = softmax(l)
    dl = (p − onehot(target)) · scale        dx = dl W        dW += dlᵀ x

The loss of a batch is scale · Σ_n loss_n; scale is 1 / (all targets of the whole accumulated batch), so micro-batches
add up exactly. A target of −1 is ignored: loss, hit and gradient are 0. Only a chunk of logits is alive at a
time, never (N, V).
`hits` is 1 where the target is the first of the largest logits.
"""

from __future__ import annotations

from numba import prange

from cllm_cli.kernels.gemm import gemm_nn, gemm_nt, gemm_tn, pack_size
from cllm_cli.kernels.jit import inner, kernel
from cllm_cli.kernels.math import exp, log
from cllm_cli.kernels.reduce import row_max
from cllm_cli.layers.base import IGNORED, NORMAL, Layer

LOGITS = 2**22  # elements of a chunk of logits: 16 MB in float32
LEAST_ROWS, MOST_ROWS = 256, 1024  # each chunk reads the whole weight, and its gradient twice


def chunk_rows(N: int, V: int) -> int:
    """R: rows in a chunk, bounded by memory, yet enough of them to make the products worth their packing."""
    return min(N, max(LEAST_ROWS, min(MOST_ROWS, LOGITS // V)))


def packing(N: int, C: int, V: int, R: int, threads: int, itemsize: int) -> int:
    """P: elements of packing space for the largest of the three products."""
    return max(pack_size(m, n, k, threads, itemsize) for m, n, k in ((R, V, C), (R, C, V), (V, C, R)))


@inner
def score_rows(losses, hits, logits, targets, scale):
    """Losses and hits of a chunk of rows; the logits become their own gradient, or garbage for a scale of 0."""
    real = logits.dtype.type
    for n in prange(logits.shape[0]):
        row, target = logits[n], targets[n]
        counted = target >= 0
        largest = row_max(row, row.shape[0])
        at_target = row[max(target, 0)]
        hit = counted and at_target == largest
        for v in range(target):
            if row[v] == largest:
                hit = False
        total = real(0)
        for v in range(row.shape[0]):
            e = exp(row[v] - largest)
            row[v] = e
            total += e
        losses[n] = log(total) - (at_target - largest) if counted else real(0)
        hits[n] = real(1) if hit else real(0)
        factor = scale / total if counted else real(0)
        if scale != real(0):
            for v in range(row.shape[0]):
                row[v] *= factor
            if counted:
                row[target] -= scale


@kernel
def cross_entropy_forward(losses, hits, logits, pack, x, targets, weight):
    rows, chunk = x.shape[0], logits.shape[0]
    for first in range(0, rows, chunk):
        last = min(rows, first + chunk)
        part = logits[: last - first]
        gemm_nt(part, x[first:last], weight, pack, False)
        score_rows(losses[first:last], hits[first:last], part, targets[first:last], x.dtype.type(0))


@kernel
def cross_entropy_forward_backward(losses, hits, dx, dweight, logits, pack, x, targets, weight, scale):
    rows, chunk = x.shape[0], logits.shape[0]
    for first in range(0, rows, chunk):
        last = min(rows, first + chunk)
        part, some = logits[: last - first], x[first:last]
        gemm_nt(part, some, weight, pack, False)
        score_rows(losses[first:last], hits[first:last], part, targets[first:last], scale)
        gemm_nn(dx[first:last], part, weight, pack, False)
        gemm_tn(dweight, part, some, pack, True)


CROSS_ENTROPY = Layer(
    "cross_entropy",
    cross_entropy_forward,
    forward_backward=cross_entropy_forward_backward,
    inputs={"x": "N C", "targets": "N:int32"},
    integers={"targets": (IGNORED, "V")},
    params={"weight": "V C"},
    scratch={"logits": "R V", "pack": "P"},
    outputs={"losses": "N", "hits": "N"},
    step_args=("scale",),
    derived={"R": chunk_rows, "P": packing},
    init={"weight": NORMAL},
    group={"weight": "embedding"},
    flops=lambda sizes: 2 * sizes["N"] * sizes["V"] * sizes["C"],
    samples=[
        {"N": 1, "V": 1, "C": 1},
        {"N": 7, "V": 3, "C": 5},
        {"N": 64, "V": 97, "C": 48},
        {"N": 250, "V": 11, "C": 3, "R": 96},  # chunks, the last one short
    ],
)
