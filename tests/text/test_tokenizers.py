"""Tokenizers: what goes in comes out again, streaming says the same as decoding at once, and no file can fool them."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import numpy as np
import pytest
from tokenizer_files import ids_of, learned

from cllm_cli.errors import CllmError, ConfigError, CorpusError, RunError
from cllm_cli.text.tokenizers import TOKENIZERS, builder_of, tokenizer_from_json
from cllm_cli.text.tokenizers.base import count_bytes, token_dtype
from cllm_cli.text.tokenizers.bpe import CHARACTERS, BpeTokenizer
from cllm_cli.text.tokenizers.byte import ByteTokenizer
from cllm_cli.text.tokenizers.char import CharTokenizer

TEXTS = [
    "a",
    "plain text\n",
    "Zwölf Boxkämpfer",
    "吾輩は猫である",
    "🎈🎈 e\u0301 \ufffd \0 \u202e \U0010ffff",
    "\x7f\x80\u07ff\u0800\uffff\U00010000",
    "مرحبا بالعالم، كيف حالك؟",
    "def f(x):\n\treturn x  # don't\r\n\r\n\0\0 end\n ",
    "  \n  leading and trailing blanks \n\n  ",
    "x" * 300 + " " * 300 + "猫" * 300,
]


def random_text(rng, length):
    """Characters of one to four UTF-8 bytes, no surrogates."""
    ranges = [(0, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
    return "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(length))


@pytest.mark.parametrize("end_of_text", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_decoding_undoes_encoding(spec, text, end_of_text):
    tokenizer, ids = learned(spec, [text.encode()], end_of_text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    prompt = tokenizer.encode(text)
    assert prompt.tolist() == ids.tolist()
    assert prompt.dtype == tokenizer.dtype == token_dtype(tokenizer.vocab_size)


def test_ids_do_not_depend_on_the_chunks(spec):
    rng = random.Random(1)
    text = random_text(rng, 400)
    data = text.encode()
    whole, ids = learned(spec, [data])
    for _ in range(5):
        cuts = sorted(rng.randrange(len(data)) for _ in range(60))
        chunks = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        tokenizer, pieces = learned(spec, chunks)
        assert pieces.tolist() == ids.tolist()
        assert tokenizer.to_json() == whole.to_json()
        assert ids_of(tokenizer.encoder(), chunks) == ids.tolist()


def test_byte_ids_are_the_byte_values():
    data = bytes(range(256))
    tokenizer, ids = learned("byte", [data])
    assert ids.tolist() == list(data)
    assert (tokenizer.vocab_size, tokenizer.end_of_text, tokenizer.dtype) == (256, None, np.uint8)
    assert tokenizer.decode_bytes(ids) == data


def test_char_ids_follow_the_code_points():
    tokenizer, ids = learned("char", [b"zebra ", "äpfel".encode()])
    expected = sorted(set("zebra äpfel"))
    assert tokenizer.characters == "".join(expected)
    assert ids.tolist() == [expected.index(char) for char in "zebra äpfel"]


@pytest.mark.parametrize(("kind", "text_ids"), [("byte", 256), ("char", 3), ("bpe", 256)])
def test_the_end_of_text_comes_last_and_stands_for_nothing(specs, kind, text_ids):
    tokenizer, _ = learned(specs(kind), [b"abc"], end_of_text=True)
    assert (tokenizer.end_of_text, tokenizer.vocab_size) == (text_ids, text_ids + 1)
    a, b = tokenizer.encode("ab").tolist()
    assert tokenizer.decode([a, text_ids, b]) == "ab"
    assert tokenizer.token_bytes[text_ids] == 0


def test_token_bytes_count_utf8(spec):
    text = "".join(TEXTS)
    tokenizer, ids = learned(spec, [text.encode()], end_of_text=True)
    assert count_bytes(ids, tokenizer) == len(text.encode())
    long = np.tile(ids, 5000)
    assert count_bytes(long, tokenizer) == 5000 * len(text.encode())
    assert count_bytes(ids[:0], tokenizer) == 0


def test_streaming_says_what_decoding_says(spec):
    rng = random.Random(2)
    tokenizer, _ = learned(spec, ["".join(TEXTS).encode()], end_of_text=True)
    for _ in range(200):
        # Torn characters, end-of-text ids and ids beyond the vocabulary included.
        ids = [rng.randrange(tokenizer.vocab_size + 3) for _ in range(rng.randrange(12))]
        stream = tokenizer.stream()
        assert "".join([stream.push(token) for token in ids] + [stream.flush()]) == tokenizer.decode(ids)
        assert tokenizer.decode(ids) == tokenizer.decode_bytes(ids).decode("utf-8", errors="replace")


def test_streaming_gives_a_character_as_soon_as_it_is_complete():
    stream = ByteTokenizer().stream()
    assert [stream.push(byte) for byte in "a🎈".encode()] == ["a", "", "", "", "🎈"]
    assert stream.push(0xC3) == ""
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""
    assert stream.push(0x62) == "b"


def test_ids_beyond_the_vocabulary_decode_to_the_replacement_character():
    byte, char = ByteTokenizer(end_of_text=True), CharTokenizer("ab")
    assert byte.decode([97, 257, 98, 60_000, -1]) == "a\ufffdb\ufffd\ufffd"
    assert byte.decode_bytes([97, 300]) == b"a\xef\xbf\xbd"
    assert char.decode([0, 2, 1, 70_000, -1]) == "a\ufffdb\ufffd\ufffd"


def test_ids_beyond_a_table_do_so_too_and_an_end_of_text_to_nothing():
    pytest.importorskip("tokenizers")
    alphabet = [CHARACTERS[byte] for byte in range(256)]
    beyond = [300, 60_000, -1, 2**63 - 1, -(2**63)]
    after, without = BpeTokenizer(alphabet, [], None, 256), BpeTokenizer(alphabet, [])
    within = BpeTokenizer([*alphabet, None, "ab"], [(97, 98)], 256, 256)
    assert after.decode([97, 256, 98, *beyond]) == "ab" + "\ufffd" * 5
    assert without.decode([97, 256, 98, *beyond]) == "a\ufffdb" + "\ufffd" * 5
    assert within.decode([97, 256, 257, *beyond]) == "aab" + "\ufffd" * 5
    assert [made.decode_bytes([]) for made in (after, without, within)] == [b""] * 3


def test_nothing_decodes_to_nothing():
    for tokenizer in (ByteTokenizer(), CharTokenizer("ab")):
        assert tokenizer.decode([]) == ""
        assert tokenizer.encode("").tolist() == []
        assert tokenizer.encode("").dtype == tokenizer.dtype


def test_a_prompt_with_an_unseen_character_is_refused_safely():
    # No parametrize: a lone surrogate cannot stand in the name of a test.
    for char in ["é", "\x1b", "\u202e", "\udce9", "\ufffd", "z", "\U0010ffff"]:
        refuse_safely(char)


def refuse_safely(char):
    with pytest.raises(CorpusError) as caught:
        CharTokenizer("ab").encode("ab" + char)
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert ascii(char) in caught.value.message
    assert "character 3" in caught.value.message
    assert "--tokenizer byte" in caught.value.hint


def test_bytes_of_the_command_line_stay_bytes_and_half_characters_are_refused():
    undecodable = b"caf\xe9".decode("utf-8", errors="surrogateescape")
    assert ByteTokenizer().encode(undecodable).tolist() == list(b"caf\xe9")
    with pytest.raises(CorpusError, match=r"\\ud800"):
        ByteTokenizer().encode("a\ud800")


@pytest.mark.parametrize(
    ("chunks", "offset", "place"),
    [
        ([b"ab\xff"], 0, "byte 2 is 0xff"),
        ([b"abc", b"\xc3", b"\x28"], 3, "byte 6 is 0xc3"),
        ([b"ab\xe2\x82"], 0, "byte 2 is 0xe2"),
        ([b"\xed\xa0\x80"], 0, "byte 0 is 0xed"),
    ],
)
def test_char_names_the_byte_that_is_no_utf8(chunks, offset, place):
    builder = builder_of("char")
    builder.begin("some file", offset)
    with pytest.raises(CorpusError, match="some file is no UTF-8") as caught:
        encode_all(builder, chunks)
    assert place in caught.value.message
    assert "--tokenizer byte" in caught.value.hint


def encode_all(encoder, chunks):
    for chunk in chunks:
        encoder.encode(chunk)
    encoder.end()


def test_char_names_the_place_of_a_character_that_it_does_not_know():
    encoder = CharTokenizer("abé").encoder()
    encoder.begin("some file", 3)
    encoder.encode("abé".encode() + b"\xc3")
    with pytest.raises(CorpusError, match=r"some file .*'\\xf6' \(U\+00F6\) at byte 7"):
        encoder.encode(b"\xb6")


def test_an_error_leaves_the_encoder_ready_for_the_next_document():
    builder = builder_of("char")
    builder.begin("bad")
    with pytest.raises(CorpusError):
        builder.encode(b"\xff")
    builder.begin("good")
    builder.encode(b"ab")
    builder.end()
    assert builder.finish(False)[0].vocab_size == 2


def test_many_characters_need_wider_ids():
    text = "".join(chr(0x4E00 + i) for i in range(300))
    tokenizer, ids = learned("char", [text[::-1].encode()])
    assert ids.dtype == tokenizer.dtype == np.uint16
    assert ids.tolist() == list(range(299, -1, -1))


@pytest.mark.parametrize(("size", "dtype"), [(256, "u1"), (257, "u2"), (65536, "u2"), (65537, "u4")])
def test_tokens_take_the_smallest_type(size, dtype):
    assert token_dtype(size) == np.dtype(dtype)


def test_a_whole_tokenizer_survives_json(specs):
    char = (CharTokenizer("ab\U0001f388"), CharTokenizer("\0abé", True))
    files = [learned(specs(kind), [b"some text"], end)[0] for kind in list(TOKENIZERS)[2:] for end in (False, True)]
    for tokenizer in (ByteTokenizer(), ByteTokenizer(True), *char, *files):
        again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
        assert again.to_json() == tokenizer.to_json()
        assert again.digest() == tokenizer.digest()
        assert (again.vocab_size, again.end_of_text) == (tokenizer.vocab_size, tokenizer.end_of_text)
        assert again.token_bytes.tolist() == tokenizer.token_bytes.tolist()
        assert again.encode("ab").tolist() == tokenizer.encode("ab").tolist()
        assert again.decode(range(again.vocab_size)) == tokenizer.decode(range(tokenizer.vocab_size))


BYTE = {"kind": "byte", "vocab_size": 256, "end_of_text": None}
CHAR = {"kind": "char", "vocab_size": 3, "end_of_text": 2, "characters": "ab"}


@pytest.mark.parametrize(
    "facts",
    [
        None,
        [],
        "byte",
        {},
        {"kind": None},
        {"kind": ["byte"]},
        {"kind": "\x1b[2J" * 10_000},
        {"kind": "byte"},
        BYTE | {"vocab_size": 257},
        BYTE | {"vocab_size": 256.0},
        BYTE | {"vocab_size": "256"},
        BYTE | {"vocab_size": 10**400},
        BYTE | {"end_of_text": 256},
        BYTE | {"end_of_text": 255, "vocab_size": 257},
        BYTE | {"end_of_text": False},
        BYTE | {"more": 1},
        CHAR | {"characters": None},
        CHAR | {"characters": ["a", "b"]},
        CHAR | {"characters": ""},
        CHAR | {"characters": "ba"},
        CHAR | {"characters": "aa"},
        CHAR | {"characters": "a\ud800"},
        CHAR | {"characters": "abc"},
        CHAR | {"characters": "a" * 0x110001},
        CHAR | {"vocab_size": 2},
        CHAR | {"vocab_size": True},
        CHAR | {"end_of_text": 1},
        CHAR | {"end_of_text": 2.0},
        {"kind": "char", "vocab_size": 2, "end_of_text": None, "characters": "\udfff\ue000"},
        {"kind": "char", "vocab_size": 1, "end_of_text": False, "characters": "a"},
        {"kind": "char", "vocab_size": 2, "end_of_text": True, "characters": "a"},
    ],
)
def test_a_damaged_or_hostile_tokenizer_is_a_run_error(facts):
    with pytest.raises(RunError) as caught:
        tokenizer_from_json(facts)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200
    assert caught.value.hint


def test_the_cases_above_are_damaged_by_one_thing_only():
    assert tokenizer_from_json(BYTE).vocab_size == 256
    assert tokenizer_from_json(CHAR).vocab_size == 3


def test_random_json_never_breaks_out_of_our_errors():
    rng = random.Random(3)
    values = [None, True, 0, 1, 2, 256, 257, -1, 1.5, "", "a", "ab", "byte", "char", "\ud800", [], {}, [1], 10**30]
    for _ in range(2000):
        keys = ["kind", "vocab_size", "end_of_text", "characters", "tokens", "merges", "tokenizer", "model", "x"]
        facts = {key: rng.choice(values) for key in keys if rng.random() < 0.8}
        facts["kind"] = rng.choice([*TOKENIZERS, facts.get("kind")])
        if rng.random() < 0.5:
            own = {"char": ["characters"], "bpe": ["tokens", "merges"], "huggingface": ["tokenizer"]}
            kept = {"kind", "vocab_size", "end_of_text", *own.get(str(facts["kind"]), ["model"])}
            facts = {key: rng.choice(values) if key not in facts else facts[key] for key in kept}
        try:
            tokenizer_from_json(facts)
        except CllmError:
            continue
        assert facts in (BYTE, BYTE | {"vocab_size": 257, "end_of_text": 256}) or facts["kind"] == "char"


def test_an_unknown_tokenizer_is_answered_with_the_nearest():
    with pytest.raises(ConfigError) as caught:
        builder_of("bite")
    assert caught.value.hint == "did you mean 'byte'?"
    with pytest.raises(ConfigError, match="takes no argument"):
        builder_of("char:5")


def test_the_table_of_tokenizers_imports_no_numpy():
    code = "import sys, cllm_cli.text.tokenizers as t; list(t.TOKENIZERS); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_registered_tokenizer_names_itself():
    for name in TOKENIZERS:
        assert TOKENIZERS.load(name).kind == name


@pytest.mark.parametrize("name", ["byte", "char"])
def test_digests_are_equal_where_tokenizers_are(name):
    digests = {learned(name, [text], end)[0].digest() for text in (b"abc", b"cab") for end in (False, True)}
    assert len(digests) == 2


def test_the_digest_is_that_of_what_is_stored(spec):
    tokenizer, _ = learned(spec, [b"abc"])
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert again.digest() == tokenizer.digest()
    assert len(bytes.fromhex(again.digest())) == 32


@pytest.mark.parametrize("name", ["byte", "char"])
@pytest.mark.parametrize("text", ["abc", "aé"])
@pytest.mark.parametrize("ends", [False, True])
def test_an_end_of_text_counts_no_bytes(name, text, ends, monkeypatch):
    """Whether all other ids stand for equally many or not, and in every chunk."""
    monkeypatch.setattr("cllm_cli.text.tokenizers.base.COUNT_CHUNK", 4)
    tokenizer, _ = learned(name, [text.encode()], ends)
    between = [tokenizer.end_of_text] if ends else []
    tokens = np.array([*tokenizer.encode(text), *between] * 5, tokenizer.dtype)
    assert count_bytes(tokens, tokenizer) == 5 * len(text.encode())
