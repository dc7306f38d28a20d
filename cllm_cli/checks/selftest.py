"""Every kernel on fixed inputs, against what is stored in `known_outputs.py`: is this machine computing what it should?

Whether the formulas are right is for the tests and `cllm gradcheck`. What is stored was computed in float64 by the
plain Python that the kernels are (tools/make_known.py, with the JIT off), so compiler and compiled kernels had no part
in it. Inputs follow from a formula in whole numbers and are exact in float32, so they are the same everywhere.

Of each tensor that a kernel writes two numbers are stored: Σ w·out, with weights of either sign between ½ and 1, and
√n max|out| for its n elements, which errors are relative to. Rounding errors of mean zero come to some √n of one
element's, λ √(D + 16) u max|out| (λ = 8, u half the distance from 1 to the next number, D the sizes together: no sum
is longer; see precision.py). A single element that is off by 2 λ √(n (D + 16)) u of the largest is seen, and so is one
that was not written, which is NaN. Whole numbers have to be exact.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from cllm_cli.checks.harness import Array, Bench, letters_of
from cllm_cli.checks.known_outputs import KNOWN
from cllm_cli.kernels.automaton import (
    automaton_build,
    automaton_complete,
    automaton_follow,
    automaton_follow_table,
    automaton_settle,
)
from cllm_cli.kernels.cores import bind_calls
from cllm_cli.kernels.simd import MR, columns
from cllm_cli.layers import LAYERS
from cllm_cli.layers.base import NORMAL, Layer, arguments, gradient
from cllm_cli.model.arena import Arena, Parameter
from cllm_cli.optim import OPTIMIZERS
from cllm_cli.optim.base import Updater
from cllm_cli.optim.clip import norm_scratch, sum_squares
from cllm_cli.profiling.roof import DEPTH, copy_memory, multiply_in_cache

CONFIDENCE, ELEMENTARY = 8.0, 16
PASSES = (("forward", "backward"), ("forward_backward",), ("cached",))  # those of a line share their tensors
PARAMETERS = [Parameter(f"{group}.0", (33, 20), group, NORMAL) for group in ("embedding", "matrix", "vector")]
SETTINGS = {
    "beta1": 0.9,
    "beta2": 0.99,
    "eps": 1e-8,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.1,
    "lr": 0.02,
    "lr_embed": 0.05,
}
CODES, ALPHABET = 200, 5


@dataclass(frozen=True)
class Case:
    """A call of a kernel, and the tensors that it writes by name. `longest`: no sum has more terms."""

    kernel: Any
    arguments: tuple[Any, ...]
    inputs: str
    dtype: str
    written: Mapping[str, Array]
    longest: int = 1

    @property
    def name(self) -> str:
        """The kernel's name."""
        return str(self.kernel.__name__)

    def key(self, tensor: str) -> str:
        """What the outputs are stored under: the same in each precision."""
        return f"{self.name} {self.inputs} {tensor}"


@dataclass(frozen=True)
class Result:
    """A case that was run: the tensor that came nearest its tolerance. NaN is an error beyond any."""

    case: Case
    tensor: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance


def self_test() -> Iterator[Result]:
    """Every kernel as commands have it compiled: in float32, layers for the gradient check in float64 too."""
    for case in every_case():
        case.kernel(*case.arguments)
        yield judged(case)


def every_case() -> Iterator[Case]:
    """The cases of `self_test`. Each has to be run before the next is asked for, which may read what it wrote."""
    yield from layer_cases(np.float32)
    yield from other_cases(np.float32)
    yield from layer_cases(np.float64, cached=False)


def judged(case: Case, known: Mapping[str, tuple[float, float]] = KNOWN) -> Result:
    """What a case has written, compared with what is known of it."""
    worst = Result(case, "", 0.0, 0.0)
    for tensor, values in case.written.items():
        wanted, scale = known.get(case.key(tensor), (math.nan, 1.0))
        difference = abs(weighted_sum(values) - wanted)
        error = difference / scale if scale else difference
        unit = 0.0 if values.dtype.kind == "i" else float(np.finfo(values.dtype).eps) / 2
        tolerance = CONFIDENCE * math.sqrt(case.longest + ELEMENTARY) * unit
        if not error <= tolerance:
            return Result(case, tensor, error, tolerance)
        if not worst.tensor or error * worst.tolerance > worst.error * tolerance:
            worst = Result(case, tensor, error, tolerance)
    return worst


def weighted_sum(values: Array) -> float:
    """Σ w·values, rounded once, with weights of either sign between ½ and 1."""
    drawn = numbers(values.shape, "weights")
    return math.fsum((np.sign(drawn + 2**-21) * (1 + np.abs(drawn)) / 2 * values).ravel().tolist())


def size_of(values: Array) -> float:
    """√n times the largest magnitude."""
    return math.sqrt(values.size) * float(np.abs(values).max())


def numbers(shape: tuple[int, ...], stream: str) -> Array:
    """Multiples of 2⁻²⁰ from −1 to below 1 that look random, in float64. Other streams have others."""
    bits = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(zlib.crc32(stream.encode()) << 32)
    for shift, factor in ((31, 0x7FB5D329728EA185), (27, 0x81DADEF4BC2DD44D)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    drawn: Array = ((bits >> np.uint64(43)).astype(np.float64) / 2**20 - 1).reshape(shape)
    return drawn


def whole_numbers(shape: tuple[int, ...], stream: str, below: int) -> Array:
    """Whole numbers from 0 to below `below`."""
    drawn: Array = ((numbers(shape, stream) + 1) * (below / 2)).astype(np.int64)
    return drawn


class FixedBench(Bench):
    """A bench whose numbers follow from the formula: reals from −2 to below 2, every fourth target ignored."""

    def reals(self, name: str, shape: tuple[int, ...]) -> Array:
        return 2 * numbers(shape, name)

    def whole_numbers(self, name: str, shape: tuple[int, ...], least: int, below: int) -> Array:
        return whole_numbers(shape, name, below)

    def ignored(self, targets: int) -> slice:
        return slice(None, None, 4)


def layer_cases(dtype: Any, cached: bool = True) -> Iterator[Case]:
    """Every kernel of every layer, at each sample but the first, which is degenerate."""
    for layer in map(LAYERS.load, LAYERS):
        for sample in layer.samples[1:]:
            for kinds in PASSES if cached else PASSES[:-1]:
                bench = FixedBench(layer, sample, dtype)
                known, sizes = bench.known(), letters_of(sample)
                for kind in kinds:
                    kernel = getattr(layer, kind)
                    if kernel:
                        names = arguments(kernel)
                        yield Case(
                            kernel,
                            tuple(known[name] for name in names),
                            " ".join(f"{letter}={size}" for letter, size in sizes.items()),
                            np.dtype(dtype).name,
                            {name: known[name] for name in names if name in _written(layer, kind)},
                            sum(sizes.values()),
                        )


def _written(layer: Layer, kind: str) -> set[str]:
    """The tensors that a pass of a layer leaves for others."""
    gradients = {gradient(name) for name in (*layer.inputs, *layer.params)}
    if kind == "backward":
        return gradients
    outputs = {*layer.outputs, *layer.saved, *layer.cache}
    return outputs | gradients if kind == "forward_backward" else outputs


def other_cases(dtype: Any) -> Iterator[Case]:
    """The kernels that are of no layer."""
    for name in OPTIMIZERS:
        yield from _update_cases(name, dtype)
    yield from _norm_and_roof_cases(dtype)
    yield from _automaton_cases()


def _update_cases(name: str, dtype: Any) -> Iterator[Case]:
    arena = Arena(PARAMETERS, np.dtype(dtype))
    arena.make_gradients()
    updater = Updater(OPTIMIZERS.load(name), arena, SETTINGS)
    state = updater.tensors()
    for parameter in arena.parameters:
        arena.parameter(parameter)[...] = numbers((33, 20), "values")
        arena.gradient(parameter)[...] = numbers((33, 20), "gradients")
    for tensor, values in state.items():
        values[...] = np.abs(numbers((33, 20), tensor.split(".")[0]))  # a second moment is never below 0
    for (kernel, args), parameter in zip(updater.calls(3, 0.02, 0.5), arena.parameters, strict=True):
        written = {"values": arena.parameter(parameter), "gradients": arena.gradient(parameter)}
        written |= {tensor.split(".")[0]: state[tensor] for tensor in state if tensor.endswith(f".{parameter}")}
        inputs = f"{name} {parameter.split('.')[0]}"
        yield Case(kernel, args, inputs, np.dtype(dtype).name, written)


def _norm_and_roof_cases(dtype: Any) -> Iterator[Case]:
    name = np.dtype(dtype).name
    part = norm_scratch()
    yield Case(sum_squares, (part, numbers((1000,), "x").astype(dtype)), "1000", name, {"part": part}, 1000)
    x = numbers((7, 50), "x").astype(dtype)
    out = np.full_like(x, np.nan)
    yield Case(copy_memory, (out, x), "7 50", name, {"out": out})
    # The tile is as the CPU has it; the corner that the smallest one has is looked at, in the last task.
    tasks, width = numba.get_num_threads(), columns(x.itemsize)
    a = np.tile(numbers((DEPTH, 16), "a")[:, :MR].astype(dtype).ravel(), (tasks, 1))
    b = np.tile(numbers((DEPTH, 32), "b")[:, :width].astype(dtype).ravel(), (tasks, 1))
    c = np.full((tasks, MR * width), np.nan, dtype)
    corner = c[-1].reshape(MR, width)[:4, :4]
    yield Case(multiply_in_cache, (c, a, b, 2), str(DEPTH), name, {"c": corner}, DEPTH)
    for kernel, args in bind_calls():  # it leaves no numbers: that it runs is all
        yield Case(kernel, args, "no core", "uint64", {})


def _automaton_cases() -> Iterator[Case]:
    """A text with two documents, and another one followed through its automaton in both ways."""
    codes, other = (whole_numbers((CODES,), name, ALPHABET) for name in ("codes", "other"))
    codes[CODES // 2] = other[CODES // 3] = -1
    size = 2 * CODES + 1
    lengths, links, heads, seen, seen_table = (np.zeros(size, np.int64) for _ in range(5))
    slots = 1 << (6 * CODES + 1).bit_length()
    keys = np.full(slots, -1, np.int64)
    goals, follow = (np.zeros(slots, np.int64) for _ in range(2))
    places = np.zeros((2, 5), np.int64)

    def case(kernel: Any, args: tuple[Any, ...], **written: Array) -> Case:
        return Case(kernel, args, str(CODES), "int64", written)

    built = (lengths, links, heads, keys, goals, follow)
    yield case(automaton_build, (*built, codes, ALPHABET), lengths=lengths, links=links, goals=goals)
    states = 1 + int(np.count_nonzero(lengths))
    order = np.argsort(lengths[:states], kind="stable")
    table = np.full((states, ALPHABET + 1, 2), -1, np.int32)
    yield case(automaton_complete, (table, order, lengths, links, keys, goals, ALPHABET), table=table)
    following = (places[0], seen, lengths, links, keys, goals, other, ALPHABET)
    yield case(automaton_follow, following, place=places[0], seen=seen)
    yield case(automaton_follow_table, (places[1], seen_table, table, other), place=places[1], seen=seen_table)
    yield case(automaton_settle, (seen, lengths, links), seen=seen)
