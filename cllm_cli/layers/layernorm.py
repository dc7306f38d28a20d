"""LayerNorm: each row to zero mean and unit variance, then scaled and shifted.   (Ba et al. 2016, arXiv:1607.06450)

μ = mean(x)        r = 1 / sqrt(mean((x − μ)²) + eps)        h = (x − μ) r        out = h · weight + bias
g = dout · weight                    dx = r (g − mean(g) − h mean(g h))
dweight = Σ_n dout_n h_n             dbias = Σ_n dout_n
"""

from __future__ import annotations

import numpy as np
from numba import prange

from cllm_cli.kernels.jit import kernel
from cllm_cli.kernels.reduce import merge_chunks
from cllm_cli.layers.base import ONES, ZEROS, Layer


@kernel
def layernorm_forward(out, mean, rstd, x, weight, bias, eps):
    rows, width = x.shape
    real = x.dtype.type
    for n in prange(rows):
        total = real(0)
        for c in range(width):
            total += x[n, c]
        mu = total / real(width)
        squares = real(0)
        for c in range(width):
            squares += (x[n, c] - mu) * (x[n, c] - mu)
        r = real(1) / np.sqrt(squares / real(width) + eps)
        for c in range(width):
            out[n, c] = (x[n, c] - mu) * r * weight[c] + bias[c]
        mean[n] = mu
        rstd[n] = r


@kernel
def layernorm_backward(dx, dweight, dbias, part_weight, part_bias, dout, x, weight, mean, rstd):
    rows, width = x.shape
    chunks = part_weight.shape[0]
    real = x.dtype.type
    for k in prange(chunks):
        part_weight[k, :] = 0
        part_bias[k, :] = 0
        for n in range(k * rows // chunks, (k + 1) * rows // chunks):
            mu, r = mean[n], rstd[n]
            sum_g = real(0)
            sum_gh = real(0)
            for c in range(width):
                h = (x[n, c] - mu) * r
                g = dout[n, c] * weight[c]
                sum_g += g
                sum_gh += g * h
                part_weight[k, c] += dout[n, c] * h
                part_bias[k, c] += dout[n, c]
            mean_g = sum_g / real(width)
            mean_gh = sum_gh / real(width)
            for c in range(width):
                dx[n, c] = r * (dout[n, c] * weight[c] - mean_g - (x[n, c] - mu) * r * mean_gh)
    merge_chunks(dweight, part_weight)
    merge_chunks(dbias, part_bias)


LAYERNORM = Layer(
    "layernorm",
    layernorm_forward,
    layernorm_backward,
    inputs={"x": "N C"},
    params={"weight": "C", "bias": "C"},
    saved={"mean": "N", "rstd": "N"},
    scratch={"part_weight": "K C", "part_bias": "K C"},
    outputs={"out": "N C"},
    cheap=True,
    consts={"eps": 1e-5},
    init={"weight": ONES, "bias": ZEROS},
    samples=[{"N": 1, "C": 1}, {"N": 7, "C": 5}, {"N": 64, "C": 48}],
)
