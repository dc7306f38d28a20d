"""What a plan is made of: runs of kernels, and the places in memory that their arguments mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cllm_cli.layers.base import arguments, gradient, resolve
from cllm_cli.model.program import Call

VALUE, GRADIENT, SAVED, SCRATCH, CACHE = "value", "gradient", "saved", "scratch", "cache"

SMALL_BYTES, SMALL_FLOPS = 2**17, 2**19  # what one thread does in a few microseconds

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

    def moved_bytes(self, itemsize: int) -> int:
        """Bytes of every tensor that it touches, scratch aside; of a table the rows that are looked up."""
        tensors = sum(place.bytes for place in self.places.values() if place.key[0] != SCRATCH)
        layer, sizes = self.call.layer, self.call.sizes
        elements = 0
        for name in layer.params:
            rows, *rest = resolve(layer.params[name], sizes)
            if name in layer.rows:
                rows = min(rows, sizes[layer.rows[name]])
            # The parameter, its gradient, or both.
            touched = sum(each in arguments(self.kernel) for each in (name, gradient(name)))
            elements += math.prod([rows, *rest]) * touched
        return tensors + itemsize * elements

    def threads(self, itemsize: int, most: int) -> int:
        """How many threads it is worth: one, where starting the others would take longer than they help."""
        small = self.moved_bytes(itemsize) <= SMALL_BYTES and self.call.layer.flops(self.call.sizes) <= SMALL_FLOPS
        return 1 if small else most
