"""The arena: all parameters in one contiguous buffer with named views, gradients and optimizer state on the same plan.

Tensors stand in the order embeddings, matrices, vectors, so that a group of parameters is one slice, and the tensors
that are decayed (the first two groups) come first. Each tensor starts on a cache line; the gaps stay zero for ever,
since their gradients do.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cllm_cli.layers.base import Init

LINE = 64  # bytes of a cache line
GROUPS = ("embedding", "matrix", "vector")

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Parameter:
    """A tensor that is trained: its name in the model file, shape, group, and how it starts."""

    name: str
    shape: tuple[int, ...]
    group: str
    init: Init

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


def aligned(count: int, dtype: np.dtype) -> np.ndarray:
    """A zeroed 1-D array that starts on a page, straight from the system, so that untouched parts take no memory."""
    if count == 0:
        return np.zeros(0, dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # the default is memory that a forked process would share
    memory = mmap.mmap(-1, count * dtype.itemsize, flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype, count)


class Arena:
    """Parameters and gradients: `values` and `gradients` are flat, `parameter(name)` and `gradient(name)` are views."""

    def __init__(self, parameters: Sequence[Parameter], dtype: np.dtype) -> None:
        order = sorted(parameters, key=lambda parameter: GROUPS.index(parameter.group))
        self.parameters = {parameter.name: parameter for parameter in order}
        self.dtype = dtype
        self.offsets: dict[str, int] = {}
        self.groups: dict[str, slice] = {}
        step, at = LINE // dtype.itemsize, 0
        for group in GROUPS:
            start = at
            for parameter in order:
                if parameter.group == group:
                    self.offsets[parameter.name] = at
                    at += -(-parameter.size // step) * step
            self.groups[group] = slice(start, at)
        self.size = at
        self.gradients = aligned(0, dtype)

    @functools.cached_property
    def values(self) -> np.ndarray:
        """All parameters, zeroed. They take no memory before somebody asks for them: a plan needs none."""
        return aligned(self.size, self.dtype)

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.itemsize

    def make_gradients(self) -> None:
        """Gives the arena its gradients, zeroed; a model that is only evaluated does without."""
        self.gradients = aligned(self.size, self.dtype)

    def view(self, flat: np.ndarray, name: str) -> np.ndarray:
        """The tensor `name` within a flat array on the arena's plan."""
        parameter, at = self.parameters[name], self.offsets[name]
        return flat[at : at + parameter.size].reshape(parameter.shape)

    def parameter(self, name: str) -> np.ndarray:
        return self.view(self.values, name)

    def gradient(self, name: str) -> np.ndarray:
        return self.view(self.gradients, name)

    def tensors(self) -> Mapping[str, np.ndarray]:
        """All parameters by name, in the arena's order."""
        return {name: self.parameter(name) for name in self.parameters}

    @property
    def count(self) -> int:
        """Trained numbers, without the gaps."""
        return sum(parameter.size for parameter in self.parameters.values())
