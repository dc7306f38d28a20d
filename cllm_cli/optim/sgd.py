"""Gradient descent, with momentum and Nesterov's form of it.        (Polyak 1964; Nesterov 1983; Sutskever et al. 2013)

g = scale · gradient        b = momentum · b + g
w = w (1 − rate · decay) − rate · (g + momentum · b  if nesterov else  b)
"""

from __future__ import annotations

from numba import prange

from cllm_cli.kernels.jit import kernel
from cllm_cli.kernels.reduce import share_of
from cllm_cli.kernels.simd import thread_count
from cllm_cli.optim.base import Optimizer, Rule


@kernel
def sgd_update(values, gradients, b, lost, rate, decay, scale, momentum, nesterov):
    real = values.dtype.type
    parts = thread_count()
    for k in prange(parts):
        first, last = share_of(values.shape[0], k, parts)
        w, g, b_k = values[first:last], gradients[first:last], b[first:last]
        gone = real(0)
        for i in range(w.shape[0]):
            clipped = g[i] * scale
            b_k[i] = momentum * b_k[i] + clipped
            moved = clipped + momentum * b_k[i] if nesterov else b_k[i]
            w[i] = w[i] * (real(1) - rate * decay) - rate * moved
            g[i] = real(0)
            gone += w[i] * real(0)
        lost[k] = gone


@kernel
def descent_update(values, gradients, lost, rate, scale):
    real = values.dtype.type
    parts = thread_count()
    for k in prange(parts):
        first, last = share_of(values.shape[0], k, parts)
        w, g = values[first:last], gradients[first:last]
        gone = real(0)
        for i in range(w.shape[0]):
            w[i] -= rate * scale * g[i]
            g[i] = real(0)
            gone += w[i] * real(0)
        lost[k] = gone


SGD = Optimizer(
    "sgd",
    rules={
        "embedding": Rule(sgd_update, ("b",), decayed=True, rate="lr_embed"),
        "matrix": Rule(sgd_update, ("b",), decayed=True),
        "vector": Rule(sgd_update, ("b",)),
    },
    defaults={"lr": 0.1, "weight_decay": 0.0, "beta2": 0.99},
)
