"""exp, tanh and log over their whole range, against long double; the bounds are those that kernels/math.py states."""

from __future__ import annotations

from fractions import Fraction
from math import factorial

import numpy as np
import pytest
from compiled import exp_of, log_of, tanh_of

from cllm_cli.kernels import math

BOUNDS = {"exp": 1.5, "tanh": 3.5, "log": 2.0}  # ulp
COMPILED = {"exp": exp_of, "tanh": tanh_of, "log": log_of}
EXACT = {"exp": np.exp, "tanh": np.tanh, "log": np.log}
BITS = {np.float32: np.uint32, np.float64: np.uint64}

functions = pytest.mark.parametrize("name", BOUNDS)
precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def values(name, dtype, step=4099):
    """Every `step`-th float32 by its bits, or as many float64 spread alike; near the ends of the range all of them."""
    count = 2**32 // step
    bits = np.arange(count, dtype=np.uint64) * step if dtype == np.float32 else spread_bits(count)
    edges = [0.0, 1.0, 0.5 * np.log(2), np.log(2), np.log(np.finfo(dtype).max), np.log(np.finfo(dtype).tiny)]
    edges += [10.0, 20.0, np.sqrt(0.5), np.sqrt(2), np.finfo(dtype).tiny, np.finfo(dtype).max]
    around = np.array(edges, dtype).view(BITS[dtype])[:, None].astype(np.int64) + np.arange(-200, 201)
    near = around[around >= 0].astype(BITS[dtype]).view(dtype)
    # Where the functions are neither 0 nor constant the bits say too little: also evenly by value.
    even = np.linspace(-760 if dtype == np.float64 else -105, 715 if dtype == np.float64 else 90, 200_001)
    x = np.concatenate([bits.astype(BITS[dtype]).view(dtype), near, -near, even.astype(dtype), even.astype(dtype) / 30])
    x = x[np.isfinite(x)]
    return x[x > 0] if name == "log" else x


def spread_bits(count):
    return np.arange(count, dtype=np.uint64) * np.uint64(2**64 // count) + np.uint64(0x9E3779B97)


def ulps(got, exact, dtype):
    """The distance from the exact value in units in the last place; overflow is the next number after the largest."""
    largest = np.finfo(dtype).max
    below = np.nextafter(largest, np.zeros((), dtype))
    next_up = 2 * np.longdouble(largest) - np.longdouble(below)
    exact = np.clip(exact, -next_up, next_up)
    rounded = np.clip(exact, -np.longdouble(largest), np.longdouble(largest)).astype(dtype)
    shown = np.where(np.isinf(got), np.sign(got) * next_up, got.astype(np.longdouble))
    unit = np.spacing(np.minimum(np.abs(rounded), below))
    return np.abs(shown - exact) / unit.astype(np.longdouble)


def worst(name, x):
    out = np.full_like(x, np.nan)
    COMPILED[name](out, x)
    with np.errstate(over="ignore", under="ignore"):
        errors = ulps(out, EXACT[name](x.astype(np.longdouble)), x.dtype)
    at = int(np.argmax(errors))
    return float(errors[at]), f"{name}({x[at]!r}) is {out[at]!r}"


@precisions
@functions
def test_the_stated_bounds_hold(name, dtype):
    if dtype == np.float64 and np.finfo(np.longdouble).nmant <= 52:
        pytest.skip("long double is no longer than double here")
    error, where = worst(name, values(name, dtype))
    assert error <= BOUNDS[name], where


@pytest.mark.parametrize(("name", "bound"), BOUNDS.items())
def test_the_module_states_these_bounds(name, bound):
    assert f"{name} ≤ {bound:g} ulp" in math.__doc__


@precisions
def test_ends_of_the_range(dtype):
    out = np.empty(7, dtype)
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, np.finfo(dtype).max, -np.finfo(dtype).max], dtype)
    exp_of(out, x)
    np.testing.assert_array_equal(out, np.array([np.inf, 0, np.nan, 1, 1, np.inf, 0], dtype))
    tanh_of(out, x)
    np.testing.assert_array_equal(out, np.array([1, -1, np.nan, 0, 0, 1, -1], dtype))
    log_of(out, x)
    largest = np.log(np.finfo(dtype).max)
    np.testing.assert_array_equal(out, np.array([np.inf, np.nan, np.nan, -np.inf, -np.inf, largest, np.nan], dtype))


@precisions
def test_denormals_are_values_like_others(dtype):
    x = np.finfo(dtype).smallest_subnormal * np.arange(1, 1000).astype(dtype)
    out = np.empty_like(x)
    tanh_of(out, x)
    assert np.array_equal(out, x)
    exp_of(out, x)
    assert np.array_equal(out, np.ones_like(x))
    log_of(out, x)
    assert ulps(out, np.log(x.astype(np.longdouble)), dtype).max() <= BOUNDS["log"]


@precisions
@functions
def test_functions_keep_their_order(name, dtype):
    # An error of a few ulp may turn neighbours round, but no values that are further apart.
    x = np.sort(values(name, dtype, step=2**32 // 20_000))[::20]
    out = np.empty_like(x)
    COMPILED[name](out, x)
    out = out[np.isfinite(out)]
    back = np.maximum.accumulate(out)[:-1] - out[1:]
    assert np.all(back <= 2 * BOUNDS[name] * np.spacing(np.abs(out[1:])))


@precisions
def test_tanh_is_odd(dtype):
    x = values("tanh", dtype, step=2**32 // 50_000)
    out, mirrored = np.empty_like(x), np.empty_like(x)
    tanh_of(out, x)
    tanh_of(mirrored, -x)
    assert np.array_equal(out, -mirrored)
    assert np.abs(out).max() <= 1


# Where they are used, the last terms are lost in an ulp; far from there they weigh as much as the others.
@pytest.mark.parametrize("at", [-1, 1, 4])
@pytest.mark.parametrize(
    ("series", "dtype", "coefficients"),
    [
        ("_series32", np.float32, [Fraction(1, factorial(n + 1)) for n in range(7)]),
        ("_series64", np.float64, [Fraction(1, factorial(n + 1)) for n in range(14)]),
        ("_tail32", np.float32, [0, *(Fraction(1, 2 * n + 1) for n in range(1, 6))]),
        ("_tail64", np.float64, [0, *(Fraction(1, 2 * n + 1) for n in range(1, 12))]),
    ],
)
def test_the_series_are_those_of_taylor(series, dtype, coefficients, at):
    function = getattr(math, series)
    wanted = sum(coefficient * at**n for n, coefficient in enumerate(coefficients))
    found = getattr(function, "py_func", function)(dtype(at))
    assert abs(Fraction(float(found)) - wanted) <= 8 * float(np.finfo(dtype).eps) * abs(wanted)
