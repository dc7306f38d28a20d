"""Tokenizers that are there as files, and stored ones: which are taken, as what, and which are refused and how."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
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
from cllm_cli.text.tokenizers import builder_of, tokenizer_from_json
from cllm_cli.text.tokenizers.base import count_bytes
from cllm_cli.text.tokenizers.byte import continues


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


def test_merges_may_be_written_as_lines(tmp_path):
    """As files of older versions have them: strings, perhaps with the first line of a merges.txt before them."""
    made = json.loads(byte_level().to_str())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(made), "utf-8")
    wanted = builder_of(str(path)).finish(end_of_text=False)[0].encode("the cat's möwe").tolist()
    made["model"]["merges"] = ["#version: 0.2", *map(" ".join, made["model"]["merges"])]
    path.write_text(json.dumps(made), "utf-8")
    assert builder_of(str(path)).finish(end_of_text=False)[0].encode("the cat's möwe").tolist() == wanted


def test_ids_may_leave_gaps(tmp_path):
    pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b'{"model": {"type": "BPE", "vocab": {"a": 0, "b": 65535}, "merges": []}}')
    tokenizer, _ = builder_of(str(path)).finish(end_of_text=False)
    assert tokenizer.vocab_size == 65536
    assert tokenizer.encode("ab").tolist() == [0, 65535]


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
    "a token where an added one goes": (
        b'{"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 2}, "unk_token": "a"}, "added_tokens": [{"id": 1, '
        b'"content": "</s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": '
        b"false}]}",
        "not distinct",
    ),
    "gaps": (b'{"model": {"type": "BPE", "vocab": {"a": 0, "b": 65536}, "merges": []}}', "go up to 65,536"),
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


@pytest.mark.parametrize("name", ["byte", "char"])
@pytest.mark.parametrize("ends", [False, True])
def test_the_tokenizer_of_a_run_stays_as_it_is(tmp_path, name, ends):
    """Whether there is one document or several: text for that run has to be in its ids."""
    made, _ = learned(name, [b"abc"], ends)
    (tmp_path / "tokenizer.json").write_text(json.dumps(made.to_json()))
    for several in (False, True):
        again, ids = learned(str(tmp_path), [b"cab"], several)
        assert again.digest() == made.digest()
        assert ids.tolist() == made.encode("cab").tolist()


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
