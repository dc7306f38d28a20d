from __future__ import annotations

import pytest
from store_files import stored
from text_files import many

from cllm_cli.text import pile


@pytest.fixture
def small_steps(monkeypatch):
    """Chunks and blocks of a few bytes, so that small texts take every path of large ones."""
    monkeypatch.setattr("cllm_cli.text.chunks.CHUNK", 5)
    monkeypatch.setattr(pile, "BLOCK", 16)
    monkeypatch.setattr(pile, "PIECE", 3)


@pytest.fixture
def small(tmp_path):
    """A token store of a few short documents."""
    many(tmp_path / "texts", 5)
    stored(tmp_path / "small.tok", [tmp_path / "texts"])
    return tmp_path / "small.tok"
