"""Files, folders and pipes: what is read, what is left out, and what people are told when nothing can be read."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from text_files import BOM, refused, words, write

from cllm_cli.errors import ConfigError, CorpusError
from cllm_cli.text import sources
from cllm_cli.text.corpus import check_long_enough, read_corpus


def test_a_folder_is_read_in_the_byte_order_of_its_names(tmp_path):
    write(tmp_path / "b", one_txt="3")
    write(tmp_path, Z_txt="1", a_txt="2", c_txt="5")
    write(tmp_path / "b" / "deep" / "er", x_txt="2.5")
    (tmp_path / "é.txt").write_text("6")
    files = sources.find_files([tmp_path]).files
    names = [Path(file.path).relative_to(tmp_path).as_posix() for file in files]
    assert names == ["Z.txt", "a.txt", "b/deep/er/x.txt", "b/one.txt", "c.txt", "é.txt"]


def test_what_is_no_text_is_left_out_and_counted(tmp_path):
    write(tmp_path, a_txt="text", b_bin=b"x" * 65_000 + b"\0", c_txt="", d_txt=BOM, late_txt=b"x" * 65_536 + b"\0")
    write(tmp_path / ".git", config="hidden")
    (tmp_path / ".hidden").write_text("hidden")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path)
    write(tmp_path / "runs" / "first", config_toml="steps = 1", metrics_jsonl="{}")
    corpus = read_corpus([tmp_path], "byte", 0.1)
    assert corpus.documents == 2
    assert corpus.skipped == {"binary": 1, "empty": 2, "hidden": 2, "no regular file": 3, "in a run folder": 2}
    assert corpus.notices[0] == "left out: 1 binary, 2 empty, 2 hidden, 2 in a run folder, 3 no regular file"
    listing = sources.find_files([tmp_path], sources.Wanted(include=["*.txt"]))
    assert listing.skipped == {"hidden": 2, "not included": 4, "in a run folder": 2}


def test_a_file_says_its_size_where_that_is_known(tmp_path):
    write(tmp_path, a_txt="four")
    os.mkfifo(tmp_path / "pipe")
    sizes = {name: sources.TextFile(str(tmp_path / name), named=True).size() for name in ("a.txt", "pipe", "none", "")}
    assert sizes == {"a.txt": 4, "pipe": 0, "none": 0, "": 0}


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        ("", None, "there is no text in", sources.HINT),
        ("", b"\0", "there is no text in", "left out: 1 binary; a file that is named itself is always read"),
        ("a.jsonl", b"\n", "there is no text in", "left out: 1 empty rows"),
        ("a.jsonl", b"", "is empty", sources.HINT),
    ],
)
def test_why_there_is_no_text(tmp_path, name, content, message, hint):
    if content is not None:
        (tmp_path / (name or "a.txt")).write_bytes(content)
    error = refused(lambda: read_corpus([tmp_path / name], "byte", 0.1), message)
    assert error.hint == hint


@pytest.fixture
def garden(tmp_path):
    write(tmp_path, a_txt="1", b_md="2", C_TXT="3")
    write(tmp_path / "en" / "deep", a_txt="4", x_txt="5")
    write(tmp_path / "node" / "en", a_txt="6")
    return tmp_path


@pytest.mark.parametrize(
    ("include", "exclude", "found", "skipped"),
    [
        ([], [], "C.TXT a.txt b.md en/deep/a.txt en/deep/x.txt node/en/a.txt", {}),
        (["*.txt"], [], "a.txt en/deep/a.txt en/deep/x.txt node/en/a.txt", {"not included": 2}),
        (["*.md", "C*"], [], "C.TXT b.md", {"not included": 4}),
        (["en/*"], [], "en/deep/a.txt en/deep/x.txt", {"not included": 4}),
        (["*/en/*"], [], "node/en/a.txt", {"not included": 5}),
        ([], ["en"], "C.TXT a.txt b.md", {"excluded": 2}),
        ([], ["en/"], "C.TXT a.txt b.md", {"excluded": 2}),
        ([], ["node/en", "x.txt"], "C.TXT a.txt b.md en/deep/a.txt", {"excluded": 2}),
        (["*.txt"], ["a.*"], "en/deep/x.txt", {"excluded": 3, "not included": 2}),
        (["[bC].*"], [], "C.TXT b.md", {"not included": 4}),
    ],
)
def test_patterns_choose_within_folders(garden, include, exclude, found, skipped):
    listing = sources.find_files([garden], sources.Wanted(include, exclude))
    names = [Path(file.path).relative_to(garden).as_posix() for file in listing.files]
    assert sorted(names) == found.split()
    assert listing.skipped == skipped
    slashed = sources.find_files([f"{garden}/"], sources.Wanted(include, exclude))
    assert len(slashed.files) == len(names)


def test_patterns_that_leave_nothing_are_told_and_named_files_always_read(garden):
    wanted = sources.Wanted(["*.rst"], ["a.txt"])
    refused(lambda: sources.find_files([garden], wanted), "no text in", "left out: 3 excluded, 3 not included")
    assert sources.find_files([garden / "a.txt"], wanted).files == [sources.TextFile(str(garden / "a.txt"), True)]


def test_a_link_to_a_file_is_read(tmp_path):
    write(tmp_path / "real", a_txt="text")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.txt").symlink_to(tmp_path / "real" / "a.txt")
    corpus = read_corpus([tmp_path / "links"], "byte", 0.5)
    assert corpus.train.tobytes() + corpus.val.tobytes() == b"text"


def test_a_file_that_is_named_is_read_even_if_it_looks_binary(tmp_path):
    write(tmp_path, _hidden=b"a\0b")
    corpus = read_corpus([tmp_path / ".hidden"], "byte", 0.5)
    assert corpus.notices == [f"{tmp_path}/.hidden looks like a binary file; it is read as it is"]
    assert corpus.train.tobytes() + corpus.val.tobytes() == b"a\0b"


def test_who_trains_on_a_file_of_ids_is_told(tmp_path):
    (tmp_path / "train.bin").write_bytes(bytes(range(200)) * 2)
    (notice,) = read_corpus([tmp_path / "train.bin"], "byte", 0.1).notices
    assert notice.endswith("it is read as it is; token ids are read by cllm tokenize --ids")


@pytest.mark.parametrize("spec", ["byte", "char"])
@pytest.mark.usefixtures("small_steps")
def test_standard_input_is_read_like_a_file(tmp_path, spec):
    text = words(2, 100)
    path = write(tmp_path, a_txt=text) / "a.txt"
    piped = read_corpus(["-"], spec, 0.1, stdin=io.BytesIO(text.encode()))
    named = read_corpus([path], spec, 0.1)
    assert (piped.train.tolist(), piped.val.tolist()) == (named.train.tolist(), named.val.tolist())
    assert piped.fingerprint == named.fingerprint
    assert piped.from_stdin
    assert not named.from_stdin
    assert list(piped.stored_tokens()) == ["train", "val"]
    assert list(named.stored_tokens()) == ["val"]


def test_the_process_own_standard_input_is_the_default(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped text")))
    corpus = read_corpus(["-"], "byte", 0.5)
    assert corpus.train.tobytes() + corpus.val.tobytes() == b"piped text"
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CorpusError, match="standard input is closed"):
        read_corpus(["-"], "byte", 0.5)


def test_a_pipe_can_be_named(tmp_path):
    """As in `cllm train <(zcat text.gz)`."""
    code = "from cllm_cli.text.corpus import read_corpus; print(read_corpus(['/dev/stdin'], 'char', 0.5).train.size)"
    done = subprocess.run([sys.executable, "-c", code], input=b"some text!", capture_output=True, check=True)
    assert done.stdout == b"5\n"


def test_missing_files_are_answered_with_the_nearest(tmp_path):
    write(tmp_path, corpus_txt="text")
    refused(
        lambda: read_corpus([tmp_path / "korpus.txt"], "byte", 0.1), "there is no file", "did you mean", "corpus.txt?"
    )
    refused(lambda: read_corpus([tmp_path / "no" / "such"], "byte", 0.1), "there is no file or folder", "CORPUS is")
    refused(lambda: read_corpus([""], "byte", 0.1), "there is no file or folder ''")
    refused(lambda: read_corpus(["a\0b"], "byte", 0.1), r"a\x00b")
    refused(lambda: read_corpus([], "byte", 0.1), "no text was named")


def test_all_sources_are_looked_for_before_any_is_read(tmp_path):
    path = write(tmp_path, a_txt="text") / "a.txt"
    untouched = io.BytesIO(b"text")
    refused(lambda: read_corpus(["-", path, tmp_path / "none"], "byte", 0.1, stdin=untouched), "there is no file")
    refused(lambda: read_corpus(["-"], "byte", 0.1, val=tmp_path / "none", stdin=untouched), "there is no file")
    assert untouched.tell() == 0


def test_names_are_safe_to_print(tmp_path):
    hostile = tmp_path / "a\x1b[2J\n\u202e\udcff.txt"
    refused(lambda: read_corpus([hostile], "byte", 0.1), r"a\x1b[2J\n\u202e\udcff.txt")
    hostile.write_bytes(b"\xff")
    refused(lambda: read_corpus([hostile], "char", 0.1), r"a\x1b[2J\n\u202e\udcff.txt is no UTF-8")
    hostile.write_bytes(b"")
    refused(lambda: read_corpus([hostile], "byte", 0.1), r"a\x1b[2J\n\u202e\udcff.txt is empty")
    hostile.write_bytes(b"a\0")
    assert all(notice.isprintable() for notice in read_corpus([hostile], "byte", 0.1).notices)


def test_what_the_system_refuses_is_named(tmp_path, monkeypatch):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    refused(lambda: read_corpus([loop], "byte", 0.1), "cannot read", "loop")
    path = write(tmp_path, a_txt="text") / "a.txt"

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", denied)
    refused(lambda: read_corpus([tmp_path], "byte", 0.1), "cannot read", "Permission denied", "check its permissions")
    monkeypatch.setattr(Path, "open", denied)
    refused(lambda: read_corpus([path], "byte", 0.1), "a.txt: Permission denied")


def test_an_error_while_reading_is_named():
    class Broken(io.BytesIO):
        def read1(self, *_):
            raise OSError(5, "Input/output error")

    refused(lambda: read_corpus(["-"], "byte", 0.1, stdin=Broken()), "cannot read standard input: Input/output error")


def test_emptiness_is_named(tmp_path):
    path = write(tmp_path / "files", a_txt="", b_txt=BOM) / "a.txt"
    refused(lambda: read_corpus([path], "byte", 0.1), "a.txt is empty")
    refused(lambda: read_corpus(["-"], "byte", 0.1, stdin=io.BytesIO()), "standard input is empty")
    refused(lambda: read_corpus([tmp_path / "files"], "byte", 0.1), "no text in", "left out: 2 empty")
    (tmp_path / "bare").mkdir()
    refused(lambda: read_corpus([tmp_path / "bare"], "byte", 0.1), "no text in")
    full = write(tmp_path, a_txt="text") / "a.txt"
    refused(lambda: read_corpus([full, tmp_path / "bare"], "byte", 0.1), "no text in", "bare")
    refused(lambda: read_corpus([full], "byte", 0.1, val=path), "files/a.txt is empty")
    write(tmp_path / "bare", a_bin=b"\0", _x="x")
    refused(lambda: read_corpus([tmp_path / "bare"], "byte", 0.1), "left out: 1 binary, 1 hidden")


def test_char_needs_utf8_and_says_where(tmp_path):
    write(tmp_path, a_txt="fine", b_txt=BOM + "größe".encode("latin-1"))
    refused(lambda: read_corpus([tmp_path], "char", 0.1), "b.txt is no UTF-8: byte 5 is 0xf6", "--tokenizer byte")
    assert read_corpus([tmp_path], "byte", 0.1).documents == 2
    torn = write(tmp_path, c_txt="torn é".encode()[:-1]) / "c.txt"
    refused(lambda: read_corpus([torn], "char", 0.1), "c.txt is no UTF-8: byte 5 is 0xc3 (unexpected end of data)")


def test_standard_input_is_read_only_once(tmp_path):
    refused(lambda: read_corpus(["-", "-"], "byte", 0.1, stdin=io.BytesIO(b"text")), "only once")
    refused(lambda: read_corpus(["-"], "byte", 0.1, val="-", stdin=io.BytesIO(b"text")), "both training and validation")


def test_an_unknown_tokenizer_is_refused_before_reading():
    with pytest.raises(ConfigError):
        read_corpus(["-"], "word", 0.1, stdin=None)


def test_a_text_shorter_than_a_window_is_refused_with_numbers(tmp_path):
    corpus = read_corpus([write(tmp_path, a_txt="x" * 1000) / "a.txt"], "byte", 0.1)
    check_long_enough(corpus, 899)
    refused(lambda: check_long_enough(corpus, 900), "900 tokens", "900 needs 901", "--block-size 899")
    short = read_corpus([tmp_path / "a.txt"], "byte", 0.001)
    refused(lambda: check_long_enough(short, 64), "1 token,", "--val-fraction")
    one = read_corpus([write(tmp_path, b_txt="x") / "b.txt"], "byte", 0.1)
    assert "block-size" not in refused(lambda: check_long_enough(one, 1), "0 tokens").hint
