"""`cllm eval --per-line` and `--per-document` as a filter, and names of files from `find -print0`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def per_line(cllm, run):
    """The events of `cllm eval run … --per-line`."""
    return lambda *args, **more: cllm("eval", run, *args, "--per-line", "--json", **more).assert_done().events


def whole(cllm, run, content):
    """What `cllm eval` says of a text."""
    Path("whole.txt").write_bytes(content)
    (row,) = cllm("eval", run, "whole.txt", "--json").assert_done().events
    return {name: row[name] for name in ("tokens", "bytes")} | {
        name: pytest.approx(row[name], rel=1e-5) for name in ("loss", "bits_per_byte")
    }


def test_each_line_has_the_score_of_a_text_of_its_own(cllm, per_line, run, text):
    lines = text.read_bytes().splitlines()[:20]
    rows = per_line("-", stdin=b"\n".join(lines))
    assert [row["id"] for row in rows] == list(range(1, 21))
    for row, line in zip(rows, lines, strict=True):
        assert row == {"event": "score", "id": row["id"], "file": "-", **whole(cllm, run, line)}


def test_a_line_without_a_score_keeps_its_place(per_line):
    rows = per_line("-", stdin=b"\nx\n\xff\x00\r\n")
    assert [(row["tokens"], row["bytes"]) for row in rows] == [(0, 0), (0, 0), (1, 1)]
    assert rows[0] == {
        "event": "score", "id": 1, "file": "-", "tokens": 0, "bytes": 0, "loss": None, "bits_per_byte": None
    }  # fmt: skip


def test_no_lines_have_no_scores(cllm, run):
    done = cllm("eval", run, "-", "--per-line", stdin=b"").assert_done()
    assert done.out == done.err == ""


def test_an_end_of_text_token_comes_before_each(cllm, tiny, some_words):
    Path("texts").mkdir()
    for number in range(3):
        Path("texts", f"{number}.txt").write_text(some_words(number, 60))
    cllm("train", "texts", "-o", "many", *tiny).assert_done()
    rows = cllm("eval", "many", "-", "--per-line", "--json", stdin=b"a\n\nabc").assert_done().events
    assert [(row["tokens"], row["bytes"]) for row in rows] == [(1, 1), (0, 0), (3, 3)]
    assert rows[0]["loss"] > 0


def test_documents_are_known_by_their_files(cllm, run, some_words):
    Path("texts").mkdir()
    for number in range(3):
        Path("texts", f"{number}.txt").write_text(some_words(number, 60))
    Path("texts", "image").write_bytes(bytes(9))
    done = cllm("eval", run, "texts", "--per-document", "--json").assert_done()
    assert [row["id"] for row in done.events] == [f"texts/{number}.txt" for number in range(3)]
    for row in done.events:
        expected = whole(cllm, run, Path(row["file"]).read_bytes())
        assert {name: row[name] for name in expected} == expected
    assert done.err == "note: left out: 1 binary\n"


def test_columns_say_the_same(cllm, per_line, run, text):
    rows = per_line(text)
    done = cllm("eval", run, text, "--per-line").assert_done()
    assert done.err == ""
    shown = [line.split("\t") for line in done.out.splitlines()]
    assert shown == [
        [str(row["id"]), str(row["tokens"]), str(row["bytes"]), f"{row['loss']:.4f}", f"{row['bits_per_byte']:.4f}"]
        for row in rows
    ]
    assert cllm("eval", run, "-", "--per-line", stdin=b"\n").out == "1\t0\t0\t-\t-\n"


def test_of_several_files_lines_have_their_names(cllm, run):
    Path("a\x1b\t.txt").write_text("one\ntwo\n")
    Path("b.txt").write_text("three\n")
    out = cllm("eval", run, "a\x1b\t.txt", "b.txt", "--per-line").assert_done().out
    assert [line.split("\t")[0] for line in out.splitlines()] == [r"a\x1b\t.txt:1", r"a\x1b\t.txt:2", "b.txt:1"]


def test_what_comes_before_an_unknown_character_is_scored(cllm, text, tiny):
    cllm("train", text, "-o", "letters", "--tokenizer", "char", *tiny).assert_done()
    done = cllm("eval", "letters", "-", "--per-line", stdin="aei\nou\nöl\nae".encode())
    assert done.code == 1
    assert [line.split("\t")[0] for line in done.out.splitlines()] == ["1", "2"]
    assert done.err.startswith("error: line 3 of standard input has a character")


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ("--per-line --per-document text.txt", 1, ("--per-line and --per-document exclude each other",)),
        ("--per-line --check-copy text.txt", 1, ("--per-line and --check-copy exclude each other",)),
        ("--per-line", 2, ("--per-line needs TEXT",)),
        ("--per-document", 2, ("--per-document needs TEXT",)),
        ("--per-line nowhere.txt", 1, ("nowhere.txt",)),
        ("--files0-from names text.txt", 2, ("--files0-from and TEXT exclude each other",)),
        ("--files0-from nowhere", 1, ("nowhere",)),
        ("--files0-from gone", 1, ("no file or folder no.txt",)),
        ("--files0-from -", 1, ("no file names in standard input",)),
    ],
)
def test_what_does_not_fit_together_is_an_error(cllm, run, flags, code, words):
    Path("names").write_bytes(b"text.txt\0")
    Path("gone").write_bytes(b"text.txt\0no.txt\0")
    cllm("eval", run, *flags.split()).assert_error(code, *words)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ("text.txt --files0-from names", 2, ("--files0-from and CORPUS exclude each other",)),
        ("--files0-from - --val -", 1, ("both file names and validation text",)),
        ("--files0-from gone", 1, ("no file or folder no.txt",)),
        ("--files0-from empty", 1, ("name 2 in empty is empty", "-print0")),
    ],
)
def test_what_does_not_fit_together_is_an_error_of_train(cllm, text, flags, code, words):
    Path("names").write_bytes(b"text.txt\0")
    Path("gone").write_bytes(b"text.txt\0no.txt\0")
    Path("empty").write_bytes(b"text.txt\0\0")
    cllm("train", *flags.split(), "-o", "new").assert_error(code, *words)
    assert not Path("new").exists()


def test_names_of_files_are_as_good_as_arguments(cllm, tiny, some_words, bits):
    names = ["b.txt", "a b\n.txt", "c.txt"]
    for number, name in enumerate(names):
        Path(name).write_text(some_words(number, 90))
    cllm("train", *names, "-o", "one", *tiny).assert_done()
    listed = "\0".join(names).encode()
    cllm("train", "--files0-from", "-", "-o", "two", *tiny, stdin=listed).assert_done()
    assert bits(Path("one")) == bits(Path("two"))
    expected = cllm("eval", "one", *names).assert_done().out
    assert cllm("eval", "two", "--files0-from", "-", stdin=listed).assert_done().out == expected
    assert cllm("eval", "two", "--files0-from", "-", "--check-copy", stdin=listed).assert_done().out
    cllm("tokenize", *names, "-o", "one.tok").assert_done()
    cllm("tokenize", "--files0-from", "-", "-o", "two.tok", stdin=listed).assert_done()
    assert Path("one.tok").read_bytes() == Path("two.tok").read_bytes()
    expected = cllm("inspect", *names, "--json").assert_done().out
    assert cllm("inspect", "--files0-from", "-", "--json", stdin=listed).assert_done().out == expected


@pytest.mark.parametrize("line", ["tokenize -o a.tok", "inspect", "train -o new"])
def test_a_command_that_needs_files_says_so(cllm, line):
    cllm(*line.split()).assert_error(2, " is missing", f"cllm {line.split()[0]} --help")
    cllm(*line.split(), "a.txt", "--files0-from", "names").assert_error(2, "exclude each other")
    assert not list(Path().iterdir())


def test_names_and_validation_text_cannot_both_come_from_standard_input(cllm):
    flags = ("--files0-from", "-", "--val", "-", "-o", "a.tok")
    cllm("tokenize", *flags).assert_error(1, "both file names and validation text")


def test_a_run_named_after_a_list_is_named_after_its_first_file(cllm, text, tiny):
    cllm("train", "--files0-from", "-", *tiny, stdin=b"text.txt").assert_done()
    assert Path("runs/text/model.safetensors").exists()


# In processes of their own


@pytest.mark.slow
def test_standard_input_is_answered_before_it_ends(start, run):
    reading, writing = os.pipe()
    process = start("eval", run, "-", "--per-line", stdin=reading)
    os.close(reading)
    for number in range(1, 4):
        os.write(writing, b"some line\n")
        assert process.stdout.readline().startswith(f"{number}\t8\t")
    os.close(writing)
    assert process.stdout.read() == ""
    assert process.wait(60) == 0


@pytest.mark.slow
def test_a_reader_that_has_had_enough_ends_it_quietly(start, run):
    Path("long.txt").write_bytes(b"some line\n" * 60_000)
    process = start("eval", run, "long.txt", "--per-line")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == ""
