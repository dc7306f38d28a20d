from __future__ import annotations

import pytest
from store_files import stored
from text_files import many
from tokenizer_files import learned, prose, spec_of

from cllm_cli.text import pile
from cllm_cli.text.tokenizers import TOKENIZERS


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


@pytest.fixture(scope="session")
def specs(tmp_path_factory):
    """A function from a registered tokenizer's name to a specification, made once."""
    made = {}

    def spec(kind):
        if kind not in made:
            made[kind] = spec_of(kind, tmp_path_factory.mktemp("tokenizer"))
        return made[kind]

    return spec


@pytest.fixture(params=list(TOKENIZERS))
def spec(request, specs):
    """Every registered tokenizer in turn."""
    return specs(request.param)


@pytest.fixture(scope="session")
def bpe():
    """A tokenizer that was learned from some text of ours, with an end of text."""
    pytest.importorskip("tokenizers")
    return learned("bpe:320", [prose(3, 300).encode()], True)[0]
