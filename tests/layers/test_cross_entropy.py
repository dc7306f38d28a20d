"""What is special to the loss: gradients that cancel, targets that are ignored, logits that are large, chunks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tolerances
from reference import expected

from cllm_cli.checks.harness import Bench
from cllm_cli.layers import LAYERS
from cllm_cli.layers.base import IGNORED

LOSS = LAYERS.load("cross_entropy")
precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def bench_of(dtype, N=20, V=13, C=7, seed=0, **more):
    return Bench(LOSS, {"N": N, "V": V, "C": C, **more}, dtype, seed)


def rows_of_the_logits_gradient(bench):
    """dx = dl W: with the identity for W it is the gradient of the logits."""
    bench.arrays["weight"][...] = np.eye(bench.sizes["V"], bench.sizes["C"])
    bench.step()
    return bench.arrays["dx"]


@precisions
def test_gradient_rows_sum_to_zero(dtype):
    bench = bench_of(dtype, V=13, C=13)
    rows = rows_of_the_logits_gradient(bench)
    allowed = tolerances.rounding({"V": 13}, dtype) * bench.scalars["scale"]
    np.testing.assert_allclose(rows.sum(axis=1), 0, atol=allowed)
    assert np.abs(rows).max() > 0.01 * bench.scalars["scale"]


@precisions
def test_gradient_is_negative_at_the_target_alone(dtype):
    bench = bench_of(dtype, V=13, C=13)
    rows, targets = rows_of_the_logits_gradient(bench), bench.arrays["targets"]
    for row, target in zip(rows, targets, strict=True):
        assert list(np.flatnonzero(row < 0)) == ([target] if target != IGNORED else [])


@precisions
def test_ignored_targets_have_no_loss_no_hit_and_no_gradient(dtype):
    bench = bench_of(dtype)
    bench.step()
    ignored = bench.arrays["targets"] == IGNORED
    assert 0 < ignored.sum() < len(ignored)
    for name in ("losses", "hits", "dx"):
        assert not bench.arrays[name][ignored].any()
    assert bench.arrays["losses"][~ignored].all()
    assert bench.arrays["dx"][~ignored].all()


@precisions
def test_nothing_but_ignored_targets_gives_zeros(dtype):
    bench = bench_of(dtype)
    bench.arrays["targets"].fill(IGNORED)
    bench.step()
    for name in ("losses", "hits", "dx", "dweight"):
        assert not bench.arrays[name].any(), name


@precisions
@pytest.mark.parametrize("sign", [1, -1])
def test_large_logits_do_not_overflow(dtype, sign):
    bench = bench_of(dtype, N=4, V=3, C=3)
    bench.arrays["x"][...] = 0
    bench.arrays["x"][:, 1] = sign * 1e4
    bench.arrays["weight"][...] = np.eye(3)
    bench.arrays["targets"][...] = [1, 0, 2, IGNORED]
    bench.step()
    wanted = [0, 1e4, 1e4, 0] if sign > 0 else [1e4 + math.log(2), math.log(2), math.log(2), 0]
    np.testing.assert_allclose(bench.arrays["losses"], wanted, rtol=8 * tolerances.UNIT[np.dtype(dtype).name])
    assert np.isfinite(bench.arrays["dx"]).all()
    assert np.isfinite(bench.arrays["dweight"]).all()


@precisions
def test_nan_survives_to_be_seen(dtype):
    bench = bench_of(dtype)
    row = int(np.flatnonzero(bench.arrays["targets"] != IGNORED)[0])
    bench.arrays["x"][row, 2] = np.nan
    bench.step()
    assert list(np.flatnonzero(np.isnan(bench.arrays["losses"]))) == [row]
    assert np.isnan(bench.arrays["dx"][row]).all()


@precisions
def test_one_nan_among_the_logits_is_enough(dtype):
    bench = bench_of(dtype)
    bench.arrays["weight"][5, 1] = np.nan
    bench.forward()
    counted = bench.arrays["targets"] != IGNORED
    assert np.isnan(bench.arrays["losses"][counted]).all()
    assert not bench.arrays["losses"][~counted].any()


@precisions
def test_loss_at_zero_logits_is_log_of_the_vocabulary_and_the_first_is_the_hit(dtype):
    bench = bench_of(dtype, N=13)
    bench.arrays["x"].fill(0)
    bench.arrays["targets"][...] = np.arange(13)
    bench.forward()
    np.testing.assert_allclose(bench.arrays["losses"], math.log(13), rtol=8 * tolerances.UNIT[np.dtype(dtype).name])
    assert list(bench.arrays["hits"]) == [1] + [0] * 12


@precisions
def test_of_equal_logits_the_first_is_the_hit(dtype):
    bench = bench_of(dtype, N=4, V=5, C=1)
    bench.arrays["x"].fill(1)
    bench.arrays["weight"][:, 0] = [-1, 2, 0, 2, 2]
    bench.arrays["targets"][...] = [0, 1, 3, 4]
    bench.forward()
    assert list(bench.arrays["hits"]) == [0, 1, 0, 0]


@precisions
@pytest.mark.parametrize("V", [1, 7, 8, 9, 16, 23, 41])
def test_the_largest_logit_is_found_wherever_it_stands(dtype, V):
    bench = bench_of(dtype, N=V, V=V, C=V)
    bench.arrays["weight"][...] = np.eye(V)
    bench.arrays["x"][...] = 1e4 * np.eye(V)  # one that is missed overflows
    bench.arrays["targets"][...] = np.arange(V)
    bench.step()
    assert bench.arrays["hits"].all()
    assert not bench.arrays["losses"].any()


@precisions
@pytest.mark.parametrize("rows", [1, 7, 8, 19])
def test_losses_and_hits_do_not_depend_on_chunks(dtype, rows):
    whole, cut = bench_of(dtype), bench_of(dtype, R=rows)
    whole.step()
    cut.step()
    for name in ("losses", "hits", "dx"):
        assert np.array_equal(whole.arrays[name], cut.arrays[name]), name
    allowed = tolerances.rounding({"N": 20}, dtype) * np.abs(whole.arrays["dweight"]).max()
    np.testing.assert_allclose(cut.arrays["dweight"], whole.arrays["dweight"], rtol=0, atol=allowed)


@precisions
@pytest.mark.parametrize("V", [1, 2, 7, 8, 9, 31, 33])
def test_every_vocabulary_and_every_target(dtype, V):
    bench = bench_of(dtype, N=V, V=V, C=3)
    bench.arrays["targets"][...] = np.arange(V)
    bench.forward()
    wanted = expected("cross_entropy", bench.known())
    allowed = tolerances.rounding({"V": V, "C": 3}, dtype) * max(np.abs(wanted["losses"]).max(), 1)
    np.testing.assert_allclose(bench.arrays["losses"], wanted["losses"], rtol=0, atol=allowed)
    assert np.array_equal(bench.arrays["hits"], wanted["hits"])
