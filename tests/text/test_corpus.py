"""Corpora: one document from file to tokens, text for an existing tokenizer, what a run stores, memory."""

from __future__ import annotations

import gzip
import io
import json
import random
import subprocess
import sys

import numpy as np
import pytest
from text_files import BOM, expected_tokens, refused, words, write
from tokenizer_files import ids_of, word_pieces

from cllm_cli.errors import CorpusError, RunError
from cllm_cli.text.corpus import read_corpus, tokens_of
from cllm_cli.text.stored_corpus import check_tokens, restored
from cllm_cli.text.tokenizers.base import count_bytes
from cllm_cli.text.tokenizers.byte import ByteTokenizer
from cllm_cli.text.tokenizers.char import CharTokenizer


@pytest.mark.parametrize("spec", ["byte", "char"])
@pytest.mark.usefixtures("small_steps")
def test_one_document_is_split_at_its_end(tmp_path, spec):
    text = words(1, 300)
    write(tmp_path, a_txt=text)
    corpus = read_corpus([tmp_path / "a.txt"], spec, 0.1)
    whole = np.concatenate([corpus.train, corpus.val])
    assert whole.tolist() == expected_tokens([text.encode()], spec, "".join(sorted(set(text))), None)
    assert corpus.tokenizer.decode(corpus.train) + corpus.tokenizer.decode(corpus.val) == text
    assert abs(corpus.val.size - 0.1 * whole.size) <= 3
    assert (corpus.documents, corpus.tokenizer.end_of_text, corpus.notices, corpus.skipped) == (1, None, [], {})
    assert corpus.train.dtype == corpus.val.dtype == np.uint8
    assert corpus.train.flags.c_contiguous
    assert corpus.val.flags.c_contiguous
    assert corpus.train_bytes == len(corpus.tokenizer.decode_bytes(corpus.train))
    assert corpus.val_bytes == len(corpus.tokenizer.decode_bytes(corpus.val))


@pytest.mark.parametrize("char", ["é", "猫", "🎈"])
def test_no_cut_within_a_character(tmp_path, char):
    for length in range(4, 40):
        text = "x" * (length % 5) + char * length
        path = write(tmp_path, a_txt=text) / "a.txt"
        for fraction in (0.1, 0.5, 0.77):
            corpus = read_corpus([path], "byte", fraction)
            assert corpus.train.tobytes().decode() + corpus.val.tobytes().decode() == text
            assert corpus.val.size - round(fraction * len(text.encode())) in range(4)


def test_bytes_that_are_no_utf8_are_cut_where_the_fraction_says(tmp_path):
    for data in (b"\x80" * 50, b"\xff" * 50, b"a\x80" * 25, b"\xc3\x80\x80\x80\x80" * 10, bytes(range(200, 250))):
        corpus = read_corpus([write(tmp_path, a_txt=data) / "a.txt"], "byte", 0.3)
        assert (corpus.train.size, corpus.val.size) == (35, 15)
        assert corpus.train.tobytes() + corpus.val.tobytes() == data


def test_both_sides_get_something_of_the_shortest_texts(tmp_path):
    for text in ("ab", "abc", "é"):
        for fraction in (0.001, 0.5, 0.999):
            corpus = read_corpus([write(tmp_path, a_txt=text) / "a.txt"], "byte", fraction)
            assert corpus.train.size
            assert corpus.val.size


@pytest.mark.parametrize("spec", ["byte", "char"])
def test_a_byte_order_mark_is_dropped(tmp_path, spec):
    write(tmp_path, a_txt=BOM + b"abc\xef\xbb\xbf.", b_txt=b"abc\xef\xbb\xbf.")
    with_mark, without = (read_corpus([tmp_path / name], spec, 0.3) for name in ("a.txt", "b.txt"))
    assert with_mark.train.tolist() == without.train.tolist()
    assert with_mark.fingerprint == without.fingerprint
    assert with_mark.train_bytes + with_mark.val_bytes == 7


def test_the_byte_tokenizer_takes_any_bytes(tmp_path):
    data = random.Random(4).randbytes(3000)
    corpus = read_corpus([write(tmp_path, a_bin=data) / "a.bin"], "byte", 0.1)
    assert corpus.train.tobytes() + corpus.val.tobytes() == data


def test_char_knows_the_characters_of_the_validation_text_too(tmp_path):
    write(tmp_path, a_txt="aaa bbb", v_txt="ZZé")
    corpus = read_corpus([tmp_path / "a.txt"], "char", 0.1, val=tmp_path / "v.txt")
    assert corpus.tokenizer.decode(range(corpus.tokenizer.vocab_size)) == " Zabé"
    assert corpus.tokenizer.decode(corpus.val) == "ZZé"
    assert corpus.tokenizer.decode(corpus.train) == "aaa bbb"


@pytest.mark.usefixtures("small_steps")
def test_ids_widen_where_the_text_asks_for_it(tmp_path):
    """The 257th character comes late: what was stored in one byte before must come out right."""
    text = "abc" + "".join(chr(0x100 + i // 7) for i in range(7 * 300)) + "abc" * 50
    corpus = read_corpus([write(tmp_path, a_txt=text) / "a.txt"], "char", 0.2)
    assert corpus.train.dtype == np.uint16
    assert corpus.tokenizer.decode(corpus.train) + corpus.tokenizer.decode(corpus.val) == text


@pytest.mark.parametrize(
    "tokenizer", [ByteTokenizer(), ByteTokenizer(True), CharTokenizer("ab"), CharTokenizer("ab", True)]
)
@pytest.mark.usefixtures("small_steps")
def test_tokens_of_uses_the_ids_of_the_tokenizer(tmp_path, tokenizer):
    a, b = (write(tmp_path, a_txt=BOM + b"ab" * 40, b_txt="ba" * 30) / name for name in ("a.txt", "b.txt"))
    one = tokens_of([a], tokenizer)
    assert one.tokens.tolist() == tokenizer.encode("ab" * 40).tolist()
    assert (one.bytes, one.documents, one.tokens.dtype) == (80, 1, tokenizer.dtype)
    both = tokens_of([a, b], tokenizer)
    end = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    assert both.tokens.tolist() == [*tokenizer.encode("ab" * 40), *end, *tokenizer.encode("ba" * 30), *end]
    assert both.bytes == count_bytes(both.tokens, tokenizer) == 140
    assert [notice for notice in both.notices if "no end-of-text id" in notice] == both.notices
    assert len(both.notices) == (not end)


def test_tokens_of_refuses_what_the_tokenizer_does_not_know(tmp_path):
    path = write(tmp_path, a_txt="abba\x1b[2J") / "a.txt"
    with pytest.raises(CorpusError, match=r"a\.txt has a character .* '\\x1b' \(U\+001B\) at byte 4"):
        tokens_of([path], CharTokenizer("ab"))


def test_tokens_of_needs_two_tokens():
    with pytest.raises(CorpusError, match="has 1 token, a score needs 2"):
        tokens_of(["-"], ByteTokenizer(), stdin=io.BytesIO(b"x"))


def test_a_piped_corpus_comes_back_from_what_a_run_stores():
    corpus = read_corpus(["-"], "char", 0.2, stdin=io.BytesIO(words(3, 50).encode()))
    facts = json.loads(json.dumps(corpus.facts()))
    again = restored(facts, corpus.tokenizer, **corpus.stored_tokens())
    assert again.facts() == corpus.facts()
    assert again.train.tolist() == corpus.train.tolist()
    assert again.val.tolist() == corpus.val.tolist()


def test_stored_tokens_that_do_not_fit_are_refused():
    corpus = read_corpus(["-"], "char", 0.2, stdin=io.BytesIO(b"abcabc" * 20))
    facts, train, val = corpus.facts(), corpus.train, corpus.val
    broken = [
        ({}, train, val),
        (facts | {"documents": True}, train, val),
        (facts | {"fingerprint": 5}, train, val),
        (facts | {"val_bytes": 1.0}, train, val),
        (facts | {"val_bytes": corpus.val_bytes + 1}, train, val),
        (facts, train[:-1], val),
        (facts, train.astype(np.uint16), val),
        (facts, train.reshape(2, -1), val),
        (facts, np.full_like(train, 3), val),
    ]
    for case in broken:
        with pytest.raises(RunError):
            restored(case[0], corpus.tokenizer, *case[1:])
    with pytest.raises(RunError):
        check_tokens(train[::2], corpus.tokenizer)
    restored(facts, corpus.tokenizer, train, val)


@pytest.mark.usefixtures("small_steps")
def test_a_corpus_in_any_tokenizer_comes_back_from_file_and_pipe_alike(tmp_path, spec):
    text = words(6, 400).encode()
    path = write(tmp_path, a_txt=BOM + text) / "a.txt"
    corpus = read_corpus([path], spec, 0.2)
    sides = [corpus.tokenizer.decode_bytes(side) for side in (corpus.train, corpus.val)]
    assert b"".join(sides) == text
    assert sides[0].decode() + sides[1].decode() == text.decode()  # no character is torn
    assert [corpus.train_bytes, corpus.val_bytes] == [len(side) for side in sides]
    assert (corpus.tokenizer.end_of_text, corpus.train.dtype) == (None, corpus.tokenizer.dtype)
    piped = read_corpus(["-"], spec, 0.2, stdin=io.BytesIO(BOM + text))
    assert piped.tokenizer.digest() == corpus.tokenizer.digest()
    assert piped.train.tolist() == corpus.train.tolist()
    assert piped.fingerprint == corpus.fingerprint
    again = restored(json.loads(json.dumps(piped.facts())), piped.tokenizer, **piped.stored_tokens())
    assert again.val.tolist() == corpus.val.tolist()


@pytest.mark.usefixtures("small_steps")
def test_several_documents_in_any_tokenizer_end_with_its_end_of_text(tmp_path, spec):
    texts = [words(seed, 40) for seed in range(30)]
    write(tmp_path, **{f"{number:02}_txt": text for number, text in enumerate(texts)}, x_bin=b"\0\1")
    corpus = read_corpus([tmp_path], spec, 0.2)
    end = corpus.tokenizer.end_of_text
    assert corpus.skipped == {"binary": 1}  # not twice, where the text is read twice
    found = []
    for side in (corpus.train, corpus.val):
        assert side[-1] == end
        found += [corpus.tokenizer.decode(part) for part in np.split(side, np.flatnonzero(side == end) + 1)[:-1]]
    assert sorted(found) == sorted(texts)
    first = ids_of(corpus.tokenizer.encoder(), [texts[0].encode()])
    assert tokens_of([tmp_path / "00.txt"], corpus.tokenizer).tokens.tolist() == first


def test_a_pipe_is_validation_text_too_and_the_merges_are_not_learned_from_it(tmp_path):
    pytest.importorskip("tokenizers")
    path = write(tmp_path, a_txt="abab " * 50) / "a.txt"
    corpus = read_corpus([path], "bpe:300", 0.1, val="-", stdin=io.BytesIO(b"zqzq " * 50))
    assert corpus.tokenizer.decode(corpus.val) == "zqzq " * 50
    assert b"zq" not in corpus.tokenizer._table
    assert any("ids, not for 300" in notice for notice in corpus.notices)


def test_an_empty_pipe_is_an_error_for_every_tokenizer(spec):
    refused(lambda: read_corpus(["-"], spec, 0.1, stdin=io.BytesIO()), "standard input is empty")


def test_what_a_file_does_not_give_back_is_told_and_can_be_stored(tmp_path):
    word_pieces().save(str(tmp_path / "tokenizer.json"))
    corpus = read_corpus(["-"], str(tmp_path), 0.2, stdin=io.BytesIO(b"The  Cat\n" * 200))
    assert any("1 of 1 documents do not come back" in notice for notice in corpus.notices)
    restored(corpus.facts(), corpus.tokenizer, **corpus.stored_tokens())
    path = write(tmp_path, a_txt="The Cat") / "a.txt"
    assert any("do not come back" in notice for notice in tokens_of([path], corpus.tokenizer).notices)


MEASURE = """
import resource, sys
from cllm_cli.text.corpus import read_corpus
read_corpus([sys.argv[3]], sys.argv[1], 0.1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
corpus = read_corpus(sys.argv[2:3], sys.argv[1], 0.1)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024 - corpus.train.nbytes - corpus.val.nbytes, corpus.train.nbytes + corpus.val.nbytes)
"""


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["byte", "char"])
@pytest.mark.parametrize("kind", ["file", "folder", "gzip", "utf-16", "jsonl", "csv"])
def test_a_large_corpus_takes_little_more_than_its_tokens(tmp_path, spec, kind):
    text = words(5, 40_000)
    written = {
        "gzip": lambda: gzip.compress(text.encode(), 1),  # one member after the other
        "utf-16": lambda: text.encode("utf-16-le"),
        "jsonl": lambda: json.dumps({"text": text}).encode() + b"\n",
        "csv": lambda: f'"{text}"\n'.encode(),
    }.get(kind, text.encode)()
    head = {"utf-16": b"\xff\xfe", "csv": b"text\n"}.get(kind, b"")
    repeats = 200_000_000 // len(text.encode())
    large = tmp_path / ("large" if kind == "folder" else f"large.{kind}")
    if kind == "folder":
        large.mkdir()
    for part in range(20 if kind == "folder" else 1):
        with (large / f"{part}.txt" if kind == "folder" else large).open("wb") as file:
            file.write(head or (str(part).encode() if kind == "folder" else b""))
            for _ in range(repeats // 20 if kind == "folder" else repeats):
                file.write(written)
    small = write(tmp_path, small_txt=text) / "small.txt"
    done = subprocess.run([sys.executable, "-c", MEASURE, spec, large, small], capture_output=True, check=True)
    beyond, tokens = map(int, done.stdout.split())
    assert tokens > 100_000_000
    assert beyond < 50 * 2**20
