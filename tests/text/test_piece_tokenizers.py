"""Tokenizers whose ids stand for stretches of text: laws of cutting, learning and coming back."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from laws import law
from tokenizer_files import (
    ids_of,
    learned,
    prose,
)

from cllm_cli.errors import ConfigError
from cllm_cli.text.tokenizers import builder_of, cutting
from cllm_cli.text.tokenizers.base import count_bytes
from cllm_cli.text.tokenizers.cutting import Cutter, runs

BLANKS = st.sampled_from([" ", "  ", "\n", "\r\n", "\t", "\u3000", "\u00a0", "\x1c"])
WORDS = st.sampled_from(
    ["the", "a's", "'", "12", "²", "猫", "مرحبا", "🎈", "x_y", "--", "。", "e\u0301", "\0", "\ufffd", "▁"]
)
TEXT = st.lists(BLANKS | WORDS | st.characters(exclude_categories=["Cs"])).map("".join)
DATA = st.lists(TEXT.map(str.encode) | st.binary(max_size=6)).map(b"".join)
CUTS = st.lists(st.integers(0, 200), max_size=8)


def chunks_of(data, cuts):
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@pytest.fixture
def short_pieces(monkeypatch):
    """Pieces of a few characters, so that small texts are cut in every way."""
    monkeypatch.setattr(cutting, "PIECE", 7)
    monkeypatch.setattr(cutting, "NEAR", 3)


@pytest.fixture(scope="session")
def bpe_of_one():
    pytest.importorskip("tokenizers")
    return learned("bpe:320", [prose(3, 300).encode()])[0]


# Cutting


@pytest.mark.usefixtures("short_pieces")
@law(60, 1000, data=DATA, cuts=CUTS)
def test_pieces_make_the_document_and_do_not_depend_on_chunks(data, cuts):
    whole = Cutter()
    expected = whole.push(data) + whole.flush()
    assert b"".join(piece.encode("utf-8", "surrogateescape") for piece in expected) == data
    assert all(0 < len(piece) <= cutting.PIECE for piece in expected)
    parts = Cutter()
    assert [piece for chunk in chunks_of(data, cuts) for piece in parts.push(chunk)] + parts.flush() == expected


@law(40, 500, data=DATA)
def test_runs_are_text_and_what_is_no_utf8(data):
    cutter = Cutter()
    found = [run for piece in cutter.push(data) + cutter.flush() for run in runs(piece)]
    assert b"".join(run.encode() if isinstance(run, str) else run for run in found) == data
    assert all(byte >= 0x80 for run in found if isinstance(run, bytes) for byte in run)


@law(60, 1000, text=TEXT)
def test_cuts_are_where_gpt2_would_cut_anyway(text, monkeypatch):
    """The library's own words for a whole text are those of its pieces, wherever there is a place to cut."""
    tokenizers = pytest.importorskip("tokenizers")
    pre = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = [word for word, _ in pre.pre_tokenize_str(text)]
    for index in range(1, len(text)):
        if any(cut.match(text, index) for cut in cutting.CUTS):
            parts = [word for part in (text[:index], text[index:]) for word, _ in pre.pre_tokenize_str(part)]
            assert parts == words, index


# Byte-level BPE


@pytest.mark.usefixtures("short_pieces")
@law(60, 1000, data=DATA, cuts=CUTS)
def test_any_bytes_come_back_from_bpe(bpe, data, cuts):
    ids = ids_of(bpe.encoder(), chunks_of(data, cuts))
    assert bpe.decode_bytes(ids) == data
    assert ids == ids_of(bpe.encoder(), [data])
    assert count_bytes(np.array(ids, bpe.dtype), bpe) == len(data)
    stream = bpe.stream()
    assert "".join([*map(stream.push, ids), stream.flush()]) == data.decode("utf-8", "replace")


@law(40, 500, text=TEXT)
def test_ids_are_those_of_the_library_by_itself(bpe, text):
    assert ids_of(bpe.encoder(), [text.encode()]) == bpe._library.encode(text).ids


def test_a_long_text_has_the_ids_of_the_library_by_itself(bpe):
    text = prose(5, 3000)
    assert len(text) > 4 * cutting.PIECE
    assert ids_of(bpe.encoder(), chunks_of(text.encode(), [1000, 20_000])) == bpe._library.encode(text).ids


def test_a_document_may_end_within_a_character(bpe):
    data = "a猫".encode()[:-1]
    assert bpe.decode_bytes(ids_of(bpe.encoder(), [data])) == data


def test_below_256_ids_are_bytes_and_the_end_of_text_is_last(bpe, bpe_of_one):
    assert [bpe.decode_bytes([byte]) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert (bpe.vocab_size, bpe.end_of_text, bpe.token_bytes[320]) == (321, 320, 0)
    assert (bpe_of_one.vocab_size, bpe_of_one.end_of_text) == (320, None)
    assert bpe_of_one.tokens == bpe.tokens


def test_a_size_that_the_text_does_not_reach_is_told():
    pytest.importorskip("tokenizers")
    builder = builder_of("bpe:4096")
    ids_of(builder, [b"abab abab"])
    tokenizer, _ = builder.finish(False)
    assert 256 < tokenizer.vocab_size < 270
    assert f"for {tokenizer.vocab_size} ids, not for 4,096" in builder.notices()[0]
    builder = builder_of("bpe:256")
    ids_of(builder, [b"abab abab"])
    assert builder.finish(True)[0].vocab_size == 257
    assert builder.notices() == []


def test_tokens_may_be_longer_than_255_bytes():
    pytest.importorskip("tokenizers")
    tokenizer, ids = learned("bpe:300", [b"=" * 1024 + b"\n" + b"=" * 1024])
    assert tokenizer.token_bytes.max() > 255
    assert count_bytes(np.array(ids), tokenizer) == 2049


def test_no_cut_tears_a_character(bpe_of_one):
    text = "é猫🎈x" * 50
    ids = np.array(ids_of(bpe_of_one.encoder(), [text.encode()]))
    torn = 0
    for cut in range(1, ids.size):
        place = bpe_of_one.boundary(ids, cut)
        assert cut - 4 < place <= cut
        torn += place < cut
        assert bpe_of_one.decode(ids[:place]) + bpe_of_one.decode(ids[place:]) == text
    assert torn


def test_a_reader_that_fails_leaves_no_thread_behind():
    pytest.importorskip("tokenizers")
    builder = builder_of("bpe:300")
    builder.begin("text")
    for _ in range(20):
        builder.encode(b"some text" * 10_000)
    builder.abandon()
    assert not builder._learner.is_alive()


LEARN = """
import os, sys
sys.path.insert(0, sys.argv[1])
from tokenizer_files import learned, prose
tokenizer, ids = learned("bpe:700", [prose(7, 3000).encode()])
if os.fork() == 0:
    tokenizer.encode("the cat")
    os._exit(0)
os.wait()
print(tokenizer.digest(), hash(tuple(ids.tolist())))
"""


def test_a_vocabulary_does_not_depend_on_threads_and_forks_are_silent():
    pytest.importorskip("tokenizers")
    found = set()
    for threads in ("1", "2", "7", "7"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads}
        environment.pop("TOKENIZERS_PARALLELISM", None)
        command = [sys.executable, "-c", LEARN, str(Path(__file__).parent.parent)]
        done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True, timeout=120)
        assert done.stderr == ""
        found.add(done.stdout)
    assert len(found) == 1


@pytest.mark.parametrize("size", ["", "255", "0", "-5", "4k", "1e3", "²", "4096.0", "1000001", "9" * 40])
def test_a_size_out_of_range_is_refused(size):
    pytest.importorskip("tokenizers")
    with pytest.raises(ConfigError, match="bpe") as caught:
        builder_of(f"bpe:{size}")
    assert "bpe:4096" in caught.value.hint
