"""Linear: a matrix product, with or without a bias. The weight is stored (in, out), as GPT-2 has it.

out = x W [+ bias]            dx = dout Wᵀ            dW += xᵀ dout            dbias += Σ_n dout_n
"""

from __future__ import annotations

from typing import Any

from cllm_cli.kernels.gemm import gemm_nn, gemm_nn_bias, gemm_nt, gemm_tn, pack_size
from cllm_cli.kernels.jit import kernel
from cllm_cli.kernels.reduce import add_column_sums
from cllm_cli.layers.base import NORMAL, ZEROS, Layer


@kernel
def linear_forward(out, pack, x, weight, bias):
    gemm_nn_bias(out, x, weight, bias, pack)


@kernel
def linear_backward(dx, dweight, dbias, pack, part, dout, x, weight):
    gemm_nt(dx, dout, weight, pack, False)
    gemm_tn(dweight, x, dout, pack, True)
    add_column_sums(dbias, part, dout)


@kernel
def linear_nobias_forward(out, pack, x, weight):
    gemm_nn(out, x, weight, pack, False)


@kernel
def linear_nobias_backward(dx, dweight, pack, dout, x, weight):
    gemm_nt(dx, dout, weight, pack, False)
    gemm_tn(dweight, x, dout, pack, True)


def packing(N: int, C: int, F: int, threads: int, itemsize: int) -> int:
    """P: elements of packing space for the largest of the three products."""
    return max(pack_size(m, n, k, threads, itemsize) for m, n, k in ((N, F, C), (N, C, F), (C, F, N)))


SHARED: dict[str, Any] = {
    "inputs": {"x": "N C"},
    "outputs": {"out": "N F"},
    "derived": {"P": packing},
    "flops": lambda sizes: 2 * sizes["N"] * sizes["C"] * sizes["F"],
    "samples": [
        {"N": 1, "C": 1, "F": 1},
        {"N": 7, "C": 5, "F": 3},
        {"N": 64, "C": 48, "F": 97},
        {"N": 33, "C": 401, "F": 17},  # longer than one block of the product's depth
    ],
}

LINEAR = Layer(
    "linear",
    linear_forward,
    linear_backward,
    params={"weight": "C F", "bias": "F"},
    scratch={"pack": "P", "part": "K F"},
    init={"weight": NORMAL, "bias": ZEROS},
    **SHARED,
)

LINEAR_NOBIAS = Layer(
    "linear_nobias",
    linear_nobias_forward,
    linear_nobias_backward,
    params={"weight": "C F"},
    scratch={"pack": "P"},
    init={"weight": NORMAL},
    **SHARED,
)
