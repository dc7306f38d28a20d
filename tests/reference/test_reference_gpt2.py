"""The oracle's whole model: its gradient against central differences, its forward against the single layers."""

from __future__ import annotations

import numpy as np
import pytest

from reference import ORACLES, gpt2

SIZES = {"n_layer": 2, "n_embd": 4, "n_hidden": 6, "vocab_size": 7, "block_size": 6}
HEADS = 2
EXACT = 1e-12  # sums of a few float64 terms: some hundred roundings of 1.1e-16


def batch_of(rng):
    tokens, targets = rng.integers(7, size=(2, 5)), rng.integers(7, size=(2, 5))
    tokens[0, :2] = 3  # a token that occurs twice: its gradients add up
    targets[1, 2] = -1  # nine targets remain
    return tokens, targets


def assert_gradient_is_that_of_central_differences(params, tokens, targets):
    _, grads = gpt2.loss_and_gradients(params, tokens, targets, n_head=HEADS)
    assert grads.keys() == params.keys()
    h = 1e-5  # the error of a central difference is about h² + 1e-16 / h
    for name, value in params.items():
        numeric = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            kept = value[index]
            value[index] = kept + h
            above = gpt2.losses(params, tokens, targets, n_head=HEADS).sum() / 9
            value[index] = kept - h
            below = gpt2.losses(params, tokens, targets, n_head=HEADS).sum() / 9
            value[index] = kept
            numeric[index] = (above - below) / (2.0 * h)
        np.testing.assert_allclose(grads[name], numeric, rtol=1e-6, atol=1e-9, err_msg=name)


def test_gradient_is_that_of_central_differences(rng):
    assert_gradient_is_that_of_central_differences(gpt2.random_parameters(rng, **SIZES), *batch_of(rng))


def test_a_wrong_gradient_is_seen_by_central_differences(rng, monkeypatch):
    def without_means(dout, weight, xhat, rstd):
        return rstd * dout * weight, (dout * xhat).sum(axis=(0, 1)), dout.sum(axis=(0, 1))

    monkeypatch.setattr(gpt2, "layernorm_backward", without_means)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_gradient_is_that_of_central_differences(gpt2.random_parameters(rng, **SIZES), *batch_of(rng))


def test_model_is_the_layers_one_after_another(rng):
    params = gpt2.random_parameters(rng, **SIZES)
    tokens, targets = batch_of(rng)
    b, t, c = 2, 5, 4

    def norm(x, name):
        weight, bias = params[f"transformer.{name}.weight"], params[f"transformer.{name}.bias"]
        return ORACLES["layernorm"](x=x, weight=weight, bias=bias, eps=gpt2.EPS)["out"]

    def linear(x, name):
        weight, bias = params[f"transformer.{name}.weight"], params[f"transformer.{name}.bias"]
        return ORACLES["linear"](x=x, weight=weight, bias=bias)["out"]

    wte = params["transformer.wte.weight"]
    x = ORACLES["embedding"](tokens=tokens.ravel(), weight=wte)["out"].reshape(b, t, c)
    x = ORACLES["positions"](x=x, weight=params["transformer.wpe.weight"])["out"].reshape(b * t, c)
    for layer in range(2):
        qkv = linear(norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn").reshape(b, t, 3, HEADS, c // HEADS)
        mixed = ORACLES["attention"](qkv=qkv)["out"].reshape(b * t, c)
        x = ORACLES["add"](a=x, b=linear(mixed, f"h.{layer}.attn.c_proj"))["out"]
        up = linear(norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc")
        x = ORACLES["add"](a=x, b=linear(ORACLES["gelu"](x=up)["out"], f"h.{layer}.mlp.c_proj"))["out"]
    last = norm(x, "ln_f")
    logits = ORACLES["linear_nobias"](x=last, weight=wte.T)["out"].reshape(b, t, 7)
    losses = ORACLES["cross_entropy"](x=last, weight=wte, targets=targets.ravel())["losses"].reshape(b, t)
    np.testing.assert_allclose(gpt2.logits(params, tokens, n_head=HEADS), logits, atol=EXACT)
    np.testing.assert_allclose(gpt2.losses(params, tokens, targets, n_head=HEADS), losses, atol=EXACT)


def test_model_is_causal(rng):
    params = gpt2.random_parameters(rng, **SIZES)
    tokens, _ = batch_of(rng)
    changed = tokens.copy()
    changed[:, 3:] = (changed[:, 3:] + 1) % 7
    first, second = gpt2.logits(params, tokens, n_head=HEADS), gpt2.logits(params, changed, n_head=HEADS)
    np.testing.assert_allclose(first[:, :3], second[:, :3], atol=EXACT)
    assert np.abs(first[:, 3:] - second[:, 3:]).max() > 0.01


def test_gradients_of_parts_add_up_when_the_scale_is_shared(rng):
    params = gpt2.random_parameters(rng, **SIZES)
    tokens, targets = batch_of(rng)
    whole, grads = gpt2.loss_and_gradients(params, tokens, targets, n_head=HEADS)
    parts = [
        gpt2.loss_and_gradients(params, tokens[i : i + 1], targets[i : i + 1], n_head=HEADS, scale=1.0 / 9)
        for i in range(2)
    ]
    np.testing.assert_allclose(whole, parts[0][0] + parts[1][0], rtol=EXACT)
    for name in grads:
        np.testing.assert_allclose(grads[name], parts[0][1][name] + parts[1][1][name], atol=EXACT)


def test_positions_beyond_the_window_have_no_gradient(rng):
    params = gpt2.random_parameters(rng, **SIZES)
    _, grads = gpt2.loss_and_gradients(params, *batch_of(rng), n_head=HEADS)
    assert not grads["transformer.wpe.weight"][5].any()
    assert grads["transformer.wpe.weight"][:5].all()
