"""A training step: what accumulates and what changes. Numbers that are not finite: test_not_finite.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tolerances

from cllm_cli.model.build import Model, ModelConfig
from cllm_cli.model.init import initialize
from cllm_cli.optim import OPTIMIZERS
from cllm_cli.optim.base import Updater
from cllm_cli.optim.schedule import Schedule
from cllm_cli.text.batches import Sampler
from cllm_cli.training.step import Stepper

CONFIG = ModelConfig("gpt2", n_layer=2, n_head=2, n_embd=16, n_hidden=32, block_size=8, vocab_size=11)
STEADY = Schedule("constant", 0.01, 0.01, 0, 10)
RATES = {"adamw": 3e-3, "sgd": 0.1, "adam-embed": 0.3}


def settings_of(name, lr):
    defaults = OPTIMIZERS.load(name).defaults
    known = {"beta1": 0.9, "eps": 1e-8, "momentum": 0.9, "nesterov": False, **defaults, "lr": lr}
    return {**known, "lr_embed": defaults.get("lr_embed", lr)}


def stepper_of(name="adamw", batch=2, accumulate=1, dtype=np.float32, clip=1.0, config=CONFIG, lr=0.01, tokens=None):
    model = Model(config, dtype)
    model.arena.make_gradients()
    initialize(model.arena, 5)
    if tokens is None:
        tokens = np.random.default_rng(0).integers(0, config.vocab_size, 400, np.uint8)
    updater = Updater(OPTIMIZERS.load(name), model.arena, settings_of(name, lr))
    return Stepper(model, updater, Sampler(tokens, config.block_size, 1), batch, accumulate, clip, seed=1)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_is_one_large_batch(accumulate, dropout):
    """Gradients, before the optimizer makes large differences of small ones."""
    config = ModelConfig(**{**vars(CONFIG), "dropout": dropout})
    found = []
    for parts in (1, accumulate):
        stepper = stepper_of("sgd", 8 // parts, parts, np.float64, clip=0.0, config=config, lr=1.0)
        before = stepper.model.arena.values.copy()
        outcome = stepper.run(0, Schedule("constant", 1.0, 1.0, 0, 10))
        found.append((outcome.loss, outcome.norm, stepper.model.arena.values - before))
    (loss, norm, change), (other_loss, other_norm, other_change) = found
    assert other_loss == pytest.approx(loss, rel=1e-14)
    assert other_norm == pytest.approx(norm, rel=1e-12)
    np.testing.assert_allclose(other_change, change, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_tensor_changes_in_the_first_step(name):
    stepper = stepper_of(name)
    before = {key: values.copy() for key, values in stepper.model.arena.tensors().items()}
    stepper.run(0, STEADY)
    for key, values in stepper.model.arena.tensors().items():
        assert not np.array_equal(values, before[key]), key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_loss_falls_with_each_optimizer(name):
    """Text that repeats every eleven tokens: what follows can be known."""
    tokens = np.tile(np.arange(11, dtype=np.uint8), 40)
    stepper = stepper_of(name, batch=4, lr=RATES[name], tokens=tokens)
    schedule = Schedule("constant", RATES[name], RATES[name], 0, 100)
    losses = [stepper.run(step, schedule).loss for step in range(150)]
    assert losses[0] == pytest.approx(math.log(11), abs=0.1)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_the_norm_is_reported_before_clipping():
    free, clipped = stepper_of("sgd", clip=0.0), stepper_of("sgd", clip=1e-3)
    before = free.model.arena.values.copy()
    outcome, other = free.run(0, STEADY), clipped.run(0, STEADY)
    assert outcome.norm == other.norm > 1e-3
    change, small = free.model.arena.values - before, clipped.model.arena.values - before
    np.testing.assert_allclose(small, change * (1e-3 / outcome.norm), rtol=0, atol=tolerances.UNIT["float32"] * 4)


def test_the_loss_is_the_mean_over_targets():
    stepper = stepper_of(batch=3, accumulate=2)
    outcome = stepper.run(0, STEADY)
    assert outcome.loss == pytest.approx(math.log(CONFIG.vocab_size), rel=0.02)
    assert (stepper.batch, stepper.accumulate) == (3, 2)
    assert stepper.tokens == 3 * 2 * CONFIG.block_size


def test_dropout_changes_with_the_step_and_the_seed():
    config = ModelConfig(**{**vars(CONFIG), "dropout": 0.3})
    stepper = stepper_of(config=config)
    assert len({int(stepper.arguments(step, 1)["key"]) for step in range(100)}) == 100
    first = stepper.arguments(0, 1)["key"]
    stepper.seed = 2
    assert stepper.arguments(0, 1)["key"] != first
