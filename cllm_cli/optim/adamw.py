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
from cllm_cli.kernels.reduce import share_of
from cllm_cli.kernels.simd import thread_count
from cllm_cli.optim.base import Optimizer, Rule


@kernel
def adamw_update(values, gradients, m, v, lost, rate, decay, scale, beta1, beta2, eps, correction1, correction2):
    real = values.dtype.type
    one, parts = real(1), thread_count()
    for k in prange(parts):
        first, last = share_of(values.shape[0], k, parts)
        w, g, m_k, v_k = values[first:last], gradients[first:last], m[first:last], v[first:last]
        gone = real(0)
        for i in range(w.shape[0]):
            clipped = g[i] * scale
            m_k[i] = beta1 * m_k[i] + (one - beta1) * clipped
            v_k[i] = beta2 * v_k[i] + (one - beta2) * clipped * clipped
            moved = m_k[i] * correction1 / (np.sqrt(v_k[i] * correction2) + eps)
            w[i] = w[i] * (one - rate * decay) - rate * moved
            g[i] = real(0)
            gone += (w[i] + v_k[i]) * real(0)
        lost[k] = gone


ADAMW = Optimizer(
    "adamw",
    rules={
        "embedding": Rule(adamw_update, ("m", "v"), decayed=True, rate="lr_embed"),
        "matrix": Rule(adamw_update, ("m", "v"), decayed=True),
        "vector": Rule(adamw_update, ("m", "v")),
    },
    defaults={"lr": 1e-3, "weight_decay": 0.1, "beta2": 0.99},
)
