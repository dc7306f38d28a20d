"""The laws that hold for every layer: each registered one, at each of its samples, in both precisions."""

from __future__ import annotations

import numpy as np
import pytest
import tolerances
from reference import ORACLES, expected

from cllm_cli.checks.gradcheck import check_layer
from cllm_cli.checks.harness import Bench, letters_of
from cllm_cli.kernels.jit import JIT_OFF
from cllm_cli.layers import LAYERS
from cllm_cli.layers.base import gradient, is_real

CASES = [(name, sample) for name in LAYERS for sample in LAYERS.load(name).samples]
PRECISIONS = [np.float32, np.float64]


def label(value):
    if isinstance(value, dict):
        return "-".join(f"{letter}{size}" for letter, size in value.items())
    return getattr(value, "__name__", None)


every_case = pytest.mark.parametrize(("name", "sample"), CASES, ids=label)
every_precision = pytest.mark.parametrize("dtype", PRECISIONS, ids=label)


def ran(name, sample, dtype, seed=0, **more):
    bench = Bench(LAYERS.load(name), sample, dtype, seed, **more)
    bench.step()
    return bench


def results(bench):
    """What a step leaves behind: outputs, saved, all gradients."""
    layer = bench.layer
    names = [*layer.outputs, *layer.saved, *(gradient(name) for name in bench.trained())]
    return {name: bench.arrays[name].copy() for name in names}


def same_bits(first, second):
    return first.tobytes() == second.tobytes()


def assert_near(actual, wanted, tolerance, name, magnitude=0.0):
    scale = max(np.abs(wanted).max(), magnitude)
    worst = np.abs(actual - wanted).max()
    assert worst <= tolerance * scale, f"{name}: off by {worst:.3g}, allowed {tolerance:.3g} of {scale:.3g}"


def test_every_layer_has_an_oracle_and_every_oracle_a_layer():
    assert set(LAYERS) == set(ORACLES)


@pytest.mark.parametrize("name", LAYERS)
def test_samples_include_a_degenerate_and_an_odd_shape(name):
    shapes = [letters_of(sample) for sample in LAYERS.load(name).samples]
    assert any(set(shape.values()) == {1} for shape in shapes)
    assert any(all(size % 2 for letter, size in shape.items() if letter in "NCFHST" and size > 1) for shape in shapes)


@every_precision
@every_case
def test_forward_is_the_oracle(name, sample, dtype):
    bench = Bench(LAYERS.load(name), sample, dtype)
    bench.forward()
    tolerance = 0.0 if name in tolerances.EXACT else tolerances.rounding(letters_of(sample), dtype)
    outputs = expected(name, bench.known())
    assert {*bench.layer.outputs, *bench.layer.saved} <= outputs.keys()
    for output, wanted in outputs.items():
        assert_near(bench.arrays[output], wanted, tolerance, output)


@every_precision
@every_case
def test_training_forward_gives_what_evaluation_gives(name, sample, dtype):
    evaluated = Bench(LAYERS.load(name), sample, dtype)
    evaluated.forward()
    trained = ran(name, sample, dtype)
    for output in trained.layer.outputs:
        assert same_bits(evaluated.arrays[output], trained.arrays[output])


@every_case
def test_gradients_are_those_of_finite_differences(name, sample):
    for check in check_layer(LAYERS.load(name), sample, seed=20):
        assert check.ok, check
        assert check.error <= tolerances.RIGHT_GRADIENT, check


@every_case
def test_float32_gradients_are_those_of_float64(name, sample):
    single, double = ran(name, sample, np.float32), ran(name, sample, np.float64)
    tolerance = tolerances.rounding(letters_of(sample), np.float32)
    for tensor in map(gradient, single.trained()):
        cancelled = tolerances.CANCELLED.get((name, tensor), lambda known: 0.0)(double.known())
        assert_near(single.arrays[tensor], double.arrays[tensor], tolerance, tensor, cancelled)


@every_precision
@every_case
def test_everything_that_should_be_written_is(name, sample, dtype):
    # The bench poisons outputs, saved, scratch and gradients of inputs with NaN: one that is forgotten stays, and
    # scratch that is read before it is written spreads.
    bench = ran(name, sample, dtype)
    for written, values in results(bench).items():
        assert np.isfinite(values).all(), written


@every_precision
@every_case
def test_gradients_of_parameters_accumulate(name, sample, dtype):
    fresh = ran(name, sample, dtype)
    bench = Bench(LAYERS.load(name), sample, dtype)
    starts = {}
    for param in bench.layer.params:
        array = bench.arrays[gradient(param)]
        array[...] = bench.rng.standard_normal(array.shape)
        starts[gradient(param)] = array.copy()
    bench.step()
    for name_, start in starts.items():
        added = start.astype(np.float64) + fresh.arrays[name_]
        most = tolerances.ACCUMULATED * tolerances.UNIT[np.dtype(dtype).name]
        assert_near(bench.arrays[name_], added, most, name_, np.abs(start).max())


@every_precision
@every_case
def test_gradients_of_inputs_are_written_not_added(name, sample, dtype):
    bench = ran(name, sample, dtype)
    first = results(bench)
    for param in bench.layer.params:
        bench.arrays[gradient(param)].fill(0)
    bench.step()
    for name_, values in results(bench).items():
        assert same_bits(values, first[name_]), name_


@every_precision
@every_case
def test_same_bits_for_every_number_of_threads(name, sample, dtype, set_threads):
    found = []
    for threads in (1, 2, 3, 7):
        set_threads(threads)
        bench = ran(name, sample, dtype)
        found.append(results(bench))
        for which in ("forward", "cached"):
            bench.clear()
            bench.run(getattr(bench.layer, which))
            written = [*bench.layer.outputs, *bench.layer.cache]
            found[-1] |= {f"{which}: {tensor}": bench.arrays[tensor].copy() for tensor in written}
    for other in found[1:]:
        for name_, values in found[0].items():
            assert same_bits(values, other[name_]), name_


@every_precision
@every_case
def test_kernels_write_what_is_theirs_and_nothing_else(name, sample, dtype, guarded):
    bench = Bench(LAYERS.load(name), sample, dtype, allocate=guarded.allocate)
    layer = bench.layer
    saved = {*layer.outputs, *layer.saved}
    gradients = {gradient(tensor) for tensor in bench.trained()} - layer.alias.keys()
    for kernel, theirs in [
        (layer.forward, saved | layer.scratch.keys()),
        (layer.backward, gradients | layer.scratch.keys()),
        (layer.forward_backward, saved | gradients | layer.scratch.keys()),
        (layer.cached, saved | layer.cache.keys() | layer.scratch.keys()),
    ]:
        before = {other: values.copy() for other, values in bench.arrays.items() if other not in theirs}
        bench.run(kernel)
        for other, values in before.items():
            assert same_bits(values, bench.arrays[other]), f"{other} was changed"
        guarded.assert_intact()
    # Neither their place in memory nor what surrounds them matters.
    plain = ran(name, sample, dtype)
    bench.clear()
    bench.step()
    for name_, values in results(plain).items():
        assert same_bits(values, bench.arrays[name_]), name_


@pytest.mark.skipif(JIT_OFF, reason="nothing is compiled")
@pytest.mark.parametrize("name", LAYERS)
def test_one_signature_for_each_precision(name):
    layer = LAYERS.load(name)
    for dtype in PRECISIONS:
        for sample in layer.samples:
            for _ in range(2):
                bench = ran(name, sample, dtype)
                bench.forward()
                assert all(
                    bench.arrays[tensor].dtype == dtype
                    for tensor, shape in {**layer.outputs, **layer.saved}.items()
                    if is_real(shape)
                )
    for kernel in (layer.forward, layer.backward, layer.forward_backward):
        if kernel:
            assert len(kernel.signatures) == len(PRECISIONS), kernel.signatures
