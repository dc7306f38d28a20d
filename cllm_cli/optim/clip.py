"""Clipping by the global norm.                                        (Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063)

    norm = √ Σ g²                scale = min(1, limit / (norm + 1e-6))

The norm is summed in double precision over a fixed number of chunks, so that threads do not change it; it is the one
number a step that shows a gradient that is not finite.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import prange

from cllm_cli.kernels.jit import kernel
from cllm_cli.kernels.reduce import CHUNKS


@kernel
def sum_squares(part, x):
    """part (K, float64): sums of squares of K chunks of x."""
    chunks = part.shape[0]
    for k in prange(chunks):
        piece = x[k * x.shape[0] // chunks : (k + 1) * x.shape[0] // chunks]  # an index from 0 on lets LLVM vectorise
        total = 0.0
        for i in range(piece.shape[0]):
            value = np.float64(piece[i])
            total += value * value
        part[k] = total


def norm_scratch() -> npt.NDArray[np.float64]:
    """What `global_norm` needs."""
    return np.zeros(CHUNKS)


def global_norm(gradients: npt.NDArray[np.floating], part: npt.NDArray[np.float64]) -> float:
    """The Euclidean norm of a flat array of gradients."""
    sum_squares(part, gradients)
    return math.sqrt(math.fsum(part))


def clip_scale(norm: float, limit: float) -> float:
    """What clipping to `limit` multiplies gradients of this norm by; a limit of 0 clips nothing."""
    return min(1.0, limit / (norm + 1e-6)) if limit else 1.0
