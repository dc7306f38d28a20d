"""What generation needs of the model's end: the last row of each sequence, and its logits on the tied head.

last:  out_b = x_b,T−1          dx_b,T−1 = dout_b, 0 elsewhere
head:  out = x Wᵀ               dx = dout W                    dW += doutᵀ x
"""

from __future__ import annotations

from numba import prange

from cllm_cli.kernels.gemm import gemm_nn, gemm_nt, gemm_tn, pack_size
from cllm_cli.kernels.jit import kernel
from cllm_cli.layers.base import NORMAL, Layer


@kernel
def last_forward(out, x):
    for b in prange(x.shape[0]):
        for c in range(x.shape[2]):
            out[b, c] = x[b, x.shape[1] - 1, c]


@kernel
def last_backward(dx, dout):
    for b in prange(dx.shape[0]):
        dx[b] = 0
        for c in range(dx.shape[2]):
            dx[b, dx.shape[1] - 1, c] = dout[b, c]


@kernel
def head_forward(out, pack, x, weight):
    gemm_nt(out, x, weight, pack, False)


@kernel
def head_backward(dx, dweight, pack, dout, x, weight):
    gemm_nn(dx, dout, weight, pack, False)
    gemm_tn(dweight, dout, x, pack, True)


def packing(N: int, C: int, V: int, threads: int, itemsize: int) -> int:
    """P: elements of packing space for the largest of the three products."""
    return max(pack_size(m, n, k, threads, itemsize) for m, n, k in ((N, V, C), (N, C, V), (V, C, N)))


LAST = Layer(
    "last",
    last_forward,
    last_backward,
    inputs={"x": "B T C"},
    outputs={"out": "B C"},
    samples=[{"B": 1, "T": 1, "C": 1}, {"B": 3, "T": 5, "C": 7}],
)

HEAD = Layer(
    "head",
    head_forward,
    head_backward,
    inputs={"x": "N C"},
    params={"weight": "V C"},
    scratch={"pack": "P"},
    outputs={"out": "N V"},
    derived={"P": packing},
    init={"weight": NORMAL},
    group={"weight": "embedding"},
    flops=lambda sizes: 2 * sizes["N"] * sizes["V"] * sizes["C"],
    samples=[{"N": 1, "V": 1, "C": 1}, {"N": 7, "V": 3, "C": 5}, {"N": 64, "V": 97, "C": 48}],
)
