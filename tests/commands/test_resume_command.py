"""`cllm train --resume`: as if it had never stopped, and what may stand in its way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file


@pytest.fixture
def train(cllm, text, sizes):
    """Trains the tiny model into the folder `out`; only its sizes are given."""

    def run(*flags, corpus=text, **more):
        return cllm("train", corpus, "-o", "out", *sizes, *flags, **more)

    return run


LENGTH = ("--steps", 12, "--eval-every", 4, "--save-every", 4, "--log-every", 1)


@pytest.fixture(scope="module")
def whole(cllm, trained, sizes, bits, tmp_path_factory):
    """The bits and the steps of a run that never stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    cllm("train", trained / "text.txt", "-o", run, *sizes, *LENGTH).assert_done()
    return bits(run), losses(run)


def losses(run):
    events = map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
    return [(event["step"], event["loss"]) for event in events if event["event"] == "step"]


@pytest.mark.parametrize("stop", [1, 4, 7, 11])
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(train, whole, bits, stop):
    train(*LENGTH, "--stop-after", stop).assert_done()
    done = train("--resume", "--json").assert_done()
    assert bits(Path("out")) == whole[0]
    assert losses(Path("out")) == whole[1]
    assert done.of("step")[0]["step"] == stop + 1
    assert done.of("end")[0]["stopped"] == "steps"


def test_stopped_before_any_evaluation_the_model_is_the_current_weights(train):
    train(*LENGTH, "--stop-after", 3).assert_done()
    model = load_file("out/model.safetensors")
    state = load_file("out/checkpoint/step-00000003/state.safetensors")
    assert all(np.array_equal(model[name], state[name]) for name in model)


@pytest.fixture
def repeat(train):
    """Trains on three letters over and over, and validates on the same, or on their contrary, which gets worse.

    Three, since windows of eight then start with each of them.
    """
    Path("repeating.txt").write_text("abc" * 300, "utf-8")
    Path("contrary.txt").write_text("cba" * 100, "utf-8")
    rates = ("--lr", 0.01, "--min-lr", 0.01, "--warmup", 0)

    def run(validation, *flags):
        files = {"corpus": "repeating.txt", "stdin": b""}
        return train(
            *LENGTH, "--steps", 32, "--json", "--tokenizer", "char", "--val", validation, *rates, *flags, **files
        )

    return run


def test_the_model_is_that_of_the_best_validation_loss(repeat, cllm):
    done = repeat("contrary.txt", "--eval-batches", 1000).assert_done()
    losses = [event["val_loss"] for event in done.of("eval")]
    assert min(losses) < losses[-1] == done.of("end")[0]["val_loss"]
    assert done.of("end")[0]["best_val_loss"] == min(losses)
    assert cllm("eval", "out", "--json").assert_done().events[0]["loss"] == pytest.approx(min(losses), rel=1e-6)


@pytest.mark.parametrize("validation", ["repeating.txt", "contrary.txt"])
def test_at_the_end_both_losses_are_over_the_whole_text(repeat, cllm, validation):
    end = repeat(validation, "--eval-batches", 1).assert_done().of("end")[0]
    assert (end["best_val_loss"] < end["val_loss"]) == (validation == "contrary.txt")
    assert cllm("eval", "out", "--json").assert_done().events[0]["loss"] == pytest.approx(
        end["best_val_loss"], rel=1e-6
    )


def test_it_can_be_stopped_many_times_and_go_on_with_other_threads_and_intervals(train, whole, bits):
    train(*LENGTH, "--stop-after", 3).assert_done()
    for stop, threads in ((5, 2), (8, 3)):
        train("--resume", "--stop-after", stop, "--threads", threads, "--log-every", 2).assert_done()
    train("--resume", "--log-every", 1).assert_done()
    assert bits(Path("out")) == whole[0]


def test_a_longer_run_goes_on_from_the_end(train):
    train(*LENGTH).assert_done()
    done = train("--resume", "--steps", 16, "--json").assert_done()
    assert [event["step"] for event in done.of("step")] == [13, 14, 15, 16]


def test_a_finished_run_ends_at_once_with_the_same_result(train, bits):
    first = train(*LENGTH, "--json").assert_done().of("end")[0]
    before = bits(Path("out"))
    done = train("--resume", "--json").assert_done()
    assert not done.of("step")
    assert done.of("end")[0]["val_loss"] == first["val_loss"]
    assert bits(Path("out")) == before


def test_it_repeats_the_command_that_started_the_run(train, whole, bits):
    """Flags that say what the run is anyway are no contradiction."""
    train(*LENGTH, "--stop-after", 5).assert_done()
    train("--resume", *LENGTH).assert_done()
    assert bits(Path("out")) == whole[0]


def test_text_from_a_pipe_is_kept_and_used_in_place_of_it(train, whole, bits, text):
    train(*LENGTH, "--stop-after", 5, corpus="-", stdin=text.read_bytes()).assert_done()
    train("--resume", corpus="-", stdin=b"").assert_done()
    assert bits(Path("out")) == whole[0]


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_from_step_0_and_says_so(cllm, train, whole, bits):
    train(*LENGTH).assert_done()
    shutil.rmtree("out/checkpoint")
    Path("out/checkpoint").mkdir()
    Path("out/model.safetensors").unlink()
    Path("out/metrics.jsonl").unlink()
    for command in ("eval", "generate"):
        cllm(command, "out").assert_error(1, "out has no weights", "one that ended before goes on with --resume")
    done = train("--resume").assert_done()
    assert "starts again from step 0" in done.err
    assert bits(Path("out")) == whole[0]
    assert losses(Path("out")) == whole[1]


def test_such_a_run_stands_in_nobodys_way(train, whole, bits):
    """It has nothing to lose: the same command again needs no --force."""
    train(*LENGTH).assert_done()
    shutil.rmtree("out/checkpoint")
    Path("out/checkpoint").mkdir()
    Path("out/model.safetensors").unlink()
    train(*LENGTH).assert_done()
    assert bits(Path("out")) == whole[0]


def test_unless_it_keeps_the_text_of_a_pipe(train, text):
    train(*LENGTH, corpus="-", stdin=text.read_bytes()).assert_done()
    shutil.rmtree("out/checkpoint")
    Path("out/model.safetensors").unlink()
    train(*LENGTH, corpus="-", stdin=b"other text").assert_error(1, "there is a run in out")


@pytest.mark.parametrize("left", ["data", "data tokenizer.json", "data tokenizer.json config.json checkpoint", ""])
def test_what_a_kill_leaves_of_a_run_that_was_being_made_is_overwritten(train, whole, bits, left):
    train(*LENGTH).assert_done()
    for item in Path("out").iterdir():
        if item.name not in (".lock", *left.split()):
            shutil.rmtree(item) if item.is_dir() else item.unlink()
    if "checkpoint" in left:
        shutil.rmtree("out/checkpoint")
        Path("out/checkpoint").mkdir()
    Path("out/.tmp-1-config.toml").touch()
    train("--resume").assert_error(1, "there is no run in out")
    train(*LENGTH).assert_done()
    assert bits(Path("out")) == whole[0]
    assert not Path("out/.tmp-1-config.toml").exists()


def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_is_taken(train, whole, bits):
    train(*LENGTH).assert_done()
    newest = sorted(Path("out/checkpoint").iterdir())[-1] / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    done = train("--resume").assert_done()
    assert "step-00000012" in done.err
    assert "damaged" in done.err
    assert bits(Path("out")) == whole[0]


@pytest.mark.parametrize(
    "content", [b"", b"\x89\xff", b"[" * 100_000, b'{"format": ' + b"9" * 5000 + b"}", b"[]", b"1"]
)
@pytest.mark.parametrize("name", ["manifest.json", "state.safetensors"])
def test_without_a_whole_checkpoint_it_says_so_and_changes_nothing(train, contents, name, content):
    train(*LENGTH).assert_done()
    for checkpoint in Path("out/checkpoint").iterdir():
        (checkpoint / name).write_bytes(content)
    before = contents(Path())
    train("--resume").assert_error(1, "no checkpoint in out/checkpoint is whole", "--force")
    assert contents(Path()) == before


def test_another_corpus_is_refused(train, text, contents):
    train(*LENGTH).assert_done()
    text.write_text(text.read_text("utf-8") + "more", "utf-8")
    before = contents(Path())
    train("--resume").assert_error(1, "the corpus is not the one")
    assert contents(Path()) == before


def test_two_processes_do_not_train_in_one_folder(train, start, text, sizes):
    first = start("train", text, "-o", "out", *sizes, "--steps", "1000000", "--json", "--log-every", "1")
    while '"step"' not in first.stdout.readline():
        pass
    train("--resume").assert_error(1, "another process is training in out")
    train("--force").assert_error(1, "another process is training in out")


def test_force_starts_over_and_removes_nothing_that_is_not_of_a_run(train, whole, bits):
    train(*LENGTH, "--seed", 5).assert_done()
    Path("out/notes.txt").write_text("mine")
    train(*LENGTH, "--force").assert_done()
    assert bits(Path("out")) == whole[0]
    assert Path("out/notes.txt").read_text() == "mine"


def test_a_damaged_checkpoint_takes_the_place_of_no_good_one(train):
    train(*LENGTH).assert_done()
    newest = sorted(Path("out/checkpoint").iterdir())[-1] / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    train("--resume", "--stop-after", 10).assert_done()
    assert sorted(path.name for path in Path("out/checkpoint").iterdir()) == ["step-00000008", "step-00000010"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("step", "x"), ("step", 11), ("position", -5), ("metrics_bytes", "a"), ("metrics_bytes", -1), ("seconds", None)],
)
def test_a_manifest_that_was_changed_is_a_damaged_checkpoint(train, whole, bits, name, value):
    train(*LENGTH).assert_done()
    manifest = sorted(Path("out/checkpoint").iterdir())[-1] / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text("utf-8")), name: value}), "utf-8")
    done = train("--resume").assert_done()
    assert "step-00000012 is damaged" in done.err
    assert bits(Path("out")) == whole[0]


def test_text_from_a_pipe_is_not_replaced_by_another_unseen(train, text):
    """In place of `-` the stored text is taken; a file that is named is read, and must be the same text."""
    train(*LENGTH, "--stop-after", 5, corpus="-", stdin=text.read_bytes()).assert_done()
    Path("other.txt").write_text("another text, " * 100, "utf-8")
    train("--resume", corpus="nowhere.txt").assert_error(1, "nowhere.txt")
    train("--resume", corpus="other.txt").assert_error(1, "the corpus is not the one")
    train("--resume").assert_done()


def test_a_run_with_a_file_for_validation_goes_on_from_another_folder(cllm, text, sizes, monkeypatch):
    Path("val.txt").write_text("words to validate on, " * 20, "utf-8")
    text = text.absolute()
    flags = ("train", text, "-o", Path("out").absolute(), "--val")
    cllm(*flags, "val.txt", *sizes, *LENGTH, "--stop-after", 5).assert_done()
    Path("sub").mkdir()
    monkeypatch.chdir("sub")
    cllm("train", text, "-o", "../out", "--resume").assert_error(1, "val.txt", "hint: --val FILE names it")
    Path("other.txt").write_text("other words, " * 40, "utf-8")
    cllm(*flags, "other.txt", "--resume").assert_error(1, "the corpus is not the one")
    cllm(*flags, "../val.txt", "--resume", "--stop-after", 7).assert_done()
    monkeypatch.chdir("..")
    told = "note: reading what out names as its --val text: val.txt\n"
    assert told not in cllm("train", text, "-o", "out", "--resume", "--val", "val.txt", "--stop-after", 9).err
    assert cllm("train", text, "-o", "out", "--resume", "--quiet").assert_done().err == told


def test_a_count_that_settings_come_to_has_bounds_too(train, contents):
    before = contents(Path())
    train("--epochs", 1e9).assert_error(1, "--steps must be at most", "what the other settings come to")
    assert contents(Path()) == before
