"""Passages: lines are those that Python's split finds, however a pipe hands them over; documents are whole files."""

from __future__ import annotations

import gzip
import io
import itertools

import pytest
from hypothesis import strategies as st
from laws import law
from text_files import BOM, refused, write
from tokenizer_files import word_pieces

from cllm_cli.errors import CorpusError
from cllm_cli.text import passages
from cllm_cli.text.documents import AS_IT_IS, Reading
from cllm_cli.text.passages import documents_of, lines_of
from cllm_cli.text.sources import find_files
from cllm_cli.text.store import MAGIC
from cllm_cli.text.tokenizers import builder_of

BYTE = builder_of("byte").finish(end_of_text=False)[0]


def letters(text):
    """A tokenizer of the characters of a text."""
    builder = builder_of("char")
    builder.begin("text")
    builder.encode(text.encode())
    builder.end()
    return builder.finish(end_of_text=False)[0]


class Pipe(io.BytesIO):
    """Gives at each read what was written at once."""

    def __init__(self, pieces):
        self.pieces = [piece for piece in pieces if piece]

    def read1(self, size=-1):
        return self.pieces.pop(0) if self.pieces else b""


def read(groups):
    return [(passage.id, bytes(passage.tokens.tolist())) for passage in itertools.chain(*groups)]


def piped(*pieces):
    return lines_of(find_files(["-"]), BYTE, Pipe(pieces), AS_IT_IS, [])


LINES = {
    b"": [],
    b"one": [b"one"],
    b"one\n": [b"one"],
    b"\n": [b""],
    b"\n\n": [b"", b""],
    b"one\n\nthree": [b"one", b"", b"three"],
    b"one\r\ntwo\r\n": [b"one", b"two"],
    b"a\rb\r\r\nc": [b"a\rb\r", b"c"],
    BOM + b"one\n" + BOM: [b"one", BOM],
    b"\x00\xff\xed\xa0\x80\n\xe2\x80\xa8": [b"\x00\xff\xed\xa0\x80", b"\xe2\x80\xa8"],
}


@pytest.mark.parametrize(("content", "lines"), LINES.items())
def test_lines_without_their_ends_numbered_from_1(content, lines):
    assert read(piped(content)) == list(enumerate(lines, start=1))
    assert read(piped(*(bytes([byte]) for byte in content))) == list(enumerate(lines, start=1))


@law(50, 500, content=st.text("ab\n\r", max_size=60), cuts=st.lists(st.integers(0, 60)))
def test_lines_do_not_depend_on_how_a_pipe_is_read(content, cuts):
    content = content.encode()
    edges = [0, *sorted(cuts), len(content)]
    pieces = [content[start:stop] for start, stop in itertools.pairwise(edges)]
    expected = content.split(b"\n")
    expected = expected if expected[-1] else expected[:-1]
    assert [text for _, text in read(piped(*pieces))] == [line.removesuffix(b"\r") for line in expected]


def test_a_pipe_is_answered_as_it_goes():
    """The first lines are there before the second piece was read."""
    pipe = Pipe([b"one\ntwo\nthr", b"ee\n"])
    groups = lines_of(find_files(["-"]), BYTE, pipe, AS_IT_IS, [])
    assert read([next(groups)]) == [(1, b"one"), (2, b"two")]
    assert len(pipe.pieces) == 1
    assert read(groups) == [(3, b"three")]


def test_each_file_has_its_own_numbers(tmp_path):
    write(tmp_path, a_txt="one\ntwo", b_txt="three")
    found = list(itertools.chain(*lines_of(find_files([tmp_path]), BYTE, None, AS_IT_IS, [])))
    assert [(passage.id, passage.file) for passage in found] == [
        (1, str(tmp_path / "a.txt")),
        (2, str(tmp_path / "a.txt")),
        (1, str(tmp_path / "b.txt")),
    ]


def test_a_line_that_has_no_ids_is_named_after_those_before_it():
    groups = lines_of(find_files(["-"]), letters("abc"), Pipe([b"ab\nbc\naxc\nab\n"]), AS_IT_IS, [])
    assert [passage.tokens.tolist() for passage in next(groups)] == [[0, 1], [1, 2]]
    refused(lambda: next(groups), "line 3 of standard input", "at byte 1", "--tokenizer byte")


@pytest.mark.parametrize("group", [1, 7, 1000])
def test_documents_are_whole_files(tmp_path, monkeypatch, group):
    monkeypatch.setattr(passages, "GROUP", group)
    monkeypatch.setattr(passages, "CHUNK", 2)
    write(tmp_path, a_txt=BOM + b"one\ntwo\r\n", b_txt="", c_txt="three", d_bin=b"\0\1")
    listing = find_files([tmp_path])
    groups = list(documents_of(listing, BYTE, None, AS_IT_IS, []))
    names = [str(tmp_path / name) for name in ("a.txt", "c.txt")]
    assert read(groups) == list(zip(names, (b"one\ntwo\r\n", b"three"), strict=True))
    assert [len(found) for found in groups if found] == {1: [1, 1], 7: [1, 1], 1000: [2]}[group]
    assert listing.skipped == {"binary": 1, "empty": 1}


def test_a_document_that_cannot_be_read_is_named_after_those_before_it(tmp_path):
    write(tmp_path, a_txt="ab", b_txt="aé")
    groups = documents_of(find_files([tmp_path]), letters("abc"), None, AS_IT_IS, [])
    assert [passage.tokens.tolist() for passage in next(groups)] == [[0, 1]]
    with pytest.raises(CorpusError, match=r"b\.txt"):
        next(groups)


def test_rows_and_parts_are_documents_with_names_of_their_own(tmp_path):
    rows, parts = tmp_path / "rows.jsonl", tmp_path / "parts.txt"
    rows.write_text('{"text": "ab"}\n{"text": "c"}\n', "utf-8")
    parts.write_text("ab--c", "utf-8")
    reading = Reading(separator=b"--")
    (group,) = documents_of(find_files([rows, parts]), BYTE, None, reading, [])
    assert [bytes(passage.tokens.tolist()) for passage in group] == [b"ab", b"c"] * 2
    assert len({passage.id for passage in group}) == 4
    assert [passage.file for passage in group] == [str(rows)] * 2 + [str(parts)] * 2


@pytest.mark.parametrize("wrap", [bytes, gzip.compress, lambda text: text.decode().encode("utf-16")])
def test_lines_are_those_of_the_text_whatever_it_is_wrapped_in(tmp_path, wrap):
    text = "one\nzwei ü\n\n三".encode()
    (tmp_path / "wrapped").write_bytes(wrap(text))
    found = read(lines_of(find_files([tmp_path / "wrapped"]), BYTE, None, AS_IT_IS, []))
    assert found == list(enumerate(text.split(b"\n"), start=1))


def test_an_encoding_that_is_said_holds_for_lines_too(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\nx")
    listing = find_files([tmp_path / "a.txt"])
    assert read(lines_of(listing, BYTE, None, Reading(encoding="latin-1"), [])) == [(1, "café".encode()), (2, b"x")]
    assert read(lines_of(listing, BYTE, None, Reading(replace=True), [])) == [(1, "caf\ufffd".encode()), (2, b"x")]


@pytest.mark.parametrize("wrap", [bytes, gzip.compress])
def test_a_token_store_has_no_lines(tmp_path, wrap):
    (tmp_path / "a.tok").write_bytes(wrap(MAGIC + b"more"))
    with pytest.raises(CorpusError, match=r"a\.tok is a token store"):
        list(lines_of(find_files([tmp_path / "a.tok"]), BYTE, None, AS_IT_IS, []))


@pytest.mark.parametrize("passages_of", [lines_of, documents_of])
def test_what_does_not_come_back_is_said_in_the_end(tmp_path, passages_of):
    """By a tokenizer that drops case."""
    (tmp_path / "tokenizer.json").write_text(word_pieces().to_str(), "utf-8")
    tokenizer, _ = builder_of(str(tmp_path / "tokenizer.json")).finish(end_of_text=False)
    (tmp_path / "a.txt").write_text("the cat", "utf-8")
    (tmp_path / "b.txt").write_text("The Cat", "utf-8")
    for name, count in (("a.txt", 0), ("b.txt", 1)):
        notices = []
        groups = list(passages_of(find_files([tmp_path / name]), tokenizer, None, AS_IT_IS, notices))
        assert sum(map(len, groups)) == 1
        assert len(notices) == count
