"""`cllm tokenize`, and training on what it writes: the same bits as on the text."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tokenizer_files import byte_level, write_gpt2

from cllm_cli.text.store import Store

STORE = {"event", "path", "documents", "train_tokens", "val_tokens", "tokenizer", "vocab_size", "file_bytes", "sha256"}


@pytest.fixture
def folder(some_words):
    """A folder of texts."""
    Path("texts").mkdir()
    for number in range(6):
        Path(f"texts/{number}.txt").write_text(some_words(number, 120 + 30 * number), "utf-8")
    return Path("texts")


@pytest.mark.parametrize("spec", ["byte", "char"])
@pytest.mark.parametrize("source", ["text.txt", "texts"])
def test_training_on_a_store_gives_the_bits_of_training_on_the_text(cllm, text, folder, tiny, bits, spec, source):
    settings = ("--tokenizer", spec, "--val-fraction", "0.2")
    cllm("tokenize", source, "--out", "a.tok", *settings).assert_done()
    plain = cllm("train", source, "-o", "plain", *tiny, *settings, "--json").assert_done()
    for number, flags in enumerate(((), settings)):  # the store says by which settings it was made
        found = cllm("train", "a.tok", "-o", f"stored{number}", *tiny, *flags, "--json").assert_done()
        assert [event["loss"] for event in found.of("step")] == [event["loss"] for event in plain.of("step")]
        assert found.of("start")[0]["config"] == plain.of("start")[0]["config"]
        assert found.of("notice") == plain.of("notice")
        assert bits(Path(f"stored{number}")) == bits(Path("plain"))
        for name in ("tokenizer.json", "data/tokens.safetensors", "config.toml"):
            assert Path(f"stored{number}", name).read_bytes() == Path("plain", name).read_bytes()
        stored, read = (json.loads(Path(run, "data/corpus.json").read_text()) for run in (f"stored{number}", "plain"))
        for name in ("sources", "sha256"):
            assert stored.pop(name) != read.pop(name)
        assert stored == read


def test_a_run_goes_on_from_text_with_a_store_and_back(cllm, text, tiny, bits):
    cllm("tokenize", text, "-o", "a.tok").assert_done()
    cllm("train", text, "-o", "whole", *tiny).assert_done()
    cllm("train", text, "-o", "out", *tiny, "--stop-after", 4).assert_done()
    cllm("train", "a.tok", "-o", "out", "--resume", "--stop-after", 8).assert_done()
    cllm("train", text, "-o", "out", "--resume").assert_done()
    assert bits(Path("out")) == bits(Path("whole"))
    cllm("tokenize", text, "-o", "other.tok", "--val-fraction", 0.3).assert_done()
    cllm("train", "other.tok", "-o", "out", "--resume", "--steps", 20).assert_error(1, "--val-fraction 0.3, not 0.1")


def test_what_it_says(cllm, text, folder):
    done = cllm("tokenize", folder, "-o", "a.tok", "--json").assert_done()
    (row,) = done.events
    assert set(row) >= STORE
    assert row["event"] == "store"
    assert row["file_bytes"] == Path("a.tok").stat().st_size
    assert row["documents"] == 6
    store = Store(Path("a.tok"))
    assert (row["train_tokens"], row["val_tokens"]) == (store.train.size, store.val.size)
    shown = cllm("tokenize", text, "-o", "b.tok").assert_done().out
    assert "for training" in shown
    assert cllm("tokenize", text, "-o", "c.tok", "--quiet").assert_done().out == ""


def test_notices_go_to_standard_error(cllm, text):
    Path("texts").mkdir()
    for name in "ab":
        shutil.copy(text, f"texts/{name}.txt")
    done = cllm("tokenize", "texts", "-o", "a.tok", "--json").assert_done()
    assert "note: " in done.err
    assert len(done.events) == 1


def test_standard_input_becomes_a_store_once_and_for_all(cllm, text, tiny):
    cllm("tokenize", "-", "-o", "a.tok", stdin=text.read_bytes()).assert_done()
    cllm("train", "a.tok", "-o", "out", *tiny).assert_done()
    cllm("tokenize", text, "-o", "b.tok").assert_done()
    a, b = Store(Path("a.tok")), Store(Path("b.tok"))
    assert a.train.tobytes() + a.val.tobytes() == b.train.tobytes() + b.val.tobytes()


def test_validation_by_hand(cllm, text, tiny, some_words, bits):
    Path("val.txt").write_text(some_words(9, 60), "utf-8")
    cllm("tokenize", text, "-o", "a.tok", "--val", "val.txt").assert_done()
    cllm("train", "a.tok", "-o", "stored", *tiny).assert_done()
    cllm("train", text, "-o", "plain", *tiny, "--val", "val.txt").assert_done()
    assert bits(Path("stored")) == bits(Path("plain"))
    cllm("train", "a.tok", "-o", "out", *tiny, "--val", "val.txt").assert_error(1, "validation text of its own")


def test_weights_of_a_run_go_on_with_a_store_in_its_ids(cllm, folder, text, tiny):
    cllm("train", folder, "-o", "first", *tiny).assert_done()
    cllm("tokenize", text, "-o", "plain.tok").assert_done()
    flags = ("-o", "second", "--init-from", "first", "--steps", 4, "--dropout", 0)
    cllm("train", "plain.tok", *flags).assert_error(1, "ids of another tokenizer", "tokenizer.json")
    cllm("tokenize", text, "-o", "fit.tok", "--tokenizer", "first/tokenizer.json").assert_done()
    cllm("train", "fit.tok", *flags).assert_done()


def test_ids_and_texts_with_a_tokenizer_from_files(cllm, text, tiny):
    """GPT-2's two files, as nanoGPT's and llm.c's ids go with them: the store has the tokenizer whole."""
    pytest.importorskip("tokenizers")
    made = byte_level()
    vocabulary = write_gpt2(Path(), made)
    ids = np.array(made.encode(text.read_text("utf-8")).ids, "<u2")
    Path("train.bin").write_bytes(ids.tobytes())
    for source, flags in ((text, ()), ("train.bin", ("--ids",))):
        out = f"{source}.tok"
        found = cllm("tokenize", source, "-o", out, "--tokenizer", vocabulary, "--json", *flags).assert_done()
        assert found.events[0]["train_tokens"] + found.events[0]["val_tokens"] == ids.size
    for file in Path().glob("vocab*"):
        file.unlink()
    for source in (text, "train.bin"):
        cllm("train", f"{source}.tok", "-o", f"{source}.run", *tiny).assert_done()
        cllm("train", f"{source}.tok", "-o", f"{source}.run", "--resume", "--steps", 20).assert_done()
    cllm("tokenize", "train.bin", "--ids", "-o", "c.tok", "--tokenizer", "bpe:300").assert_error(
        1, "learned from a text"
    )


def test_files_of_ids(cllm, text, tiny, run, bits):
    ids = np.frombuffer(text.read_bytes(), np.uint8).astype("<u2")
    Path("train.bin").write_bytes(ids.tobytes())
    Path("harm.pkl").write_bytes(b"cos\nsystem\n(S'touch harmed'\ntR.")
    cllm("tokenize", "train.bin", "--ids", "-o", "a.tok").assert_error(1, "--tokenizer and its path")
    cllm("tokenize", "train.bin", "--ids", "-o", "a.tok", "--tokenizer", run / "tokenizer.json").assert_done()
    cllm("train", "a.tok", "-o", "ids", *tiny).assert_done()
    assert bits(Path("ids")) == bits(run)
    assert not Path("harmed").exists()
    flags = ("--ids", "-o", "b.tok", "--tokenizer", run / "tokenizer.json")
    Path("words.bin").write_bytes(b"no ids at all ")
    cllm("tokenize", "words.bin", *flags).assert_error(1, "words.bin", "none of the tokenizer's 256")
    cllm("tokenize", "a.tok", *flags).assert_error(1, "a.tok is a token store")
    assert not Path("b.tok").exists()


ERRORS = {
    "text.txt": (2, ("--out",)),
    "text.txt -o a.tok": (1, ("there is a token store a.tok", "--force")),
    "text.txt -o text.txt --force": (1, ("text.txt is there already", "no token store")),
    "text.txt -o run --force": (1, ("run is there already",)),
    "text.txt -o none/b.tok": (1, ("cannot write none/b.tok", "--out")),
    "text.txt -o b.tok --val-fraction 1": (2, ("--val-fraction",)),
    "text.txt -o b.tok --val-fraction 0": (2, ("--val-fraction",)),
    "text.txt -o b.tok --tokenizer bite": (1, ("unknown tokenizer", "byte")),
    "text.txt -o b.tok --tokenizer none.json": (
        1,
        (
            "cannot read none.json",
            "No such file",
        ),
    ),
    "text.txt -o b.tok --tokenizer config.json": (1, ("config.json is no tokenizer",)),
    "nowhere.txt -o b.tok": (1, ("no file or folder nowhere.txt",)),
    "short.txt -o b.tok": (1, ("too short",)),
    "a.tok -o b.tok": (1, ("a.tok is a token store, no text",)),
}


@pytest.mark.parametrize("line", ERRORS)
def test_errors_leave_everything_as_it_was(cllm, text, run, contents, line):
    cllm("tokenize", text, "-o", "a.tok").assert_done()
    Path("short.txt").write_text("x")
    Path("config.json").write_text("{}")
    before = contents(Path())
    code, fragments = ERRORS[line]
    cllm("tokenize", *line.split()).assert_error(code, *fragments)
    assert contents(Path()) == before


def test_force_replaces_a_store(cllm, text):
    cllm("tokenize", text, "-o", "a.tok").assert_done()
    cllm("tokenize", text, "-o", "a.tok", "--tokenizer", "char", "--force").assert_done()
    assert Store(Path("a.tok")).facts["tokenizer_spec"] == "char"
    assert sorted(path.name for path in Path().iterdir()) == ["a.tok", "text.txt"]


@pytest.mark.parametrize("line", ["train a.tok -o out", "train a.tok -o run --resume", "inspect a.tok"])
@pytest.mark.parametrize("place", ["cut", "byte", "tail"])
def test_a_damaged_store_is_refused_before_anything_is_written(cllm, text, run, contents, line, place):
    cllm("tokenize", text, "-o", "a.tok").assert_done()
    content = bytearray(Path("a.tok").read_bytes())
    content[len(content) // 2] ^= place == "byte"
    Path("a.tok").write_bytes(content[: -1 if place == "cut" else None] + b"x" * (place == "tail"))
    before = contents(Path())
    if place == "byte" and line == "inspect a.tok":
        found = cllm("inspect", "a.tok")
        assert found.code == 3
        assert "checksum" in found.out
    else:
        cllm(*line.split()).assert_error(1, "a.tok is damaged", "cllm tokenize")
    assert contents(Path()) == before


def test_a_store_among_texts_is_no_text(cllm, text):
    cllm("tokenize", text, "-o", "a.tok").assert_done()
    cllm("train", text, "a.tok", "-o", "out").assert_error(1, "a.tok is a token store, no text")
    cllm("train", text, "--val", "a.tok", "-o", "out").assert_error(1, "a.tok is a token store, no text")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_nothing(start, tmp_path, number):
    process = start("tokenize", "-", "-o", "a.tok", stdin=subprocess.PIPE)
    process.stdin.write("some text " * 100_000)  # more than a pipe holds: it is being read
    process.stdin.flush()
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert process.stderr.read().splitlines()[-2:] == [
        "error: ended at once",
        "hint: a token store appears when it is whole",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_a_validation_text_goes_on_from_its_store(cllm, text, tiny, bits, some_words):
    Path("val.txt").write_text(some_words(9, 200), "utf-8")
    flags = ("--val", "val.txt")
    cllm("train", text, "-o", "whole", *tiny, *flags).assert_done()
    cllm("train", text, "-o", "run", *tiny, *flags, "--stop-after", 4).assert_done()
    cllm("tokenize", text, "-o", "a.tok", *flags).assert_done()
    cllm("train", "a.tok", "-o", "run", "--resume").assert_done()
    assert bits(Path("run")) == bits(Path("whole"))
    copied = cllm("eval", "run", "--check-copy", "--corpus", "a.tok", "--json").assert_done().events[-1]
    assert copied["event"] == "copy"


@pytest.mark.parametrize("flags", [("--field", "body"), ("--encoding", "latin-1"), ("--split-on", "x")])
def test_how_text_is_read_is_no_question_to_a_store(cllm, text, tiny, flags):
    cllm("tokenize", text, "-o", "a.tok").assert_done()
    cllm("train", "a.tok", "-o", "run", *tiny, *flags).assert_error(1, flags[0], "a token store has no text")
    cllm("train", "a.tok", "-o", "run", *tiny, "--stop-after", 4).assert_done()
    before = Path("run/config.toml").read_bytes()
    cllm("train", "a.tok", "-o", "run", "--resume", *flags).assert_error(1, flags[0], "a token store has no text")
    assert Path("run/config.toml").read_bytes() == before


def test_a_compressed_store_is_no_text(cllm, text, tiny):
    cllm("tokenize", text, "-o", "a.tok").assert_done()
    Path("a.tok.gz").write_bytes(gzip.compress(Path("a.tok").read_bytes()))
    cllm("train", "a.tok.gz", "-o", "run", *tiny).assert_error(1, "is a token store, no text")


def test_the_tokenizer_of_a_run_gives_the_same_bits_to_a_text_and_its_store(cllm, folder, tiny, bits, text):
    """Of a run on one document, for several: it has no end of text, and gets none."""
    cllm("train", text, "-o", "first", "--tokenizer", "char", *tiny).assert_done()
    flags = ("--tokenizer", "first/tokenizer.json")
    cllm("tokenize", folder, "-o", "a.tok", *flags).assert_done()
    cllm("train", folder, "-o", "plain", *tiny, *flags).assert_done()
    cllm("train", "a.tok", "-o", "stored", *tiny).assert_done()
    for name in ("model.safetensors", "tokenizer.json", "data/tokens.safetensors"):
        assert Path("plain", name).read_bytes() == Path("stored", name).read_bytes()
    cllm("train", "a.tok", "-o", "on", *tiny, "--init-from", "first").assert_done()
