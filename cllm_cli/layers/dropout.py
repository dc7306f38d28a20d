"""Dropout with a mask from a counter: nothing is stored, and nothing depends on threads or on how a batch is cut.

    keep = hash(key, stream, index) ≥ drop        rate = drop / 2²⁴
    out = x · keep / (1 − rate)                   dx = dout · keep / (1 − rate)

The index counts the elements of the whole accumulated batch, whose rows begin at `first_row` here; `key` changes with
the step, `stream` with the layer. The hash is SplitMix64, a counter through a mixer.         (Steele, Lea & Flood 2014)
"""

from __future__ import annotations

import numpy as np
from numba import prange

from cllm_cli.kernels.jit import inner, kernel
from cllm_cli.layers.base import Layer

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX1, MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
ONE = 2**24  # the hash's upper 24 bits decide


@inner
def mix(z):
    z = (z ^ (z >> np.uint64(30))) * MIX1
    z = (z ^ (z >> np.uint64(27))) * MIX2
    return z ^ (z >> np.uint64(31))


@inner
def mask_rows(out, x, drop, stream, key, first_row):
    """out = x · keep / (1 − rate), the same map forward and backward."""
    rows, width = x.shape
    real = x.dtype.type
    least = np.uint64(drop)
    gain = real(ONE) / real(ONE - drop)
    seed = key + mix(np.uint64(stream) + np.uint64(1))
    for n in prange(rows):
        before = np.uint64(first_row + n) * np.uint64(width)
        for c in range(width):
            h = mix(seed + (before + np.uint64(c + 1)) * GOLDEN)
            out[n, c] = x[n, c] * gain if (h >> np.uint64(40)) >= least else real(0)


@kernel
def dropout_forward(out, x, drop, stream, key, first_row):
    mask_rows(out, x, drop, stream, key, first_row)


@kernel
def dropout_backward(dx, dout, drop, stream, key, first_row):
    mask_rows(dx, dout, drop, stream, key, first_row)


DROPOUT = Layer(
    "dropout",
    dropout_forward,
    dropout_backward,
    inputs={"x": "N C"},
    outputs={"out": "N C"},
    consts={"drop": ONE // 4, "stream": 0},
    step_args=("key", "first_row"),
    samples=[{"N": 1, "C": 1}, {"N": 7, "C": 5}, {"N": 64, "C": 48}],
)
