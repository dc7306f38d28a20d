"""The package against what PyTorch gave, from the golden file: needs no PyTorch. And a wrong number is reported."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tolerances

from cllm_cli.optim import OPTIMIZERS
from cllm_cli.optim.schedule import SCHEDULES
from parity import cases, compare, golden, ours

TENSORS, METADATA = golden.read()
GOLDEN = [(name, pair) for name, pairs in cases.GOLDEN_PAIRS.items() for pair in pairs]
FIRST = next(iter(cases.TRAINED))  # with every pair

precisions = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["f64", "f32"])
small = pytest.mark.parametrize("name", cases.SMALL)


def trained(name, pair, dtype, **changed):
    weights, batch = golden.given(TENSORS, f"trained {name}")
    return ours.train(cases.TRAINED[name], weights, golden.batches(batch), *pair, dtype, **changed)


def assert_same_end(found, name, pair):
    compare.assert_same_end(found, golden.wanted_end(TENSORS, name, pair), cases.TRAINED[name], pair[0])


def test_the_file_is_of_these_cases_and_says_what_made_it():
    assert METADATA["format"] == golden.FORMAT
    assert METADATA["inputs"] == golden.inputs(), "run python tools/make_golden.py"
    assert {"torch", "transformers", "numpy"} <= METADATA.keys()
    assert golden.FILE.stat().st_size < 500_000


def test_every_optimizer_and_every_schedule_is_in_it():
    assert {name for name, _ in cases.OPTIMIZERS.values()} == set(OPTIMIZERS)
    assert set(cases.SCHEDULES) == set(SCHEDULES)


def test_every_pair_is_in_it():
    assert cases.GOLDEN_PAIRS[FIRST] == cases.PAIRS
    assert all({pair[0] for pair in pairs} == set(cases.OPTIMIZERS) for pairs in cases.GOLDEN_PAIRS.values())


@pytest.mark.parametrize("name", cases.TRAINED)
def test_steps_are_clipped_and_not_clipped_and_move_every_weight(name):
    weights, _ = golden.given(TENSORS, f"trained {name}")
    for optimizer in cases.OPTIMIZERS:
        ends = [golden.wanted_end(TENSORS, name, pair) for pair in cases.GOLDEN_PAIRS[name] if pair[0] == optimizer]
        clipped = np.concatenate([end["norm of every step"] for end in ends]) > cases.CLIP
        assert clipped.any()
        assert not clipped.all()
        assert all(np.abs(end[key] - weights[key]).max() > 1e-3 for end in ends for key in weights)


@precisions
@small
def test_logits_losses_and_gradients_are_pytorchs(name, dtype):
    case = cases.SMALL[name]
    weights, batch = golden.given(TENSORS, name)
    compare.assert_same_measures(ours.measure(case, weights, batch, dtype), golden.wanted(TENSORS, name), case)


@precisions
@pytest.mark.parametrize(
    ("name", "pair"), GOLDEN, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_twenty_steps_are_pytorchs(name, pair, dtype):
    assert_same_end(trained(name, pair, dtype), name, pair)


# ---- what is wrong is reported


@precisions
@small
def test_any_tensor_that_is_one_thousandth_too_large_is_reported(name, dtype):
    case, wanted = cases.SMALL[name], golden.wanted(TENSORS, name)
    for tensor, value in wanted.items():
        found = {key: known.astype(dtype) for key, known in wanted.items()} | {tensor: (value * 1.001).astype(dtype)}
        with pytest.raises(AssertionError, match=rf"1 of {len(wanted)} tensors beyond .*\n{re.escape(tensor)} \("):
            compare.assert_same_measures(found, wanted, case)


def test_one_entry_is_named_with_both_values():
    wanted = golden.wanted(TENSORS, "usual")
    name = "gradient of transformer.h.1.attn.c_attn.weight"
    wrong = wanted[name].copy()
    wrong[3, 17] += np.abs(wrong).max() * 1e-8
    with pytest.raises(AssertionError, match=r"h\.1\.attn\.c_attn\.weight \(12, 36\): entry \(3, 17\) is .*, not "):
        compare.assert_same(wanted | {name: wrong}, wanted, tolerances.PARITY64)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_reported(value):
    wanted = golden.wanted(TENSORS, "usual")
    with pytest.raises(AssertionError, match="loss"):
        compare.assert_same(wanted | {"loss": np.array(value)}, wanted, tolerances.PARITY64)


def test_a_tensor_that_is_missing_is_reported():
    wanted = golden.wanted(TENSORS, "usual")
    found = {name: value for name, value in wanted.items() if not name.endswith("ln_f.bias")}
    with pytest.raises(AssertionError, match=r"gradient of transformer\.ln_f\.bias"):
        compare.assert_same(found, wanted, tolerances.PARITY64)


@pytest.mark.parametrize(
    ("optimizer", "changed"),
    [
        ("adamw", {"beta1": 0.901}),
        ("adamw", {"beta2": 0.951}),
        ("adamw", {"eps": 1.1e-8}),
        ("adamw", {"weight_decay": 0.1001}),
        ("adamw", {"lr_embed": 0.02002}),
        ("sgd", {"momentum": 0.901}),
        ("sgd", {"nesterov": True}),
        ("sgd", {"weight_decay": 0.1001}),
        ("sgd, Nesterov", {"momentum": 0.901}),
        ("sgd, Nesterov", {"nesterov": False}),
        ("adam-embed", {"lr_embed": 0.01001}),
        ("adam-embed", {"beta2": 0.951}),
    ],
    ids=str,
)
def test_another_setting_of_an_optimizer_is_reported(optimizer, changed):
    pair = (optimizer, "cosine")
    found = trained(FIRST, pair, np.float64, **changed)
    with pytest.raises(AssertionError, match="tensors beyond"):
        assert_same_end(found, FIRST, pair)


@pytest.mark.parametrize("schedule", cases.SCHEDULES)
def test_another_schedule_is_reported(schedule):
    other = next(name for name in cases.SCHEDULES if name != schedule)
    found = trained(FIRST, ("sgd", schedule), np.float64)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        assert_same_end(found, FIRST, ("sgd", other))
