"""Every registered optimizer against its rule as the papers have it, on an arena with gaps."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import tolerances
from reference import optimizers as oracle

from cllm_cli.layers.base import NORMAL, arguments
from cllm_cli.model.arena import GROUPS, Arena, Parameter
from cllm_cli.optim import OPTIMIZERS
from cllm_cli.optim.base import Updater

PARAMETERS = [
    Parameter("table", (7, 5), "embedding", NORMAL),
    Parameter("weight", (5, 3), "matrix", NORMAL),
    Parameter("other", (3, 9), "matrix", NORMAL),
    Parameter("bias", (3,), "vector", NORMAL),
]
SETTINGS = {
    "beta1": 0.8,
    "beta2": 0.95,
    "eps": 1e-6,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.1,
    "lr": 0.02,
    "lr_embed": 0.05,
}
STEPS = 20

precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])
optimizers = pytest.mark.parametrize("name", OPTIMIZERS)


def updater_of(name, dtype, parameters=PARAMETERS, seed=3, **settings):
    """An optimizer on an arena of random parameters that float32 can hold."""
    arena = Arena(parameters, np.dtype(dtype))
    arena.make_gradients()
    rng = np.random.default_rng(seed)
    for values in arena.tensors().values():
        values[...] = rng.standard_normal(values.shape).astype(np.float32)
    return Updater(OPTIMIZERS.load(name), arena, {**SETTINGS, **settings})


def give_gradients(arena, rng):
    """New random gradients in the arena, and a float64 copy of them by name."""
    given = {}
    for name in arena.parameters:
        gradient = arena.gradient(name)
        gradient[...] = rng.standard_normal(gradient.shape).astype(np.float32)
        given[name] = gradient.astype(np.float64)
    return given


def by_the_book(name, params, grads, state, step, share, settings):
    """The oracle's step with every learning rate multiplied by `share`."""
    known = {
        **settings,
        "step": step,
        "lr": settings["lr"] * share,
        "lr_embed": settings["lr_embed"] * share,
        "decayed": {"table", "weight", "other"},
        "embeddings": {"table"},
    }
    rule = oracle.OPTIMIZERS[name]
    wanted = {key: known[key] for key in inspect.signature(rule).parameters if key in known}
    return rule(params, grads, state, **wanted)


@precisions
@optimizers
@pytest.mark.parametrize("nesterov", [False, True])
def test_twenty_steps_are_those_of_the_papers(name, nesterov, dtype):
    settings = {**SETTINGS, "nesterov": nesterov}
    if name != "adam-embed":
        settings["lr_embed"] = settings["lr"]  # the oracle of the others has one rate
    updater = updater_of(name, dtype, **settings)
    rng = np.random.default_rng(9)
    params = {key: values.astype(np.float64) for key, values in updater.arena.tensors().items()}
    before, state = dict(params), {}
    for step in range(1, STEPS + 1):
        share, limit = (1 + step % 5) / 5, 3.0
        clipped, norm = oracle.clip(give_gradients(updater.arena, rng), limit)
        updater.update(step, settings["lr"] * share, min(1.0, limit / (norm + 1e-6)))
        params, state = by_the_book(name, params, clipped, state, step, share, settings)
    # Some ten roundings a step, which add up at random; a weight of adam-embed can come close to zero on its way.
    allowed = 10 * np.sqrt(STEPS) * tolerances.UNIT[np.dtype(dtype).name]
    for key, wanted in params.items():
        np.testing.assert_allclose(updater.arena.parameter(key), wanted, rtol=0, atol=allowed * np.abs(wanted).max())
        assert np.abs(wanted - before[key]).max() > 1e-3


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_embeddings_have_a_rate_of_their_own(name):
    one, other = updater_of(name, np.float64, lr_embed=0.02), updater_of(name, np.float64, lr_embed=0.05)
    for updater in (one, other):
        give_gradients(updater.arena, np.random.default_rng(1))
        updater.update(1, 0.02, 1.0)
    changed = [
        key for key in one.arena.parameters if not np.array_equal(one.arena.parameter(key), other.arena.parameter(key))
    ]
    assert changed == ["table"]


@precisions
@optimizers
def test_gradients_are_zeroed_and_gaps_stay_zero(name, dtype):
    updater = updater_of(name, dtype)
    arena = updater.arena
    for step in (1, 2):
        give_gradients(arena, np.random.default_rng(step))
        updater.update(step, 0.02, 0.5)
        assert not arena.gradients.any()
    there = np.zeros(arena.size, bool)
    for key, parameter in arena.parameters.items():
        there[arena.offsets[key] : arena.offsets[key] + parameter.size] = True
    assert not there.all()
    assert not arena.values[~there].any()
    for group in GROUPS:
        for flat in updater.state[group].values():
            assert not flat[~there[arena.groups[group]]].any()


@optimizers
def test_vectors_are_never_decayed(name):
    updater = updater_of(name, np.float64, weight_decay=0.5)
    before = updater.arena.parameter("bias").copy()
    updater.update(1, 0.02, 1.0)  # gradients are zero
    assert np.array_equal(updater.arena.parameter("bias"), before)


@precisions
@optimizers
def test_same_bits_for_every_number_of_threads(name, dtype, set_threads):
    large = [Parameter(p.name, tuple(37 * size for size in p.shape), p.group, p.init) for p in PARAMETERS]
    found = []
    for threads in (1, 2, 3, 7):
        set_threads(threads)
        updater = updater_of(name, dtype, large)
        for step in (1, 2):
            give_gradients(updater.arena, np.random.default_rng(step))
            updater.update(step, 0.02, 0.5)
        states = [flat for group in GROUPS for flat in updater.state[group].values()]
        found.append(b"".join(flat.tobytes() for flat in [updater.arena.values, *states]))
    assert len(set(found)) == 1


@optimizers
def test_state_is_named_by_its_parameter_and_no_more_than_declared(name):
    updater = updater_of(name, np.float32)
    tensors = updater.tensors()
    wanted = {
        f"{state}.{key}"
        for key, parameter in updater.arena.parameters.items()
        for state in updater.optimizer.rules[parameter.group].state
    }
    assert tensors.keys() == wanted
    for key, tensor in tensors.items():
        assert tensor.shape == updater.arena.parameters[key.split(".", 1)[1]].shape
        tensor[...] = 1
    give_gradients(updater.arena, np.random.default_rng(0))
    updater.update(1, 0.02, 1.0)
    assert all((tensor != 1).any() for tensor in tensors.values())  # views, not copies


def test_gradient_descent_keeps_no_state():
    """What makes adam-embed small: moments of the embeddings alone."""
    updater = updater_of("adam-embed", np.float32)
    part = updater.arena.groups["embedding"]
    assert updater.bytes == 2 * 4 * (part.stop - part.start)


@optimizers
def test_one_signature_for_each_precision(name):
    rules = OPTIMIZERS.load(name).rules
    for dtype in (np.float32, np.float64):
        updater = updater_of(name, dtype)
        for step in (1, 2):
            updater.update(step, 0.02, 1.0)
    for rule in rules.values():
        if hasattr(rule.kernel, "signatures"):  # with the JIT off there is none
            assert len(rule.kernel.signatures) == 2


@optimizers
def test_kernels_take_what_an_updater_gives(name):
    declared = OPTIMIZERS.load(name)
    assert set(declared.rules) == set(GROUPS)
    for rule in declared.rules.values():
        order = ["values", "gradients", *rule.state]
        assert list(arguments(rule.kernel)[: len(order)]) == order
    assert {"lr", "weight_decay", "beta2"} <= declared.defaults.keys()
