"""The program: an architecture's calls to layers, recorded once as data, before any memory exists.

Recording needs shapes alone. The parameters that were met make an arena, the calls a plan of memory (`plan.py`), and a
replay runs them on that memory, forward in order and backward reversed (`workspace.py`). The order is all that is
mechanical: every derivative is a layer's own kernel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cllm_cli.errors import ConfigError
from cllm_cli.layers import LAYERS
from cllm_cli.layers.base import Init, Layer, bind, derive, is_real, resolve
from cllm_cli.model.arena import Parameter

TRAIN, EVALUATE, GENERATE = "train", "evaluate", "generate"


@dataclass(frozen=True)
class Tensor:
    """A value of the program: its number and shape. `dtype` is empty for the model's precision."""

    index: int
    shape: tuple[int, ...]
    dtype: str = ""


@dataclass(frozen=True)
class Call:
    """One call of a layer: sizes of its letters; tensors, names of parameters and constants, each by declared name."""

    layer: Layer
    label: str
    sizes: Mapping[str, int]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    params: Mapping[str, str]
    consts: Mapping[str, Any]


@dataclass
class Program:
    """What an architecture function records into.

    `mode` is train, evaluate (no dropout, no backward) or generate (attention keeps its keys and values). `sizes` has
    B, T, N, S (the longest window), K, threads and itemsize. `kept` are the tensors that recomputation starts from, and
    how many calls came before.
    """

    mode: str
    sizes: Mapping[str, int]
    calls: list[Call] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    given: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[int, int] = field(default_factory=dict)

    def input(self, name: str, shape: str) -> Tensor:
        """A tensor that comes from outside, such as the tokens."""
        self.given[name] = self._tensor(shape, self.sizes)
        return self.given[name]

    def keep(self, tensor: Tensor) -> Tensor:
        """Marks what goes into a block: it is kept for backward even where all else is computed again."""
        self.kept[tensor.index] = len(self.calls)
        return tensor

    def __call__(self, layer: str, *inputs: Tensor, name: str = "", **more: Any) -> Any:
        """Calls a layer; gives its output, or a tuple of its outputs.

        `name` is the prefix of the parameters' names in the model file. `more` has sizes of letters (upper case),
        constants, full names of shared parameters, and as `<param>_init` how a parameter starts. Raises ConfigError
        where shapes do not fit.
        """
        declared: Layer = LAYERS.load(layer)
        sizes = {**self.sizes, **{key: value for key, value in more.items() if key.isupper()}}
        named = dict(zip(declared.inputs, inputs, strict=True))
        for tensor, shape in declared.inputs.items():
            bind(shape, named[tensor].shape, sizes)
        derive(declared, sizes)
        params = {param: more.get(param, f"{name}.{param}") for param in declared.params}
        for param, full in params.items():
            self._parameter(full, param, declared, sizes, more.get(f"{param}_init", declared.init[param]))
        outputs = {output: self._tensor(shape, sizes) for output, shape in declared.outputs.items()}
        consts = {const: more.get(const, default) for const, default in declared.consts.items()}
        self.calls.append(Call(declared, name or layer, sizes, named, outputs, params, consts))
        results = tuple(outputs.values())
        return results[0] if len(results) == 1 else results

    def _tensor(self, shape: str, sizes: Mapping[str, int]) -> Tensor:
        dtype = "" if is_real(shape) else shape.split(":")[1]
        self.tensors.append(Tensor(len(self.tensors), resolve(shape, sizes), dtype))
        return self.tensors[-1]

    def _parameter(self, name: str, param: str, layer: Layer, sizes: Mapping[str, int], init: Init) -> None:
        shape = resolve(layer.params[param], sizes)
        group = layer.group.get(param, "vector" if len(shape) == 1 else "matrix")
        known = self.parameters.setdefault(name, Parameter(name, shape, group, init))
        if known.shape != shape:
            raise ConfigError(f"parameter {name} is read as {known.shape} and as {shape}")


def names_of(program: Program) -> list[str]:
    """A name for each call: that of its parameters, or block and layer; a number where a name comes again."""
    names: list[str] = []
    block = ""
    for call in program.calls:
        if call.label != call.layer.name:
            name, found = call.label, re.match(r"(.*\.\d+)\.", call.label)
            block = f"{found[1]}." if found else ""
        else:
            name = block + call.layer.name
        times = sum(other.split(" ")[0] == name for other in names)
        names.append(f"{name} {times + 1}" if times and computes(call) else name)
    return names


def computes(call: Call) -> bool:
    """Whether a call runs a kernel in forward; the others only look at memory otherwise."""
    return bool(call.layer.forward or call.layer.forward_backward)
