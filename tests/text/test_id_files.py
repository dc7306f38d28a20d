"""Files of ids from nanoGPT and llm.c: mapped as they are, in the ids of a tokenizer that is named; nothing guessed."""

from __future__ import annotations

import dataclasses
import os
import pickle

import numpy as np
import pytest
from store_files import load
from text_files import refused, words, write

from cllm_cli.text.id_files import open_ids, read_ids
from cllm_cli.text.store import MAGIC
from cllm_cli.text.tokenized import corpus_chunks
from cllm_cli.text.tokenizers.byte import ByteTokenizer
from cllm_cli.text.tokenizers.char import CharTokenizer

WIDE = CharTokenizer("".join(chr(0x100 + number) for number in range(300)))


def llmc(ids, magic=20240520, version=1, count=None, dtype="<u2"):
    """A file as llm.c's data scripts write it."""
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids) if count is None else count
    return header.tobytes() + np.array(ids, dtype).tobytes()


KINDS = {
    "nanogpt": lambda ids: np.array(ids, "<u2").tobytes(),
    "llmc": llmc,
    "llmc32": lambda ids: llmc(ids, 20240801, 7, dtype="<u4"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_come_out_as_they_are(tmp_path, kind):
    ids = np.random.default_rng(1).integers(0, 300, 700)
    path = write(tmp_path, a_bin=KINDS[kind](ids)) / "a.bin"
    corpus = read_ids([path], WIDE, 0.1)
    assert np.concatenate([corpus.train, corpus.val]).tolist() == ids.tolist()
    assert (corpus.val.size, corpus.documents, corpus.train.dtype) == (70, 1, np.uint16)
    assert (corpus.train_bytes, corpus.val_bytes) == (2 * 630, 2 * 70)
    assert corpus.train.flags.writeable == (kind == "llmc32")  # all but that one are mapped


def test_the_same_ids_are_the_same_corpus_in_both_formats_of_two_bytes(tmp_path):
    ids = list(range(200))
    write(tmp_path, a_bin=KINDS["nanogpt"](ids), b_bin=llmc(ids))
    a, b = (read_ids([tmp_path / name], ByteTokenizer(), 0.1) for name in ("a.bin", "b.bin"))
    assert a.fingerprint == b.fingerprint
    assert a.train.tolist() == b.train.tolist()
    assert a.train.dtype == np.uint8


@pytest.mark.parametrize("val", [False, True])
def test_shards_are_one_text_and_become_a_store(tmp_path, val):
    data = [words(seed, 50).encode() for seed in range(3)]
    for number, text in enumerate(data):
        (tmp_path / f"{number}.bin").write_bytes(llmc(list(text)))
    shards = [tmp_path / "0.bin", tmp_path / "1.bin"]
    corpus = read_ids(shards, ByteTokenizer(), 0.25, tmp_path / "2.bin" if val else None)
    if val:
        assert (corpus.train.tobytes(), corpus.val.tobytes()) == (data[0] + data[1], data[2])
    else:
        assert corpus.train.tobytes() + corpus.val.tobytes() == data[0] + data[1]
    assert corpus.documents == 2 + val
    (tmp_path / "a.tok").write_bytes(b"".join(corpus_chunks(corpus, "byte", None if val else 0.25)))
    again = load(tmp_path / "a.tok")
    for item in dataclasses.fields(again):
        if item.name not in ("train", "val", "tokenizer", "contents"):
            assert getattr(again, item.name) == getattr(corpus, item.name), item.name
    assert again.train.tolist() == corpus.train.tolist()
    assert again.val.tolist() == corpus.val.tolist()
    assert again.contents.tobytes() == corpus.contents.tobytes()


BAD = {
    "empty": (b"", "is empty"),
    "odd": (b"\1\0\2", "odd number of bytes, 3"),
    "version": (llmc([1, 2], version=2), "unknown version 2"),
    "wide version": (llmc([1, 2], 20240801, 1), "unknown version 1"),
    "short": (llmc([1, 2], count=3), "header counts 3 ids of 2 bytes, and 4 bytes follow"),
    "long": (llmc([1, 2], count=1), "header counts 1 ids of 2 bytes, and 4 bytes follow"),
    "negative": (llmc([1, 2], count=-1), "header counts -1 ids"),
    "large": (llmc([1, 2], count=2**31 - 1), "header counts 2147483647 ids"),
    "header alone": (llmc([])[:1020] + b"\0\0", "id"),  # too short for llm.c's: ids of nanoGPT, and no tokenizer's
    "text": (b"some text here", "id 28531 at place 0 is none of the tokenizer's 256"),
    "late": (KINDS["nanogpt"]([5] * 90 + [256]), "id 256 at place 90"),
    "store": (MAGIC + bytes(100), "is a token store"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_file_of_ids_is_refused(tmp_path, name):
    content, fragment = BAD[name]
    path = write(tmp_path, bad_bin=content) / "bad.bin"
    refused(lambda: read_ids([path], ByteTokenizer(), 0.1), "bad.bin", fragment)


def test_every_cut_of_a_file_of_llmc_is_refused(tmp_path):
    whole = llmc(list(range(20)))
    path = tmp_path / "a.bin"
    for length in range(1024, len(whole)):
        path.write_bytes(whole[:length])
        refused(lambda: open_ids(path), "a.bin is damaged")


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.bin")
    for name in ("pipe.bin", "nowhere.bin", ""):
        refused(lambda name=name: open_ids(tmp_path / name))


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_pickle_beside_it_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, train_bin=KINDS["nanogpt"]([1, 2, 3]), meta_pkl=pickle.dumps(Harmful()))
    read_ids([tmp_path / "train.bin"], ByteTokenizer(), 0.3)
    assert not (tmp_path / "harm").exists()
