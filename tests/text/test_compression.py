"""Compressed streams: known by content, read whole, bounded in memory, and never half read without a word."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import resource
import struct
import sys

import pytest
from text_files import compressed, mutated, outcome, refused, words, write

from cllm_cli.errors import CorpusError
from cllm_cli.text import compression
from cllm_cli.text.chunks import chunks_of
from cllm_cli.text.compression import compression_of, decompressed
from cllm_cli.text.corpus import read_corpus

KINDS = ["gzip", "bzip2", "xz", "zstd"]


def whole(data: bytes, kind: str) -> bytes:
    pieces = list(decompressed(chunks_of(io.BytesIO(data)), kind, "the file"))
    assert all(pieces)
    return b"".join(pieces)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 1000, 600_000])
def test_what_was_compressed_comes_back(kind, size):
    data = random.Random(size).randbytes(size)
    assert whole(compressed(data, kind), kind) == data
    text = words(1, 1 + size // 5).encode()
    assert whole(compressed(text, kind), kind) == text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_steps")
def test_wherever_the_pieces_are_cut(kind):
    text = words(2, 300).encode()
    assert whole(compressed(text, kind), kind) == text
    assert whole(compressed(text, kind) + compressed(b"more", kind), kind) == text + b"more"


@pytest.mark.parametrize("kind", KINDS)
def test_members_follow_one_another(kind):
    parts = [words(seed, seed * 50).encode() for seed in range(1, 6)] + [b""]
    assert whole(b"".join(compressed(part, kind) for part in parts), kind) == b"".join(parts)
    assert whole(compressed(b"one", kind) + bytes(1000), kind) == b"one"
    assert whole(compressed(b"one", kind) + bytes(4) + compressed(b"two", kind), kind) == b"onetwo"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_known_by_its_first_bytes(kind):
    assert compression_of(compressed(b"text", kind)) == kind
    assert compression_of(compressed(b"", kind)) == kind
    for other in (b"", b"text", b"BZh9", b"BZh9 is a way to begin a text", b"\x1f\x8b", b"(", bytes(20), b"\xfd7zXZ"):
        assert compression_of(other) == ""


def test_a_skippable_frame_may_come_first():
    frame = struct.pack("<II", 0x184D2A53, 4) + b"info"
    data = frame + compressed(b"text", "zstd")
    assert compression_of(data) == "zstd"
    assert whole(data, "zstd") == b"text"


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_is_cut_off_is_refused_at_every_length(kind):
    data = compressed(words(3, 200).encode(), kind)
    for size in range(1, len(data), 7):
        refused(lambda size=size: whole(data[:size], kind), "the file is cut off", kind, f"{size} bytes")
    refused(lambda: whole(data + data[:12], kind), "cut off")


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_was_changed_is_refused(kind):
    data = bytearray(compressed(random.Random(4).randbytes(5000), kind))
    data[2000] ^= 0x55
    refused(lambda: whole(bytes(data), kind), "the file is damaged", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_something_else_behind_the_end_is_refused(kind):
    refused(lambda: whole(compressed(b"text", kind) + b"something else, long enough", kind), "the file is damaged")


def test_the_library_that_is_missing_is_named(monkeypatch):
    data = compressed(b"text", "zstd")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    refused(lambda: whole(data, "zstd"), "which needs the package 'zstandard'", "pip install 'cllm[zst]'")
    monkeypatch.setitem(sys.modules, "bz2", None)
    refused(lambda: whole(compressed_before, "bzip2"), "'bz2'", "this Python was built without")


compressed_before = bz2.compress(b"text")


def test_windows_that_take_too_much_memory_are_refused(monkeypatch):
    monkeypatch.setattr(compression, "MEMORY", 1 << 20)
    data = lzma.compress(b"text" * 1000, preset=6)  # a window of 8 MiB
    refused(lambda: whole(data, "xz"), "more than 1 MiB of memory", "xz -d")
    zstandard = pytest.importorskip("zstandard")
    parameters = zstandard.ZstdCompressionParameters(window_log=24, enable_ldm=True)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = frame.compress(random.Random(1).randbytes(3 << 20)) + frame.flush()
    refused(lambda: whole(data, "zstd"), "more than 1 MiB of memory", "zstd --long=31 -d")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_only_streams(kind):
    """A few hundred KiB that come to 256 MiB: no piece is large, and the process does not grow by it."""
    block = compressed(bytes(32 << 20), kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = largest = 0
    for piece in decompressed(chunks_of(io.BytesIO(block * 8)), kind, "the file"):
        total += len(piece)
        largest = max(largest, len(piece))
    assert total == 256 << 20
    assert largest <= 9 << 20
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < 64 << 20


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_is_more_than_an_error_of_ours(kind):
    """Bytes changed, added and lost anywhere: the content, or a CorpusError, never anything else."""
    rng = random.Random(6)
    text = words(6, 400).encode()
    good = compressed(text, kind) + compressed(text, kind)
    found = [outcome(lambda: whole(mutated(good, rng), kind)) for _ in range(400)]
    assert sum(isinstance(each, CorpusError) for each in found) > 300
    assert all(isinstance(each, CorpusError) or each == text + text for each in found)


def test_one_level_alone(tmp_path):
    path = write(tmp_path, a_gz=gzip.compress(bz2.compress(b"text"))) / "a.gz"
    refused(lambda: read_corpus([path], "byte", 0.1), "a.gz is compressed twice", "decompress it once")


def test_damage_is_named_with_its_file(tmp_path):
    data = gzip.compress(words(5, 1000).encode(), mtime=0)
    write(tmp_path, a_txt="fine", b_gz=data[:-3])
    refused(lambda: read_corpus([tmp_path], "byte", 0.1), "b.gz is cut off")
    refused(lambda: read_corpus(["-"], "byte", 0.1, stdin=io.BytesIO(data[:500])), "standard input is cut off")
