"""exp, tanh, log and GELU over the whole float32 range, by its bits: every third of the 2³², in the quick set fewer.

python tests/kernels/test_math_whole_range.py        all of them; a few minutes
"""

from __future__ import annotations

import numpy as np
import pytest
from compiled import exp_of, log_of, tanh_of, worst_error

from cllm_cli.kernels import math
from cllm_cli.kernels.jit import JIT_OFF
from cllm_cli.layers import gelu

pytestmark = pytest.mark.skipif(JIT_OFF, reason="a check of every float32 takes compiled code")


def gelu_of(out, x):
    gelu.gelu_forward(out.reshape(1, -1), x.reshape(1, -1))


# In ulp, as kernels/math.py and layers/gelu.py state them.
FUNCTIONS = {"exp": (exp_of, 1.5), "tanh": (tanh_of, 3.5), "log": (log_of, 2.0), "GELU": (gelu_of, 3.0)}
CHUNK = 2**22


def patterns(step):
    """Every `step`-th float32 in chunks, by its bits."""
    for first in range(0, 2**32, CHUNK * step):
        yield np.arange(first, min(2**32, first + CHUNK * step), step, dtype=np.uint32).view(np.float32)


def worst(name, step):
    """The largest error of a function in ulp, and of what."""
    largest, of = 0.0, np.float32(0)
    for x in patterns(step):
        out = np.full_like(x, 7)
        FUNCTIONS[name][0](out, x)
        errors, places = worst_error(list(FUNCTIONS).index(name), x, out)
        if errors.max() > largest:
            largest, of = errors.max(), x[places[errors.argmax()]]
    return largest, of


# An odd step meets every exponent and, over any few binades, every pattern of the low bits.
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("step", [4093, pytest.param(3, marks=pytest.mark.slow)])
def test_the_stated_bounds_hold_over_the_whole_range(name, step):
    error, of = worst(name, step)
    assert error <= FUNCTIONS[name][1], f"{name}({of!r}) is off by {error} ulp"


def test_an_error_and_a_lost_nan_are_seen():
    x = np.array([1, np.nan, -np.inf, np.inf, 1e-40], np.float32)
    right = np.array([np.e, np.nan, 0, np.inf, 1], np.float32)
    assert worst_error(0, x, right)[0].max() < 0.5
    for place, wrong in [(0, np.nextafter(np.nextafter(right[0], np.float32(9)), np.float32(9))), (1, 1), (2, np.nan)]:
        out = right.copy()
        out[place] = wrong
        errors, places = worst_error(0, x, out)
        assert errors.max() > 1.5
        assert places[errors.argmax()] == place


def test_gelu_at_the_ends_of_the_range():
    x = np.array([np.inf, np.nan, 0.0, -0.0, 3e38, -3e38, -1e4], np.float32)
    out = np.empty_like(x)
    gelu_of(out, x)
    np.testing.assert_array_equal(out, np.array([np.inf, np.nan, 0, 0, 3e38, 0, 0], np.float32))


def test_the_modules_state_these_bounds():
    for name, (_, bound) in FUNCTIONS.items():
        assert f"{name} ≤ {bound:g} ulp" in (gelu if name == "GELU" else math).__doc__


if __name__ == "__main__":  # every float32 there is
    for function in FUNCTIONS:
        print(function, *worst(function, 1))  # noqa: T201 - a program of its own
