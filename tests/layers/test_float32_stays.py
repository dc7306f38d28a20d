"""No kernel computes in double on float32: read from the code that LLVM made of it, inner functions included."""

from __future__ import annotations

import re

import numba
import numpy as np
import pytest
from numba import prange

from cllm_cli.checks.harness import Bench
from cllm_cli.kernels.jit import FLAGS, JIT_OFF, inner
from cllm_cli.layers import LAYERS
from cllm_cli.layers.base import Init, arguments
from cllm_cli.model.arena import GROUPS, Arena, Parameter
from cllm_cli.optim import OPTIMIZERS
from cllm_cli.optim.base import Updater
from cllm_cli.optim.clip import norm_scratch, sum_squares

pytestmark = [pytest.mark.slow, pytest.mark.skipif(JIT_OFF, reason="nothing is compiled")]

NORM = tuple(map(numba.typeof, (norm_scratch(), np.ones(3, np.float32))))
KERNELS = [
    (name, which)
    for name in LAYERS
    for which in ("forward", "backward", "forward_backward", "cached")
    if getattr(LAYERS.load(name), which)
]

# Where a double is no arithmetic: scalar arguments arrive as Python floats, and Numba's reshape compares a signed with
# an unsigned size by way of double.
HARMLESS = [
    r"call double @PyFloat_AsDouble\(",
    r"declare double @PyFloat_AsDouble\(",
    r"[us]itofp (nneg )?i64 \S+ to double$",
    r"fcmp .*\bune double ",
]
# The one sum that is declared to be in double: each number is widened and multiplied by itself, the squares are added
# up, by vectors and then across their lanes, and the sum is stored. No literal but the zero to begin with.
DOUBLE = r"(?:double|<\d+ x double>)"
SUM_OF_SQUARES = [
    rf"= fpext (float|<\d+ x float>) %\S+ to {DOUBLE}$",
    rf"= fmul [a-z ]*{DOUBLE} (%\S+), \1$",
    rf"= fadd [a-z ]*{DOUBLE} %\S+, %\S+$",
    rf"= phi {DOUBLE} (\[ (%\S+|0\.0+e\+00|zeroinitializer), %\S+ \](, )?)+$",
    r"= shufflevector <\d+ x double> %\S+, <\d+ x double> (%\S+|poison), <\d+ x i32> ",
    r"= extractelement <\d+ x double> %\S+, i64 \d+$",
    r"= insertelement <\d+ x double> <(double (poison|0\.0+e\+00)(, )?)+>, double %\S+, i64 \d+$",
    r"= getelementptr double, ptr ",
    r"store double %\S+, ptr ",
]
UNBOXED = re.compile(r"(\S+) = call double @PyFloat_AsDouble\(")


def doubles(function, signature, declared=()):
    """The lines of a kernel's compiled code in which a double is computed with, for arguments of these types.

    Those are left out that match one of the patterns `declared`.
    """
    kernel = numba.njit(parallel="prange" in function.__code__.co_names, **FLAGS)(function)
    kernel.compile(signature)
    lines = [line.strip() for line in kernel.inspect_llvm(kernel.signatures[0]).splitlines()]
    given = {found[1] for line in lines if (found := UNBOXED.search(line))}
    allowed = [re.compile(pattern) for pattern in (*HARMLESS, *declared)]
    allowed += [re.compile(rf"fptrunc double {re.escape(name)} to float$") for name in given]
    found = [line for line in lines if re.search(r"\bdouble\b", line)]
    return [line for line in found if not any(pattern.search(line) for pattern in allowed)]


def types_of(layer, kernel):
    known = Bench(layer, layer.samples[-1], np.float32).known()
    return tuple(numba.typeof(known[name]) for name in arguments(kernel))


@pytest.mark.parametrize(("name", "which"), KERNELS)
def test_float32_stays_float32(name, which):
    layer = LAYERS.load(name)
    kernel = getattr(layer, which)
    assert doubles(kernel.py_func, types_of(layer, kernel)) == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_stay_float32(name):
    arena = Arena([Parameter(group, (3, 4), group, Init()) for group in GROUPS], np.dtype(np.float32))
    arena.make_gradients()
    settings = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    updater = Updater(OPTIMIZERS.load(name), arena, {**settings, "lr": 0.1, "lr_embed": 0.1})
    for kernel, args in updater.calls(1, 0.1, 1.0):
        assert doubles(kernel.py_func, tuple(map(numba.typeof, args))) == []


def test_the_norm_is_a_sum_of_squares_in_double_and_nothing_else_is():
    assert doubles(sum_squares.py_func, NORM)  # that it is read at all
    assert doubles(sum_squares.py_func, NORM, SUM_OF_SQUARES) == []


@inner
def half_of(value):
    return 0.1 * value


def with_a_literal(out, x):  # of 0.5, which float32 holds exactly, LLVM itself makes a float
    for i in range(x.shape[0]):
        out[i] = 0.1 * x[i]


def with_a_literal_in_a_parallel_loop(out, x):
    for i in prange(x.shape[0]):
        out[i] = x[i] + 0.1


def with_a_literal_in_what_it_calls(out, x):
    for i in range(x.shape[0]):
        out[i] = half_of(x[i])


def with_a_wide_accumulator(out, x):
    total = 0.0
    for i in range(x.shape[0]):
        total += x[i]
    out[0] = total


def with_numpy_in_double(out, x):
    out[0] = np.sqrt(x.shape[0]) * x[0]


@pytest.mark.parametrize(
    "function",
    [
        with_a_literal,
        with_a_literal_in_a_parallel_loop,
        with_a_literal_in_what_it_calls,
        with_a_wide_accumulator,
        with_numpy_in_double,
    ],
)
def test_a_kernel_that_computes_in_double_is_seen(function):
    array = numba.typeof(np.ones(3, np.float32))
    assert doubles(function, (array, array))


def with_squares_that_are_scaled(part, x):
    for k in prange(part.shape[0]):
        total = 0.0
        for i in range(x.shape[0]):
            total += 0.1 * np.float64(x[i]) * np.float64(x[i])
        part[k] = total


def with_a_shift_before_the_square(part, x):
    for k in prange(part.shape[0]):
        total = 0.0
        for i in range(x.shape[0]):
            value = np.float64(x[i]) - 0.1
            total += value * value
        part[k] = total


def with_the_product_of_two(part, x):
    for k in prange(part.shape[0]):
        total = 0.0
        for i in range(1, x.shape[0]):
            total += np.float64(x[i]) * np.float64(x[i - 1])
        part[k] = total


def with_a_sum_that_starts_elsewhere(part, x):
    for k in prange(part.shape[0]):
        total = 0.1
        for i in range(x.shape[0]):
            total += np.float64(x[i]) * np.float64(x[i])
        part[k] = total


def with_a_root_of_the_sum(part, x):
    for k in prange(part.shape[0]):
        total = 0.0
        for i in range(x.shape[0]):
            total += np.float64(x[i]) * np.float64(x[i])
        part[k] = np.sqrt(total)


@pytest.mark.parametrize(
    "function",
    [
        with_squares_that_are_scaled,
        with_a_shift_before_the_square,
        with_the_product_of_two,
        with_a_sum_that_starts_elsewhere,
        with_a_root_of_the_sum,
    ],
)
def test_more_in_double_than_a_sum_of_squares_is_seen(function):
    assert doubles(function, NORM, SUM_OF_SQUARES)
