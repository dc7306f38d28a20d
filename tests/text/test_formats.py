"""Rows as documents: JSON lines, tables and Parquet give what their writers were given, wherever the bytes are cut."""

from __future__ import annotations

import random
import sys
from collections import Counter

import pytest
from text_files import json_lines, mutated, outcome, parquet, pieces_of, refused, table, words, write

from cllm_cli.errors import ConfigError, CorpusError
from cllm_cli.text.documents import Reading, Source
from cllm_cli.text.formats import FORMATS, base, check_format, find_format, format_by_name

TEXTS = [
    "one",
    'two\nlines, “quoted” "here"\r\n',
    "\ttab",
    " ",
    "möwe 猫 🎈",
    "x" * 5000,
    "a,b;c\\n",
    '"',
    "\n",
    "last",
]


def rows_of(data: bytes, name: str, size: int = 100, **more) -> tuple[list[bytes], Counter[str]]:
    source = Source("the file", pieces_of(data, size))
    found = [b"".join(document.chunks) for document in FORMATS.load(name).documents(source, Reading(**more))]
    return found, source.skipped


# JSON lines


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_a_line_is_a_document(size):
    for lines in (TEXTS, TEXTS[:1]):
        data = json_lines([{"id": 1, "text": text, "more": [1]} for text in lines])
        expected = [text.encode() for text in lines]
        assert rows_of(data, "jsonl", size) == (expected, {})
        assert rows_of(data.rstrip(b"\n"), "jsonl", size) == (expected, {})
        assert rows_of(data.replace(b"\n", b"\r\n"), "jsonl", size) == (expected, {})


def test_a_field_may_be_nested():
    rows = [{"a": {"b": {"c": "deep"}}, "a.b": "no"}, {"a": {"b": {"c": ""}}}, {"a": {"b": {"c": "ü"}}}]
    assert rows_of(json_lines(rows), "jsonl", field="a.b.c") == ([b"deep", "ü".encode()], {"empty rows": 1})


def test_blank_and_empty_rows_are_counted():
    data = b'\n{"text": ""}\n   \n{"text": "x"}\n\r\n{"text": "y"}'
    assert rows_of(data, "jsonl") == ([b"x", b"y"], {"empty rows": 4})


def test_half_characters_in_json_are_refused_or_replaced():
    data = b'{"text": "a\\ud83d"}'
    refused(lambda: rows_of(data, "jsonl"), "the file, line 1 has half of a character")
    assert rows_of(data, "jsonl", replace=True)[0] == ["a\ufffd".encode()]
    assert rows_of(b'{"text": "\\ud83c\\udf88"}', "jsonl")[0] == ["🎈".encode()]


# Tables


@pytest.mark.parametrize("name", ["csv", "tsv"])
@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_a_row_is_a_document(name, size):
    data = table([["id", "text", "more"], *([str(index), text, "m"] for index, text in enumerate(TEXTS))], name)
    expected = [text.encode() for text in TEXTS]
    assert rows_of(data, name, size) == (expected, {})
    assert rows_of(data.rstrip(b"\r\n"), name, size) == (expected, {})
    assert rows_of(data, name, size, field="more")[0] == [b"m"] * len(TEXTS)


def test_blank_lines_of_a_table_are_counted():
    data = b'\ntext,n\n"",1\n\nx,2\r\n\r\n"y\n",3\n'
    assert rows_of(data, "csv") == ([b"x", b"y\n"], {"empty rows": 4})


def test_bytes_of_a_table_that_are_no_utf8_stay():
    assert rows_of(b"text\ncaf\xe9\n\0b\n", "csv")[0] == [b"caf\xe9", b"\0b"]


def test_a_table_without_a_row_has_no_document():
    assert rows_of(b"text,n\n", "csv") == ([], {})


# Rows that are too long


@pytest.mark.parametrize("size", [1, 10_000])
def test_a_row_is_taken_up_to_a_limit(monkeypatch, size):
    monkeypatch.setattr(base, "LARGEST_ROW", 1 << 20)
    fits, over = "x" * (1 << 10), "x" * (1 << 20)
    assert len(rows_of(json_lines([{"text": fits}] * 3), "jsonl", 10_000)[0]) == 3
    data = json_lines([{"text": "x"}, {"text": over}])
    if size > 1:
        refused(lambda: rows_of(data, "jsonl", size), "the file, line 2: the row has more than 1 MiB", "--format text")
        lines = table([["text"], ["x"], ["x\n" * (1 << 19)]])
        refused(lambda: rows_of(lines, "csv", size), "line", "the row has more than 1 MiB", "--format text")
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1000
            yield b"x" * 1000

    for name in ("jsonl", "csv"):
        taken = 0
        refused(lambda name=name: list(FORMATS.load(name).documents(Source("it", endless()), Reading())), "it, line 1")
        assert taken < (1 << 20) + 2000


# Parquet


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_parquet_gives_its_rows_group_by_group(tmp_path, rows):
    texts = [text for text in TEXTS if text] * 70
    columns = {"id": list(range(len(texts))), "text": texts}
    data = parquet(tmp_path, columns, row_group_size=rows)
    assert rows_of(data, "parquet", 1000)[0] == [text.encode() for text in texts]


def test_parquet_of_other_kinds_of_strings(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    for kind in (pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        data = parquet(tmp_path, {"text": pyarrow.array(["a", "", "b", "a"]).cast(kind)})
        assert rows_of(data, "parquet") == ([b"a", b"b", b"a"], {"empty rows": 1})


def test_a_nested_field_of_parquet(tmp_path):
    data = parquet(tmp_path, {"a": [{"b": {"c": "deep"}, "d": 1}, {"b": {"c": "er"}, "d": 2}], "n": [1, 2]})
    assert rows_of(data, "parquet", field="a.b.c")[0] == [b"deep", b"er"]
    for field in ("a.b.x", "a.x.c", "n.x", "x", "a.b.c.d"):
        refused(lambda field=field: rows_of(data, "parquet", field=field), f"no column '{field}'", "has: 'a', 'n'")


def test_parquet_faults_are_named(tmp_path, monkeypatch):
    data = parquet(tmp_path, {"text": ["a", None], "n": [1, 2]})
    refused(lambda: rows_of(data, "parquet"), "the file, row 2: field 'text' is null, not a string")
    refused(lambda: rows_of(data, "parquet", field="n"), "the file, row 1: field 'n' is a number, not a string")
    refused(lambda: rows_of(data[:-9], "parquet"), "the file cannot be read as Parquet")
    refused(lambda: rows_of(b"no parquet at all", "parquet"), "the file cannot be read as Parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(
        lambda: rows_of(data, "parquet"),
        "which needs the package 'pyarrow'",
        "pip install 'cllm[parquet]'; the single-file cllm does without it",
    )


# Which format


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.txt", "text"),
        ("a.jsonl", "jsonl"),
        ("dir.csv/A.JSONL.GZ", "jsonl"),
        ("a.ndjson.zst", "jsonl"),
        ("a.csv.bz2", "csv"),
        ("a.tsv.xz", "tsv"),
        ("a.parquet", "parquet"),
        ("a.json", "text"),
        ("a.csv.txt", "text"),
        ("a.gz", "text"),
        (".csv", "text"),
        ("csv", "text"),
        ("-", "text"),
        ("", "text"),
        ("dir.csv/.gz", "text"),
    ],
)
def test_names_tell_formats(path, name):
    assert format_by_name(path) == name
    assert find_format("auto", path, b"some text", None).name == name
    assert find_format("csv", path, b"some text", None).name == "csv"


def test_parquet_is_known_by_its_ends_without_a_name(tmp_path):
    data = parquet(tmp_path, {"text": ["a", "b"]})
    for content, expected in (
        (data, "parquet"),
        (data[:-1], "text"),
        (b"PAR1 is a text", "text"),
        (b"PAR1", "parquet"),
    ):
        write(tmp_path, some_txt=content)
        with (tmp_path / "some.txt").open("rb") as file:
            file.seek(2)
            assert find_format("auto", "some.txt", content[:50], file).name == expected
            assert file.tell() == 2


def test_an_unknown_format_is_answered_with_the_nearest():
    with pytest.raises(ConfigError) as found:
        check_format("json")
    assert found.value.hint == "did you mean 'jsonl'?"
    check_format("auto")


def test_many_rows_take_no_memory_of_their_own(tmp_path):
    """The first document is there before the third row is asked for."""
    asked = []

    def rows():
        for index in range(5):
            asked.append(index)
            yield b'{"text": "' + words(index, 5).encode() + b'"}\n'

    documents = FORMATS.load("jsonl").documents(Source("the file", rows()), Reading())
    next(documents)
    assert len(asked) <= 2


@pytest.mark.parametrize("name", ["jsonl", "csv", "tsv", "parquet"])
def test_no_damage_is_more_than_an_error_of_ours(tmp_path, name):
    """Bytes changed, added and lost anywhere give rows, or a CorpusError, never anything else."""
    rng = random.Random(7)
    rows = [["id", "text"], *([str(index), text] for index, text in enumerate(TEXTS))]
    good = {
        "jsonl": lambda: json_lines([{"id": index, "text": text} for index, text in enumerate(TEXTS)]),
        "parquet": lambda: parquet(tmp_path, {"id": list(range(len(TEXTS))), "text": TEXTS}),
    }.get(name, lambda: table(rows, name))()
    found = [outcome(lambda: rows_of(mutated(good, rng), name)) for _ in range(300)]
    errors = [each for each in found if isinstance(each, CorpusError)]
    assert len(errors) > 10
    assert all(error.message.isprintable() and error.hint.isprintable() and error.hint for error in errors)
