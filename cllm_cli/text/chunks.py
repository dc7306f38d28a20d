"""Streams of bytes: iterators of pieces that are not empty. Where the pieces are cut means nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import BinaryIO

# What is made of a chunk stays in the cache, and small enough for malloc to reuse instead of mapping fresh pages.
CHUNK = 1 << 18


def chunks_of(stream: BinaryIO) -> Iterator[bytes]:
    """What is left of a buffered stream, CHUNK bytes at a time."""
    while chunk := _chunk(stream):
        yield chunk


def piece_of(stream: BinaryIO, size: int) -> bytes:
    """What is there to read, `size` bytes at most; a pipe is not waited for to give more."""
    piece: bytes = stream.read1(size)  # type: ignore[attr-defined]  # BinaryIO has none, buffered streams do
    return piece


def _chunk(stream: BinaryIO) -> bytes:
    """The next CHUNK bytes, or what is left. A signal is heeded between the pieces that a pipe gives."""
    pieces: list[bytes] = []
    missing = CHUNK
    while missing and (piece := piece_of(stream, missing)):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def in_chunks(data: bytes) -> Iterator[bytes]:
    """Bytes that are in memory already."""
    return (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))


def peek(chunks: Iterator[bytes], size: int) -> tuple[bytes, Iterator[bytes]]:
    """The first `size` bytes, fewer only where there are no more, and the stream as it was."""
    held: list[bytes] = []
    missing = size
    for chunk in chunks:
        held.append(chunk)
        missing -= len(chunk)
        if missing <= 0:
            break
    return b"".join(chunk[:size] for chunk in held)[:size], itertools.chain(held, chunks)


def beyond(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The stream without its first `size` bytes."""
    for chunk in chunks:
        if size < len(chunk):
            yield chunk[size:]
            break
        size -= len(chunk)
    yield from chunks


class Parts:
    """A stream cut at each place where a separator stands; the separators themselves are left out.

    `part` gives the next part, which is read to its end before the one after it; `over` says that it was the last.
    """

    def __init__(self, chunks: Iterator[bytes], separator: bytes) -> None:
        self._chunks, self._separator = chunks, separator
        self._held, self._at, self._before = b"", 0, 0
        self.over = False

    @property
    def offset(self) -> int:
        """Where in the stream the next part begins, once the one before was read."""
        return self._before + self._at

    def part(self) -> Iterator[bytes]:
        """A stream up to the next separator, or to the end."""
        while True:
            found = self._held.find(self._separator, self._at)
            # The last bytes may be the beginning of a separator that goes on in the next chunk.
            certain = found if found >= 0 else max(self._at, len(self._held) - len(self._separator) + 1)
            piece = self._held[self._at : certain]
            self._at = certain if found < 0 else found + len(self._separator)
            if piece:
                yield piece
            if found >= 0:
                return
            rest = self._held[self._at :]
            chunk = next(self._chunks, b"")
            self._before += self._at
            self._held, self._at = rest + chunk, 0
            if not chunk:
                self._before, self._held, self.over = self._before + len(rest), b"", True
                if rest:
                    yield rest
                return
