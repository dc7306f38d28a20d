"""Encodings: what Python decodes as a whole comes out of the stream; what it does not is named with its place."""

from __future__ import annotations

import codecs

import pytest
from text_files import BOM, pieces_of, refused, words, write

from cllm_cli.errors import ConfigError
from cllm_cli.text.corpus import read_corpus
from cllm_cli.text.decoding import as_utf8, check_encoding, encoded, marked_encoding
from cllm_cli.text.documents import Reading

TEXT = words(1, 60) + "\nÄpfel, “größer”, straße\n"


def utf8(data: bytes, encoding: str, replace: bool = False, size: int = 1) -> bytes:
    return b"".join(as_utf8(pieces_of(data, size), encoding, replace, "the file"))


def read(path, reading: Reading, spec: str = "byte") -> bytes:
    corpus = read_corpus([path], spec, 0.3, reading=reading)
    return b"".join(corpus.tokenizer.decode_bytes(side) for side in (corpus.train, corpus.val))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-7", "gb18030", "shift_jis", "cp1252"]
)
def test_what_python_decodes_comes_out_in_utf8(encoding, size):
    text = TEXT.encode(encoding, "ignore").decode(encoding)
    assert utf8(text.encode(encoding), encoding, size=size).decode() == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_byte_order_mark_is_dropped_once(encoding):
    assert utf8("\ufeffa\ufeffb".encode(encoding), encoding) == "a\ufeffb".encode()


@pytest.mark.parametrize("spec", ["byte", "char"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.usefixtures("small_steps")
def test_text_with_a_mark_is_known_by_itself_in_folders_too(tmp_path, encoding, spec):
    data = ("\ufeff" + TEXT).encode(encoding)
    assert marked_encoding(data) == encoding[:6]
    path = write(tmp_path / "texts", a_txt=data) / "a.txt"
    assert read(path, Reading(), spec) == read(tmp_path / "texts", Reading(), spec) == TEXT.encode()


def test_a_binary_file_that_begins_like_a_mark_is_left_out_of_a_folder(tmp_path):
    write(tmp_path, a_txt="text", b_bin=b"\xff\xfe" + b"\xd8" * 9, c_bin=b"\xff\xfea\0\0\0")
    assert read_corpus([tmp_path], "byte", 0.1).skipped == {"binary": 2}
    refused(lambda: read_corpus([tmp_path / "b.bin"], "byte", 0.1), "b.bin is no utf-16: byte 2 is 0xd8", "--encoding")


@pytest.mark.parametrize(
    ("encoding", "data", "at"),
    [
        ("utf-8", b"ab\xffcd", 2),
        ("utf-8", "aé".encode() + b"\xc3", 3),
        ("ascii", b"abc\x80", 3),
        ("utf-16", b"\xff\xfea\0\0\xd8b\0", 4),
        ("utf-16-le", b"a\0b", 2),
        ("cp1252", b"abcd\x81", 4),
        ("shift_jis", b"ab\x82\xa0\xfd", 4),
        ("utf-8-sig", BOM + b"a\xff", 4),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_bad_byte_is_named_with_its_offset_or_replaced(encoding, data, at, size):
    refused(
        lambda: utf8(data, encoding, size=size), f"the file is no {encoding}: byte {at} is 0x{data[at]:02x}", "--errors"
    )
    assert utf8(data, encoding, True, size).decode() == data.decode(encoding, "replace")


def test_offsets_are_those_of_the_decompressed_bytes(tmp_path):
    import gzip

    path = write(tmp_path, a_gz=gzip.compress(b"x" * 700_000 + b"\xe9")) / "a.gz"
    refused(lambda: read(path, Reading(encoding="ascii")), "a.gz is no ascii: byte 700000 is 0xe9")


def test_bytes_that_are_no_utf8_stay_unless_something_is_said(tmp_path):
    data = b"caf\xe9 " * 50
    path = write(tmp_path, a_txt=data) / "a.txt"
    assert read(path, Reading()) == data
    assert read(path, Reading(replace=True)) == data.decode("utf-8", "replace").encode()
    assert read(path, Reading(encoding="latin-1")) == data.decode("latin-1").encode()
    refused(lambda: read(path, Reading(encoding="utf-8")), "a.txt is no utf-8: byte 3 is 0xe9")
    assert read(path, Reading(encoding="latin-1"), "char") == data.decode("latin-1").encode()


def test_an_encoding_that_is_given_decides_what_is_binary(tmp_path):
    write(tmp_path, a_txt="text".encode("utf-16-le"), b_bin=bytes(10))
    corpus = read_corpus([tmp_path], "byte", 0.5, reading=Reading(encoding="utf-16-le"))
    assert corpus.train.tobytes() + corpus.val.tobytes() == b"text"
    assert corpus.skipped == {"binary": 1}
    refused(lambda: read_corpus([tmp_path], "byte", 0.5), "no text in", "2 binary")
    unmarked = Reading(encoding="utf-16")
    refused(lambda: read_corpus([tmp_path], "byte", 0.5, reading=unmarked), "a.txt is no utf-16", "utf-16-le")


@pytest.mark.parametrize("name", ["utf8", "UTF-16", "latin-1", "cp1252", "koi8-r", "big5", "utf_8_sig", "mac-roman"])
def test_encodings_of_text_are_taken(name):
    check_encoding(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("latin1x", "did you mean 'latin1'?"),
        ("utf-88", "did you mean 'utf-8"),
        ("cp1225", "did you mean 'cp125"),
        ("hex", "for example"),
        ("rot13", "for example"),
        ("zlib", "for example"),
        ("punycode", ""),
        ("undefined", ""),
        ("", "for example utf-8"),
        ("a\0b", "for example utf-8"),
        ("\udcff", "for example utf-8"),
        ("x" * 10_000, "for example utf-8"),
    ],
)
def test_other_names_are_refused(name, hint):
    with pytest.raises(ConfigError) as found:
        check_encoding(name)
    assert "unknown encoding" in found.value.message
    assert found.value.message.isprintable()
    assert len(found.value.message) < 200
    assert found.value.hint.startswith(hint)


def test_every_encoding_that_is_taken_decodes_a_stream():
    """Byte by byte and as a whole give the same, or both refuse."""
    from encodings.aliases import aliases

    data = bytes(range(9, 127)) * 2
    taken = 0
    for name in sorted(set(aliases.values())):
        try:
            check_encoding(name)
        except ConfigError:
            continue
        taken += 1
        if name in ("utf_16", "utf_32"):
            refused(lambda name=name: utf8(data, name, True), "it has no byte-order mark", f"--encoding {name}-le")
            continue
        decoded = codecs.getincrementaldecoder(name)("replace").decode(data, final=True)
        assert utf8(data, name, True) == encoded(decoded.removeprefix("\ufeff"), True, ""), name
    assert taken > 80


def test_half_a_character_is_refused_or_replaced():
    refused(lambda: encoded("a\ud83d", False, "the row"), r"the row has half of a character, '\ud83d'", "--errors")
    assert encoded("a\ud83d", True, "the row") == "a\ufffd".encode()
