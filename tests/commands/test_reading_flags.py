"""How text is read, as flags: the same for train and eval, stored with the run, and used again when it is resumed."""

from __future__ import annotations

import gzip
import json
import tomllib
from pathlib import Path

import pytest

ROWS = ("--format", "jsonl", "--field", "body.text")


@pytest.fixture
def rows(some_words):
    """Forty documents as rows in a compressed file of no telling name, and as files of a folder beside others."""
    texts = [some_words(number, 40) for number in range(40)]
    lines = "".join(json.dumps({"id": 1, "body": {"text": text}}) + "\n" for text in texts)
    Path("rows").write_bytes(gzip.compress(lines.encode()))
    for number, text in enumerate(texts):
        folder = Path("files", "old" if number % 2 else "new")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02}.txt").write_text(text, "utf-16")
    Path("files", "notes.md").write_text("no text of ours")
    return texts


def test_a_resumed_run_reads_as_it_did_before(cllm, rows, tiny, bits):
    whole = cllm("train", "rows", *ROWS, "-o", "whole", *tiny, "--json").assert_done()
    cllm("train", "rows", *ROWS, "-o", "part", *tiny, "--stop-after", 6).assert_done()
    stored = tomllib.loads(Path("part", "config.toml").read_text())
    assert (stored["format"], stored["field"], stored["errors"]) == ("jsonl", "body.text", "strict")
    cllm("train", "rows", "-o", "part", "--resume").assert_done()
    assert bits(Path("part")) == bits(Path("whole"))
    assert json.loads(Path("whole", "data", "corpus.json").read_text())["documents"] == 40
    assert whole.of("start")[0]["config"]["field"] == "body.text"


def test_the_same_text_in_another_form_may_be_resumed_with(cllm, rows, tiny, bits):
    cllm("train", "rows", *ROWS, "-o", "whole", *tiny).assert_done()
    cllm("train", "rows", *ROWS, "-o", "part", *tiny, "--stop-after", 6).assert_done()
    Path("text.txt").write_text("---".join(rows))
    flags = ("-o", "part", "--resume", "--format", "text", "--split-on", "---")
    cllm("train", "text.txt", *flags, "--errors", "replace").assert_done()
    assert bits(Path("part")) == bits(Path("whole"))
    cllm("train", "text.txt", "-o", "part", "--resume", "--split-on", r"\n").assert_error(1, "is not the one")


def test_what_is_chosen_of_a_folder_is_stored_too(cllm, rows, tiny):
    flags = ("--include", "*.txt", "--include", "*.rst", "--exclude", "old")
    cllm("train", "files", *flags, "-o", "run", *tiny, "--stop-after", 3).assert_done()
    stored = tomllib.loads(Path("run", "config.toml").read_text())
    assert (stored["include"], stored["exclude"]) == (["*.txt", "*.rst"], ["old"])
    assert json.loads(Path("run", "data", "corpus.json").read_text())["documents"] == 20
    cllm("train", "files", "-o", "run", "--resume").assert_done()
    cllm("train", "files", "--config", "run/config.toml", "-o", "again", *tiny).assert_done()
    again = json.loads(Path("again", "data", "corpus.json").read_text())
    assert again == json.loads(Path("run", "data", "corpus.json").read_text())


def test_eval_takes_the_same_flags(cllm, rows, run):
    expected = cllm("eval", run, "files", "--include", "*.txt", "--json").assert_done().events
    # The files of a folder come in the order of their names, folder by folder.
    ordered = rows[::2] + rows[1::2]
    Path("other.jsonl").write_text("".join(json.dumps({"body": {"text": text}}) + "\n" for text in ordered))
    assert cllm("eval", run, "other.jsonl", "--field", "body.text", "--json").assert_done().events == expected
    Path("other.txt").write_text("|".join(ordered))
    split = cllm("eval", run, "-", "--split-on", "|", "--json", stdin=Path("other.txt").read_bytes())
    assert split.assert_done().events == expected
    assert cllm("eval", run, "other.txt", "--json").assert_done().events != expected


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("rows --encoding latin-11", ("unknown encoding 'latin-11'", "did you mean 'latin")),
        ("rows --format json", ("unknown format 'json'", "did you mean 'jsonl'?")),
        ("rows --errors ignore", ("--errors must be strict or replace, not 'ignore'",)),
        ("rows --format jsonl", ("rows, line 1 has no field 'text'", "it has: 'id', 'body'")),
        ("files --include *.rst", ("no text in files", "41 not included")),
        ("rows --split-on \\q", ("escape that is unknown",)),
    ],
)
@pytest.mark.parametrize("command", ["train", "eval"])
def test_what_is_wrong_with_them_is_told_and_nothing_is_made(cllm, rows, run, contents, command, flags, said):
    before = contents(Path())
    arguments = (command, *flags.split()) if command == "train" else (command, run, *flags.split())
    cllm(*arguments).assert_error(1, *said)
    assert contents(Path()) == before


def test_flags_about_a_text_that_is_not_there_are_refused(cllm, run):
    cllm("eval", run, "--field", "body").assert_error(1, "--field says how TEXT is read", "name a text")
