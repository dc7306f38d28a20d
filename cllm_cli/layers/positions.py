"""Learned positions: a row of the table for each place in the window, added to what stands there.

    out_bt = x_bt + weight[position + t]            dx = dout            dweight[position + t] += Σ_b dout_bt

`position` is the place of the first token: 0 in training, the length of what is cached in generation.
"""

from __future__ import annotations

from numba import prange

from cllm_cli.kernels.jit import kernel
from cllm_cli.layers.base import NORMAL, Layer


@kernel
def positions_forward(out, x, weight, position):
    batch, time, width = x.shape
    for n in prange(batch * time):
        b, t = n // time, n % time
        for c in range(width):
            out[b, t, c] = x[b, t, c] + weight[position + t, c]


@kernel
def positions_backward(dweight, dout, position):
    batch, time, width = dout.shape
    for t in prange(time):
        for b in range(batch):
            for c in range(width):
                dweight[position + t, c] += dout[b, t, c]


POSITIONS = Layer(
    "positions",
    positions_forward,
    positions_backward,
    inputs={"x": "B T C"},
    params={"weight": "S C"},
    outputs={"out": "B T C"},
    step_args=("position",),
    alias={"dx": "dout"},
    init={"weight": NORMAL},
    group={"weight": "embedding"},
    rows={"weight": "T"},
    samples=[{"B": 1, "T": 1, "C": 1, "S": 1}, {"B": 2, "T": 3, "C": 5, "S": 4}, {"B": 3, "T": 17, "C": 48, "S": 32}],
)
