"""Tokens and text that are too large for memory: the same corpus, and an error with a remedy where there is no room."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from text_files import compressed, many, parquet, refused, words, write

from cllm_cli.text import pile
from cllm_cli.text.corpus import read_corpus, tokens_of
from cllm_cli.text.mapped import _mapping_of
from cllm_cli.text.pile import Pile, Row, Span
from cllm_cli.text.tokenized import corpus_chunks
from cllm_cli.text.unnamed import UnnamedFile, laid_down


@contextlib.contextmanager
def in_memory(size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pile, "IN_MEMORY", size)
        yield


@pytest.fixture
def full_disk(monkeypatch):
    """Temporary files without a name that lie where there is no room."""
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda buffering=-1: Path("/dev/full").open("w+b", buffering))  # noqa: SIM115  # whoever asks for it closes it
    monkeypatch.setattr(tempfile, "tempdir", "/far/away")


@pytest.mark.parametrize("kind", ["one", "several", "one by hand", "several by hand"])
@pytest.mark.parametrize("size", [0, 300])
@pytest.mark.usefixtures("small_steps")
def test_a_corpus_in_files_is_the_one_in_memory(tmp_path, spec, kind, size):
    write(tmp_path, one_txt=words(7, 500), val_txt=words(8, 90))
    many(tmp_path / "texts", 30)
    source = tmp_path / ("one.txt" if "one" in kind else "texts")
    val = {"val": tmp_path / "val.txt"} if "hand" in kind else {}
    expected = read_corpus([source], spec, 0.25, contents=True, **val)
    with in_memory(size):
        found = read_corpus([source], spec, 0.25, contents=True, **val)
    assert _mapping_of(expected.train) is None
    assert _mapping_of(found.train) is not None
    assert found.train.flags.c_contiguous
    assert found.val.flags.c_contiguous
    for item in dataclasses.fields(expected):
        ours, theirs = getattr(found, item.name), getattr(expected, item.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype
            assert ours.tobytes() == theirs.tobytes(), item.name
        elif item.name == "tokenizer":
            assert ours.to_json() == theirs.to_json()
        else:
            assert ours == theirs, item.name
    assert b"".join(corpus_chunks(found, "x", 0.25)) == b"".join(corpus_chunks(expected, "x", 0.25))


@pytest.mark.parametrize("size", [0, 11, 25, 40, 100, 300])
@pytest.mark.usefixtures("small_steps")
def test_ids_that_widen_on_their_way_into_a_file(size):
    """One, two and four bytes a token, in one file, and a table to other ids."""
    parts = [(np.arange(11), 256), (np.arange(250, 261), 300), (np.arange(69_980, 70_000), 70_000)]
    whole = np.concatenate([ids for ids, _ in parts])
    table = np.arange(70_000, dtype=np.uint32)[::-1]
    with in_memory(size):
        store = Pile()
        for ids, vocab_size in parts:
            store.append(ids, vocab_size)
        spans = [Span(0, 5, 1), Span(5, 30, 0, 7), Span(30, 42, 1, 8)]
        first, second = store.join(spans, 2, np.dtype(np.uint32), table)
    assert first.tolist() == [*(69_999 - whole[5:30]), 7]
    assert second.tolist() == [*(69_999 - whole[:5]), *(69_999 - whole[30:]), 8]


def test_a_text_for_an_existing_tokenizer_too(tmp_path):
    many(tmp_path / "texts", 30)
    tokenizer = read_corpus([tmp_path / "texts"], "char", 0.25).tokenizer
    expected = tokens_of([tmp_path / "texts"], tokenizer)
    with in_memory(64):
        found = tokens_of([tmp_path / "texts"], tokenizer)
    assert _mapping_of(found.tokens) is not None
    assert found.tokens.tolist() == expected.tokens.tolist()


def test_a_pile_in_one_piece_is_not_copied():
    with in_memory(10):
        store = Pile()
        for start in range(0, 90, 9):
            store.append(np.arange(start, start + 9), 256)
        outputs = store.join([Span(0, 50, 0), Span(50, 90, 1)], 2, np.dtype(np.uint8), None)
    assert [output.tolist() for output in outputs] == [list(range(50)), list(range(50, 90))]
    assert _mapping_of(outputs[0]) is _mapping_of(outputs[1])
    assert _mapping_of(outputs[0]) is not None


def test_a_row_stays_in_memory_up_to_the_limit():
    for size, is_mapped in ((5, False), (6, True)):
        with in_memory(10):
            row = Row(size, np.dtype(np.uint16))
            row.append(np.arange(size))
        assert row.whole().tolist() == list(range(size))
        assert (_mapping_of(row.whole()) if not is_mapped else row) is (row if is_mapped else None)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_told_with_its_folder_and_a_remedy(tmp_path):
    path = write(tmp_path, a_txt=words(7, 500)) / "a.txt"
    with in_memory(100):
        refused(lambda: read_corpus([path], "byte", 0.1), "No space left on device", "/far/away", "set TMPDIR")
    pytest.importorskip("tokenizers")
    error = refused(
        lambda: read_corpus(["-"], "bpe:300", 0.1, stdin=io.BytesIO(b"ab" * 999)), "/far/away", "set TMPDIR"
    )
    assert "standard input" in error.message


@pytest.mark.usefixtures("full_disk")
def test_a_compressed_table_that_finds_no_room(tmp_path):
    data = compressed(parquet(tmp_path, {"text": ["a", "b"]}), "gzip")
    (tmp_path / "a.parquet.gz").write_bytes(data)
    refused(lambda: read_corpus([tmp_path / "a.parquet.gz"], "byte", 0.1), "a.parquet.gz", "/far/away", "set TMPDIR")


def test_no_folder_for_temporary_files_is_told(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    refused(lambda: UnnamedFile("it"), "cannot keep it", "No usable temporary directory", "set TMPDIR")


def test_a_file_without_a_name_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with laid_down([b"ab", b"c"], "it") as stream:
        assert stream.read() == b"abc"
        assert list(tmp_path.iterdir()) == []
    assert stream.closed
    kept = UnnamedFile("it")
    file = kept.rewind()
    del kept
    assert file.closed


MEASURE = """
import re, sys
from pathlib import Path
from cllm_cli.text.corpus import read_corpus
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
read_corpus([sys.argv[3]], sys.argv[1], 0.1)
before = anonymous()
corpus = read_corpus([sys.argv[2]], sys.argv[1], 0.1)
print(anonymous() - before, corpus.train.nbytes + corpus.val.nbytes)
"""


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["byte", "char"])
def test_a_large_corpus_is_no_memory_of_the_process(tmp_path, spec):
    text = words(5, 40_000).encode()
    large, small = tmp_path / "large.txt", write(tmp_path, small_txt=text) / "small.txt"
    with large.open("wb") as file:
        for _ in range(150_000_000 // len(text)):
            file.write(text)
    done = subprocess.run([sys.executable, "-c", MEASURE, spec, large, small], capture_output=True, check=True)
    beyond, tokens = map(int, done.stdout.split())
    assert tokens > 90_000_000
    assert beyond < 40 * 2**20
