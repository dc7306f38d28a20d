"""The residual stream: `split` reads a tensor twice, `add` sums two. Each is the transpose of the other.

    split:  a = b = x            dx = da + db                  add:  out = a + b            da = db = dout

Views where nothing is computed: split copies nothing forward, add nothing backward.
"""

from __future__ import annotations

from numba import prange

from cllm_cli.kernels.jit import kernel
from cllm_cli.layers.base import Layer


@kernel
def add_forward(out, a, b):
    for n in prange(out.shape[0]):
        for c in range(out.shape[1]):
            out[n, c] = a[n, c] + b[n, c]


@kernel
def split_backward(dx, da, db):
    for n in prange(dx.shape[0]):
        for c in range(dx.shape[1]):
            dx[n, c] = da[n, c] + db[n, c]


SAMPLES = [{"N": 1, "C": 1}, {"N": 7, "C": 5}, {"N": 64, "C": 48}]

ADD = Layer(
    "add",
    add_forward,
    inputs={"a": "N C", "b": "N C"},
    outputs={"out": "N C"},
    alias={"da": "dout", "db": "dout"},
    samples=SAMPLES,
)

SPLIT = Layer(
    "split",
    backward=split_backward,
    inputs={"x": "N C"},
    outputs={"a": "N C", "b": "N C"},
    alias={"a": "x", "b": "x"},
    samples=SAMPLES,
)
