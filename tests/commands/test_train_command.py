"""`cllm train`: what it writes where, which settings win, and that what it does can be done again."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from cllm_cli.commands.naming import default_folder

KEYS = {
    "start": {"params", "train_tokens", "val_tokens", "memory_bytes", "config"},
    "compile": {"seconds"},
    "step": {"step", "loss", "lr", "grad_norm", "tokens_per_s", "ms"},
    "eval": {"step", "train_loss", "val_loss", "bits_per_byte", "perplexity"},
    "sample": {"step", "text"},
    "checkpoint": {"step", "path"},
    "end": {"step", "val_loss", "best_val_loss", "seconds", "stopped"},
}


@pytest.fixture
def train(cllm, text, tiny):
    """Trains the tiny model on text.txt into the folder `out`."""

    def run(*flags, corpus=(text,), **more):
        return cllm("train", *corpus, "-o", "out", *tiny, *flags, **more).assert_done()

    return run


@pytest.fixture
def stored(tmp_path):
    """The settings that the run in `out` has stored."""
    return lambda: tomllib.loads((tmp_path / "out" / "config.toml").read_text("utf-8"))


# What it writes


def test_json_events_have_the_keys_of_the_contract_and_end_comes_last(train):
    done = train("--json", "--sample-every", 6)
    assert {event["event"] for event in done.events} == KEYS.keys()
    for event in done.events:
        assert set(event) >= KEYS[event["event"]], event
    assert done.events[0]["event"] == "start"
    assert done.events[-1]["event"] == "end"
    assert len(done.of("end")) == len(done.of("start")) == 1
    assert set(done.of("start")[0]["memory_bytes"]) >= {"params", "grads", "optimizer", "activations", "total"}
    assert [event["step"] for event in done.of("step")] == [2, 4, 6, 8, 10, 12]
    assert done.of("end")[0]["stopped"] == "steps"
    assert done.err == ""


def test_the_last_val_loss_is_that_of_the_whole_split(train, cllm):
    end = train("--json", "--eval-batches", 1).of("end")[0]
    row = cllm("eval", "out", "--json").assert_done().events[0]
    assert end["val_loss"] == pytest.approx(row["loss"], rel=1e-6)


def test_memory_adds_up(train):
    memory = train("--json").of("start")[0]["memory_bytes"]
    assert memory.pop("total") == sum(memory.values())


def test_metrics_are_the_events(train, tmp_path):
    events = train("--json").events
    written = (tmp_path / "out" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in written] == events


def test_plain_output_has_no_escapes_and_ends_with_what_a_user_wants_to_know(train):
    done = train("--sample-every", 6)
    assert "\x1b" not in done.out + done.err
    assert "\r" not in done.out + done.err
    facts = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.out.splitlines())
    assert float(facts["validation loss"]) > 0
    assert float(facts["bits per byte"]) > 0
    assert facts["run folder"] == "out"
    assert facts["generate with"] == "cllm generate out"
    for start in ("start ", "step 2/12 ", "eval 6 ", "sample 6 ", "checkpoint 12 ", "end "):
        assert re.search(f"^{re.escape(start)}", done.err, re.MULTILINE), start


def test_quiet_leaves_the_results_alone(train):
    loud, quiet = train(), train("--quiet", "--force")
    assert quiet.err == ""
    assert quiet.out == loud.out


def test_quiet_and_json_go_together(train):
    done = train("--quiet", "--json")
    assert done.err == ""
    assert done.events[-1]["event"] == "end"


def test_the_command_to_generate_can_be_pasted(cllm, text, tiny):
    done = cllm("train", text, "-o", "a b's", *tiny, "--quiet").assert_done()
    assert done.out.splitlines()[-1].endswith("""cllm generate 'a b'"'"'s'""")


# Where it writes


@pytest.mark.parametrize(
    ("corpus", "folder"),
    [("text.txt", "text"), ("./text.txt", "text"), ("my.texts", "my.texts"), (".", "here"), ("-", "stdin")],
)
def test_the_default_folder_is_named_after_the_corpus(cllm, text, tiny, tmp_path, monkeypatch, corpus, folder):
    place = tmp_path / "here"
    (place / "my.texts").mkdir(parents=True)
    for path in (place / "text.txt", place / "my.texts" / "1.txt"):
        path.write_bytes(text.read_bytes())
    monkeypatch.chdir(place)
    cllm("train", corpus, *tiny, "--quiet", stdin=text.read_bytes()).assert_done()
    assert [path.name for path in (place / "runs").iterdir()] == [folder]


def test_a_run_is_called_after_its_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.book").mkdir()
    wanted = {"-": "stdin", "a.book": "a.book", "b.book.txt": "b.book", "x/c.txt": "c", ".": tmp_path.name}
    for corpus, name in wanted.items():
        assert default_folder([corpus, "other"]) == Path("runs") / name
    assert default_folder(["/"]) == Path("runs/corpus")


def test_a_run_folder_holds_what_the_contract_says(run):
    names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    assert names == {
        "config.toml",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "metrics.jsonl",
        "checkpoint",
        "data",
    }
    assert not list(run.rglob(".tmp-*"))


# Settings


def test_a_preset_is_overruled_by_a_file_and_a_file_by_flags(cllm, text, tiny, stored, tmp_path):
    (tmp_path / "some.toml").write_text("n_layer = 2\nn_embd = 24\nbatch_size = 3\nsteps = 2\nlr = 2\n")
    files = ("--preset", "nano", "--config", "some.toml")
    flags = ("--n_embd", 16, "--n-head", 2, "--block-size", 8, "--threads", 1, "--lr", 0.5)
    cllm("train", text, "-o", "out", *files, *flags).assert_done()
    found = stored()
    assert (found["n_embd"], found["lr"]) == (16, 0.5)  # the flags'
    assert (found["n_layer"], found["batch_size"], found["steps"]) == (2, 3, 2)  # the file's
    assert found["dropout"] == 0.0  # the preset's


def test_a_length_in_flags_replaces_another_one_in_the_file(cllm, text, sizes, stored, tmp_path):
    (tmp_path / "some.toml").write_text("steps = 1000\n")
    cllm("train", text, "-o", "out", *sizes, "--config", "some.toml", "--epochs", "0.02").assert_done()
    assert stored()["epochs"] == 0.02
    assert stored()["steps"] < 20


def test_the_stored_settings_can_be_used_again(train, cllm, text, bits, tmp_path):
    train()
    cllm("train", text, "-o", "again", "--config", "out/config.toml").assert_done()
    assert bits(tmp_path / "again") == bits(tmp_path / "out")


def test_what_is_stored_is_what_the_start_event_says(train, stored):
    assert train("--json").of("start")[0]["config"] == stored()


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        ("--learning-rate 0.01", "lr", 0.01),
        ("--learning_rate=0.01", "lr", 0.01),
        ("--max-iters 4", "steps", 4),
        ("--max_steps 4", "steps", 4),
        ("--gradient-accumulation-steps 2", "grad_accum", 2),
        ("--max-grad-norm 2", "grad_clip", 2.0),
        ("--warmup_steps 3", "warmup", 3),
        ("--val-split 0.2", "val_fraction", 0.2),
        ("--batch_size 3", "batch_size", 3),
        ("--lr 1", "lr", 1.0),
        ("--weight-decay 1", "weight_decay", 1.0),
    ],
)
def test_names_and_numbers_that_people_bring_along(cllm, text, tiny, stored, flags, name, value):
    cllm("train", text, "--out_dir", "out", *tiny, *flags.split(), "--quiet").assert_done()
    assert stored()[name] == value
    assert type(stored()[name]) is type(value)


@pytest.mark.parametrize("flag", ["--out-dir", "--output-dir", "--output_dir", "--out", "-o"])
def test_every_name_of_the_run_folder(cllm, text, tiny, tmp_path, flag):
    cllm("train", text, flag, "there", *tiny, "--quiet").assert_done()
    assert (tmp_path / "there" / "config.toml").exists()


def test_a_wider_vocabulary_is_rows_of_the_embedding(train, stored):
    assert (
        train("--json", "--vocab-size", 300).of("start")[0]["params"]
        > train("--json", "--force").of("start")[0]["params"]
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adam-embed"])
def test_every_optimizer_can_be_named(train, stored, optimizer):
    train("--optimizer", optimizer, "--lr", 0.01, "--nesterov")
    assert stored()["optimizer"] == optimizer
    assert stored()["nesterov"] is True


def test_dropout_of_the_default_settings_trains(train):
    """Without --dropout, a small corpus gets some."""
    assert train("--json", "--dropout", 0.1, "--sample-every", 6).of("end")[0]["stopped"] == "steps"


# Lengths


@pytest.mark.parametrize(
    ("flags", "steps", "stopped"),
    [("--steps 3", 3, "steps"), ("--epochs 0.02", None, "epochs"), ("--steps 9 --stop-after 4", 4, "stop-after")],
)
def test_why_a_run_stopped(cllm, text, sizes, flags, steps, stopped):
    end = cllm("train", text, "-o", "out", *sizes, *flags.split(), "--json").assert_done().of("end")[0]
    assert end["stopped"] == stopped
    assert end["step"] == steps or steps is None


@pytest.mark.slow
def test_minutes_become_a_number_of_steps_that_is_stored(cllm, text, sizes, stored):
    done = cllm("train", text, "-o", "out", *sizes, "--minutes", "0.05", "--json").assert_done()
    end = done.of("end")[0]
    assert end["stopped"] == "minutes"
    assert 1 < end["seconds"] < 12
    assert stored()["steps"] == end["step"]


# Text


def test_several_files_and_folders_are_one_corpus(cllm, tiny, some_words, tmp_path):
    (tmp_path / "more" / "deep").mkdir(parents=True)
    paths = ["a.txt", "more/b.txt", "more/deep/c.txt"]
    for number, path in enumerate(paths):
        (tmp_path / path).write_text(some_words(number, 150))
    done = cllm("train", "a.txt", "more", "-o", "out", *tiny, "--json").assert_done()
    found = done.of("start")[0]
    bytes_of_all = sum((tmp_path / path).stat().st_size for path in paths)
    assert found["train_tokens"] + found["val_tokens"] == bytes_of_all + len(paths)  # an end of text after each
    assert found["config"]["vocab_size"] == 257


def test_val_is_validated_on(cllm, text, tiny, some_words, tmp_path):
    (tmp_path / "other.txt").write_text(some_words(5, 100))
    start = cllm("train", text, "--val", "other.txt", "-o", "out", *tiny, "--json").assert_done().of("start")[0]
    assert start["train_tokens"] == text.stat().st_size
    assert start["val_tokens"] == (tmp_path / "other.txt").stat().st_size


def test_a_pipe_is_a_corpus(train, text, bits, tmp_path):
    train()
    expected = bits(tmp_path / "out")
    train("--force", corpus=["-"], stdin=text.read_bytes())
    assert bits(tmp_path / "out") == expected


def test_standard_input_that_is_closed_does_no_harm(train, monkeypatch, text):
    import sys

    from cllm_cli.main import main

    monkeypatch.setattr(sys, "stdin", None)
    assert main(["train", str(text), "--steps", "0"]) == 2
    assert main(["train", "-", "-o", "out"]) == 1


# The same again


def test_the_same_command_gives_the_same_bits(train, bits, tmp_path):
    first = train("--json")
    expected = bits(tmp_path / "out")
    second = train("--json", "--force")
    assert bits(tmp_path / "out") == expected
    timed = {"tokens_per_s", "ms", "seconds", "seconds_left"}
    one, two = ([{k: v for k, v in event.items() if k not in timed} for event in run.events] for run in (first, second))
    assert one == two


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(train, bits, tmp_path, threads):
    train()
    expected = bits(tmp_path / "out")
    train("--force", "--threads", threads)
    assert bits(tmp_path / "out") == expected


@pytest.mark.slow
def test_more_threads_than_cores_work(train, run_apart, text, tiny, bits, tmp_path):
    train()
    flags = [*tiny[: tiny.index("--threads")], *tiny[tiny.index("--threads") + 2 :], "--threads", 5]
    run_apart("train", text, "-o", "five", *flags, env={"NUMBA_NUM_THREADS": ""}).assert_done()
    assert bits(tmp_path / "five") == bits(tmp_path / "out")


def test_another_seed_gives_other_bits(train, bits, tmp_path):
    train()
    expected = bits(tmp_path / "out")
    train("--force", "--seed", 1)
    assert bits(tmp_path / "out") != expected


def test_init_from_takes_another_runs_weights(train, cllm, run):
    before = cllm("eval", run, "--json").assert_done().events[0]["loss"]
    flags = ["--init-from", run, "--lr", "1e-9", "--min-lr", "0", "--force"]
    after = train("--json", *flags).of("end")[0]["val_loss"]
    assert after == pytest.approx(before, abs=1e-4)
