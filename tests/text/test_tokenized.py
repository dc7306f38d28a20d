"""A corpus from a token store is the corpus from the text; a store that claims what is not so is refused."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
from store_files import load, stored
from text_files import many, refused, words, write
from tokenizer_files import byte_level, write_gpt2

from cllm_cli.config import make_settings
from cllm_cli.errors import ConfigError
from cllm_cli.text.corpus import read_corpus
from cllm_cli.text.store import DOCUMENT, Store, store_chunks
from cllm_cli.text.tokenized import (
    READING,
    check_reading,
    corpus_chunks,
    how_read,
    load_corpus,
    store_facts,
    store_settings,
)
from cllm_cli.text.tokenizers.byte import ByteTokenizer
from cllm_cli.text.tokenizers.char import CharTokenizer


def assert_same(found, expected):
    """Two corpora alike in everything."""
    for item in dataclasses.fields(expected):
        ours, theirs = getattr(found, item.name), getattr(expected, item.name)
        if item.name == "tokenizer":
            assert ours.to_json() == theirs.to_json()
        elif isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype
            assert ours.tobytes() == theirs.tobytes(), item.name
        else:
            assert ours == theirs, item.name


def test_a_store_says_what_it_was_made_with(tmp_path):
    """Every setting of how text is read, and the size that was asked for of a tokenizer."""
    pytest.importorskip("tokenizers")
    write(tmp_path, one_txt=words(7, 200))
    how = how_read(make_settings({"encoding": "utf-8", "split_on": "|", "include": ["*.txt"], "exclude": ["a"]}))
    assert how.keys() == READING
    stored(tmp_path / "a.tok", [tmp_path / "one.txt"], "bpe:300", how=how)
    assert store_settings([tmp_path / "a.tok"]) == {"tokenizer": "bpe:300", "val_fraction": 0.25, **how}


@pytest.mark.parametrize("spec", ["byte", "char"])
@pytest.mark.parametrize("kind", ["one", "several", "by hand", "several by hand", "copies"])
def test_a_corpus_from_a_store_is_that_from_the_text(tmp_path, spec, kind):
    write(tmp_path, one_txt=words(7, 200), val_txt=words(8, 40))
    write(tmp_path / "texts", bad_dat=b"\0\1", empty_txt=b"")
    many(tmp_path / "texts", 12)
    if kind == "copies":
        many(tmp_path / "texts" / "again", 12)
    source = tmp_path / ("one.txt" if kind in ("one", "by hand") else "texts")
    val = {"val": tmp_path / "val.txt"} if "hand" in kind else {}
    expected = stored(tmp_path / "a.tok", [source], spec, **val)
    assert_same(load_corpus([tmp_path / "a.tok"], spec, 0.25), expected)
    plain = read_corpus([source], spec, 0.25, **val)
    assert plain.contents is None
    assert_same(dataclasses.replace(plain, contents=expected.contents), expected)


def test_documents_are_where_the_table_says(tmp_path):
    contents = many(tmp_path / "texts", 9)
    many(tmp_path / "val", 2, seed=50)
    for more in ({}, {"val": tmp_path / "val"}):
        corpus = stored(tmp_path / "a.tok", [tmp_path / "texts"], **more)
        whole = np.concatenate([corpus.train, corpus.val])
        table = Store(tmp_path / "a.tok").documents
        for row, text in zip(table, contents.values(), strict=False):
            first, count = int(row["first"]), int(row["tokens"])
            assert whole[first : first + count].tolist() == [*text, 256]
            assert int(row["bytes"]) == len(text)
            assert row["val"] == 0
        assert table["val"].tolist() == [0] * 9 + [1] * (len(table) - 9)


def test_a_store_from_standard_input_can_be_read_again(tmp_path):
    text = write(tmp_path, a_txt=words(3, 60)) / "a.txt"
    with text.open("rb") as stream:
        piped = stored(tmp_path / "a.tok", ["-"], stdin=stream)
    assert piped.from_stdin
    assert_same(load(tmp_path / "a.tok"), read_corpus([text], "byte", 0.25, contents=True))


@pytest.mark.parametrize("spec", ["byte", "char"])
def test_tokens_are_mapped_and_not_read(tmp_path, spec):
    for number in range(4):
        write(tmp_path / "texts", **{f"{number}_txt": words(number, 400) * 900})
    corpus = stored(tmp_path / "a.tok", [tmp_path / "texts"], spec)
    tracemalloc.start()
    again = load_corpus([tmp_path / "a.tok"], spec, 0.25)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert again.train.nbytes + again.val.nbytes == corpus.train.nbytes + corpus.val.nbytes > 4 << 20
    assert taken < 2 << 20


def test_settings_follow_the_store(tmp_path):
    text = write(tmp_path, a_txt=words(3, 60), v_txt="some more") / "a.txt"
    stored(tmp_path / "a.tok", [text], "char", 0.2)
    assert store_settings([tmp_path / "a.tok"]) == {"tokenizer": "char", "val_fraction": 0.2}
    assert store_settings([text]) == {}
    stored(tmp_path / "b.tok", [text], "byte", val=tmp_path / "v.txt")
    assert store_settings([tmp_path / "b.tok"]) == {"tokenizer": "byte", "val_fraction": None}
    load_corpus([tmp_path / "b.tok"], "byte", 0.7)


HOW = {"errors": "strict", "format": "text", "field": "body", "split_on": r"\n\n", "include": ["*.txt", "en/*"]}


def test_how_text_was_read_follows_the_store(tmp_path):
    text = write(tmp_path, a_txt=words(3, 60)) / "a.txt"
    source = [tmp_path / "a.tok"]
    stored(*source, [text], how=HOW)
    there = {**HOW, "include": ("*.txt", "en/*")}
    assert store_settings(source) == {"tokenizer": "byte", "val_fraction": 0.25, **there}
    assert store_facts(Store(*source))["reading"] == there
    check_reading(source, {**HOW, "n_layer": 3, "encoding": None})
    check_reading([text], {"field": "other"})
    for name, value in (("field", "text"), ("encoding", "latin-1"), ("include", ["*.txt"]), ("text_column", "x")):
        with pytest.raises(ConfigError, match="a token store has no text"):
            check_reading(source, {name: value})


def test_a_store_of_an_earlier_version_does_not_say_how_its_text_was_read(small):
    forged(small, lambda facts: facts.pop("reading"))
    assert store_settings([small]) == {"tokenizer": "byte", "val_fraction": 0.25}
    check_reading([small], {"field": "text", "errors": "strict", "format": "auto"})
    assert load(small).documents == 5


def test_the_path_of_a_tokenizer_is_as_good_as_its_hash(tmp_path):
    text = write(tmp_path, a_txt=words(3, 60)) / "a.txt"
    paths = [tmp_path / f"{name}.json" for name in ("same", "other", "none")]
    for path, characters in zip(paths, (sorted(set(words(3, 60))), "xy"), strict=False):
        path.write_text(json.dumps(CharTokenizer("".join(characters)).to_json()))
    same, other, none = map(str, paths)
    expected = stored(tmp_path / "a.tok", [text], "char")
    assert_same(load(tmp_path / "a.tok", same), expected)
    for spec, fragment in ((other, "made with --tokenizer char, not"), (none, "cannot read"), ("bite", "unknown")):
        with pytest.raises(ConfigError, match=fragment):
            load(tmp_path / "a.tok", spec)


@pytest.mark.parametrize("kind", ["huggingface", "bpe", "sentencepiece"])
def test_a_tokenizer_of_another_program_is_known_again(tmp_path, specs, kind):
    spec = specs(kind) if kind != "bpe" else str(write_gpt2(tmp_path / "gpt2", byte_level()))
    for count in (1, 4):  # with an end of text, and without
        many(tmp_path / f"{count}", count)
        expected = stored(tmp_path / "a.tok", [tmp_path / f"{count}"], spec)
        assert store_settings([tmp_path / "a.tok"])["tokenizer"] == kind
        assert_same(load(tmp_path / "a.tok", spec), expected)
        assert_same(load(tmp_path / "a.tok", kind), expected)
        with pytest.raises(ConfigError, match=f"made with --tokenizer {kind}, not byte"):
            load(tmp_path / "a.tok", "byte")


def test_a_tokenizer_that_was_named_with_its_kind_is_noted_by_its_kind(tmp_path, specs):
    text = write(tmp_path, a_txt=words(3, 60)) / "a.txt"
    expected = stored(tmp_path / "a.tok", [text], f"huggingface:{specs('huggingface')}")
    assert_same(load(tmp_path / "a.tok", "huggingface"), expected)


def test_other_settings_than_the_stores_are_refused(tmp_path):
    text = write(tmp_path, a_txt=words(3, 60)) / "a.txt"
    stored(tmp_path / "a.tok", [text], "byte", 0.2)
    source = [tmp_path / "a.tok"]
    for call, fragment in (
        (lambda: load_corpus(source, "char", 0.2), "made with --tokenizer byte, not char"),
        (lambda: load_corpus(source, "byte", 0.1), "made with --val-fraction 0.2, not 0.1"),
        (lambda: load_corpus(source, "byte", 0.2, val=text), "validation text of its own"),
        (lambda: load_corpus(source, "byte", 0.2, tokenizer=ByteTokenizer(True)), "ids of another tokenizer"),
    ):
        with pytest.raises(ConfigError, match=fragment) as caught:
            call()
        assert caught.value.hint
    load_corpus(source, "byte", 0.2, tokenizer=ByteTokenizer())


def test_a_text_without_two_tokens_makes_no_store(tmp_path):
    corpus = read_corpus([write(tmp_path, a_txt="x") / "a.txt"], "byte", 0.1, contents=True)
    refused(lambda: corpus_chunks(corpus, "byte", 0.1), "too short")


# Stores that someone has made on purpose: their checksum is right


def forged(path, change=lambda facts: None, table=lambda rows: None, tokens=lambda train: None):
    """The store at `path` with its facts, documents or training tokens changed, and signed anew."""
    store = Store(path)
    facts, rows, train, val = json.loads(json.dumps(store.facts)), store.documents.copy(), store.train.copy(), store.val
    change(facts), table(rows), tokens(train)
    path.write_bytes(b"".join(store_chunks(facts, train, val.copy(), rows)))
    assert Store(path).is_whole()


def put(*keys, value):
    def change(facts):
        *inner, last = keys
        for key in inner:
            facts = facts[key]
        facts[last] = value

    return change


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


FACTS = {
    "corpus": (put("corpus", value=[]), "'corpus' is missing or of the wrong type"),
    "no tokenizer": (lambda facts: facts.pop("tokenizer"), "'tokenizer' is missing"),
    "hash": (put("tokenizer_sha256", value="0" * 64), "tokenizer is not the one whose hash it has"),
    "kind": (put("tokenizer", "kind", value="bite\x1b[2J"), "kind is unknown"),
    "vocabulary": (put("tokenizer", "vocab_size", value=2**63), "vocabulary size"),
    "spec": (put("tokenizer_spec", value="../../etc/passwd"), "unknown tokenizer"),
    "argument": (put("tokenizer_spec", value="byte:\n"), "unknown tokenizer"),
    "other": (put("tokenizer_spec", value="bite"), "unknown tokenizer"),
    "fraction": (put("val_fraction", value=7.0), "share of validation text"),
    "none": (put("val_fraction", value=0.0), "share of validation text"),
    "all": (put("val_fraction", value=1.0), "share of validation text"),
    "not a number": (put("val_fraction", value=float("nan")), "share of validation text"),
    "truth": (put("val_fraction", value=True), "'val_fraction' is missing or of the wrong type"),
    "notice": (put("notices", value=[1]), "notices are no texts"),
    "skipped": (put("skipped", value={"a": "b"}), "counts of what was left out"),
    "documents": (put("corpus", "documents", value=6), "number of documents"),
    "documents truth": (put("corpus", "documents", value=True), "'documents' is missing or of the wrong type"),
    "fingerprint": (put("corpus", "fingerprint", value="0" * 64), "fingerprint is not that of its documents"),
    "bytes": (put("corpus", "train_bytes", value=1), "stand for another number of bytes"),
    "reading": (put("reading", value=[]), "how its text was read"),
    "reading of no text": (put("reading", "n_layer", value=3), "how its text was read"),
    "reading by another name": (put("reading", "text-column", value="a"), "how its text was read"),
    "reading of another type": (put("reading", "field", value=3), "setting 'field' must be a string"),
    "reading of no list": (put("reading", "include", value="*"), "setting 'include' must be"),
    "encoding": (put("reading", "encoding", value="bite\x1b"), "unknown encoding"),
    "format": (put("reading", "format", value="\x1b[2J"), r"unknown format '\x1b"),
    "separator": (put("reading", "split_on", value="\\q"), "escape that is unknown"),
    "half a character": (put("reading", "field", value="\ud800"), "--field must be UTF-8"),
    "long": (put("reading", "field", value="x" * (1 << 18)), "how its text was read takes more"),
    "nested": (put("reading", "field", value=nested(900)), "setting 'field' must be a string"),
    "rule": (put("corpus", "split_rule", value=2), "split by another rule"),
}


@pytest.mark.parametrize("name", FACTS)
def test_facts_that_are_not_so(small, name):
    change, fragment = FACTS[name]
    forged(small, change)
    refused(lambda: load(small), "small.tok", fragment)


def at(row, field, value):
    def change(rows):
        rows[row][field] = value

    return change


TABLES = {
    "far": (at(0, "first", 2**63), "larger than can be"),
    "long": (at(1, "tokens", 2**64 - 1), "larger than can be"),
    "huge": (at(1, "bytes", 2**64 - 1), "larger than can be"),
    "overlap": (at(1, "tokens", 3), "do not fill its tokens"),
    "gap": (at(2, "first", 1), "do not fill its tokens"),
    "bytes": (at(2, "bytes", 1), "another number of bytes"),
    "text": (at(2, "sha256", b"x" * 32), "fingerprint is not that"),
    "side": (at(2, "val", 1), "fingerprint is not that"),
}


@pytest.mark.parametrize("name", TABLES)
def test_documents_that_are_not_so(small, name):
    change, fragment = TABLES[name]
    forged(small, table=change)
    refused(lambda: load(small), "small.tok", fragment)


def test_tokens_outside_the_vocabulary(small):
    def beyond(train):
        train[5] = 257

    forged(small, tokens=beyond)
    refused(lambda: load(small), "tokens outside the vocabulary")


def test_sides_of_another_type_or_without_tokens(tmp_path):
    corpus = stored(tmp_path / "a.tok", [write(tmp_path, a_txt=words(3, 60)) / "a.txt"])
    facts, table = Store(tmp_path / "a.tok").facts, np.zeros(1, DOCUMENT)
    path = tmp_path / "b.tok"
    path.write_bytes(b"".join(store_chunks(facts, *(s.astype(np.uint16) for s in (corpus.train, corpus.val)), table)))
    refused(lambda: load(path), "no plain array of uint8")
    facts["corpus"] |= {"train_bytes": corpus.train_bytes + corpus.val_bytes, "val_bytes": 0}
    whole = np.concatenate([corpus.train, corpus.val])
    path.write_bytes(b"".join(store_chunks(facts, whole, whole[:0], table)))
    refused(lambda: load(path), "a side of it has no tokens")


def test_texts_from_a_store_are_safe_to_print(small):
    forged(small, lambda facts: facts.update(notices=["a\x1b[2Jb"], skipped={"c\x1b": 3}))
    corpus = load(small)
    assert corpus.notices == ["a\\x1b[2Jb"]
    assert corpus.skipped == {"c\\x1b": 3}


def test_a_wrong_checksum_comes_before_what_it_protects(small):
    content = small.read_bytes()
    small.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(lambda: load(small), "checksum")
