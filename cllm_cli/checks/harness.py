"""A bench: one layer alone on plain arrays, laid out, filled with random numbers and run as its declaration says.

Every check of a single layer starts here, so a layer that declares itself rightly can be checked without a line of its
own. The random numbers are those of float32 in every precision, so that a float32 run and a float64 run compute the
same thing. Whatever a kernel should write is NaN before: an element that it forgets is seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from cllm_cli.kernels.reduce import CHUNKS
from cllm_cli.layers.base import IGNORED, Layer, arguments, derive, gradient, is_real, resolve

Array = NDArray[Any]
Allocate = Callable[[tuple[int, ...], Any], Array]

POSITION, FIRST_ROW, KEY = 0, 3, 0x9A3C5F17D2B4E681


def letters_of(sample: Mapping[str, Any]) -> dict[str, int]:
    """The sizes among what a sample says; what is no upper-case letter is a constant of the layer."""
    return {name: value for name, value in sample.items() if name.isupper()}


class Bench:
    """A layer's tensors by their declared names in `arrays`, constants and step arguments in `scalars`.

    `sample` has sizes and constants; the threads are those that are set, as for a model. `allocate(shape, dtype)` gives
    the memory. Inputs, parameters and gradients of outputs are standard normal, integers uniform in their declared
    range, every fourth or so of the targets ignored but never all; gradients of parameters start at zero.
    """

    def __init__(
        self, layer: Layer, sample: Mapping[str, Any], dtype: Any, seed: int = 0, allocate: Allocate = np.empty
    ) -> None:
        self.layer, self.dtype = layer, np.dtype(dtype)
        self.sizes = letters_of(sample)
        if "B" in self.sizes and "T" in self.sizes:
            self.sizes.setdefault("N", self.sizes["B"] * self.sizes["T"])
        self.sizes |= {"K": CHUNKS, "threads": numba.get_num_threads(), "itemsize": self.dtype.itemsize}
        derive(layer, self.sizes)
        self.rng = np.random.default_rng([seed, zlib.crc32(layer.name.encode())])
        self.arrays: dict[str, Array] = {}
        self._lay_out(allocate)
        self._fill()
        consts = {name: sample.get(name, value) for name, value in layer.consts.items()}
        self.scalars = {name: self.scalar(value) for name, value in consts.items()} | self._step()

    def scalar(self, value: Any) -> Any:
        """A constant as kernels get it: a float in the model's precision, an integer as int64."""
        return self.dtype.type(value) if isinstance(value, float) else np.int64(value)

    def forward(self) -> None:
        """Writes outputs and saved."""
        self.run(self.layer.forward)

    def backward(self) -> None:
        """Writes the gradients of inputs, adds to those of parameters. Forward ran before."""
        self.run(self.layer.backward)

    def step(self) -> None:
        """Forward and backward, or both in one where the layer is the loss."""
        if self.layer.forward_backward:
            self.run(self.layer.forward_backward)
        else:
            self.forward()
            self.backward()

    def clear(self) -> None:
        """Sets the gradients of parameters to zero and everything that a step writes to NaN."""
        for name in self.written():
            self.arrays[name].fill(np.nan)
        for name in self.layer.params:
            self.arrays[gradient(name)].fill(0)

    def written(self) -> list[str]:
        """What a step writes, the gradients of parameters excepted: outputs, saved, scratch, gradients of inputs."""
        layer = self.layer
        gradients = [gradient(name) for name in layer.inputs if is_real(layer.inputs[name])]
        names = [*layer.outputs, *layer.saved, *layer.scratch, *gradients]
        return [name for name in names if name not in layer.alias]

    def trained(self) -> list[str]:
        """The tensors that have a gradient: float inputs and parameters."""
        return [name for name, shape in {**self.layer.inputs, **self.layer.params}.items() if is_real(shape)]

    def weighted_outputs(self) -> Array:
        """Runs forward; its sum is the objective whose gradient a step computes.

        That is Σ ⟨gradient of an output, output⟩; for the loss layer scale · Σ losses, its first output.
        """
        self.forward()
        if self.layer.forward_backward:
            losses: Array = self.arrays[next(iter(self.layer.outputs))] * self.scalars["scale"]
            return losses
        pairs = [(self.arrays[gradient(name)], self.arrays[name]) for name in self.layer.outputs]
        return np.concatenate([(weight * output).ravel() for weight, output in pairs])

    def known(self) -> dict[str, Any]:
        """Everything that a kernel or an oracle may ask for, by name."""
        return {**self.arrays, **self.scalars}

    def run(self, kernel: Any) -> None:
        """Calls a kernel with what its parameters name; nothing where the layer has none."""
        if kernel:
            known = self.known()
            kernel(*[known[name] for name in arguments(kernel)])

    def calls(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """The kernels of a step and of forward alone, with their arguments."""
        known, layer = self.known(), self.layer
        kernels = [kernel for kernel in (layer.forward, layer.backward, layer.forward_backward) if kernel]
        return [(kernel, tuple(known[name] for name in arguments(kernel))) for kernel in kernels]

    def _lay_out(self, allocate: Allocate) -> None:
        layer = self.layer
        values = {**layer.inputs, **layer.params, **layer.outputs}
        declared = {**values, **layer.saved, **layer.scratch, **layer.cache}
        # Outputs first: a gradient of an input may be a view of theirs.
        for name in [*layer.outputs, *layer.inputs, *layer.params]:
            if is_real(values[name]):
                declared[gradient(name)] = values[name]
        for name, shape in declared.items():
            if name in layer.alias:
                self.arrays[name] = self.arrays[layer.alias[name]]
            else:
                dtype = self.dtype if is_real(shape) else np.dtype(shape.split(":")[1])
                self.arrays[name] = allocate(resolve(shape, self.sizes), dtype)

    def _fill(self) -> None:
        layer = self.layer
        for name in [*layer.inputs, *layer.params, *(gradient(output) for output in layer.outputs)]:
            array = self.arrays[name]
            if name in layer.integers:
                least, letter = layer.integers[name]
                array[...] = self.whole_numbers(name, array.shape, max(least, 0), self.sizes[letter])
                if least == IGNORED:
                    array[self.ignored(array.size)] = IGNORED
            else:
                array[...] = self.reals(name, array.shape)
        for name in layer.cache:
            self.arrays[name].fill(0)
        self.clear()

    def reals(self, name: str, shape: tuple[int, ...]) -> Array:
        """What tensor `name` starts with."""
        return self.rng.standard_normal(shape).astype(np.float32)

    def whole_numbers(self, name: str, shape: tuple[int, ...], least: int, below: int) -> Array:
        """The same for integers."""
        return self.rng.integers(least, below, shape)

    def ignored(self, targets: int) -> Array | slice:
        """Which of the targets do not count."""
        return self.rng.permutation(targets)[: targets // 4]

    def _step(self) -> dict[str, Any]:
        ignoring = [name for name, (least, _) in self.layer.integers.items() if least == IGNORED]
        targets = sum(int(np.count_nonzero(self.arrays[name] != IGNORED)) for name in ignoring)
        return {
            "position": np.int64(POSITION),
            "key": np.uint64(KEY),
            "first_row": np.int64(FIRST_ROW),
            "scale": self.dtype.type(1 / max(targets, 1)),
        }
