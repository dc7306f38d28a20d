"""The gradient check can fail: it sees wrong factors, missing terms and wrong indices, and passes what is right."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import tolerances

from cllm_cli.checks.differences import Tally
from cllm_cli.checks.gradcheck import SEED, check_all, check_layer, check_layers, check_model, check_trial, derivative
from cllm_cli.checks.harness import Bench
from cllm_cli.checks.trial import SMALL, small_trial
from cllm_cli.errors import ConfigError
from cllm_cli.layers import LAYERS
from cllm_cli.layers.base import IGNORED
from cllm_cli.model import ARCHITECTURES


def failures(layer, backward):
    """The tensors that are found wrong with another backward, in the layer's last sample."""
    mutant = dataclasses.replace(layer, backward=backward)
    return {check.tensor for check in check_layer(mutant, layer.samples[-1]) if not check.ok}


def test_a_wrong_factor_is_seen():
    gelu = LAYERS.load("gelu")

    def backward(dx, dout, x):
        gelu.backward(dx, dout, x)
        dx *= 1.000001

    assert failures(gelu, backward) == {"x"}


def test_a_missing_term_is_seen():
    layernorm = LAYERS.load("layernorm")

    def backward(dx, dweight, dbias, dout, x, weight, mean, rstd):
        h = (x - mean[:, None]) * rstd[:, None]
        g = dout * weight
        dx[:] = rstd[:, None] * (g - h * np.mean(g * h, axis=1, keepdims=True))  # and not g − mean(g)
        dweight += np.sum(dout * h, axis=0)
        dbias += np.sum(dout, axis=0)

    assert failures(layernorm, backward) == {"x"}


def test_a_wrong_index_is_seen():
    positions = LAYERS.load("positions")

    def backward(dweight, dout, position):
        dweight[position + 1 : position + 1 + dout.shape[1]] += dout.sum(axis=0)

    assert failures(positions, backward) == {"weight"}


def test_one_wrong_element_of_thousands_is_seen():
    linear = LAYERS.load("linear")

    def backward(dx, dweight, dbias, pack, part, dout, x, weight):
        linear.backward(dx, dweight, dbias, pack, part, dout, x, weight)
        dweight[-1, -1] *= 1.01

    assert failures(linear, backward) == {"weight"}


def test_one_wrong_sign_at_the_largest_gradient_is_seen():
    embedding = LAYERS.load("embedding")

    def backward(dweight, dout, tokens):
        embedding.backward(dweight, dout, tokens)
        flat = dweight.reshape(-1)
        flat[np.argmax(np.abs(flat))] *= -1

    mutant = dataclasses.replace(embedding, backward=backward)
    for seed in range(5):
        (check,) = check_layer(mutant, embedding.samples[-1], seed)
        assert not check.ok
        assert check.analytic == pytest.approx(-check.numeric) or check.entry.startswith("[direction")


def test_a_gradient_that_is_nan_is_no_agreement():
    gelu = LAYERS.load("gelu")

    def backward(dx, dout, x):
        dx[:] = np.nan

    assert failures(gelu, backward) == {"x"}


def test_a_wrong_derivative_is_named_in_the_record():
    gelu = LAYERS.load("gelu")

    def backward(dx, dout, x):
        gelu.backward(dx, dout, x)
        dx *= 2

    (check,) = check_layer(dataclasses.replace(gelu, backward=backward), {"N": 7, "C": 5})
    record = check.as_dict()
    assert record.keys() >= {"event", "layer", "sizes", "tensor", "dtype", "error", "tolerance", "ok"}
    named = {key: record[key] for key in ("event", "layer", "sizes", "tensor", "dtype", "ok")}
    assert named == dict(event="check", layer="gelu", sizes={"N": 7, "C": 5}, tensor="x", dtype="float64", ok=False)
    assert 0.4 < check.error <= 0.5 + 1e-9  # |2g − g| / max(|2g|, RMS of 2g)
    assert check.analytic == pytest.approx(2 * check.numeric)
    assert check.shape == [7, 5]
    entry, values = check.entry, f"analytic {check.analytic:.9g}, numeric {check.numeric:.9g}"
    assert str(check) == f"gelu, x{entry} of shape [7, 5] with N=7 C=5: {values}"


def test_a_tally_counts_and_tells_the_worst():
    right = next(check_layers(["gelu"]))
    wrong = dataclasses.replace(right, tensor="y", error=math.nan, ok=False)
    tally = Tally([right, wrong, right], directions=2)
    *rows, end = tally.rows()
    assert rows == [check.as_dict() for check in (right, wrong, right)]
    assert tally.failed == [wrong]
    assert (end["event"], end["checks"], end["failed"], end["directions"]) == ("end", 3, 1, 2)
    assert end["worst"]["tensor"] == "y"
    assert next(Tally([]).rows())["worst"] is None


def test_every_layer_and_every_tensor_is_checked():
    found = {(check.layer, check.tensor, str(check.sizes)) for check in check_layers()}
    samples = [(LAYERS.load(name), sample) for name in LAYERS for sample in LAYERS.load(name).samples]
    assert len(found) == sum(len(Bench(layer, sample, np.float64).trained()) for layer, sample in samples)


def test_layers_are_checked_by_name():
    assert {check.layer for check in check_layers(["gelu", "add"])} == {"gelu", "add"}
    with pytest.raises(ConfigError, match="unknown layer 'gellu'"):
        list(check_layers(["gellu"]))


def test_a_check_can_be_repeated():
    first, second = (list(check_layers(["attention"], seed=5)) for _ in range(2))
    assert first == second
    assert first != list(check_layers(["attention"], seed=6))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_parameter_of_a_small_model_has_the_right_gradient(arch, set_threads):
    set_threads(1)  # the least time for launches; no result depends on it
    checks = list(check_model(arch))
    assert len({(check.tensor, str(check.sizes)) for check in checks}) == len(checks) > 10 * len(SMALL)
    for check in checks:
        assert check.ok, check
        assert check.error <= tolerances.RIGHT_GRADIENT, check


def test_a_gradient_that_does_not_accumulate_is_seen_in_a_model(monkeypatch, set_threads):
    set_threads(1)
    layernorm = LAYERS.load("layernorm")

    def backward(dx, dweight, dbias, part_weight, part_bias, dout, x, weight, mean, rstd):
        dweight[:] = 0
        layernorm.backward(dx, dweight, dbias, part_weight, part_bias, dout, x, weight, mean, rstd)

    mutant = dataclasses.replace(layernorm, backward=backward)
    monkeypatch.setattr("cllm_cli.layers.layernorm.LAYERNORM", mutant)
    trial = small_trial("gpt2", SMALL[0], SEED)
    wrong = {check.tensor for check in check_trial(trial, directions=1, entries=1) if not check.ok}
    assert "transformer.ln_f.weight" in wrong
    assert not any("bias" in tensor or "c_" in tensor for tensor in wrong)


def test_small_models_have_all_that_whole_models_do():
    assert {case["dropout"] > 0 for case in SMALL} == {True, False}
    assert {case["parts"] > 1 for case in SMALL} == {True, False}
    for case in SMALL:
        trial = small_trial("gpt2", case, SEED)
        ignored = np.count_nonzero(trial.targets == IGNORED, axis=1)
        assert ignored.any()
        assert (ignored < trial.targets.shape[1]).all()
        assert len(set(ignored)) == min(2, case["parts"])  # micro-batches of unequal weight
        names = {call.layer.name for call in trial.replay.program.calls}
        assert ("dropout" in names) == (case["dropout"] > 0)


def test_a_trial_is_repeated_exactly():
    trial = small_trial("gpt2", SMALL[0], SEED)
    losses, gradients = trial.weighted_losses(), trial.gradients()
    assert (trial.weighted_losses() == losses).all()
    assert all((values == gradients[name]).all() for name, values in trial.gradients().items())


def test_a_factor_next_to_one_is_seen(set_threads, monkeypatch):
    set_threads(1)
    trial = small_trial("gpt2", SMALL[2], SEED)
    right = trial.gradients()
    monkeypatch.setattr(trial, "gradients", lambda: {name: 1.00001 * values for name, values in right.items()})
    assert not any(check.ok for check in check_trial(trial, directions=1, entries=1))


def test_a_wrong_weight_of_one_micro_batch_is_seen(set_threads, monkeypatch):
    set_threads(1)
    trial = small_trial("gpt2", SMALL[2], SEED)
    step = trial._step

    def wrong(part):
        values = step(part)
        return values | {"scale": values["scale"] * (1.001 if part == 1 else 1)}

    monkeypatch.setattr(trial, "_step", wrong)
    assert not all(check.ok for check in check_trial(trial, directions=1, entries=1))


@pytest.mark.slow
def test_everything_is_right_at_other_seeds(set_threads):
    set_threads(1)
    for seed in range(5):
        assert [check for check in check_all(seed) if not check.error <= tolerances.RIGHT_GRADIENT] == []


@pytest.mark.parametrize(
    ("function", "slope"),
    [(math.exp, 1.0), (math.sin, 1.0), (lambda t: 3 * t, 3.0), (lambda t: 1 / (1.3 - t), 1 / 1.69), (abs, 0.0)],
)
def test_derivatives_from_coarse_steps(function, slope):
    found = derivative(lambda h: function(h) - function(-h), [0.5])
    assert found == pytest.approx(slope, rel=1e-12)


@pytest.mark.parametrize("steps", [[0.1], [1e-13, 0.1], [1e5, 0.1], [0.1, 1e-13]], ids=str)
def test_a_first_step_that_does_not_settle_is_followed_by_the_next(steps):
    found = derivative(lambda h: math.exp(1 + math.sin(h)) - math.exp(1 - math.sin(h)), steps, noise=1e-15)
    assert found == pytest.approx(math.e, rel=1e-11)


def test_tiny_values_of_a_tensor_spoil_no_check(set_threads):
    """Biases after a first small step; and an embedding whose own size is all that LayerNorm sees of it."""
    set_threads(1)
    trial = small_trial("gpt2", SMALL[0], SEED)
    for name, values in trial.model.arena.tensors().items():
        if name.endswith("bias"):
            values *= 1e-9 if "attn" in name else 0.0
        if name.endswith("wpe.weight"):
            values *= 1e-4
    assert [check for check in check_trial(trial) if not check.error <= tolerances.RIGHT_GRADIENT] == []


def test_what_is_not_finite_has_no_derivative():
    assert math.isnan(derivative(lambda h: math.nan, [0.1]))


def test_some_targets_are_ignored_but_never_all():
    layer = LAYERS.load("cross_entropy")
    for sample in layer.samples:
        for seed in (0, SEED):
            bench = Bench(layer, sample, np.float64, seed)
            targets = bench.arrays["targets"]
            counted = targets[targets != IGNORED]
            assert bench.scalars["scale"] == 1 / counted.size
            assert counted.size < targets.size or targets.size < 4
            assert counted.min() >= 0
            assert counted.max() < bench.sizes["V"]
