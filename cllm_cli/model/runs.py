"""What a plan is made of: runs of kernels, and the places in memory that their arguments mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cllm_cli.model.program import Call

VALUE, GRADIENT, SAVED, SCRATCH, CACHE = "value", "gradient", "saved", "scratch", "cache"

# (VALUE or GRADIENT, tensor) · (SAVED or CACHE, call, name) · (SCRATCH, time, name); and AGAIN of what is recomputed
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Place:
    """What a tensor argument of a kernel means: a key, and shape and type as this kernel sees them."""

    key: Key
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Run:
    """One run of a kernel; what is not among `places` is a parameter, its gradient, a constant or a step argument."""

    call: Call
    kernel: Any
    direction: str
    places: dict[str, Place]
