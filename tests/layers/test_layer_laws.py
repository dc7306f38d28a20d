"""Laws of every layer at any size: rows know nothing of each other, and backward is linear in what comes back."""

from __future__ import annotations

import numpy as np
import pytest
import tolerances
from hypothesis import strategies as st
from laws import SEEDS, law

from cllm_cli.checks.harness import Bench, letters_of
from cllm_cli.layers import LAYERS
from cllm_cli.layers.base import IGNORED, gradient, letters

LARGEST = {"T": 60, "HS": 9, "NH": 3, "B": 4}

precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_layer = pytest.mark.parametrize("name", LAYERS)


@st.composite
def sizes(draw, shortest=1):
    """Sizes of every letter, one of them now and then 1; windows hold the sequence, chunks are of any height."""
    letters_ = ("B", "T", "NH", "HS", "N", "C", "F", "V")
    found = {each: draw(st.integers(shortest if each == "T" else 1, LARGEST.get(each, 40))) for each in letters_}
    found["S"] = found["T"] + draw(st.integers(0, 3))
    found["R"] = draw(st.integers(1, found["N"]))
    return found


@st.composite
def sizes_and_a_later_token(draw):
    """Sizes of sequences of two tokens and more, and the place of one that others come before."""
    found = draw(sizes(shortest=2))
    return found, draw(st.integers(1, found["T"] - 1))


def bench_of(name, sizes, dtype, seed, **consts):
    """A bench with the sizes that the layer names."""
    layer = LAYERS.load(name)
    named = {letter for sample in layer.samples for letter in letters_of(sample)}
    return Bench(layer, {letter: sizes[letter] for letter in sorted(named)} | consts, dtype, seed)


def gradients(bench):
    """All gradients of one step."""
    bench.clear()
    bench.step()
    return {name: bench.arrays[name].copy() for name in map(gradient, bench.trained())}


def back(bench, values):
    """Sets what comes back to a layer: the gradients of its outputs, of the loss the scale."""
    for name, value in values.items():
        if name == "scale":
            bench.scalars[name] = bench.dtype.type(value)
        else:
            bench.arrays[name][...] = value


def coming_back(bench):
    if bench.layer.forward_backward:
        return {"scale": bench.scalars["scale"]}
    return {gradient(name): bench.arrays[gradient(name)].copy() for name in bench.layer.outputs}


@precisions
@every_layer
@law(4, 30, sizes=sizes(), seed=SEEDS, power=st.integers(-8, 8))
def test_backward_of_a_multiple_is_the_multiple(name, sizes, dtype, seed, power):
    """To the bit for powers of two, whose products do not round."""
    bench = bench_of(name, sizes, dtype, seed)
    start = coming_back(bench)
    once = gradients(bench)
    back(bench, {key: value * dtype(2.0**power) for key, value in start.items()})
    for key, value in gradients(bench).items():
        assert np.array_equal(value, once[key] * dtype(2.0**power)), key


@precisions
@every_layer
@law(4, 30, sizes=sizes(), seed=SEEDS)
def test_backward_of_a_sum_is_the_sum(name, sizes, dtype, seed):
    bench = bench_of(name, sizes, dtype, seed)
    one, found = coming_back(bench), []
    # Their sum is rounded too, once, before it comes back.
    other = {key: np.asarray(bench.rng.standard_normal(np.shape(value))).astype(dtype) for key, value in one.items()}
    cancelled = {}
    for values in (one, other, {key: one[key] + other[key] for key in one}):
        back(bench, values)
        found.append(gradients(bench))
        for key in found[-1]:
            magnitude = tolerances.CANCELLED.get((name, key), lambda known: 0.0)(bench.known())
            cancelled[key] = max(cancelled.get(key, 0.0), magnitude)
    tolerance = tolerances.rounding(bench.sizes, dtype)
    for key, value in found[2].items():
        largest = max(cancelled[key], *(np.abs(each[key]).max() for each in found))
        worst = np.abs(value.astype(np.float64) - found[0][key] - found[1][key]).max()
        assert worst <= 3 * tolerance * largest, key


def by_row(bench):
    """Outputs, saved and input gradients that have a row for each row of the batch."""
    layer = bench.layer
    shapes = {**layer.outputs, **layer.saved}
    shapes |= {gradient(name): shape for name, shape in layer.inputs.items() if name in bench.trained()}
    return [name for name, shape in shapes.items() if letters(shape)[0] in "NB"]


def stepped(bench):
    bench.clear()
    bench.step()
    return {name: bench.arrays[name].copy() for name in by_row(bench)}


def rows_in(bench):
    """What a layer is given for each row: inputs and what comes back."""
    back_ = [] if bench.layer.forward_backward else [gradient(name) for name in bench.layer.outputs]
    return [*bench.layer.inputs, *back_]


@precisions
@every_layer
@law(4, 30, sizes=sizes(), seed=SEEDS)
def test_a_permuted_batch_gives_permuted_rows(name, sizes, dtype, seed):
    bench = bench_of(name, sizes, dtype, seed, **({"drop": 0} if name == "dropout" else {}))
    before = stepped(bench)
    assert before
    order = bench.rng.permutation(next(iter(before.values())).shape[0])
    for key in rows_in(bench):
        if key not in bench.layer.alias:
            bench.arrays[key][...] = bench.arrays[key][order]
    for key, value in stepped(bench).items():
        assert np.array_equal(value, before[key][order]), key


@precisions
@every_layer
@law(4, 30, sizes=sizes(), seed=SEEDS)
def test_a_row_that_is_no_number_changes_no_other(name, sizes, dtype, seed):
    bench = bench_of(name, sizes, dtype, seed)
    before = stepped(bench)
    row = int(bench.rng.integers(next(iter(before.values())).shape[0]))
    for key in rows_in(bench):
        if key not in bench.layer.integers:
            bench.arrays[key][row] = np.nan
    for key, value in stepped(bench).items():
        assert np.array_equal(np.delete(value, row, axis=0), np.delete(before[key], row, axis=0)), key


@precisions
@law(5, 100, sizes_and_token=sizes_and_a_later_token(), seed=SEEDS)
def test_attention_before_a_changed_token_stays(dtype, sizes_and_token, seed):
    sizes, changed = sizes_and_token
    bench = bench_of("attention", sizes, dtype, seed)
    bench.forward()
    before = bench.arrays["out"].copy()
    bench.arrays["qkv"][:, changed] += 1
    bench.forward()
    assert np.array_equal(bench.arrays["out"][:, :changed], before[:, :changed])
    assert not np.array_equal(bench.arrays["out"][:, changed:], before[:, changed:])


@precisions
@law(5, 100, sizes=sizes(), seed=SEEDS, cached=st.booleans())
def test_attention_of_equal_values_is_that_value(sizes, dtype, seed, cached):
    """Rows of attention sum to one."""
    bench = bench_of("attention", sizes, dtype, seed)
    value = bench.rng.standard_normal((sizes["NH"], sizes["HS"])).astype(dtype)
    bench.arrays["qkv"][:, :, 2] = value
    bench.run(bench.layer.cached if cached else bench.layer.forward)
    worst = np.abs(bench.arrays["out"] - value) / np.abs(value)
    assert worst.max() <= 2 * tolerances.rounding({"T": sizes["T"]}, dtype)


@precisions
@law(5, 100, sizes=sizes(), seed=SEEDS, spread=st.sampled_from([0.1, 1, 10]))
def test_gradient_rows_of_the_loss_sum_to_zero(sizes, dtype, seed, spread):
    width = sizes["V"]
    bench = bench_of("cross_entropy", sizes | {"C": width}, dtype, seed)
    bench.arrays["weight"][...] = np.eye(width)  # dx is the gradient of the logits
    bench.arrays["x"] *= spread
    bench.step()
    rows, scale = bench.arrays["dx"], bench.scalars["scale"]
    counted = bench.arrays["targets"] != IGNORED
    assert np.abs(rows.sum(axis=1, dtype=np.float64)).max() <= tolerances.rounding({"V": width}, dtype) * scale
    # All but the target's are positive, and no probability is more than one.
    assert not rows[~counted].any()
    assert np.abs(rows).max() <= scale * (1 + 4 * tolerances.UNIT[np.dtype(dtype).name])
