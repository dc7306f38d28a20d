"""The package against PyTorch, where it is installed: every case, every optimizer with every schedule."""

from __future__ import annotations

import runpy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tolerances

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[parity]'")
pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[parity]'")

from parity import cases, compare, golden, ours, torch_gpt2  # noqa: E402 - after importorskip

precisions = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["f64", "f32"])
every = pytest.mark.parametrize(
    "name", [*cases.CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in cases.LARGE)]
)


@precisions
@every
def test_logits_losses_and_gradients_are_the_same(name, dtype):
    case = (cases.CASES | cases.LARGE)[name]
    weights, batch = cases.weights_of(case), cases.batch_of(case)
    found, wanted = ours.measure(case, weights, batch, dtype), torch_gpt2.measure(case, weights, batch)
    compare.assert_same_measures(found, wanted, case)


@every
def test_float32_is_as_near_to_float64_as_pytorchs_float32(name):
    """Of each kind of tensor the worst: no more than a few times PyTorch's, or than a few roundings."""
    case = (cases.CASES | cases.LARGE)[name]
    weights, batch = cases.weights_of(case), cases.batch_of(case)
    wanted = torch_gpt2.measure(case, weights, batch)
    found = compare.errors(ours.measure(case, weights, batch, np.float32), wanted)
    theirs = compare.errors(torch_gpt2.measure(case, weights, batch, torch.float32), wanted)
    for kind in ("logits", "losses", "gradient"):
        worst, known = (max(error for name, error in side.items() if kind in name) for side in (found, theirs))
        assert worst <= tolerances.AS_GOOD * max(known, tolerances.ROUNDINGS * tolerances.UNIT["float32"]), kind


@cache
def trained_by_torch(case, optimizer, schedule):
    """Once for both precisions."""
    return torch_gpt2.train(case, cases.weights_of(case), cases.batches_of(case), optimizer, schedule)


@precisions
@pytest.mark.parametrize("schedule", cases.SCHEDULES)
@pytest.mark.parametrize("optimizer", cases.OPTIMIZERS)
@pytest.mark.parametrize("name", cases.TRAINED | cases.TRAINED_ALSO)
def test_twenty_steps_are_the_same(name, optimizer, schedule, dtype):
    case = (cases.TRAINED | cases.TRAINED_ALSO)[name]
    found = ours.train(case, cases.weights_of(case), cases.batches_of(case), optimizer, schedule, dtype)
    compare.assert_same_end(found, trained_by_torch(case, optimizer, schedule), case, optimizer)


def test_the_golden_file_is_what_pytorch_gives():
    made = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "make_golden.py"))
    assert made["check"]() == ""
    assert golden.FILE.is_file()
