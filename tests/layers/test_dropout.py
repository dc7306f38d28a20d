"""What is special to dropout: its mask is a function of place, step and stream, and of nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cllm_cli.checks.harness import Bench
from cllm_cli.layers import LAYERS
from cllm_cli.layers.dropout import ONE

DROPOUT = LAYERS.load("dropout")
precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def mask_of(dtype, N=40, C=30, which="out", first_row=3, **more):
    """The factor of each element, forward ("out") or backward ("dx")."""
    bench = Bench(DROPOUT, {"N": N, "C": C, "drop": ONE // 4}, dtype)
    bench.scalars |= {name: np.int64(value) for name, value in (more | {"first_row": first_row}).items()}
    bench.arrays["x"].fill(1)
    bench.arrays["dout"].fill(1)
    bench.step()
    return bench.arrays[which]


@precisions
def test_forward_and_backward_drop_the_same_elements(dtype):
    assert np.array_equal(mask_of(dtype), mask_of(dtype, which="dx"))


@precisions
def test_the_mask_does_not_depend_on_how_rows_are_cut(dtype):
    whole = mask_of(dtype, N=40, first_row=100)
    for cuts in [(0, 1, 40), (0, 13, 26, 40)]:
        parts = [mask_of(dtype, N=last - first, first_row=100 + first) for first, last in itertools.pairwise(cuts)]
        assert np.array_equal(np.concatenate(parts), whole)


@precisions
def test_the_mask_depends_on_row_stream_and_key(dtype):
    masks = [mask_of(dtype), mask_of(dtype, first_row=4), mask_of(dtype, stream=1)]
    bench = Bench(DROPOUT, {"N": 40, "C": 30}, dtype)
    bench.arrays["x"].fill(1)
    bench.scalars["key"] += np.uint64(1)
    bench.forward()
    masks.append(bench.arrays["out"])
    for number, mask in enumerate(masks):
        assert not any(np.array_equal(mask, other) for other in masks[:number])


def test_both_precisions_drop_the_same_elements():
    assert np.array_equal(mask_of(np.float32) == 0, mask_of(np.float64) == 0)


@precisions
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_the_stated_share_is_dropped_and_the_mean_stays(dtype, rate):
    mask = mask_of(dtype, N=400, C=250, drop=round(rate * ONE))
    dropped = np.mean(mask == 0)
    assert abs(dropped - rate) <= 4 * np.sqrt(rate * (1 - rate) / mask.size)  # four standard deviations
    kept = mask[mask != 0]
    np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=3e-7)  # drop is the rate to 2⁻²⁵
    assert abs(mask.mean(dtype=np.float64) - 1) <= 4 * np.sqrt(rate / (1 - rate) / mask.size) + 1e-6


@precisions
def test_columns_and_rows_are_not_correlated(dtype):
    mask = (mask_of(dtype, N=500, C=400, drop=ONE // 2) != 0) - 0.5
    for one, two in [(mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])]:
        assert abs(np.mean(one * two)) * 4 <= 4 / np.sqrt(one.size)  # four standard deviations
