"""Streams of bytes: wherever they are cut, their content stays, and a separator is found across any edge."""

from __future__ import annotations

import io
import itertools

import pytest
from text_files import pieces_of

from cllm_cli.text import chunks
from cllm_cli.text.chunks import Parts, beyond, chunks_of, in_chunks, peek


def parts_of(data: bytes, separator: bytes, size: int) -> tuple[list[bytes], list[int]]:
    parts = Parts(pieces_of(data, size), separator)
    found, offsets = [], []
    while not parts.over:
        offsets.append(parts.offset)
        pieces = list(parts.part())
        assert all(pieces)
        found.append(b"".join(pieces))
    return found, offsets


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("separator", [b"|", b"ab", b"aab", b"aa", b"abab"])
def test_parts_are_those_that_python_splits(separator, size):
    for letters in itertools.product(b"ab|", repeat=6):
        data = bytes(letters) * 2
        found, offsets = parts_of(data, separator, size)
        expected = data.split(separator)
        assert found == expected
        assert offsets == [sum(len(part) + len(separator) for part in expected[:index]) for index in range(len(found))]


def test_a_stream_without_bytes_is_one_empty_part():
    assert parts_of(b"", b"|", 1) == ([b""], [0])


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_peeking_takes_nothing_away(size):
    data = bytes(range(50))
    for wanted in (1, 3, 49, 50, 51):
        head, stream = peek(pieces_of(data, size), wanted)
        assert head == data[:wanted]
        assert b"".join(stream) == data
        rest = [*beyond(pieces_of(data, size), wanted)]
        assert b"".join(rest) == data[wanted:]
        assert all(rest)


def test_what_is_in_memory_comes_in_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 4)
    assert list(in_chunks(b"")) == []
    assert list(in_chunks(b"abcd")) == [b"abcd"]
    assert list(in_chunks(b"abcdefghi")) == [b"abcd", b"efgh", b"i"]


@pytest.mark.parametrize(("wanted", "least"), [(1, 1), (5, 1), (6, 2), (10, 2), (11, 3)])
def test_peeking_reads_no_piece_that_it_does_not_need(wanted, least):
    pieces = itertools.repeat(b"12345", 4)
    peek(pieces, wanted)
    assert len([*pieces]) == 4 - least


def test_chunks_have_one_size_however_little_a_pipe_gives(monkeypatch):
    class Pipe(io.BytesIO):
        def read1(self, size):
            return super().read1(min(size, 3))

    monkeypatch.setattr(chunks, "CHUNK", 4)
    assert list(chunks_of(Pipe(b"abcdefghij"))) == [b"abcd", b"efgh", b"ij"]
