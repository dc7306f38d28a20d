from __future__ import annotations

import pytest

from cllm_cli.text import pile


@pytest.fixture
def small_steps(monkeypatch):
    """Chunks and blocks of a few bytes, so that small texts take every path of large ones."""
    monkeypatch.setattr("cllm_cli.text.chunks.CHUNK", 5)
    monkeypatch.setattr(pile, "BLOCK", 16)
    monkeypatch.setattr(pile, "PIECE", 3)
