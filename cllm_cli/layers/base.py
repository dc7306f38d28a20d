"""What a layer is: a declaration of kernels, tensors and shapes that everything else reads.

Shapes are written in letters ("N C", "B T 3 NH HS"); a letter is bound by the sizes of the model, by the inputs'
shapes, by the call, or by a rule of the layer (`derived`). Tensors are of the model's precision unless they say
otherwise ("N:int32"); those that are no floats have no gradient. The gradient of `x` is called `dx`.

A kernel's own parameters say what it reads and writes, by name and in this order, leaving out what it does not need:

    forward           outputs, saved, scratch, inputs, params, consts, step_args
    backward          d_inputs, d_params, scratch, d_outputs, inputs, params, outputs, saved, consts, step_args
    forward_backward  outputs, d_inputs, d_params, scratch, inputs, params, consts, step_args
    cached            outputs, cache, scratch, inputs, params, consts, step_args

Forward writes every element of outputs and saved; backward writes every element of d_inputs and adds to d_params.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cllm_cli.errors import ConfigError

Sizes = Mapping[str, int]

IGNORED = -1  # the target that has no loss


@dataclass(frozen=True)
class Init:
    """How a parameter starts: normal with deviation `std`, or the constant `value` where std is 0."""

    std: float = 0.0
    value: float = 0.0


NORMAL, ZEROS, ONES = Init(std=0.02), Init(), Init(value=1.0)


@dataclass(frozen=True)
class Layer:
    """A layer's declaration.

    alias: outputs that are views of inputs ({"a": "x"}: forward copies nothing) and gradients of inputs that are
    views of gradients of outputs ({"dx": "dout"}). forward_backward: of the loss alone, whose backward runs while a
    chunk of logits is alive. group: of parameters whose group for the optimizer is not that of their rank. cached:
    the forward of generation, with persistent `cache` tensors. flops: of the matrix products in forward, from the
    sizes; backward has twice as many. rows: of parameters that are tables, the letter of how many rows a call looks
    up. cheap: forward costs little beside the memory of its outputs. integers: for an input that is no float, its
    least value and the letter that all values are below. samples: sizes (and consts) that every generic test and check
    runs.
    """

    name: str
    forward: Any = None
    backward: Any = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    integers: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    saved: Mapping[str, str] = field(default_factory=dict)
    scratch: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    consts: Mapping[str, Any] = field(default_factory=dict)
    step_args: Sequence[str] = ()
    alias: Mapping[str, str] = field(default_factory=dict)
    derived: Mapping[str, Callable[..., int]] = field(default_factory=dict)
    forward_backward: Any = None
    cached: Any = None
    cache: Mapping[str, str] = field(default_factory=dict)
    init: Mapping[str, Init] = field(default_factory=dict)
    rows: Mapping[str, str] = field(default_factory=dict)
    group: Mapping[str, str] = field(default_factory=dict)
    flops: Callable[[Sizes], int] = lambda sizes: 0
    cheap: bool = False
    samples: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        float_inputs = [name for name in self.inputs if is_real(self.inputs[name])]
        d_inputs = [gradient(name) for name in float_inputs if gradient(name) not in self.alias]
        d_params = [gradient(name) for name in self.params]
        d_outputs = [gradient(name) for name in self.outputs]
        written = [name for name in self.outputs if name not in self.alias]
        tail = [*self.consts, *self.step_args]
        orders = {
            "forward": [*written, *self.saved, *self.scratch, *self.inputs, *self.params, *tail],
            "backward": [
                *d_inputs,
                *d_params,
                *self.scratch,
                *d_outputs,
                *self.inputs,
                *self.params,
                *self.outputs,
                *self.saved,
                *tail,
            ],
            "forward_backward": [*written, *d_inputs, *d_params, *self.scratch, *self.inputs, *self.params, *tail],
            "cached": [*written, *self.cache, *self.scratch, *self.inputs, *self.params, *tail],
        }
        for which, order in orders.items():
            names = arguments(getattr(self, which))
            places = [order.index(name) if name in order else -1 for name in names]
            if -1 in places or places != sorted(set(places)):
                raise ConfigError(f"layer {self.name}: {which}{names} does not follow the order {order}")


def arguments(kernel: Any) -> tuple[str, ...]:
    """The names of a kernel's parameters, in order; none where there is no kernel."""
    if kernel is None:
        return ()
    code = getattr(kernel, "py_func", kernel).__code__
    return tuple(code.co_varnames[: code.co_argcount])


def gradient(name: str) -> str:
    """The name of a tensor's gradient."""
    return "d" + name


def is_real(shape: str) -> bool:
    """Whether a declared tensor is of the model's precision, and so has a gradient."""
    return ":" not in shape


def letters(shape: str) -> list[str]:
    """The dimensions of a declared shape, without its element type."""
    return shape.split(":")[0].split()


def bind(shape: str, actual: Sequence[int], sizes: dict[str, int]) -> None:
    """Adds to `sizes` what a tensor's actual shape says of the letters of its declared shape.

    A tensor is bound letter by letter where the rank agrees; otherwise its element count must be that of the declared
    shape, whose letters must be known. Raises ConfigError where the two do not fit.
    """
    declared = letters(shape)
    if len(declared) == len(actual):
        for letter, size in zip(declared, actual, strict=True):
            known = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            if known != size:
                raise ConfigError(f"a tensor of shape {tuple(actual)} does not fit '{shape}' with {letter} = {known}")
    elif math.prod(resolve(shape, sizes)) != math.prod(actual):
        raise ConfigError(f"a tensor of shape {tuple(actual)} does not fit '{shape}' with {sizes}")


def resolve(shape: str, sizes: Sizes) -> tuple[int, ...]:
    """The sizes of a declared shape. Raises ConfigError for a letter without a size."""
    missing = [letter for letter in letters(shape) if not letter.isdigit() and letter not in sizes]
    if missing:
        raise ConfigError(f"shape '{shape}': no size for {', '.join(missing)}")
    return tuple(int(letter) if letter.isdigit() else sizes[letter] for letter in letters(shape))


def derive(layer: Layer, sizes: dict[str, int]) -> None:
    """Adds the letters that the layer computes from others (`itemsize` and `threads` too) and that no one gave."""
    for letter, rule in layer.derived.items():
        if letter in sizes:
            continue
        needed = arguments(rule)
        missing = [name for name in needed if name not in sizes]
        if missing:
            raise ConfigError(f"layer {layer.name}: no size for {', '.join(missing)}")
        sizes[letter] = rule(*(sizes[name] for name in needed))
