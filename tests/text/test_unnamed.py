"""Files without a name: a stream laid down in one, and what is said where there is no room."""

from __future__ import annotations

import functools
import io

import pytest
from text_files import pieces_of, refused

from cllm_cli.text.unnamed import laid_down


def test_a_stream_that_is_laid_down_is_a_file():
    with laid_down(pieces_of(b"some text", 2), "it") as file:
        assert (file.read1(4), file.seek(-4, 2), file.read()) == (b"some", 5, b"text")


@pytest.mark.parametrize("size", [10, 1 << 20])  # within a buffer, and beyond it
def test_where_there_is_no_room_for_a_stream(monkeypatch, size):
    monkeypatch.setattr("tempfile.TemporaryFile", functools.partial(io.open, "/dev/full", "w+b"))
    error = refused(lambda: laid_down(iter([bytes(size)]), "it").__enter__(), "cannot keep it in", "No space left")
    assert "TMPDIR" in error.hint
    monkeypatch.setattr("tempfile.TemporaryFile", functools.partial(io.open, "/no/folder/file", "w+b"))
    refused(lambda: laid_down(iter([b"a"]), "it").__enter__(), "cannot keep it in", "No such file")
