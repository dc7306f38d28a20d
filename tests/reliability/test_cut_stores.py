"""A token store that is cut short or written to under whoever reads it: an error, and the run goes on later."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from cllm_cli.errors import CorpusError
from cllm_cli.text import batches, stored_text
from cllm_cli.text.batches import Sampler, Windows
from cllm_cli.text.copying import find_copying
from cllm_cli.text.mapped import check_there, mapped, pieces_of
from cllm_cli.text.pile import Row
from cllm_cli.text.tokenizers import builder_of
from cllm_cli.training import checkpoint, train
from cllm_cli.training.run_folder import RunFolder

from .small_runs import SETTINGS, TEXT, bits

sys.path.append(str(Path(__file__).parents[1] / "text"))  # where pytest finds what tests share


@pytest.fixture
def tokens(tmp_path):
    """2,000 tokens in a file of less than a page: what is gone of it reads as zeros, and ends no process."""
    path = tmp_path / "tokens"
    path.write_bytes(bytes(2000))
    with path.open("rb") as file:
        return path, mapped(file, np.dtype(np.uint8), 2000)


def later(path):
    """As a write does a moment later, whatever the clock's grain."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


READERS = {
    "training": lambda tokens: Sampler(tokens, 8, 1).next_batch(*np.zeros((2, 2, 8), np.int32)),
    "evaluation": lambda tokens: Windows(tokens, 8, 2)[0],
    "pieces": lambda tokens: next(pieces_of(tokens, 100)),
}


def test_what_is_written_to_while_the_last_piece_is_used_is_told(tokens):
    """As validation tokens are, hashed first and written then."""
    path, array = tokens
    pieces = pieces_of(array, 2000)
    next(pieces)
    later(path)
    with pytest.raises(CorpusError, match="was written to while it was read"):
        next(pieces)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_gone_is_not_read(reader, tokens):
    path, array = tokens
    READERS[reader](array)
    os.truncate(path, 1999)
    with pytest.raises(CorpusError, match="was cut short while it was read"):
        READERS[reader](array)


@pytest.mark.parametrize("reader", READERS)
def test_what_was_written_to_is_not_used(reader, tokens):
    """Its ids were looked at when it was opened; others may lie beyond the model's weights."""
    path, array = tokens
    with path.open("r+b") as file:
        file.write(b"\xff")
    later(path)
    with pytest.raises(CorpusError, match="was written to while it was read"):
        READERS[reader](array)


@pytest.mark.parametrize("reader", ["training", "evaluation"])
def test_what_is_written_to_while_a_batch_is_read_is_not_used(reader, tokens, monkeypatch):
    path, array = tokens
    written = batches._write_window

    def disturbed(*arguments):
        written(*arguments)
        later(path)

    monkeypatch.setattr(batches, "_write_window", disturbed)
    with pytest.raises(CorpusError, match="was written to while it was read"):
        READERS[reader](array)


@pytest.fixture
def documents(tmp_path):
    """A store of twelve documents, some for validation between the others, and the whole text's tokens."""
    from store_files import stored

    texts = []
    for number in range(12):
        path = tmp_path / f"{number:02}.txt"
        path.write_text(f"document {number} " * (3 + number), "utf-8")
        texts.append(path)
    corpus = stored(tmp_path / "text.tok", texts)
    return tmp_path / "text.tok", corpus.tokenizer, [path.read_bytes() for path in texts]


@pytest.mark.parametrize("change", ["was cut short", "was written to"])
def test_documents_are_scored_as_they_were_read(documents, monkeypatch, change):
    """Long after their group was given."""
    path, tokenizer, texts = documents
    monkeypatch.setattr(stored_text, "GROUP", 1)
    groups = stored_text.documents_in(path, tokenizer)
    (first,) = next(groups)
    if change == "was cut short":
        os.truncate(path, path.stat().st_size - 1)
    else:
        with path.open("r+b") as file:
            file.write(b"\xff" * path.stat().st_size)
        later(path)
    assert tokenizer.decode(first.tokens.tolist()).encode() == texts[0]
    with pytest.raises(CorpusError, match=f"{change} while it was read"):
        next(groups)


@pytest.mark.parametrize("part", ["text", "training"])
@pytest.mark.parametrize("change", ["was cut short", "was written to"])
def test_what_copying_compares_is_as_it_was(tokens, part, change):
    """Both texts may be mapped, and it is minutes before they are used, while kernels are compiled."""
    path, array = tokens
    other, byte = np.zeros(100, np.uint8), builder_of("byte").finish(end_of_text=False)[0]
    given = (array, other) if part == "text" else (other, array)
    assert find_copying(*given, byte).overlap.size == 100
    if change == "was cut short":
        os.truncate(path, 1999)
    else:
        later(path)
    with pytest.raises(CorpusError, match=f"{change} while it was read"):
        find_copying(*given, byte)


@pytest.mark.parametrize("held", [1, 1 << 22])
def test_tokens_that_are_put_in_order_are_as_they_were(documents, monkeypatch, held):
    path, tokenizer, texts = documents
    monkeypatch.setattr(stored_text, "HELD", held)
    whole = tokenizer.decode(stored_text.tokens_in(path, tokenizer).tolist()).encode()
    places = [whole.index(text) for text in texts]
    assert places == sorted(places)

    class Disturbed(Row):
        def append(self, piece):
            super().append(piece)
            later(path)

    monkeypatch.setattr(stored_text, "Row", Disturbed)
    with pytest.raises(CorpusError, match="was written to while it was read"):
        stored_text.tokens_in(path, tokenizer)


def test_what_takes_a_files_place_does_not_disturb_it(tokens):
    path, array = tokens
    path.with_name("other").write_bytes(b"\xff" * 2000)
    path.with_name("other").replace(path)
    check_there(array)
    assert not array.any()


def test_what_lies_in_no_file_is_there():
    check_there(np.zeros(4, np.uint8))
    check_there(np.empty(0, np.uint8))


@pytest.mark.parametrize("step", [2, 5, 11])
def test_a_run_on_a_store_that_is_cut_short_goes_on_to_the_same_bits(tmp_path, step):
    from store_files import stored

    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    store, run, whole = tmp_path / "text.tok", tmp_path / "run", tmp_path / "whole"
    stored(store, [tmp_path / "text.txt"])
    for _ in train([store], whole, **SETTINGS):
        pass
    content = store.read_bytes()

    def trained():
        for record in train([store], run, **SETTINGS):
            if record.event == "step" and record.step == step:
                os.truncate(store, len(content) - 1)

    with pytest.raises(CorpusError, match="was cut short while it was read"):
        trained()
    assert checkpoint.newest(RunFolder(run))[1]["step"] == step
    store.write_bytes(content)
    for _ in train([store], run, resume=True, threads=1):
        pass
    assert bits(run) == bits(whole)
