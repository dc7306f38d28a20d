"""Spoiled files of every format; the full figure is `python -m tests.reliability mutations`."""

from __future__ import annotations

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("sentencepiece")

from .mutations import run


@pytest.mark.slow
def test_spoiled_files_are_refused_or_read():
    found = run(417, seed=2)  # of each of 24 formats: 10,000 in all
    assert found["failures"] == 0, found["first"]
    assert found["formats"] == 24
    assert found["refused"] > found["trials"] / 2
