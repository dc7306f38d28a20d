"""The harnesses of storage, with small counts; the full figures take `python -m tests.reliability`."""

from __future__ import annotations

import pytest

from . import power_loss

SEED = 1


@pytest.mark.slow
def test_whatever_a_power_cut_leaves_loads_as_what_it_was():
    found = power_loss.run(2000, SEED)
    assert found["bad"] == {}
    assert found["failures"] == 0
    assert found["gone_on"] == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "expected"), [("a folder", "lost"), ("a file", "unloadable"), ("metrics.jsonl", "wrong")]
)
def test_a_flush_that_is_forgotten_is_found_out(what, expected):
    def forgotten(call):
        folder = not call.path.suffix
        return call.kind == "fsync" and {"a folder": folder, "a file": not folder}.get(what, call.path.name == what)

    assert power_loss.run(400, SEED, forgotten)["bad"].get(expected)
