"""The bound of float32 gradients holds for every seed, and a factor of 1.001 is beyond it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cllm_cli.checks import precision
from cllm_cli.checks.harness import Bench
from cllm_cli.checks.precision import UNIT, compare_all, compare_layers, compare_models, layer_bound, model_bound
from cllm_cli.checks.trial import SMALL, Trial, small_trial
from cllm_cli.errors import ConfigError
from cllm_cli.layers import LAYERS
from cllm_cli.layers.base import gradient


@pytest.fixture(autouse=True)
def _one_thread(set_threads):
    set_threads(1)


@pytest.fixture
def factor(monkeypatch):
    """A function that has every float32 gradient multiplied by a factor from then on."""

    def multiply(by):
        step, gradients = Bench.step, Trial.gradients

        def wrong_step(bench):
            step(bench)
            if bench.dtype == np.float32:
                for array in {
                    id(bench.arrays[gradient(name)]): bench.arrays[gradient(name)] for name in bench.trained()
                }.values():
                    array *= np.float32(by)

        def wrong_gradients(trial):
            scale = trial.model.dtype.type(by if trial.model.dtype == np.float32 else 1)
            return {name: values * scale for name, values in gradients(trial).items()}

        monkeypatch.setattr(Bench, "step", wrong_step)
        monkeypatch.setattr(Trial, "gradients", wrong_gradients)

    return multiply


def is_zero(check):
    """Whether the bound is that of a gradient whose terms cancel wholly."""
    return check.tolerance == math.sqrt(UNIT)


@pytest.mark.parametrize("seed", [1337, pytest.param(range(20), marks=pytest.mark.slow)], ids=["one seed", "20 seeds"])
def test_float32_gradients_are_within_the_bound_with_room(seed):
    for one in [seed] if isinstance(seed, int) else seed:
        for check in compare_all(one):
            assert check.ok, check
            assert check.error <= 0.5 * check.tolerance, check
            assert check.dtype == "float32"


@pytest.mark.parametrize(
    "seed", [1337, pytest.param(5, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("by", [1.001, 0.999])
def test_a_factor_of_a_thousandth_is_seen_in_every_tensor_of_every_sample(factor, seed, by):
    factor(by)
    checks = list(compare_all(seed))
    missed = [check for check in checks if check.ok and not is_zero(check)]
    assert missed == []
    assert sum(map(is_zero, checks)) < len(checks) / 10


def test_what_is_not_finite_in_float32_is_no_agreement(factor):
    factor(math.nan)
    checks = [*compare_layers(["gelu", "linear"])]
    assert checks
    assert not any(check.ok for check in checks)


def test_the_bound_follows_from_the_sizes():
    linear = LAYERS.load("linear")
    assert layer_bound(linear, {"N": 33, "C": 401, "F": 17}) == pytest.approx(2 * 8 * UNIT * (33 + 401 + 17 + 16))
    shallow, deep = (
        model_bound(small_trial("gpt2", {**SMALL[0], "L": layers}, 1, np.float32).replay.program) for layers in (1, 4)
    )
    assert shallow < deep < 4 * shallow  # errors of layers add up in squares
    assert (
        max(
            layer_bound(LAYERS.load(name), Bench(LAYERS.load(name), sample, np.float32).sizes)
            for name in LAYERS
            for sample in LAYERS.load(name).samples
        )
        < 0.5e-3
    )


def test_both_precisions_compute_the_same_thing():
    for case in SMALL:
        single, double = (small_trial("gpt2", case, 3, dtype) for dtype in (np.float32, np.float64))
        assert (
            single.model.arena.parameter("transformer.wte.weight")
            == double.model.arena.parameter("transformer.wte.weight")
        ).all()
        assert (single.tokens == double.tokens).all()


def test_a_difference_names_its_entry(monkeypatch):
    step = Bench.step

    def wrong(bench):
        step(bench)
        if bench.dtype == np.float32 and bench.sizes["N"] == 7:
            bench.arrays["dx"][6, 2] = 3

    monkeypatch.setattr(Bench, "step", wrong)
    (check,) = [check for check in compare_layers(["gelu"]) if not check.ok]
    assert (check.entry, check.analytic, check.shape) == ("[6, 2]", 3.0, [7, 5])
    assert "float32 3, float64 " in str(check)


def test_unknown_names_are_told():
    with pytest.raises(ConfigError, match="unknown layer"):
        list(compare_layers(["gellu"]))
    with pytest.raises(ConfigError, match="unknown architecture"):
        list(compare_models("gpt3"))
    assert precision.DRAWS > 1
