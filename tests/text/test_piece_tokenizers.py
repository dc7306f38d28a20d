"""Tokenizers whose ids stand for stretches of text: laws of cutting, learning and files."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from laws import law
from tokenizer_files import (
    END,
    byte_level,
    ids_of,
    learned,
    metaspace,
    prose,
    sentence_pieces,
    word_pieces,
    write_gpt2,
)

from cllm_cli.errors import ConfigError, CorpusError, RunError
from cllm_cli.text.tokenizers import builder_of, cutting, tokenizer_from_json
from cllm_cli.text.tokenizers.base import count_bytes
from cllm_cli.text.tokenizers.byte import continues
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
def bpe():
    """A tokenizer that was learned from some text of ours, with an end of text."""
    pytest.importorskip("tokenizers")
    return learned("bpe:320", [prose(3, 300).encode()], True)[0]


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


# Files


def test_gpt2_files_by_folder_or_either_file(tmp_path):
    made = byte_level()
    folder = write_gpt2(tmp_path / "gpt2", made)
    text = prose(9, 40)
    found = []
    for place in (folder, folder / "vocab.json", folder / "merges.txt"):
        tokenizer, ids = learned(str(place), [text.encode()], True)
        assert ids.tolist() == made.encode(text).ids
        assert tokenizer.end_of_text == made.token_to_id(END)
        assert tokenizer.vocab_size == made.get_vocab_size()
        assert tokenizer.token_bytes[tokenizer.end_of_text] == 0
        found.append(tokenizer.digest())
    assert len(set(found)) == 1


def test_the_end_of_text_of_a_file_is_for_several_documents_only(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    one, several = (learned(str(tmp_path), [b"text"], end)[0] for end in (False, True))
    assert one.end_of_text is None
    assert several.end_of_text == byte_level().token_to_id(END)
    assert one.vocab_size == several.vocab_size


def test_a_file_without_an_end_of_text_gets_one_after_its_ids(tmp_path):
    made = byte_level(end=None)
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer, _ = learned(str(tmp_path), [b"text"], True)
    assert tokenizer.end_of_text == made.get_vocab_size() == tokenizer.vocab_size - 1


def test_the_files_beside_say_what_ends_a_text(tmp_path):
    made = byte_level(end="<stop>")
    made.save(str(tmp_path / "tokenizer.json"))
    assert learned(str(tmp_path), [b"text"], True)[0].end_of_text == made.get_vocab_size()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<stop>"}}))
    assert learned(str(tmp_path), [b"text"], True)[0].end_of_text == made.token_to_id("<stop>")


def test_text_that_looks_like_a_special_token_stays_text(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    tokenizer, ids = learned(str(tmp_path), [f"a{END}b".encode()], True)
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == f"a{END}b"


def test_a_tokenizer_that_puts_a_space_before_each_text(tmp_path):
    metaspace().save(str(tmp_path / "tokenizer.json"))
    text = "the cat sat on the mat and the dog " * 1000 + "猫 \xff"
    builder = builder_of(str(tmp_path))
    ids = ids_of(builder, [text.encode()])
    tokenizer, _ = builder.finish(True)
    assert tokenizer.drops_space
    assert builder.notices() == []
    assert ids == metaspace().encode(text).ids
    assert tokenizer.decode(ids) == " " + text
    assert tokenizer.end_of_text == 1


def test_what_does_not_come_back_is_counted(tmp_path):
    word_pieces().save(str(tmp_path / "tokenizer.json"))
    builder = builder_of(str(tmp_path / "tokenizer.json"))
    ids = ids_of(builder, [b"the cat"])
    changed = ids_of(builder, [b"The  cat\xff" * 20])
    tokenizer, _ = builder.finish(False)
    assert builder.notices()[0].startswith("1 of 2 documents do not come back")
    assert tokenizer.decode(ids) == " the cat"
    assert len(changed) >= 40  # neither padded nor truncated
    assert count_bytes(np.array(changed), tokenizer) == len(tokenizer.decode_bytes(changed))


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_sentencepiece_as_the_library_has_it(tmp_path, model_type):
    sentencepiece = pytest.importorskip("sentencepiece")
    text = "the cat sat on the mat and the dog sat there too\n" * 40
    model = sentence_pieces(text, model_type=model_type, hard_vocab_limit=False, add_dummy_prefix=True)
    (tmp_path / "some.model").write_bytes(model)
    builder = builder_of(str(tmp_path))
    long = text.replace("\n", " ") * 30 + "猫"
    ids = ids_of(builder, [long.encode()])
    tokenizer, _ = builder.finish(True)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert ids == processor.encode(long)
    assert tokenizer.decode(ids) == " " + long
    assert builder.notices() == []
    assert tokenizer.end_of_text == processor.eos_id()


def test_a_sentencepiece_model_with_byte_pieces_takes_any_bytes(tmp_path):
    (tmp_path / "some.model").write_bytes(sentence_pieces())
    data = bytes(range(256)) + "猫 \u2028".encode()
    builder = builder_of(str(tmp_path))
    ids = ids_of(builder, [data])
    tokenizer, _ = builder.finish(False)
    assert tokenizer.decode_bytes(ids) == data
    assert not continues(tokenizer.decode_bytes(ids[:1])[0])


BAD = {
    "empty": (b"", "neither JSON nor"),
    "text": (b"once upon a time", "neither JSON nor"),
    "blank line": (b"\nonce upon a time", "sentencepiece refuses it"),
    "no object": (b"[1, 2]", "no JSON object"),
    "nested": (b"[" * 100_000, "neither JSON nor"),
    "nothing": (b"{}", "neither a model nor ids"),
    "settings": (b'{"a": 1.5}', "neither a model nor ids"),
    "twice": (b'{"a": 0, "b": 0}', "not distinct"),
    "far": (b'{"a": 5000000000}', "neither a model nor ids"),
    "no type": (b'{"model": {}}', "tokenizers refuses it"),
    "unknown type": (b'{"model": {"type": "GPT"}}', "tokenizers refuses it"),
    "no vocabulary": (b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "no ids"),
    "no merges": (b'{"a": 0, "b": 1}', "merges.txt: No such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, name):
    pytest.importorskip("tokenizers")
    pytest.importorskip("sentencepiece")
    content, message = BAD[name]
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        builder_of(str(path))
    assert message in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400
    assert caught.value.hint


@pytest.mark.parametrize(
    ("vocabulary", "merges", "message"),
    [
        (lambda v: v, "#version: 0.2\nĠ t h\n", "no pair of its tokens"),
        (lambda v: v, "#version: 0.2\nĠ nowhere\n", "no pair of its tokens"),
        (lambda v: v, "h q\n", "no id for what a merge gives"),
        (lambda v: {t: n for t, n in v.items() if t != "a"}, "", "lack some of the 256 bytes"),
        (lambda v: v | {"猫": 9}, "", "not distinct"),
    ],
)
def test_gpt2_files_that_do_not_fit_together_are_refused(tmp_path, vocabulary, merges, message):
    made = byte_level(300)
    folder = write_gpt2(tmp_path, made)
    found = json.loads((folder / "vocab.json").read_text("utf-8"))
    (folder / "vocab.json").write_text(json.dumps(vocabulary(found)))
    (folder / "merges.txt").write_text(merges, "utf-8")
    with pytest.raises(ConfigError) as caught:
        builder_of(str(folder))
    assert message in caught.value.message


def test_a_path_where_nothing_is_and_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(ConfigError, match="no tokenizer in the folder"):
        builder_of(str(tmp_path))
    for name in ("none.json", "none.model", "some/none"):
        with pytest.raises(ConfigError, match="cannot read"):
            builder_of(str(tmp_path / name))
    for name in ("a.model", "b.model"):
        (tmp_path / name).write_bytes(b"\n")
    with pytest.raises(ConfigError, match="2 models"):
        builder_of(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "extra"), [("bpe", "tokenizers"), ("huggingface", "tokenizers"), ("sentencepiece",) * 2]
)
def test_without_its_library_a_tokenizer_says_what_to_install(specs, monkeypatch, kind, extra):
    spec = specs(kind)
    facts = learned(spec, [b"text"])[0].to_json()
    monkeypatch.setitem(sys.modules, extra, None)
    for action in (lambda: builder_of(spec), lambda: tokenizer_from_json(facts)):
        with pytest.raises(ConfigError, match=f"needs the package {extra}") as caught:
            action()
        assert caught.value.hint == f"pip install 'cllm[{extra}]'"


def test_generation_starts_from_something_where_line_ends_are_dropped(tmp_path):
    (tmp_path / "some.model").write_bytes(
        sentence_pieces(normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True, add_dummy_prefix=True)
    )
    tokenizer, _ = learned(str(tmp_path), [b"text"])
    assert tokenizer.encode("\n").size == 0
    assert tokenizer.first_token() == tokenizer.encode("a")[0]


def test_bytes_of_the_command_line_stay_bytes(bpe):
    assert bpe.decode_bytes(bpe.encode(b"caf\xe9".decode("utf-8", "surrogateescape"))) == b"caf\xe9"
    with pytest.raises(CorpusError, match=r"\\ud800"):
        bpe.encode("a\ud800")


def test_learning_needs_little_memory_beside_its_counts(monkeypatch):
    """No more text is in hand than the queue and the library's own buffer hold."""
    pytest.importorskip("tokenizers")
    builder = builder_of("bpe:300")
    sizes = []
    put = builder._texts.put
    monkeypatch.setattr(builder._texts, "put", lambda texts: (sizes.append(builder._texts.qsize()), put(texts)))
    ids_of(builder, [b"some text " * 1000] * 200)
    assert builder.finish(False)[0].decode_bytes([97]) == b"a"
    assert max(sizes) <= 8


def test_the_tokenizer_of_a_run_can_be_used_again(bpe, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(bpe.to_json()))
    again, ids = learned(str(tmp_path), [b"the cat"], True)
    assert again.digest() == bpe.digest()
    assert ids.tolist() == bpe.encode("the cat").tolist()
    path.write_text(json.dumps({**bpe.to_json(), "merges": 5}))
    with pytest.raises(ConfigError, match="damaged: its merges"):
        builder_of(str(path))
    path.write_text('{"kind": "byte", "vocab_size": 256, "end_of_text": null}')
    with pytest.raises(ConfigError, match="--tokenizer byte"):
        builder_of(str(path))


def test_a_sentencepiece_model_without_byte_pieces_counts_what_it_loses(tmp_path):
    (tmp_path / "some.model").write_bytes(sentence_pieces(byte_fallback=False, vocab_size=100))
    builder = builder_of(str(tmp_path))
    kept = ids_of(builder, ["the 猫".encode()])
    lost = ids_of(builder, [b"the \xff", "\u0f00".encode()])
    tokenizer, _ = builder.finish(False)
    assert tokenizer.decode(kept) == "the 猫"
    assert tokenizer.decode(lost).startswith("the \ufffd")
    assert builder.notices()[0].startswith("1 of 2 documents")


# Stored tokenizers


def changed(facts, **more):
    return {**json.loads(json.dumps(facts)), **more}


def test_a_hostile_bpe_is_a_run_error(bpe):
    facts = bpe.to_json()
    tokens, merges = facts["tokens"], facts["merges"]
    broken = [
        {"tokens": None},
        {"tokens": tokens[:255]},
        {"tokens": [*tokens[:-1], 5]},
        {"tokens": [*tokens[:-1], ""]},
        {"tokens": [*tokens[:-1], "猫"]},
        {"tokens": [*tokens[:-1], tokens[0]]},
        {"tokens": [None, *tokens[1:]]},
        {"merges": None},
        {"merges": [5]},
        {"merges": [[1, 2, 3]]},
        {"merges": [[True, 2]]},
        {"merges": [[1.0, 2]]},
        {"merges": [[0, 10**30]]},
        {"merges": [[-1, 2]]},
        {"merges": [[0, 0]]},
        {"merges": merges * 2},
        {"merges": merges * 30_000},
        {"end_of_text": 300},
        {"end_of_text": -1},
        {"end_of_text": True},
        {"end_of_text": None},
        {"vocab_size": 320},
        {"vocab_size": 321.0},
        {"more": 1},
    ]
    for change in broken:
        refused(changed(facts, **change))
    assert tokenizer_from_json(changed(facts)).digest() == bpe.digest()


def test_a_hostile_file_in_a_run_is_a_run_error(specs):
    facts = learned(specs("huggingface"), [b"text"], True)[0].to_json()
    model = facts["tokenizer"]["model"]
    for value in (
        None,
        [],
        "x",
        {},
        {"model": 5},
        {"model": {"type": "BPE"}},
        {"model": {**model, "vocab": {"a": -1}}},
    ):
        refused(changed(facts, tokenizer=value))
    for value in (5, -1, True, 10**30, "0"):
        refused(changed(facts, end_of_text=value))
    refused(changed(facts, vocab_size=facts["vocab_size"] + 1))
    far = {**model, "vocab": {**model["vocab"], "zzz": 4_000_000_000}}
    refused(changed(facts, tokenizer={**facts["tokenizer"], "model": far}))
    twice = {**model, "vocab": {**model["vocab"], "zzz": 5}}
    refused(changed(facts, tokenizer={**facts["tokenizer"], "model": twice}))


def test_a_hostile_model_in_a_run_is_a_run_error(specs):
    facts = learned(specs("sentencepiece"), [b"text"], True)[0].to_json()
    for value in (None, 5, "", "!", "AAAA", "é", facts["model"][:400]):
        refused(changed(facts, model=value))
    for value in (5, -1, True, 10**30):
        refused(changed(facts, end_of_text=value))


def refused(facts):
    with pytest.raises(RunError) as caught:
        tokenizer_from_json(facts)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300
    assert caught.value.hint
