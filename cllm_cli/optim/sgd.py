"""Gradient descent, with momentum and Nesterov's form of it.        (Polyak 1964; Nesterov 1983; Sutskever et al. 2013)

g = scale · gradient        b = momentum · b + g
w = w (1 − rate · decay) − rate · (g + momentum · b  if nesterov else  b)
"""

from __future__ import annotations

from numba import prange

from cllm_cli.kernels.jit import kernel
from cllm_cli.optim.base import Optimizer, Rule


@kernel
def sgd_update(values, gradients, b, rate, decay, scale, momentum, nesterov):
    real = values.dtype.type
    for i in prange(values.shape[0]):
        g = gradients[i] * scale
        b[i] = momentum * b[i] + g
        moved = g + momentum * b[i] if nesterov else b[i]
        values[i] = values[i] * (real(1) - rate * decay) - rate * moved
        gradients[i] = real(0)


@kernel
def descent_update(values, gradients, rate, scale):
    real = values.dtype.type
    for i in prange(values.shape[0]):
        values[i] -= rate * scale * gradients[i]
        gradients[i] = real(0)


SGD = Optimizer(
    "sgd",
    rules={
        "embedding": Rule(sgd_update, ("b",), decayed=True, rate="lr_embed"),
        "matrix": Rule(sgd_update, ("b",), decayed=True),
        "vector": Rule(sgd_update, ("b",)),
    },
    defaults={"lr": 0.1, "weight_decay": 0.0, "beta2": 0.99},
)
