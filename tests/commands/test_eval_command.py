"""`cllm eval`: the figures are those of an independent computation, whatever the text comes from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from reference import gpt2
from safetensors.numpy import load_file


def by_the_book(run, tokens, bytes_of):
    """loss, bits per byte, accuracy over all tokens but the first, in windows of T that do not overlap."""
    sizes = json.loads((run / "config.json").read_text())
    weights = {name: value.astype(np.float64) for name, value in load_file(run / "model.safetensors").items()}
    nats, hits = [], []
    for at in range(0, len(tokens) - 1, sizes["n_positions"]):
        window = np.array(tokens[at : at + sizes["n_positions"] + 1])
        x, y = window[None, :-1], window[None, 1:]
        nats += gpt2.losses(weights, x, y, n_head=sizes["n_head"]).ravel().tolist()
        hits += (gpt2.logits(weights, x, n_head=sizes["n_head"]).argmax(-1) == y).ravel().tolist()
    size = sum(bytes_of(token) for token in tokens[1:])
    return {
        "tokens": len(nats),
        "bytes": size,
        "loss": pytest.approx(np.mean(nats), rel=1e-5),
        "perplexity": pytest.approx(math.exp(np.mean(nats)), rel=1e-4),
        "bits_per_byte": pytest.approx(sum(nats) / math.log(2) / size, rel=1e-5),
        "accuracy": pytest.approx(np.mean(hits)),
    }


@pytest.fixture
def evaluate(cllm):
    """The one row of `cllm eval … --json`."""

    def run(*args, **more):
        done = cllm("eval", *args, "--json", **more).assert_done()
        (row,) = done.events
        assert row.pop("event") == "eval"
        return row

    return run


@pytest.mark.parametrize("count", [2, 8, 9, 10, 17, 300])
def test_the_figures_are_those_of_the_oracle(evaluate, run, some_words, count):
    text = some_words(7, 200).encode()[:count]
    Path("new.txt").write_bytes(text)
    assert evaluate(run, "new.txt") == by_the_book(run, list(text), lambda token: 1)


def test_without_text_it_scores_the_validation_split(evaluate, run, text):
    content = text.read_bytes()
    held_out = content[len(content) - round(len(content) / 10) :]
    assert evaluate(run) == by_the_book(run, list(held_out), lambda token: 1)


def test_characters_of_several_bytes_count_as_their_bytes(evaluate, cllm, tiny, some_words):
    text = some_words(3, 300).replace("a", "ä").replace("e", "…")
    Path("wide.txt").write_text(text, "utf-8")
    cllm("train", "wide.txt", "-o", "wide", "--tokenizer", "char", *tiny).assert_done()
    alphabet = sorted(set(text))
    tokens = [alphabet.index(character) for character in text]
    assert evaluate("wide", "wide.txt") == by_the_book(
        Path("wide"), tokens, lambda token: len(alphabet[token].encode())
    )


def test_several_documents_each_end_with_the_end_of_text(evaluate, cllm, tiny, some_words):
    Path("texts").mkdir()
    parts = [some_words(number, 60) for number in range(3)]
    for number, part in enumerate(parts):
        Path("texts", f"{number}.txt").write_text(part)
    cllm("train", "texts", "-o", "many", *tiny).assert_done()
    tokens = [token for part in parts for token in (*part.encode(), 256)]
    assert evaluate("many", "texts") == by_the_book(Path("many"), tokens, lambda token: int(token < 256))


def test_a_pipe_a_file_and_a_folder_with_it_score_alike(evaluate, run, text):
    Path("folder").mkdir()
    Path("folder", "text.txt").write_bytes(text.read_bytes())
    expected = evaluate(run, text)
    assert evaluate(run, "-", stdin=text.read_bytes()) == expected
    assert evaluate(run, "folder") == expected


@pytest.mark.parametrize("flags", [["--batch-size", 1], ["--batch-size", 7], ["--threads", 3]])
def test_batches_and_threads_change_little_and_nothing(evaluate, run, text, flags):
    assert evaluate(run, text, *flags)["loss"] == pytest.approx(evaluate(run, text)["loss"], rel=1e-6)
    if flags[0] == "--threads":
        assert evaluate(run, text, *flags) == evaluate(run, text)


def test_the_table_says_the_same(cllm, evaluate, run):
    row = evaluate(run)
    done = cllm("eval", run, "--quiet").assert_done()
    assert f"{row['loss']:.4f} nats a token" in done.out
    assert f"{row['bits_per_byte']:.3f}" in done.out
    assert f"{row['tokens']} tokens" in done.out
    assert done.err == ""
    assert "\x1b" not in done.out


def test_it_changes_nothing_in_the_run(cllm, run, contents):
    before = contents(run)
    cllm("eval", run).assert_done()
    assert contents(run) == before


def test_what_is_left_out_is_said_on_standard_error(cllm, run, text):
    Path("folder").mkdir()
    Path("folder", "text.txt").write_bytes(text.read_bytes())
    Path("folder", "image").write_bytes(bytes(100))
    done = cllm("eval", run, "folder", "--json").assert_done()
    assert len(done.events) == 1
    assert "left out: 1 binary" in done.err
