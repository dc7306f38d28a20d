"""What is special to attention: causality, rows that sum to one, and generation that agrees with training."""

from __future__ import annotations

import numpy as np
import pytest
import tolerances

from cllm_cli.checks.harness import Bench
from cllm_cli.kernels.jit import JIT_OFF
from cllm_cli.kernels.simd import MR, columns
from cllm_cli.layers import LAYERS
from cllm_cli.layers.attention import KEYS, STRIP

ATTENTION = LAYERS.load("attention")
precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def bench_of(dtype, B=2, T=13, NH=3, HS=6, S=None, seed=0):
    return Bench(ATTENTION, {"B": B, "T": T, "NH": NH, "HS": HS, "S": S or T}, dtype, seed)


@precisions
@pytest.mark.parametrize("time", [5, STRIP + 7])
def test_the_future_changes_nothing(dtype, time):
    bench = bench_of(dtype, T=time)
    bench.forward()
    out, lse = bench.arrays["out"].copy(), bench.arrays["lse"].copy()
    for first in (time - 1, time // 2, 1):
        bench.arrays["qkv"][:, first:] += 1
        bench.forward()
        assert np.array_equal(bench.arrays["out"][:, :first], out[:, :first])
        assert np.array_equal(bench.arrays["lse"][:, :, :first], lse[:, :, :first])
        assert not np.array_equal(bench.arrays["out"][:, first:], out[:, first:])


@precisions
def test_the_future_gets_no_gradient(dtype):
    bench = bench_of(dtype)
    bench.arrays["dout"][:, 4:] = 0
    bench.step()
    assert not bench.arrays["dqkv"][:, 4:].any()
    assert bench.arrays["dqkv"][:, :4].any()


@precisions
@pytest.mark.parametrize("time", [1, 9, 2 * STRIP + 1])
def test_rows_of_attention_sum_to_one(dtype, time):
    bench = bench_of(dtype, T=time)
    bench.arrays["qkv"][:, :, 2] = 1
    bench.forward()
    allowed = tolerances.rounding({"T": time}, dtype)
    np.testing.assert_allclose(bench.arrays["out"], 1, rtol=0, atol=allowed)


@precisions
def test_the_first_token_attends_to_itself(dtype):
    bench = bench_of(dtype)
    bench.forward()
    assert np.array_equal(bench.arrays["out"][:, 0], bench.arrays["qkv"][:, 0, 2])


@precisions
def test_large_scores_do_not_overflow(dtype):
    bench = bench_of(dtype)
    bench.arrays["qkv"][:, :, :2] *= 100
    bench.step()
    assert np.isfinite(bench.arrays["out"]).all()
    assert np.isfinite(bench.arrays["dqkv"]).all()


@precisions
def test_heads_and_sequences_know_nothing_of_each_other(dtype):
    whole = bench_of(dtype, T=STRIP + 5)
    whole.step()
    for b, h in [(0, 0), (1, 2)]:
        alone = bench_of(dtype, B=1, T=STRIP + 5, NH=1)
        alone.arrays["qkv"][0, :, :, 0] = whole.arrays["qkv"][b, :, :, h]
        alone.arrays["dout"][0, :, 0] = whole.arrays["dout"][b, :, h]
        alone.step()
        assert np.array_equal(alone.arrays["out"][0, :, 0], whole.arrays["out"][b, :, h])
        assert np.array_equal(alone.arrays["dqkv"][0, :, :, 0], whole.arrays["dqkv"][b, :, :, h])


@precisions
@pytest.mark.parametrize("time", [STRIP - 1, STRIP, STRIP + 1, 3 * STRIP + MR + 1, (2 * KEYS + 2) * STRIP])
def test_one_head_shared_by_several_threads_has_the_same_bits(dtype, time, set_threads):
    found = []
    for threads in (1, 2, 3, 7):
        set_threads(threads)
        bench = bench_of(dtype, B=1, T=time, NH=1, HS=16)
        bench.step()
        found.append([bench.arrays[name].copy() for name in ("out", "lse", "dqkv")])
    for other in found[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(found[0], other, strict=True))


@precisions
@pytest.mark.parametrize("size", [1, 64, 77])
@pytest.mark.parametrize("time", [1, 4 * columns(4), STRIP, 2 * STRIP + 1])
def test_the_work_space_is_enough_where_it_is_tightest(dtype, time, size, guarded, set_threads):
    """Windows that fill their panels, and heads as wide as they are usual: nothing is left over to spill into."""
    set_threads(1)
    bench = Bench(ATTENTION, {"B": 1, "T": time, "NH": 1, "HS": size, "S": time}, dtype, 0, guarded.allocate)
    for kernel in (ATTENTION.forward, ATTENTION.backward, ATTENTION.cached):
        bench.run(kernel)
        guarded.assert_intact()


@pytest.mark.skipif(JIT_OFF, reason="there is one thread")
@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("which", ["forward", "backward", "cached"])
def test_each_thread_works_in_a_space_of_its_own(which, threads, set_threads):
    set_threads(threads)
    bench = bench_of(np.float32, B=7)
    bench.step()
    bench.arrays["work"].fill(np.nan)
    bench.run(getattr(ATTENTION, which))
    assert np.isfinite(bench.arrays["work"].reshape(threads, -1)).any(axis=1).all()


def generated(whole, cuts, window):
    """The outputs of the cached form when the sequence comes in parts that end at `cuts`."""
    sizes, dtype = whole.sizes, whole.dtype
    keys = np.full((sizes["B"], window, sizes["NH"], sizes["HS"]), np.nan, dtype)
    values, parts, first = keys.copy(), [], 0
    for last in cuts:
        part = bench_of(dtype, T=last - first, S=window)
        part.arrays.update(keys=keys, values=values, qkv=whole.arrays["qkv"][:, first:last].copy())
        part.scalars["position"] = np.int64(first)
        part.run(ATTENTION.cached)
        parts.append(part.arrays["out"])
        first = last
    return np.concatenate(parts, axis=1), keys, values


@precisions
@pytest.mark.parametrize(("time", "prefill"), [(7, 1), (13, 4), (STRIP + 9, STRIP + 3)])
def test_generation_token_by_token_is_the_full_forward_at_every_position(dtype, time, prefill):
    whole = bench_of(dtype, T=time)
    whole.forward()
    window = time + 3  # what is not reached is NaN, and must not be read
    out, keys, values = generated(whole, [prefill, *range(prefill + 1, time + 1)], window)
    allowed = tolerances.rounding({"T": time, "HS": 6}, dtype)
    np.testing.assert_allclose(out, whole.arrays["out"], rtol=0, atol=allowed * np.abs(whole.arrays["out"]).max())
    assert np.array_equal(keys[:, :time], whole.arrays["qkv"][:, :, 1])
    assert np.array_equal(values[:, :time], whole.arrays["qkv"][:, :, 2])
    assert np.isnan(keys[:, time:]).all()


@precisions
def test_generation_does_not_depend_on_how_the_prompt_is_cut(dtype):
    whole = bench_of(dtype, T=STRIP + 9)
    cuts = [(STRIP + 9,), (3, STRIP + 9), (STRIP, STRIP + 1, STRIP + 9)]
    first, *others = (generated(whole, cut, STRIP + 9)[0] for cut in cuts)
    allowed = tolerances.rounding({"T": STRIP + 9, "HS": 6}, dtype) * np.abs(first).max()
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=allowed)
