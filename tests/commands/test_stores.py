"""Token stores through other commands: settings that follow a store, the tokenizer that it has, scores of its text."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from tokenizer_files import byte_level, write_gpt2


@pytest.fixture
def rows(some_words):
    """Thirty documents as the rows of a file, and how they are read."""
    lines = (json.dumps({"body": some_words(number, 40)}, ensure_ascii=False) + "\n" for number in range(30))
    Path("rows.jsonl").write_text("".join(lines), "utf-16-le")
    return ("--field", "body", "--encoding", "utf-16-le")


def test_a_run_on_a_store_knows_how_its_text_was_read(cllm, rows, tiny, bits):
    cllm("tokenize", "rows.jsonl", *rows, "-o", "a.tok", "--quiet").assert_done()
    assert "encoding utf-16-le, field body" in cllm("inspect", "a.tok").assert_done().out
    cllm("train", "rows.jsonl", *rows, "-o", "whole", *tiny).assert_done()
    cllm("train", "a.tok", "-o", "run", *tiny).assert_done()
    assert Path("run/config.toml").read_bytes() == Path("whole/config.toml").read_bytes()
    for run in ("run", "whole"):
        for corpus in ("rows.jsonl", "a.tok"):
            done = cllm("eval", run, "--check-copy", "--corpus", corpus, "--json").assert_done()
            assert done.of("copy")[0]["tokens"] > 0
    cllm("train", "a.tok", "-o", "part", *tiny, "--stop-after", 6).assert_done()
    cllm("train", "rows.jsonl", "-o", "part", "--resume").assert_done()
    assert bits(Path("part")) == bits(Path("whole"))


def test_the_settings_of_a_run_on_a_store_are_those_of_another(cllm, rows, tiny, bits):
    """A run's config.toml states how text is read, and names a tokenizer that was a file by its kind alone."""
    pytest.importorskip("tokenizers")
    write_gpt2(Path("gpt2"), byte_level())
    cllm("tokenize", "rows.jsonl", *rows, "-o", "a.tok", "--tokenizer", "gpt2").assert_done()
    cllm("train", "a.tok", "-o", "first", *tiny).assert_done()
    assert tomllib.loads(Path("first/config.toml").read_text())["tokenizer"] == "bpe"
    cllm("train", "a.tok", "-o", "second", "--config", "first/config.toml").assert_done()
    assert bits(Path("second")) == bits(Path("first"))
    named = ("--config", "first/config.toml", "--tokenizer", "first/tokenizer.json")
    cllm("train", "rows.jsonl", "-o", "third", *named).assert_done()  # the text has no tokenizer, so it is named
    assert bits(Path("third")) == bits(Path("first"))
    cllm("tokenize", "rows.jsonl", "--encoding", "utf-16-le", "--format", "text", "-o", "b.tok").assert_done()
    cllm("train", "b.tok", "-o", "fourth", "--config", "first/config.toml").assert_error(1, "--format", "no text")


def test_a_tokenizer_may_be_named_by_its_path(cllm, text, tiny, bits):
    pytest.importorskip("tokenizers")
    write_gpt2(Path("gpt2"), byte_level())
    write_gpt2(Path("other"), byte_level(300))
    cllm("tokenize", text, "-o", "a.tok", "--tokenizer", "gpt2").assert_done()
    cllm("train", "a.tok", "-o", "run", *tiny).assert_done()
    for number, spec in enumerate(("gpt2", "gpt2/vocab.json", "run/tokenizer.json")):
        cllm("train", "a.tok", "-o", f"{number}", "--tokenizer", spec, *tiny).assert_done()
        assert bits(Path(f"{number}")) == bits(Path("run"))
        assert tomllib.loads(Path(f"{number}/config.toml").read_text())["tokenizer"] == spec
    for flags in (("--init-from", "run"), ()):
        cllm("train", "a.tok", "-o", "next", "--tokenizer", "other", *flags, *tiny).assert_error(1, "--tokenizer")
    cllm("train", "a.tok", "-o", "next", "--init-from", "run", "--tokenizer", "gpt2", *tiny).assert_done()
    assert not Path("runs").exists()


@pytest.mark.parametrize("val", [(), ("--val", "val.txt")])
@pytest.mark.parametrize("source", ["text.txt", "rows.jsonl"])
def test_the_score_of_a_store_is_that_of_its_text(cllm, text, rows, tiny, some_words, source, val):
    Path("val.txt").write_text(some_words(70, 50), "utf-16-le" if source == "rows.jsonl" else "utf-8")
    how = rows if source == "rows.jsonl" else ()
    cllm("train", source, *how, *val, "-o", "run", *tiny).assert_done()
    cllm("tokenize", source, *how, *val, "-o", "a.tok", "--val-fraction", "0.4", "--quiet").assert_done()
    ours = cllm("eval", "run", "a.tok", "--json").assert_done().events
    if not val:
        assert ours == cllm("eval", "run", source, *how, "--json").assert_done().events
    else:
        end = 30 * (source == "rows.jsonl")  # of each row's text; the one for validation has none
        sizes = [cllm("inspect", path, *how, "--json").events[0]["bytes"] for path in (source, "val.txt")]
        assert ours[0]["tokens"] == sum(sizes) + end - 1
    assert cllm("eval", "run", "a.tok", "--check-copy", "--json").assert_done().of("copy")


@pytest.mark.parametrize("source", ["text.txt", "rows.jsonl"])
def test_scores_of_documents_are_those_of_the_text(cllm, text, rows, tiny, source):
    how = rows if source == "rows.jsonl" else ()
    cllm("train", source, *how, "-o", "run", *tiny).assert_done()
    cllm("tokenize", source, *how, "-o", "a.tok", "--val-fraction", "0.3", "--quiet").assert_done()
    ours = cllm("eval", "run", "a.tok", "--per-document", "--json").assert_done().events
    theirs = cllm("eval", "run", source, *how, "--per-document", "--json").assert_done().events
    assert [event.pop("id") for event in ours] == [*range(1, len(theirs) + 1)]
    assert {event.pop("file") for event in ours} == {"a.tok"}
    assert ours == [{name: value for name, value in event.items() if name not in ("id", "file")} for event in theirs]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("other.tok", ("other.tok is in the ids of another tokenizer", "RUN/tokenizer.json")),
        ("other.tok --per-document", ("other.tok is in the ids of another tokenizer",)),
        ("a.tok --per-line", ("--per-line takes lines of text", "--per-document")),
        ("a.tok --field body", ("--field", "a token store has no text")),
        ("a.tok text.txt", ("a.tok is a token store, no text",)),
        ("cut.tok", ("cut.tok is damaged",)),
    ],
)
def test_a_store_that_cannot_be_scored(cllm, text, run, line, words):
    cllm("tokenize", text, "-o", "a.tok").assert_done()
    cllm("tokenize", text, "-o", "other.tok", "--tokenizer", "char").assert_done()
    Path("cut.tok").write_bytes(Path("a.tok").read_bytes()[:-1])
    cllm("eval", run, *line.split()).assert_error(1, *words)


def test_files_of_ids_have_no_text_to_read(cllm, run):
    Path("train.bin").write_bytes(bytes(range(20)))
    flags = ("--ids", "-o", "a.tok", "--tokenizer", run / "tokenizer.json")
    cllm("tokenize", "train.bin", *flags, "--field", "body").assert_error(1, "--field", "files of ids have none")
