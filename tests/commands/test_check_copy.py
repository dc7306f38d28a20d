"""`--check-copy`: what stands in the training text is told, wherever that text is now, and whatever is in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


@pytest.fixture
def check(cllm):
    """The event of `cllm eval … --check-copy --json`."""

    def run(*args, **more):
        done = cllm("eval", *args, "--check-copy", "--json", **more).assert_done()
        scored, copied = done.events
        assert (scored["event"], copied.pop("event")) == ("eval", "copy")
        return copied

    return run


def training_part(text):
    """The bytes of a text without its validation end."""
    content = text.read_bytes()
    return content[: len(content) - round(len(content) / 10)]


def test_a_passage_is_found_with_its_place(check, run, text):
    passage = training_part(text)[100:180]
    Path("new.txt").write_bytes(b"\x00\x01" + passage + b"\x02\x03")
    found = check(run, "new.txt")
    place = found.pop("overlap_at")
    assert training_part(text)[place : place + 80] == passage
    novel = found.pop("novel")
    assert found == {"tokens": 84, "overlap_tokens": 80, "overlap_bytes": 80, "overlap_text": passage.decode()}
    grams = {tuple(passage[at : at + 64]) for at in range(17)}
    assert novel["64"] == pytest.approx(4 / (len(grams) + 4))


def test_nothing_of_a_foreign_text_is_copied(check, run):
    Path("new.txt").write_bytes(bytes(range(200, 230)))
    found = check(run, "new.txt")
    assert found["overlap_tokens"] == found["overlap_bytes"] == 0
    assert found["overlap_text"] == ""
    assert found["overlap_at"] is None
    assert found["novel"] == {"4": 1.0, "8": 1.0, "16": 1.0, "32": None, "64": None}


def test_the_validation_text_is_no_training_text(check, run, text):
    """Without TEXT it is the validation text that is checked: of the whole file all of it would be found."""
    found = check(run)
    assert found["tokens"] == round(len(text.read_bytes()) / 10)
    assert found["overlap_tokens"] < found["tokens"]


def test_lengths_are_in_tokens_and_in_bytes(check, cllm, tiny, some_words):
    text = some_words(3, 300).replace("a", "ä").replace("e", "…")
    Path("wide.txt").write_text(text, "utf-8")
    cllm("train", "wide.txt", "-o", "wide", "--tokenizer", "char", *tiny).assert_done()
    Path("part.txt").write_text(text[50:90], "utf-8")
    found = check("wide", "part.txt")
    assert found["overlap_text"] == text[50:90]
    assert found["overlap_tokens"] == 40
    assert found["overlap_bytes"] == len(text[50:90].encode())
    assert text.encode()[found["overlap_at"] :].decode().startswith(text[50:90])


def test_the_training_text_of_a_token_store_is_in_the_store(check, cllm, tiny, text):
    cllm("tokenize", text, "--out", "text.tokens").assert_done()
    cllm("train", "text.tokens", "-o", "stored", *tiny).assert_done()
    Path("new.txt").write_bytes(training_part(text)[100:180])
    assert check("stored", "new.txt")["overlap_tokens"] == 80


def test_generated_text_is_checked_without_its_prompt(cllm, run, text):
    """At temperature 0 and far beyond the window, with a long passage of the training text as the prompt."""
    prompt = training_part(text)[:300].decode()
    done = cllm("generate", run, "--prompt", prompt, "--tokens", 50, "--check-copy", "--json").assert_done()
    written, copied = done.events
    assert written["event"] == "text"
    assert copied["tokens"] == 50
    assert copied["overlap_tokens"] <= 50
    assert copied["overlap_text"].encode() in training_part(text)


def test_generated_text_ends_before_its_stop(cllm, text, tiny):
    cllm("train", text, "-o", "letters", "--tokenizer", "char", *tiny).assert_done()
    flags = ("generate", "letters", "--tokens", 60, "--check-copy", "--json")
    whole, copied = cllm(*flags).assert_done().events
    assert copied["tokens"] == len(whole["text"]) == 60
    written, copied = cllm(*flags, "--stop", whole["text"][20:23]).assert_done().events
    assert copied["tokens"] == len(written["text"]) <= 20


def test_the_check_changes_no_letter_of_the_text(cllm, run):
    plain = cllm("generate", run, "--tokens", 30).assert_done()
    checked = cllm("generate", run, "--tokens", 30, "--check-copy").assert_done()
    assert checked.out == plain.out
    assert "longest copy" in checked.err
    assert "new n-grams     4 tokens" in checked.err


def test_the_lines_of_eval_are_results(cllm, run, text):
    Path("new.txt").write_bytes(training_part(text)[100:180])
    done = cllm("eval", run, "new.txt", "--check-copy").assert_done()
    assert done.err == f"note: reading what run names as its text: {text_of(run)}\n"
    assert "longest copy   80 tokens, 80 bytes, at byte 100 of the training text\n" in done.out
    assert "64 tokens    0.0 %\n" in done.out
    Path("new.txt").write_bytes(bytes(range(200, 230)))
    lines = cllm("eval", run, "new.txt", "--check-copy").assert_done().out.splitlines()
    assert lines[-6].split() == ["longest", "copy", "nothing"]
    assert lines[-2].split() == ["32", "tokens", "-"]


def test_hostile_characters_of_a_passage_are_shown_as_escapes(cllm, tiny, some_words):
    hostile = "\x1b]0;title\x07\r\n\u202e…\x9b2J"
    Path("odd.txt").write_text(some_words(1, 80) + hostile + some_words(2, 300), "utf-8")
    cllm("train", "odd.txt", "-o", "odd", *tiny).assert_done()
    Path("part.txt").write_text(hostile, "utf-8", newline="")
    Path("part.txt").write_bytes(hostile.encode())
    done = cllm("eval", "odd", "part.txt", "--check-copy").assert_done()
    assert r'"\x1b]0;title\x07\x0d\n\u202e…\x9b2J"' in done.out
    assert not {"\x1b", "\x07", "\r", "\u202e", "\x9b"} & set(done.out)


def test_of_a_long_passage_beginning_and_end_are_shown(cllm, run, text):
    passage = training_part(text)[:1000]
    Path("new.txt").write_bytes(passage)
    (line,) = (line for line in cllm("eval", run, "new.txt", "--check-copy").out.splitlines() if '"' in line)
    assert len(line) < 250
    assert " ... " in line
    assert line.endswith(passage[-20:].decode().replace("\n", r"\n") + '"')


# Where the training text is


def test_a_text_from_standard_input_is_kept_by_the_run(check, cllm, text, tiny):
    cllm("train", "-", "-o", "piped", *tiny, stdin=text.read_bytes()).assert_done()
    text.unlink()
    Path("new.txt").write_text("aeiou")
    assert check("piped", "new.txt")["tokens"] == 5


def test_it_is_found_from_any_folder(check, cllm, text, tiny, monkeypatch):
    cllm("train", "text.txt", "--val", "text.txt", "-o", "run", *tiny).assert_done()
    passage = text.read_bytes()[-90:]
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    Path("new.txt").write_bytes(passage)
    assert check("../run", "new.txt")["overlap_text"] == passage.decode()


def test_several_documents_are_those_of_the_training_side(check, cllm, tiny, some_words):
    Path("texts").mkdir()
    for number in range(8):
        Path("texts", f"{number}.txt").write_text(some_words(number, 40))
    cllm("train", "texts", "-o", "many", *tiny).assert_done()
    whole = {}
    for path in sorted(Path("texts").iterdir()):
        found = check("many", path)
        whole[path] = found["overlap_bytes"] == path.stat().st_size
    assert 0 < sum(whole.values()) < 8


def moved(text):
    text.rename("other.txt")


def changed(text):
    text.write_bytes(text.read_bytes().replace(b"a", b"o", 1))


def emptied(text):
    text.write_bytes(b"")


@pytest.mark.parametrize("command", ["eval run text2.txt", "generate run --tokens 5"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (moved, ("the training text of run cannot be read again", "text.txt")),
        (changed, ("the training text of run has changed",)),
        (emptied, ("the training text of run cannot be read again", "is empty")),
    ],
)
def test_a_text_that_is_gone_or_another_one_is_an_error(cllm, text, tiny, harm, words, command):
    cllm("train", text, "-o", "run", *tiny).assert_done()
    Path("text2.txt").write_bytes(text.read_bytes())
    harm(text)
    found = cllm(*command.split(), "--check-copy")
    note, error, hint = found.err.splitlines()
    assert found.code == 1
    assert note == f"note: reading what run names as its text: {text_of(Path('run'))}"
    assert all(word in error + hint for word in (*words, "--corpus PATH"))


def text_of(run):
    (source,) = json.loads((run / "data" / "corpus.json").read_text("utf-8"))["sources"]
    return source


@pytest.mark.parametrize("kind", ["fifo", "device", "none"])
def test_what_a_run_names_as_its_text_is_opened_only_where_it_is_a_file(cllm, run, kind):
    facts = json.loads((run / "data" / "corpus.json").read_text("utf-8"))
    del facts["sha256"]  # as a stranger would write it
    os.mkfifo("fifo")
    facts["sources"] = [{"fifo": str(Path("fifo").absolute()), "device": "/dev/zero", "none": "a\0b"}[kind]]
    (run / "data" / "corpus.json").write_text(json.dumps(facts), "utf-8")
    found = cllm("generate", run, "--tokens", 5, "--check-copy")
    assert found.code == 1
    assert "regular file" in found.err or "null" in found.err


def test_a_text_that_was_moved_can_be_named(check, cllm, run, text):
    whole = text.read_bytes()
    text.rename("moved.txt")
    Path("new.txt").write_bytes(whole[:50])
    assert check(run, "new.txt", "--corpus", "moved.txt")["overlap_bytes"] == 50
    Path("moved.txt").write_bytes(whole + b"!")
    flags = ("eval", run, "new.txt", "--check-copy", "--corpus")
    cllm(*flags, "moved.txt").assert_error(1, "moved.txt", "not the text that run was trained on")
    cllm(*flags, "nowhere.txt").assert_error(1, "no file or folder nowhere.txt")
    cllm(*flags, "-").assert_error(1, "not standard input")


@pytest.mark.parametrize("tokenizer", ["byte", "char"])
@pytest.mark.parametrize(
    ("source", "several"), [("a.tok", False), ("a.tok", True), ("text", False), ("text", True), ("-", False)]
)
def test_the_text_of_val_is_not_needed(check, cllm, text, tiny, some_words, source, several, tokenizer):
    """Its validation text gone, a run is checked against all of its own text, by whatever way that came to it."""
    Path("text").mkdir()
    text.rename("text/1.txt")
    if several:
        Path("text/2.txt").write_text(some_words(5, 40))
    Path("val.txt").write_text(some_words(6, 50))
    flags, stdin = ("--val", "val.txt", "--tokenizer", tokenizer), Path("text/1.txt").read_bytes()
    if source == "a.tok":
        cllm("tokenize", "text", "-o", source, *flags).assert_done()
        flags = ()
    cllm("train", source, "-o", "run", *flags, *tiny, stdin=stdin).assert_done()
    Path("val.txt").unlink()
    whole = Path("text/1.txt").stat().st_size
    assert check("run", "text/1.txt")["overlap_bytes"] == whole
    Path("text").rename("moved")
    assert check("run", "moved/1.txt", "--corpus", "moved")["overlap_bytes"] == whole
    Path("moved/3.txt").write_text(some_words(7, 10))
    flags = ("eval", "run", "moved/1.txt", "--check-copy", "--corpus")
    cllm(*flags, "moved").assert_error(1, "moved is not the text that run was trained on")


def test_of_many_paths_the_first_are_told(cllm, tiny, some_words):
    for number in range(8):
        Path(f"{number}.txt").write_text(some_words(number, 40))
    cllm("train", *(f"{number}.txt" for number in range(8)), "-o", "many", *tiny).assert_done()
    (note,) = cllm("eval", "many", "--check-copy").assert_done().err.splitlines()
    assert [f"{number}.txt" in note for number in range(8)] == [True] * 5 + [False] * 3
    assert note.endswith(" and 3 more")


def test_a_run_of_an_earlier_version_needs_to_be_told(check, cllm, run, text):
    facts = json.loads((run / "data/corpus.json").read_text())
    del facts["sha256"]
    for sources in ({}, {"sources": 7}, {"sources": []}, {"sources": [7]}):
        del facts["sources"]
        facts |= sources
        (run / "data/corpus.json").write_text(json.dumps(facts))
        cllm("eval", run, text, "--check-copy").assert_error(1, "does not say where its training text is", "--corpus")
        facts["sources"] = []
    assert check(run, text, "--corpus", text)["overlap_tokens"] == len(training_part(text))


def test_a_place_without_a_check_is_an_error(cllm, run, text):
    cllm("eval", run, text, "--corpus", text).assert_error(1, "--check-copy")


def test_it_changes_nothing_in_the_run(cllm, run, contents):
    before = contents(run)
    cllm("generate", run, "--tokens", 5, "--check-copy").assert_done()
    assert contents(run) == before


def test_a_run_that_notes_no_fingerprint_of_its_own_text_says_so(cllm, text, tiny, some_words):
    """An earlier version has made it: that the text has changed would be untrue."""
    Path("val.txt").write_text(some_words(6, 50))
    cllm("train", text, "-o", "run", "--val", "val.txt", *tiny).assert_done()
    facts = json.loads(Path("run/data/corpus.json").read_text("utf-8"))
    del facts["text_fingerprint"], facts["sha256"]
    Path("run/data/corpus.json").write_text(json.dumps(facts), "utf-8")
    cllm("eval", "run", "--check-copy").assert_error(1, "no fingerprint of its training text", "train again")
