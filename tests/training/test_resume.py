"""A run that stopped and went on is the run that never stopped, whatever depends on the step or is drawn at random."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from cllm_cli.errors import ConfigError, RunError
from cllm_cli.optim import OPTIMIZERS
from cllm_cli.optim.schedule import SCHEDULES
from cllm_cli.training.run_folder import RunFolder

VARIED = {"dropout": 0.2, "grad_accum": 2, "steps": 80, "eval_every": 7, "save_every": 11, "nesterov": True}


def state(folder):
    """Weights and optimizer state of a run's last step, and its best weights."""
    last = load_file(max((folder / "checkpoint").iterdir()) / "state.safetensors")
    best = load_file(folder / "model.safetensors")
    return last | {f"best.{name}": values for name, values in best.items()}


def differing(one, other):
    assert one.keys() == other.keys()
    return [name for name, values in one.items() if not np.array_equal(values, other[name])]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_eighty_steps_are_forty_and_forty(run, tmp_path, optimizer):
    """On one thread, then on two, into a second epoch."""
    steps = [
        (record.step, record.loss, record.lr, record.grad_norm)
        for record in run("whole", optimizer=optimizer, threads=1, **VARIED)
        if record.event == "step"
    ]
    halves = [
        *run("halves", optimizer=optimizer, threads=1, stop_after=40, **VARIED),
        *run("halves", resume=True, threads=2, log_every=1),
    ]
    found = [(record.step, record.loss, record.lr, record.grad_norm) for record in halves if record.event == "step"]
    assert found == steps
    assert [step for step, *_ in found] == list(range(1, 81))
    assert differing(state(tmp_path / "whole"), state(tmp_path / "halves")) == []


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_go_on_where_they_were(run, schedule):
    flags = {"schedule": schedule, "warmup": 5, "steps": 20}
    whole = [record.lr for record in run("whole", **flags) if record.event == "step"]
    for part in (run("halves", stop_after=8, **flags), run("halves", resume=True)):
        rates = [record.lr for record in part if record.event == "step"]
        assert rates == whole[: len(rates)]
        whole = whole[len(rates) :]
    assert whole == []


@pytest.mark.parametrize("change", [{"seed": 2}, {"dropout": 0.5}, {"batch_size": 3}, {"lr": 1e-4}, {"n_layer": 2}])
def test_what_would_change_model_data_or_batches_is_refused(run, tmp_path, change):
    list(run(stop_after=3))
    before = state(tmp_path / "out")
    with pytest.raises(ConfigError, match=f"--{next(iter(change)).replace('_', '-')}"):
        list(run(resume=True, **change))
    assert differing(state(tmp_path / "out"), before) == []


def test_weights_of_another_run_are_taken_and_its_run_is_left_alone(run, tmp_path):
    list(run("first"))
    best = load_file(tmp_path / "first" / "model.safetensors")
    before = state(tmp_path / "first")
    list(run("second", init_from=tmp_path / "first", steps=1, lr=1e-9, min_lr=0.0, weight_decay=0.0, seed=2))
    taken = load_file(tmp_path / "second" / "model.safetensors")
    for name, values in best.items():
        np.testing.assert_allclose(taken[name], values, rtol=0, atol=1e-8, err_msg=name)
    assert differing(state(tmp_path / "first"), before) == []


def test_a_run_that_was_to_begin_with_anothers_weights_begins_with_no_others(run, tmp_path):
    """Killed before they were saved, or with that checkpoint gone, it would train from random ones all along."""
    list(run("first"))
    next(run("second", init_from=tmp_path / "first"))
    second = RunFolder(tmp_path / "second")
    for path in second.checkpoints.iterdir():
        shutil.rmtree(path)
    with pytest.raises(RunError, match="was to begin with another run's weights") as caught:
        list(run("second", resume=True))
    assert caught.value.hint == "start it again with --init-from and --force"
    list(run("second", init_from=tmp_path / "first"))


@pytest.mark.parametrize("how", ["tokenizer", "init_from"])
def test_a_vocabulary_with_more_characters_than_the_text_stays_that_of_the_run(run, text, tmp_path, how):
    """Learned again from the text alone it would have other ids, and nothing else would tell."""
    wide = tmp_path / "wide.txt"
    wide.write_text("!#$%&" + text.read_text("utf-8"), "utf-8")
    list(run("wide", wide, tokenizer="char"))
    given = {"tokenizer": str(tmp_path / "wide" / "tokenizer.json")}
    if how == "init_from":
        given = {"init_from": tmp_path / "wide"}
    list(run("whole", **given))
    list(run("parts", **given, stop_after=3))
    list(run("parts", resume=True))
    ends = [load_file(tmp_path / name / "checkpoint/step-00000006/state.safetensors") for name in ("whole", "parts")]
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])
