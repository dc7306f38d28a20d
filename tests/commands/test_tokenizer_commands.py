"""Every tokenizer through the commands: a run carries it whole, and needs neither its file nor its learning again."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from tokenizer_files import spec_of

from cllm_cli.text.tokenizers import TOKENIZERS


@pytest.fixture(params=list(TOKENIZERS))
def given(request, tmp_path):
    """A specification, and a function that takes its file away."""
    spec = spec_of(request.param, tmp_path)
    return spec, lambda: Path(spec).unlink(missing_ok=True)


def test_train_eval_generate_resume_and_start_from(cllm, text, tiny, bits, given):
    spec, take_away = given
    flags = ("--tokenizer", spec, *tiny)
    whole = cllm("train", text, "-o", "whole", *flags, "--json").assert_done()
    cllm("train", text, "-o", "out", *flags, "--stop-after", 6).assert_done()
    take_away()
    cllm("train", text, "-o", "out", "--resume", "--quiet").assert_done()
    assert bits(Path("out")) == bits(Path("whole"))
    row = cllm("eval", "out", text, "--json").assert_done().events[0]
    assert row["bytes"] in range(text.stat().st_size - 20, text.stat().st_size)  # the first token is not scored
    assert row["bits_per_byte"] == pytest.approx(row["loss"] * row["tokens"] / row["bytes"] / math.log(2))
    end = whole.of("end")[0]
    assert cllm("eval", "whole", "--json").assert_done().events[0]["loss"] == pytest.approx(end["val_loss"], rel=1e-6)
    written = cllm("generate", "out", "--prompt", "a", "--tokens", 5, "--json").assert_done().of("text")[0]
    assert written["prompt"] == "a"
    cllm("train", text, "-o", "next", "--init-from", "out", "--steps", 2, "--quiet").assert_done()
    stored = [json.loads(Path(run, "tokenizer.json").read_text("utf-8")) for run in ("next", "out")]
    assert stored[0] == stored[1]
    cllm("train", text, "-o", "other", "--init-from", "out", "--tokenizer", "bpe:999").assert_error(1, "--tokenizer")


def test_a_pipe_is_learned_from_and_resumed(cllm, text, tiny, bits):
    pytest.importorskip("tokenizers")
    data = text.read_bytes()
    flags = ("--tokenizer", "bpe:300", *tiny)
    cllm("train", "-", "-o", "whole", *flags, "--quiet", stdin=data).assert_done()
    cllm("train", "-", "-o", "out", *flags, "--stop-after", 6, "--quiet", stdin=data).assert_done()
    cllm("train", "-", "-o", "out", "--resume", "--quiet").assert_done()
    assert bits(Path("out")) == bits(Path("whole"))


def test_a_size_that_is_not_reached_is_a_notice(cllm, text, tiny):
    pytest.importorskip("tokenizers")
    done = cllm("train", text, "-o", "out", "--tokenizer", "bpe:9999", *tiny, "--json").assert_done()
    assert any("not for 9,999" in event["message"] for event in done.of("notice"))


def test_a_narrow_vocabulary_is_refused(cllm, text, tiny):
    pytest.importorskip("tokenizers")
    flags = ("--tokenizer", "bpe:300", "--vocab-size", 299)
    cllm("train", text, "-o", "out", *tiny, *flags).assert_error(1, "--vocab-size 299", "300")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("bpe", ("bpe:SIZE", "bpe:4096")),
        ("bpe:12", ("256",)),
        ("none.json", ("none.json", "No such file")),
        ("text.txt", ("text.txt is no tokenizer", "tokenizer.json")),
        (".", ("no tokenizer in the folder",)),
        ("huggingface", ("its path alone",)),
    ],
)
def test_what_is_no_tokenizer_is_said(cllm, text, tiny, spec, words):
    pytest.importorskip("tokenizers")
    cllm("train", text, "-o", "out", "--tokenizer", spec, *tiny).assert_error(1, *words)
    assert not Path("out").exists()


def test_a_pipe_with_a_name_cannot_be_read_twice(cllm, tiny):
    pytest.importorskip("tokenizers")
    os.mkfifo("pipe")
    # Opened for both, so that neither side waits for the other.
    end = os.open("pipe", os.O_RDWR)
    try:
        cllm("train", "pipe", "--tokenizer", "bpe:300", "-o", "run", *tiny).assert_error(
            1, "pipe is a pipe", "with - for"
        )
    finally:
        os.close(end)
