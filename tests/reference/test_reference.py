"""The oracle's layers against facts that need neither the package nor another framework, each test named after its law.

`parity/test_oracle_against_torch.py` compares the oracle with PyTorch and transformers, where they are installed.
"""

from __future__ import annotations

import ast
import inspect
import math
from pathlib import Path

import numpy as np

from reference import ORACLES
from reference.layers import dropout_keeps, dropout_word, splitmix64_mix

EXACT = 1e-12  # sums of a few float64 terms: some hundred roundings of 1.1e-16


def test_nothing_here_imports_the_package():
    for path in Path(__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "cllm_cli" for name in names), path.name


def test_every_oracle_takes_keywords_alone():
    for name, oracle in ORACLES.items():
        kinds = {parameter.kind for parameter in inspect.signature(oracle).parameters.values()}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}, name


def test_embedding_of_every_token_in_order_is_the_table(rng):
    weight = rng.standard_normal((5, 3))
    assert np.array_equal(ORACLES["embedding"](tokens=np.arange(5, dtype=np.int32), weight=weight)["out"], weight)


def test_positions_start_where_they_are_told(rng):
    weight = rng.standard_normal((9, 3))
    out = ORACLES["positions"](x=np.zeros((2, 4, 3)), weight=weight, position=5)["out"]
    assert np.array_equal(out[0], weight[5:9])
    assert np.array_equal(out[1], weight[5:9])


def test_layernorm_rows_have_mean_zero_and_variance_one(rng):
    x = 3.0 + 2.0 * rng.standard_normal((6, 50))
    got = ORACLES["layernorm"](x=x, weight=np.ones(50), bias=np.zeros(50), eps=0.0)
    np.testing.assert_allclose(got["out"].mean(axis=1), 0.0, atol=EXACT)
    np.testing.assert_allclose(got["out"].var(axis=1), 1.0, rtol=EXACT)
    np.testing.assert_allclose(got["mean"], x.mean(axis=1))
    np.testing.assert_allclose(got["rstd"], 1.0 / x.std(axis=1))


def test_layernorm_does_not_see_shift_and_scale(rng):
    x, weight, bias = rng.standard_normal((4, 8)), rng.standard_normal(8), rng.standard_normal(8)
    first = ORACLES["layernorm"](x=x, weight=weight, bias=bias, eps=0.0)["out"]
    second = ORACLES["layernorm"](x=7.0 * x - 5.0, weight=weight, bias=bias, eps=0.0)["out"]
    np.testing.assert_allclose(first, second, atol=EXACT)


def test_layernorm_of_a_constant_row_is_the_bias():
    got = ORACLES["layernorm"](x=np.full((1, 4), 3.0), weight=np.ones(4), bias=np.arange(4.0), eps=1e-5)
    assert np.array_equal(got["out"], [[0.0, 1.0, 2.0, 3.0]])
    np.testing.assert_allclose(got["rstd"], 1.0 / math.sqrt(1e-5))


def test_linear_by_hand():
    x, weight = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0, -1.0], [3.0, 1.0, 2.0]])
    assert np.array_equal(ORACLES["linear_nobias"](x=x, weight=weight)["out"], [[7.0, 2.0, 3.0]])
    assert np.array_equal(ORACLES["linear"](x=x, weight=weight, bias=np.ones(3))["out"], [[8.0, 3.0, 4.0]])


def test_rows_of_attention_sum_to_one(rng):
    qkv = rng.standard_normal((2, 5, 3, 3, 4))
    qkv[:, :, 2] = 2.5  # an average of equal values is that value, whatever its weights
    np.testing.assert_allclose(ORACLES["attention"](qkv=qkv)["out"], 2.5, rtol=EXACT)


def test_attention_does_not_see_what_comes_later(rng):
    qkv = rng.standard_normal((1, 6, 3, 2, 4))
    changed = qkv.copy()
    changed[:, 4:] = rng.standard_normal((1, 2, 3, 2, 4))
    first, second = ORACLES["attention"](qkv=qkv), ORACLES["attention"](qkv=changed)
    assert np.array_equal(first["out"][:, :4], second["out"][:, :4])
    assert np.array_equal(first["lse"][..., :4], second["lse"][..., :4])
    assert not np.any(first["out"][:, 4:] == second["out"][:, 4:])


def test_attention_with_equal_scores_is_the_running_mean(rng):
    qkv = rng.standard_normal((1, 6, 3, 2, 4))
    qkv[:, :, 0] = 0.0
    got = ORACLES["attention"](qkv=qkv)
    running = qkv[0, :, 2].cumsum(axis=0) / np.arange(1, 7)[:, None, None]
    np.testing.assert_allclose(got["out"][0], running, atol=EXACT)
    np.testing.assert_allclose(got["lse"][0, 0], np.log(np.arange(1, 7)), atol=EXACT)


def test_attention_scale_by_hand():
    # HS = 4, so the scores are q·k / 2 = 0 and 2 log 3 / 2: the second key weighs three times the first.
    qkv = np.zeros((1, 2, 3, 1, 4))
    qkv[0, 1, 0, 0, 0] = 1.0
    qkv[0, 1, 1, 0, 0] = 2.0 * math.log(3.0)
    qkv[0, 1, 2, 0, 0] = 1.0
    got = ORACLES["attention"](qkv=qkv)
    np.testing.assert_allclose(got["out"][0, 1, 0, 0], 0.75, rtol=EXACT)
    np.testing.assert_allclose(got["lse"][0, 0, 1], math.log(4.0), rtol=EXACT)


def test_gelu_odd_and_even_parts_and_limits():
    x = np.linspace(-6.0, 6.0, 101)[None]
    out = ORACLES["gelu"](x=x)["out"]
    np.testing.assert_allclose(out - out[:, ::-1], x, atol=EXACT)  # x Φ(x) + x Φ(−x) = x
    np.testing.assert_allclose(out[0, [0, -1]], [0.0, 6.0], atol=1e-6)


def test_tanh_gelu_is_within_its_known_distance_of_the_exact_one():
    x = np.linspace(-5.0, 5.0, 1001)
    exact = np.array([0.5 * value * (1.0 + math.erf(value / math.sqrt(2.0))) for value in x])
    distance = np.abs(ORACLES["gelu"](x=x[None])["out"][0] - exact).max()
    assert 1e-4 < distance < 5e-4


def test_split_then_add_doubles(rng):
    x = rng.standard_normal((3, 4))
    assert np.array_equal(ORACLES["add"](**ORACLES["split"](x=x))["out"], 2.0 * x)


def test_splitmix64_known_answers():
    # The published sequence of SplitMix64 from state 0; with key + mix(stream + 1) = 0 dropout walks through it.
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    key = 2**64 - splitmix64_mix(1)
    assert [dropout_word(index, stream=0, key=key) for index in range(3)] == known


def test_dropout_depends_on_the_place_not_on_the_call(rng):
    x = rng.standard_normal((6, 5))
    settings = {"rate": 0.4, "stream": 3, "key": 2**64 - 1}
    whole = ORACLES["dropout"](x=x, first_row=0, **settings)["out"]
    assert np.array_equal(ORACLES["dropout"](x=x[4:], first_row=4, **settings)["out"], whole[4:])
    assert not np.array_equal(ORACLES["dropout"](x=x, first_row=1, **settings)["out"], whole)
    assert not np.array_equal(ORACLES["dropout"](x=x, first_row=0, rate=0.4, stream=4, key=2**64 - 1)["out"], whole)


def test_dropout_keeps_the_stated_share_and_the_mean():
    out = ORACLES["dropout"](x=np.ones((100, 100)), rate=0.3, stream=0, key=np.uint64(5), first_row=0)["out"]
    assert set(np.unique(out)) == {0.0, 1.0 / 0.7}
    # 10,000 draws: the mean's standard deviation is √(0.3 / 0.7) / 100 = 0.0065; three of them.
    assert abs(out.mean() - 1.0) < 0.02


def test_dropout_without_a_rate_changes_nothing(rng):
    x = rng.standard_normal((4, 3))
    assert np.array_equal(ORACLES["dropout"](x=x, rate=0.0, stream=0, key=1, first_row=0)["out"], x)
    assert all(dropout_keeps(index, rate=0.0, stream=9, key=9) for index in range(100))


def test_loss_at_zero_logits_is_log_of_the_vocabulary(rng):
    x, targets = rng.standard_normal((5, 3)), np.array([0, 1, 2, 7, 10], dtype=np.int32)
    got = ORACLES["cross_entropy"](x=x, weight=np.zeros((11, 3)), targets=targets, scale=0.2)
    np.testing.assert_allclose(got["losses"], math.log(11), rtol=EXACT)
    assert np.array_equal(got["hits"], [1.0, 0.0, 0.0, 0.0, 0.0])  # of equal logits the first is the largest


def test_probabilities_from_the_losses_sum_to_one(rng):
    x, weight = rng.standard_normal((1, 3)), 4.0 * rng.standard_normal((9, 3))
    got = ORACLES["cross_entropy"](x=np.repeat(x, 9, axis=0), weight=weight, targets=np.arange(9))
    np.testing.assert_allclose(np.exp(-got["losses"]).sum(), 1.0, rtol=EXACT)
    assert got["hits"].sum() == 1.0
    assert got["hits"].argmax() == got["losses"].argmin()


def test_ignored_targets_have_no_loss_and_large_logits_no_overflow():
    x, weight = np.array([[1e4], [1e4], [-1e4]]), np.array([[1.0], [-1.0]])
    got = ORACLES["cross_entropy"](x=x, weight=weight, targets=np.array([-1, 1, 1]))
    assert np.array_equal(got["losses"], [0.0, 2e4, 0.0])
    assert np.array_equal(got["hits"], [0.0, 0.0, 1.0])
