"""Token embedding: a row of the table for each token.

out_n = weight[tokens_n]                dweight[v] += Σ_{n: tokens_n = v} dout_n
"""

from __future__ import annotations

from numba import prange

from cllm_cli.kernels.jit import kernel
from cllm_cli.layers.base import NORMAL, Layer

COLUMNS = 32  # columns that one task of backward owns: two cache lines of float32


@kernel
def embedding_forward(out, tokens, weight):
    for n in prange(tokens.shape[0]):
        for c in range(out.shape[1]):
            out[n, c] = weight[tokens[n], c]


@kernel
def embedding_backward(dweight, dout, tokens):
    # Tokens repeat, so rows cannot be shared out: each task owns columns and adds the rows up in order.
    width = dout.shape[1]
    for block in prange((width + COLUMNS - 1) // COLUMNS):
        first, last = block * COLUMNS, min(width, (block + 1) * COLUMNS)
        for n in range(tokens.shape[0]):
            for c in range(first, last):
                dweight[tokens[n], c] += dout[n, c]


EMBEDDING = Layer(
    "embedding",
    embedding_forward,
    embedding_backward,
    inputs={"tokens": "N:int32"},
    integers={"tokens": (0, "V")},
    params={"weight": "V C"},
    outputs={"out": "N C"},
    init={"weight": NORMAL},
    group={"weight": "embedding"},
    rows={"weight": "N"},
    samples=[{"N": 1, "V": 1, "C": 1}, {"N": 7, "V": 3, "C": 5}, {"N": 64, "V": 97, "C": 48}],
)
