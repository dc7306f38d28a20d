"""Token stores: what is written comes back, and whatever is not as it was written is refused."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from store_files import load
from text_files import refused, words, write

from cllm_cli.errors import CorpusError, RunError
from cllm_cli.text import store
from cllm_cli.text.store import (
    DIGEST,
    DOCUMENT,
    HEAD,
    MAGIC,
    ORDER,
    VERSION,
    Layout,
    Store,
    check_place,
    is_store,
    single_store,
    store_chunks,
)
from cllm_cli.text.tokenized import load_corpus


def signed(content):
    """Content under a checksum that is right, as anyone can make it."""
    body = bytes(content[:-DIGEST])
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_what_is_written_comes_back(tmp_path, dtype):
    rng = np.random.default_rng(1)
    for train, val, documents, text in ((1, 1, 1, "x"), (63, 2, 3, "é" * 40), (1000, 129, 7, "")):
        tokens = [rng.integers(0, np.iinfo(dtype).max, size, dtype, endpoint=True) for size in (train, val)]
        table = np.frombuffer(rng.bytes(64 * documents), DOCUMENT)
        path = tmp_path / "a.tok"
        path.write_bytes(b"".join(store_chunks({"text": text}, *tokens, table)))
        store = Store(path)
        assert store.facts == {"text": text}
        assert store.is_whole()
        assert store.train.tolist() == tokens[0].tolist()
        assert store.val.tolist() == tokens[1].tolist()
        assert store.tokens.tolist() == np.concatenate(tokens).tolist()
        assert store.train.dtype == dtype
        assert store.documents.tobytes() == table.tobytes()
        assert store.digest == hashlib.sha256(path.read_bytes()[:-DIGEST]).digest()
        assert store.layout.file_bytes == path.stat().st_size


def test_tokens_are_mapped_and_aligned(tmp_path):
    path = tmp_path / "large.tok"
    tokens = np.zeros(8 << 20, np.uint16)
    path.write_bytes(b"".join(store_chunks({}, tokens, tokens[:5], np.zeros(1, DOCUMENT))))
    tracemalloc.start()
    store = Store(path)
    train, val = store.train, store.val
    assert store.is_whole()
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 1 << 20
    assert train.ctypes.data % 64 == 0
    assert not train.flags.writeable
    assert not val.flags.owndata


def test_every_byte_counts(small):
    """Any other bit anywhere, header, padding and checksum included, is an error of ours and never a corpus."""
    content = small.read_bytes()
    load(small)
    for index in range(len(content)):
        changed = bytearray(content)
        changed[index] ^= 1 << index % 8
        small.write_bytes(changed)
        if index < len(MAGIC):
            assert not is_store(small)
            continue
        with pytest.raises(CorpusError) as caught:
            load(small)
        assert caught.value.hint


def test_every_length_but_its_own_is_refused(small):
    content = small.read_bytes()
    for length in [*range(len(MAGIC), len(content)), len(content) + 1, len(content) + 4096]:
        small.write_bytes(content[:length].ljust(length, b"\0"))
        refused(lambda: load(small), "small.tok")


HEADERS = {
    "version": ({"version": 2}, "version 2; this program reads version 1"),
    "other order": ({"order": 0x04030201}, "another byte order"),
    "no order": ({"order": 7}, "its byte order is none"),
    "width": ({"width": 3}, "tokens take 3 bytes"),
    "no width": ({"width": 0}, "tokens take 0 bytes"),
    "long": ({"file_bytes": 2**63}, "says that it has 9223372036854775808 bytes"),
    "short": ({"file_bytes": 0}, "says that it has 0 bytes"),
    "facts": ({"facts_bytes": 2**63}, "its facts take"),
    "large facts": ({"facts_bytes": 2**26 + 1}, "its facts take"),
    "train": ({"train": 2**63}, "what its header counts takes"),
    "val": ({"val": 2**64 - 1}, "what its header counts takes"),
    "documents": ({"documents": 2**63}, "what its header counts takes"),
    # 2⁵⁸ documents of 64 bytes each are 2⁶⁴ bytes: nothing at all, for who counts in 64 bits.
    "wrapped": ({"documents": 2**58 + 5}, "what its header counts takes"),
    "wrapped tokens": ({"width": 4, "train": 2**62}, "what its header counts takes"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_is_never_believed(small, name):
    changes, words = HEADERS[name]
    content = small.read_bytes()
    _, order, version, *counts = HEAD.unpack(content[: HEAD.size])
    assert (order, version) == (ORDER, VERSION)
    layout = Layout(*counts)._replace(**{key: value for key, value in changes.items() if key in Layout._fields})
    head = HEAD.pack(MAGIC, changes.get("order", ORDER), changes.get("version", VERSION), *layout)
    small.write_bytes(signed(head + content[HEAD.size :]))
    tracemalloc.start()
    refused(lambda: load(small), "small.tok", words)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 1 << 20


@pytest.mark.parametrize("facts", [b"[]", b"nul", b"\xff", b"[" * 100_000, b"{" * 3, b""])
def test_facts_that_are_none(tmp_path, facts):
    layout = Layout(0, len(facts), 1, 1, 1, 1)
    head = HEAD.pack(MAGIC, ORDER, VERSION, *layout._replace(file_bytes=layout.digest_at + DIGEST))
    path = tmp_path / "a.tok"
    body = head + facts
    path.write_bytes(signed(body.ljust(layout.digest_at + DIGEST, b"\0")))
    refused(lambda: load(path), "its facts are no JSON")


def test_facts_may_take_what_a_tokenizer_may_and_no_more(small, monkeypatch):
    size = Store(small).layout.facts_bytes
    monkeypatch.setattr(store, "LARGEST_FACTS", size)
    Store(small)
    monkeypatch.setattr(store, "LARGEST_FACTS", size - 1)
    refused(lambda: Store(small), f"its facts take {size} bytes")


def test_only_a_file_that_begins_like_one_is_a_store(small, tmp_path):
    write(tmp_path, text_txt="no store", short_tok=MAGIC[:-1])
    os.mkfifo(tmp_path / "pipe")
    for name in ("text.txt", "short.tok", "pipe", "texts", "nowhere", "nul\0"):
        assert not is_store(tmp_path / name)
    assert is_store(small)
    assert single_store([str(small)]) == small
    assert single_store([small, small]) is None
    assert single_store(["-"]) is None
    refused(lambda: Store(tmp_path / "text.txt"), "is no token store")
    refused(lambda: Store(tmp_path / "nowhere"), "cannot read")


def test_only_a_store_is_overwritten_and_only_by_force(small, tmp_path):
    write(tmp_path, text_txt="precious")
    check_place(tmp_path / "new.tok", force=False)
    check_place(small, force=True)
    for path, force, fragment in (
        (small, False, "there is a token store"),
        (tmp_path / "text.txt", True, "is no token store"),
        (tmp_path / "texts", True, "is no token store"),
        (tmp_path / "none" / "a.tok", False, "its folder is missing"),
        (Path(), True, "is no token store"),
    ):
        with pytest.raises(RunError, match=fragment) as caught:
            check_place(path, force)
        assert "--" in caught.value.hint


def test_a_store_where_text_is_wanted_is_an_error(small, tmp_path):
    write(tmp_path, text_txt=words(1, 20))
    for sources in ([small, tmp_path / "text.txt"], [tmp_path / "text.txt", small], [small, small]):
        refused(lambda sources=sources: load_corpus(sources, "byte", 0.1), "small.tok is a token store")
    refused(lambda: load_corpus([tmp_path / "text.txt"], "byte", 0.1, val=small), "small.tok is a token store")
    with small.open("rb") as stream:
        refused(lambda: load_corpus(["-"], "byte", 0.1, stdin=stream), "standard input is a token store")
