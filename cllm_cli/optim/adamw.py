"""AdamW: Adam with decoupled weight decay.

    Kingma & Ba 2015, arXiv:1412.6980; Loshchilov & Hutter 2019, arXiv:1711.05101

    g = scale · gradient        m = β₁ m + (1 − β₁) g        v = β₂ v + (1 − β₂) g²
    w = w (1 − rate · decay) − rate · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + eps)

correction1 and correction2 are 1 / (1 − βᵗ).
"""

from __future__ import annotations

import numpy as np
from numba import prange

from cllm_cli.kernels.jit import kernel
from cllm_cli.optim.base import Optimizer, Rule


@kernel
def adamw_update(values, gradients, m, v, rate, decay, scale, beta1, beta2, eps, correction1, correction2):
    real = values.dtype.type
    one = real(1)
    for i in prange(values.shape[0]):
        g = gradients[i] * scale
        m[i] = beta1 * m[i] + (one - beta1) * g
        v[i] = beta2 * v[i] + (one - beta2) * g * g
        moved = m[i] * correction1 / (np.sqrt(v[i] * correction2) + eps)
        values[i] = values[i] * (one - rate * decay) - rate * moved
        gradients[i] = real(0)


ADAMW = Optimizer(
    "adamw",
    rules={
        "embedding": Rule(adamw_update, ("m", "v"), decayed=True, rate="lr_embed"),
        "matrix": Rule(adamw_update, ("m", "v"), decayed=True),
        "vector": Rule(adamw_update, ("m", "v")),
    },
    defaults={"lr": 1e-3, "weight_decay": 0.1, "beta2": 0.99},
)
