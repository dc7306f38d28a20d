"""Clipping by the global norm."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cllm_cli.optim.clip import clip_scale, global_norm, norm_scratch


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 15, 16, 17, 1000, 100_003])
def test_the_norm_is_that_of_one_long_vector(dtype, size):
    gradients = np.random.default_rng(size).standard_normal(size).astype(dtype)
    wanted = math.sqrt(math.fsum(float(value) ** 2 for value in gradients))
    assert global_norm(gradients, norm_scratch()) == pytest.approx(wanted, rel=1e-13)


def test_squares_that_float32_cannot_hold_are_summed_all_the_same():
    gradients = np.full(64, 1e30, np.float32)
    assert global_norm(gradients, norm_scratch()) == pytest.approx(8e30, rel=1e-6)
    assert global_norm(np.full(64, 1e-30, np.float32), norm_scratch()) == pytest.approx(8e-30, rel=1e-6)


def test_same_bits_for_every_number_of_threads(set_threads):
    gradients = np.random.default_rng(0).standard_normal(54_321).astype(np.float32)
    found = set()
    for threads in (1, 2, 3, 7):
        set_threads(threads)
        found.add(global_norm(gradients, norm_scratch()))
    assert len(found) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_one_number_that_is_not_finite_is_seen(value, place):
    gradients = np.ones(1000, np.float32)
    gradients[place] = value
    assert not math.isfinite(global_norm(gradients, norm_scratch()))


def test_the_scale_brings_a_norm_to_the_limit_and_leaves_a_smaller_one():
    assert clip_scale(10.0, 2.5) * 10.0 == pytest.approx(2.5, rel=1e-6)
    assert clip_scale(2.0, 2.5) == 1.0
    assert clip_scale(0.0, 2.5) == 1.0
    assert clip_scale(1e30, 0) == 1.0
