"""Training as a library: records, an end at any of them, and one run after another."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import handles_within

from cllm_cli.config import make_settings
from cllm_cli.config_file import read_toml
from cllm_cli.errors import Interrupted, RunError
from cllm_cli.training import loop


def events(records):
    return [record.event for record in records if record.event]


def test_records_come_in_order(run):
    found = events(run(eval_batches=100))
    assert [event for event in found if event != "notice"] == [
        *["start", "compile"],
        *["step"] * 3 + ["eval", "checkpoint"],
        *["step"] * 3 + ["eval", "checkpoint"],
        "end",
    ]


def test_the_same_settings_give_the_same_numbers(run):
    def losses(name, **more):
        return [record.loss for record in run(name, **more) if record.event == "step"]

    first = losses("one")
    assert losses("two") == first
    assert losses("three", seed=2) != first


def test_a_run_can_be_left_at_any_record_and_gone_on_with(run, tmp_path):
    whole = [record for record in run("whole") if record.event == "step"]
    for stop in range(1, 12):
        name = f"left-{stop}"
        records = run(name)
        for _ in range(stop):
            next(records)
        records.close()  # the lock is given back
        rest = [record for record in run(name, resume=True) if record.event == "step"]
        assert [record.loss for record in rest] == [record.loss for record in whole[-len(rest) :]]
        left, right = (load_file(tmp_path / each / "model.safetensors") for each in ("whole", name))
        assert all(np.array_equal(left[key], right[key]) for key in left)


def test_a_run_that_is_under_way_is_locked(run):
    records = run()
    next(records)
    with pytest.raises(RunError, match="another process is training"):
        next(run(resume=True))
    records.close()
    assert events(run(resume=True))[-1] == "end"


def test_a_run_that_cannot_begin_gives_its_folder_back(run, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("cllm_cli.training.loop.Validation", fail)
    with pytest.raises(MemoryError):
        list(run())
    assert handles_within(tmp_path / "out") == []


def test_two_runs_can_be_under_way_at_once(run):
    alone = [record.loss for record in run("alone") if record.event == "step"]
    pair = [run("one"), run("two", n_embd=32, threads=1)]
    taken = [
        record.loss
        for records in itertools.zip_longest(*pair)
        for record, source in zip(records, ("one", "two"), strict=True)
        if source == "one" and record is not None and record.event == "step"
    ]
    assert taken == alone


def test_a_stop_is_heeded_between_steps_and_saved(run, tmp_path):
    seen = []
    records = run(stop=lambda: signal.SIGTERM if len(seen) == 2 else 0)
    with pytest.raises(Interrupted) as raised:  # noqa: PT012 - it is raised within the loop
        for record in records:
            if record.event == "step":
                seen.append(record.step)
            last = record
    assert raised.value.exit_code == 128 + signal.SIGTERM
    assert last.event == "end"
    assert last.stopped == "interrupt"
    assert [path.name for path in (tmp_path / "out" / "checkpoint").iterdir()] == ["step-00000002"]


def test_the_first_checkpoint_comes_by_time(run, monkeypatch):
    monkeypatch.setattr(loop, "FIRST_SAVE", 0.0)
    monkeypatch.setattr(loop, "SAVE_EVERY", 1e9)
    found = [record.step for record in run(save_every=6, eval_every=6) if record.event == "checkpoint"]
    assert found == [1, 6]


@pytest.mark.parametrize(("keep", "steps"), [({}, [5, 6]), ({"keep": 1}, [6]), ({"keep": 4}, [3, 4, 5, 6])])
def test_the_last_checkpoints_are_kept(run, tmp_path, keep, steps):
    list(run(save_every=1, **keep))
    found = sorted(path.name for path in (tmp_path / "out" / "checkpoint").iterdir())
    assert found == [f"step-{step:08d}" for step in steps]


def test_one_more_that_a_kill_has_left_goes_also_where_no_step_is_left(run, tmp_path):
    """Killed between the last save and what is removed after it."""
    checkpoints = tmp_path / "out" / "checkpoint"
    list(run(save_every=1, keep=4))
    list(run(resume=True, keep=2))
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000005", "step-00000006"]


def test_evaluations_on_a_part_take_the_same_part_each_time(run):
    """With a rate of nearly nothing the weights stay, and so must the loss."""
    found = [
        record.val_loss
        for record in run(eval_every=1, eval_batches=2, lr=1e-12, min_lr=0, weight_decay=0)
        if record.event == "eval"
    ]
    assert len(found) == 7  # six, and the whole split at the end
    assert len({round(loss, 6) for loss in found[:-1]}) == 1
    assert round(found[-1], 6) != round(found[0], 6)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"optimizer": "adamw", "momentum": 0.5}, ["--momentum has no effect with --optimizer adamw"]),
        ({"optimizer": "sgd", "beta1": 0.8, "lr_embed": 0.1}, ["--beta1 has no effect with --optimizer sgd"]),
        (
            {"optimizer": "adam-embed", "weight_decay": 0.1, "lr_embed": 0.1, "eps": 1e-6},
            ["--weight-decay has no effect"],
        ),
        ({"schedule": "cosine", "decay_fraction": 0.3}, ["--decay-fraction has no effect with --schedule cosine"]),
        ({"schedule": "wsd", "decay_fraction": 0.3}, []),
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0.5, "weight_decay": 0.1}, []),
    ],
)
def test_what_has_no_effect_is_said(run, given, told):
    notices = [record.message for record in run(steps=1, **given) if record.event == "notice"]
    said = [notice for notice in notices if "no effect" in notice]
    assert len(said) == len(told)
    assert all(notice.startswith(start) for notice, start in zip(said, told, strict=True))


@pytest.mark.parametrize(("every", "at"), [(2, [2, 4, 6, 7]), (5, [5, 7]), (100, [7])])
def test_samples_come_when_it_is_their_turn(run, every, at):
    """Whatever the evaluations' turn is; and at the end."""
    found = [record.step for record in run(steps=7, sample_every=every) if record.event == "sample"]
    assert found == at


def test_a_sample_that_was_due_at_a_checkpoint_is_not_written_again(run):
    flags = {"sample_every": 3, "steps": 6}
    first = [record.step for record in run(stop_after=3, **flags) if record.event == "sample"]
    then = [record.step for record in run(resume=True) if record.event == "sample"]
    assert first + then == [3, 6]


def test_minutes_fix_what_follows_from_the_number_of_steps(run, monkeypatch):
    """Nobody knows how many there will be until some were timed; a warm-up as long as the run would be no warm-up."""
    monkeypatch.setattr(loop.time, "monotonic", iter(float(n) for n in range(10**6)).__next__)
    lengths = {"steps": None, "minutes": 1.0, "eval_every": None, "save_every": None}
    for record in run(**lengths):
        last = record
    settings = make_settings(read_toml(Path(last.run) / "config.toml"))
    assert settings.minutes == 1.0
    assert 9 < settings.steps < 100
    assert settings.warmup == settings.steps // 10
    assert settings.eval_every <= max(1, settings.steps // 10)
    assert last.step == settings.steps
