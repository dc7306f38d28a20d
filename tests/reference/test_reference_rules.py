"""The oracle's update rules and schedules against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reference.optimizers import OPTIMIZERS, adam_embed, adamw, clip, global_norm, sgd
from reference.schedules import SCHEDULES

EXACT = 1e-12  # a few float64 operations: some hundred roundings of 1.1e-16

# ---- optimizers

ADAM = {"beta1": 0.9, "beta2": 0.99, "eps": 0.0}


def test_first_step_of_adam_is_the_sign_of_the_gradient(rng):
    w, g = {"w": rng.standard_normal(5)}, {"w": rng.standard_normal(5)}
    new, state = adamw(w, g, {}, step=1, lr=0.1, decayed=(), weight_decay=0.0, **ADAM)
    np.testing.assert_allclose(new["w"], w["w"] - 0.1 * np.sign(g["w"]), rtol=EXACT)
    np.testing.assert_allclose(state["w"]["m"], 0.1 * g["w"], rtol=EXACT)
    np.testing.assert_allclose(state["w"]["v"], 0.01 * g["w"] ** 2, rtol=EXACT)


def test_constant_gradient_gives_adam_a_constant_step():
    # Bias correction makes both moments exact when the gradient never changes.
    w, state = {"w": np.zeros(3)}, {}
    for step in range(1, 8):
        w, state = adamw(w, {"w": np.full(3, -4.0)}, state, step=step, lr=0.5, decayed=(), weight_decay=0.0, **ADAM)
        np.testing.assert_allclose(w["w"], 0.5 * step, rtol=EXACT)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_decay_is_decoupled_and_only_where_flagged(name, rng):
    w = {"matrix": rng.standard_normal((2, 3)), "vector": rng.standard_normal(3)}
    zero = {key: np.zeros_like(value) for key, value in w.items()}
    more = {"momentum": 0.9, "nesterov": True} if name == "sgd" else dict(ADAM, eps=1e-8)
    new, _ = OPTIMIZERS[name](w, zero, {}, step=1, lr=0.1, decayed={"matrix"}, weight_decay=0.5, **more)
    np.testing.assert_allclose(new["matrix"], w["matrix"] * (1.0 - 0.1 * 0.5), rtol=EXACT)
    assert np.array_equal(new["vector"], w["vector"])


@pytest.mark.parametrize(("nesterov", "expected"), [(False, [-1.0, -2.5, -4.25]), (True, [-1.5, -3.25, -5.125])])
def test_sgd_by_hand(nesterov, expected):
    # g = 1, momentum ½: buf is 1, 1.5, 1.75; Nesterov steps by 1 + buf/2: 1.5, 1.75, 1.875.
    w, state = {"w": np.zeros(1)}, {}
    for step, value in enumerate(expected, start=1):
        w, state = sgd(
            w,
            {"w": np.ones(1)},
            state,
            step=step,
            lr=1.0,
            decayed=(),
            momentum=0.5,
            nesterov=nesterov,
            weight_decay=0.0,
        )
        assert w["w"] == value


def test_adam_embed_is_adam_on_embeddings_and_descent_elsewhere(rng):
    w = {"wte": rng.standard_normal((3, 2)), "c_fc": rng.standard_normal((2, 2))}
    settings = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
    mixed, adam = w, {"wte": w["wte"]}
    mixed_state, adam_state = {}, {}
    for step in range(1, 4):
        g = {name: rng.standard_normal(value.shape) for name, value in w.items()}
        descended = mixed["c_fc"] - 0.1 * g["c_fc"]
        mixed, mixed_state = adam_embed(
            mixed, g, mixed_state, step=step, lr=0.1, lr_embed=0.02, embeddings={"wte"}, **settings
        )
        adam, adam_state = adamw(adam, g, adam_state, step=step, lr=0.02, decayed=(), weight_decay=0.0, **settings)
        assert np.array_equal(mixed["c_fc"], descended)
        assert np.array_equal(mixed["wte"], adam["wte"])
    assert mixed_state.keys() == {"wte"}


def test_updates_leave_their_arguments_alone(rng):
    w, g = {"w": rng.standard_normal(4)}, {"w": rng.standard_normal(4)}
    kept = w["w"].copy(), g["w"].copy()
    adamw(w, g, {}, step=1, lr=0.1, decayed={"w"}, weight_decay=0.1, **ADAM)
    sgd(w, g, {}, step=1, lr=0.1, decayed={"w"}, momentum=0.9, nesterov=True, weight_decay=0.1)
    clip(g, 0.1)
    assert np.array_equal(w["w"], kept[0])
    assert np.array_equal(g["w"], kept[1])


def test_clipping_bounds_the_norm_and_keeps_the_direction():
    g = {"a": np.array([3.0]), "b": np.array([[0.0, 4.0]])}
    clipped, norm = clip(g, 1.0)
    assert norm == 5.0
    assert 1.0 - 1e-6 < global_norm(clipped) < 1.0
    np.testing.assert_allclose(clipped["a"] / clipped["b"][0, 1], 0.75, rtol=EXACT)
    for loose in (6.0, 0.0):
        assert np.array_equal(clip(g, loose)[0]["b"], g["b"])


# ---- schedules

PLAN = {"lr": 1.0, "min_lr": 0.1, "warmup": 10, "total": 110, "decay_fraction": 0.2}


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_climbs_evenly_to_the_peak(name):
    rates = [SCHEDULES[name](step, **PLAN) for step in range(11)]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0], rtol=EXACT)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_warmup_starts_at_the_peak(name):
    assert SCHEDULES[name](0, **{**PLAN, "warmup": 0}) == 1.0


@pytest.mark.parametrize(
    ("name", "at_60", "at_85", "at_110"),
    [
        ("constant", 1.0, 1.0, 1.0),
        ("linear", 0.55, 0.325, 0.1),  # half, three quarters and all of the way down
        ("cosine", 0.55, 0.1 + 0.45 * (1.0 - math.sqrt(0.5)), 0.1),
        ("wsd", 1.0, 1.0, 0.1),  # 22 of the 110 steps decay: from step 88 on
    ],
)
def test_schedules_by_hand(name, at_60, at_85, at_110):
    rates = [SCHEDULES[name](step, **PLAN) for step in (60, 85, 110, 10_000)]
    np.testing.assert_allclose(rates, [at_60, at_85, at_110, at_110], rtol=EXACT)


def test_wsd_decays_linearly_in_the_last_share():
    rates = [SCHEDULES["wsd"](step, **PLAN) for step in (87, 88, 99, 110)]
    np.testing.assert_allclose(rates, [1.0, 1.0, 0.55, 0.1], rtol=EXACT)
    assert SCHEDULES["wsd"](110, **{**PLAN, "decay_fraction": 0.0}) == 1.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_shorter_than_their_warmup_still_have_a_rate(name):
    rates = [SCHEDULES[name](step, **{**PLAN, "total": 5}) for step in range(15)]
    assert all(0.0 < rate <= 1.0 for rate in rates)
