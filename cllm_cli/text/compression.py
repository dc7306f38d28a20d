"""Compressed files as streams: gzip, bzip2, xz and zstd, recognised by their first bytes.

Memory is bounded, whatever a file claims: output comes in pieces, and a decompressor may take MEMORY for its window.
Several members in one file follow one another, as the formats say; zeros after a member are padding.

Magic numbers: RFC 1952 (gzip), "The .xz File Format" 1.2.1, RFC 8878 (zstd, its skippable frames too); bzip2 has no
specification but its source: "BZh", the level, and the first six bytes of a block (π) or of the end (√π).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from cllm_cli.errors import CorpusError
from cllm_cli.text import chunks as streams

MEMORY = 256 << 20
# A block of zstd is at most 128 KiB of output, and may take four bytes: so a slice comes to 8 MiB at most.
SLICE = 256
SUFFIXES = frozenset({".gz", ".bz2", ".xz", ".zst", ".zstd"})

_MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}


class Member(Protocol):
    """The decompressor of one member (zstd: frame) of a file."""

    eof: bool
    unused_data: bytes

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What `data` comes to, a little at a time; all of it is taken, or `eof` is set and the rest unused."""


def compression_of(head: bytes) -> str:
    """The name of the compression that a file with these first bytes has, or an empty string."""
    return next((name for name, magic in _MAGIC.items() if magic.match(head)), "")


def decompressed(chunks: Iterator[bytes], compression: str, name: str) -> Iterator[bytes]:
    """The content of a compressed stream. Raises CorpusError, naming the file, where it is damaged or cut off."""
    start, fault = _opener(compression, name)
    member: Member | None = None
    position = 0
    for chunk in chunks:
        data, position = chunk, position + len(chunk)
        while data:
            if member is None:
                data = data.lstrip(b"\0")
                if not data:
                    break
                member = start()
            try:
                yield from filter(None, member.pieces(data))
            except fault as error:
                raise _damaged(name, compression, str(error), position) from error
            if not member.eof:
                break
            data, member = member.unused_data, None
    if member is not None:
        raise CorpusError(
            f"{name} is cut off: its {compression} data has no end ({position:,} bytes are there)",
            "copy it again, or decompress what there is of it and give that",
        )


def _damaged(name: str, compression: str, reason: str, position: int) -> CorpusError:
    if "emory" in reason:  # in the words of liblzma and of libzstd
        return CorpusError(
            f"{name} takes more than {MEMORY >> 20} MiB of memory to decompress ({compression})",
            f"decompress it with {'zstd --long=31' if compression == 'zstd' else 'xz'} -d and give the result",
        )
    return CorpusError(
        f"{name} is damaged: {reason} ({compression}, within its first {position:,} bytes)",
        "copy it again: it was changed on its way here, or something was written behind its end",
    )


def _opener(compression: str, name: str) -> tuple[Callable[[], Member], type[Exception]]:
    """What begins a member, and what it raises. Raises CorpusError where the library is missing."""
    try:
        return _OPENERS[compression]()
    except ImportError as error:
        raise CorpusError(
            f"{name} is compressed with {compression}, which needs the package '{error.name}'",
            "pip install 'cllm[zst]'" if compression == "zstd" else "decompress it: this Python was built without",
        ) from error


def _gzip() -> tuple[Callable[[], Member], type[Exception]]:
    import zlib

    return lambda: _Gzip(zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)), zlib.error


def _bzip2() -> tuple[Callable[[], Member], type[Exception]]:
    import bz2

    return lambda: _Asked(bz2.BZ2Decompressor()), OSError


def _xz() -> tuple[Callable[[], Member], type[Exception]]:
    import lzma

    return lambda: _Asked(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)), lzma.LZMAError


def _zstd() -> tuple[Callable[[], Member], type[Exception]]:
    import zstandard

    return lambda: _Zstd(zstandard.ZstdDecompressor(max_window_size=MEMORY).decompressobj()), zstandard.ZstdError


_OPENERS = {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz, "zstd": _zstd}


class _Gzip:
    """zlib hands back the input that it has not taken."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.eof, self.unused_data = False, b""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while data and not self.eof:
            yield self._inner.decompress(data, streams.CHUNK)
            data, self.eof = self._inner.unconsumed_tail, self._inner.eof
        self.unused_data = self._inner.unused_data


class _Asked:
    """bz2 and lzma keep the input that they have not taken, and say when they need more."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.eof, self.unused_data = False, b""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        yield self._inner.decompress(data, streams.CHUNK)
        while not self._inner.eof and not self._inner.needs_input:
            yield self._inner.decompress(b"", streams.CHUNK)
        self.eof, self.unused_data = self._inner.eof, self._inner.unused_data


class _Zstd:
    """zstandard gives all that its input comes to, so it gets little at a time; the small pieces are put together."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.eof, self.unused_data = False, b""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        held: list[bytes] = []
        size = 0
        for start in range(0, len(data), SLICE):
            held.append(self._inner.decompress(data[start : start + SLICE]))
            size += len(held[-1])
            if self._inner.eof:
                self.eof, self.unused_data = True, self._inner.unused_data + data[start + SLICE :]
                break
            if size >= streams.CHUNK:
                yield b"".join(held)
                held, size = [], 0
        yield b"".join(held)
