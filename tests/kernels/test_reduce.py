"""Reductions: the largest of a row at every place and length, and sums over rows that no number of threads changes."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import column_sums, largest_of

from cllm_cli.kernels.reduce import CHUNKS

precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@precisions
def test_the_largest_is_found_wherever_it_stands_and_however_long_the_row(dtype):
    for count in range(1, 42):
        x = np.full((count, count + 3), 7, dtype)  # what comes after the first `count` is larger than all of them
        x[:, :count] = np.eye(count) - 2
        out = np.full(count, np.nan, dtype)
        largest_of(out, x, count)
        assert (out == -1).all(), count


@precisions
def test_the_largest_of_random_rows(dtype):
    rng = np.random.default_rng(1)
    for count in range(1, 42):
        x = rng.standard_normal((20, count)).astype(dtype)
        out = np.empty(20, dtype)
        largest_of(out, x, count)
        assert np.array_equal(out, x.max(axis=1)), count


@precisions
@pytest.mark.parametrize("rows", [1, CHUNKS - 1, CHUNKS, CHUNKS + 1, 5 * CHUNKS + 3])
@pytest.mark.parametrize("columns", [1, 6])
def test_column_sums_are_added_to_what_is_there(dtype, rows, columns):
    rng = np.random.default_rng(2)
    x = rng.integers(-9, 9, (rows, columns)).astype(dtype)  # whole numbers: their sums are exact
    start = rng.integers(-9, 9, columns).astype(dtype)
    total, part = start.copy(), np.full((CHUNKS, columns), np.nan, dtype)
    column_sums(total, part, x)
    assert np.array_equal(total, start + x.sum(axis=0))


@precisions
def test_column_sums_have_the_same_bits_for_every_number_of_threads(dtype, set_threads):
    x = np.random.default_rng(3).standard_normal((100, 7)).astype(dtype)
    found = []
    for threads in (1, 2, 3, 7):
        set_threads(threads)
        total, part = np.zeros(7, dtype), np.full((CHUNKS, 7), np.nan, dtype)
        column_sums(total, part, x)
        found.append(total.tobytes())
    assert len(set(found)) == 1
