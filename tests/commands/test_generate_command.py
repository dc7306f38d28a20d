"""`cllm generate`: a seed decides the text; it streams; a stop is not printed."""

from __future__ import annotations

import json
import os
import pty
from pathlib import Path

import pytest


@pytest.fixture
def generate(cllm, run):
    """What `cllm generate run …` writes."""
    return lambda *args, **more: cllm("generate", run, *args, **more).assert_done().out


def test_the_same_seed_writes_the_same_text(generate):
    first = generate("--tokens", 40, "--seed", 3)
    assert generate("--tokens", 40, "--seed", 3) == first
    assert generate("--tokens", 40, "--seed", 4) != first
    assert generate("--tokens", 40) == generate("--tokens", 40, "--seed", 1337)


def test_threads_change_no_letter(generate):
    assert generate("--tokens", 30, "--threads", 1) == generate("--tokens", 30, "--threads", 2)


def test_a_longer_text_begins_with_the_shorter_one(generate):
    """The window is 8 tokens: the longer text has left it many times."""
    short, long = (json.loads(generate("--tokens", n, "--json"))["text"] for n in (20, 60))
    assert long.startswith(short.rstrip("\ufffd"))


def test_the_prompt_comes_first_and_a_line_end_last(generate):
    out = generate("--prompt", "the end", "--tokens", 5)
    assert out.startswith("the end")
    assert out.endswith("\n")
    assert len(out) >= len("the end") + 2


def test_a_prompt_longer_than_the_window_is_no_error(generate, text):
    prompt = text.read_text("utf-8")[:500]
    assert generate("--prompt", prompt, "--tokens", 5).startswith(prompt)


def test_a_prompt_from_standard_input(generate):
    assert generate("--prompt", "-", "--tokens", 9, stdin=b"so ") == generate("--prompt", "so ", "--tokens", 9)


def test_a_prompt_that_is_no_utf_8_is_an_error(cllm, run):
    cllm("generate", run, "--prompt", "-", stdin=b"ab\xff").assert_error(1, "the prompt is no UTF-8: byte 2")


def test_an_empty_prompt_is_none(generate):
    assert generate("--prompt", "", "--tokens", 9) == generate("--tokens", 9)
    assert generate("--prompt", "-", "--tokens", 9, stdin=b"") == generate("--tokens", 9)


def test_temperature_0_takes_the_likeliest_whatever_the_seed(generate):
    flags = ("--tokens", 20, "--temperature", 0)
    assert generate(*flags, "--seed", 1) == generate(*flags, "--seed", 2)
    assert generate(*flags) == generate("--tokens", 20, "--top-k", 1)
    assert generate(*flags) == generate("--tokens", 20, "--top-p", 0)


@pytest.mark.parametrize("temperature", ["1e-300", "1e-320", "1e308", "inf"])
def test_extreme_temperatures_draw_tokens_all_the_same(cllm, run, temperature):
    done = cllm("generate", run, "--tokens", 5, "--temperature", temperature).assert_done()
    assert done.err == ""


def test_a_stop_is_not_printed(generate):
    plain = json.loads(generate("--tokens", 60, "--json"))["text"]
    stop = plain[20:23]
    expected = plain[: plain.index(stop)]
    assert json.loads(generate("--tokens", 60, "--json", "--stop", stop))["text"] == expected
    assert generate("--tokens", 60, "--stop", stop, "--stop", "never there") == expected + "\n"


def test_json_is_one_line_of_prompt_and_text(cllm, run):
    done = cllm("generate", run, "--prompt", "the", "--tokens", 9, "--json").assert_done()
    (row,) = done.events
    assert row["event"] == "text"
    assert row["prompt"] == "the"
    plain = cllm("generate", run, "--prompt", "the", "--tokens", 9).assert_done()
    assert plain.out == "the" + row["text"] + "\n"
    assert done.err == plain.err == ""


@pytest.mark.parametrize("name", ["--tokens", "--max-new-tokens", "--max_new_tokens"])
def test_every_name_of_the_number_of_tokens(generate, name):
    assert generate(name, 7) == generate("--tokens", 7)


def test_it_changes_nothing_in_the_run(generate, run, contents):
    before = contents(run)
    generate("--tokens", 5)
    assert contents(run) == before


# Streams of its own


@pytest.mark.slow
def test_text_comes_as_it_is_produced(start, run):
    process = start("generate", run, "--prompt", "the", "--tokens", 10**9)
    assert process.stdout.read(40).startswith("the")
    assert process.poll() is None


@pytest.mark.slow
def test_a_reader_that_has_had_enough_ends_it_quietly(start, run):
    process = start("generate", run, "--tokens", 10**9)
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == ""


@pytest.mark.slow
def test_bytes_of_the_command_line_that_are_no_text_are_a_prompt_for_bytes(run_apart, run):
    done = run_apart("generate", run, "--prompt", os.fsdecode(b"a\xff"), "--tokens", 3).assert_done()
    assert done.out.startswith("a")


@pytest.mark.slow
def test_a_terminal_gets_no_control_characters(start, run):
    """Bytes that a young model draws are as likely to be an escape as a letter."""
    leader, follower = pty.openpty()
    process = start(
        "generate", run, "--tokens", 400, "--temperature", 100, "--prompt", "\x1b]0;title\x07", stdout=follower
    )
    os.close(follower)
    received = b""
    while True:
        try:
            received += os.read(leader, 4096)
        except OSError:  # the other end was closed
            break
    os.close(leader)
    assert process.wait(60) == 0
    assert not {byte for byte in received if byte < 32} - set(b"\r\n\t")
    assert b"\\x1b]0;title\\x07" in received


def test_a_young_model_and_a_file_get_the_text_as_it_is(generate):
    assert "\x1b" in generate("--prompt", "\x1b", "--tokens", 3)


@pytest.mark.slow
def test_ctrl_c_is_130(start, run):
    import signal

    process = start("generate", run, "--tokens", 10**9)
    process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    assert process.wait(60) == 130
    assert "Traceback" not in process.stderr.read()


def test_a_model_that_was_moved_still_generates(generate, run, cllm):
    expected = generate("--tokens", 9)
    run.rename("elsewhere")
    assert cllm("generate", Path("elsewhere"), "--tokens", 9).assert_done().out == expected
