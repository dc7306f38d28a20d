"""What a run does about numbers that are not finite and losses that jump: it stops, leaves a step out, or goes back."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from cllm_cli.errors import ConfigError, NotFiniteError, RunError, TrainingError
from cllm_cli.training import checkpoint, recovery, session
from cllm_cli.training.evaluate import Evaluator, Score
from cllm_cli.training.recovery import MOST_ROLLBACKS, MOST_SKIPPED, SPIKE, WINDOW, Recovery, deviation
from cllm_cli.training.run_folder import RunFolder
from cllm_cli.training.step import Stepper

LONG = {"steps": 12, "eval_every": 100, "save_every": 4, "log_every": 1}


@pytest.fixture
def failing(monkeypatch):
    """A function that makes the steps that begin at these positions of the sampler fail; `spoiled` ruins a weight."""

    def make(*positions, spoiled=False):
        ran = Stepper.run

        def fail(self, step, schedule):
            if self.sampler.position not in positions:
                return ran(self, step, schedule)
            if spoiled:
                ran(self, step, schedule)
                self.model.arena.values[0] = np.nan
            else:
                self.sampler.position += self.batch * self.accumulate
            raise NotFiniteError(f"the loss is not finite at step {step + 1}, first in x", step + 1, spoiled)

        monkeypatch.setattr(Stepper, "run", fail)

    return make


@pytest.fixture
def losses(monkeypatch):
    """A function that makes the steps' losses these ones."""

    def script(*values):
        ran, following = Stepper.run, iter(values)
        monkeypatch.setattr(Stepper, "run", lambda self, *rest: replace(ran(self, *rest), loss=next(following)))

    return script


EVENTS = {"step", "skip", "rollback", "spike", "checkpoint"}


def collected(records):
    found, error = [], None
    try:
        for record in records:
            if record.event in EVENTS:
                found.append((record.event, record.step))
    except TrainingError as raised:
        error = raised
    return found, error


def steps(first, last):
    return [("step", step) for step in range(first, last + 1)]


def saved(folder):
    """The numbers of all that is saved."""
    files = [*folder.glob("checkpoint/*/state.safetensors"), folder / "model.safetensors"]
    return [array for file in files if file.exists() for array in load_file(file).values()]


@pytest.mark.parametrize("spoiled", [False, True])
def test_it_stops_names_the_tensor_and_the_last_good_checkpoint(run, tmp_path, failing, spoiled):
    failing(10, spoiled=spoiled)
    found, error = collected(run(**LONG))
    assert found == [*steps(1, 4), ("checkpoint", 4), *steps(5, 5)]
    assert error.exit_code == 1
    assert error.message == "the loss is not finite at step 6, first in x"
    assert f"{tmp_path / 'out' / 'checkpoint' / 'step-00000004'} is whole: --resume --on-nan rollback" in error.hint
    assert all(np.isfinite(array).all() for array in saved(tmp_path / "out"))


def test_before_any_checkpoint_there_is_none_to_name(run, failing):
    failing(0)
    _, error = collected(run(**LONG))
    assert error.hint == "start anew with a smaller --lr or more --warmup"


def test_a_step_is_left_out(run, failing, tmp_path):
    failing(10, 14)
    found, error = collected(run(**LONG, on_nan="skip"))
    assert error is None
    kinds = [*steps(1, 4), ("checkpoint", 4), *steps(5, 5), ("skip", 6), *steps(7, 7), ("skip", 8), ("checkpoint", 8)]
    assert found == [*kinds, *steps(9, 12), ("checkpoint", 12)]
    assert all(np.isfinite(array).all() for array in saved(tmp_path / "out"))
    events = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [each["reason"] for each in events if each["event"] == "skip"] == [
        "the loss is not finite at step 6, first in x",
        "the loss is not finite at step 8, first in x",
    ]


def test_not_for_ever(run, failing):
    failing(*range(0, 100, 2))
    found, error = collected(run(**LONG, on_nan="skip"))
    skipped = [("skip", step) for step in range(1, MOST_SKIPPED + 1)]
    skipped.insert(4, ("checkpoint", 4))
    skipped.insert(9, ("checkpoint", 8))
    assert found == [*skipped, ("rollback", 11), *[("rollback", 9)] * (MOST_ROLLBACKS - 1)]
    assert error.message == "the loss is not finite at step 9, first in x"


def test_a_good_step_in_between_begins_the_count_anew(run, failing):
    failing(*range(2, 100, 4))
    found, error = collected(run(**LONG | {"steps": 3 * MOST_SKIPPED}, on_nan="skip"))
    assert error is None
    assert [step for event, step in found if event == "skip"] == [*range(2, 3 * MOST_SKIPPED + 1, 2)]


@pytest.mark.parametrize("resumed", [False, True])
def test_where_its_checkpoints_are_gone_a_run_does_not_go_back_to_the_start(run, failing, tmp_path, resumed):
    failing(12)
    if resumed:
        list(run(**LONG, stop_after=4))

    def losing():
        for record in run(resume=True, on_nan="rollback") if resumed else run(**LONG, on_nan="rollback"):
            if record.event == ("start" if resumed else "checkpoint"):
                for path in (tmp_path / "out" / "checkpoint").iterdir():
                    shutil.rmtree(path)

    with pytest.raises(RunError, match=r"the checkpoints of .* are gone"):
        losing()


def test_a_checkpoint_after_a_step_that_was_left_out_is_past_its_batch(run, failing, tmp_path):
    failing(6)
    collected(run(**LONG, on_nan="skip", stop_after=4))
    _, manifest, _ = checkpoint.newest(RunFolder(tmp_path / "out"))
    assert (manifest["step"], manifest["position"]) == (4, 8)


def test_an_evaluation_that_is_left_out_is_not_tried_again(run, monkeypatch):
    following = itertools.chain([2.0, math.nan], itertools.repeat(1.0))

    def score(self, batches=None):
        yield Score(tokens=10, bytes=20, nats=10 * next(following), hits=5)

    monkeypatch.setattr(Evaluator, "score", score)
    records = run(**LONG | {"steps": 9, "eval_every": 3, "eval_batches": 9999}, on_nan="skip")
    found = [(record.event, record.step) for record in records if record.event in {"eval", "skip"}]
    assert found == [("eval", 3), ("skip", 6), ("eval", 9)]


def test_a_checkpoint_in_between_begins_the_count_anew(run, failing):
    """One failure after each checkpoint, one more than there may be without any."""
    failing(*range(10, 10 + 12 * (MOST_ROLLBACKS + 1), 12))
    found, error = collected(run(**LONG | {"steps": 4 * (MOST_ROLLBACKS + 2)}, on_nan="rollback"))
    assert error is None
    assert [event for event, _ in found].count("rollback") == MOST_ROLLBACKS + 1


def test_a_run_that_went_back_stands_where_it_goes_on_from(run, text, tmp_path):
    """Its batches are those after what failed, its last losses those of the checkpoint, its best model the best."""
    list(run(**LONG, stop_after=4))
    ready = session.resume([text], tmp_path / "out", {})
    policy, losses = Recovery(ready), ready.progress.recent_losses
    policy.losses.append(99.0)
    ready.stepper.sampler.position = 30
    went, record = policy.roll_back(9, "so", replace(ready.progress, step=9, best_step=8, best_val_loss=1.5))
    ready.folder.unlock()
    assert (record.step, record.to_step, record.reason) == (9, 4, "so")
    assert (went.step, went.position, went.best_step, went.best_val_loss) == (4, 30, 8, 1.5)
    assert ready.stepper.sampler.position == 30
    assert tuple(policy.losses) == losses != ()
    assert not ready.model.arena.gradients.any()


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_where_weights_are_lost_it_goes_back_to_the_checkpoint_and_on_with_other_batches(
    run, tmp_path, failing, policy
):
    failing(12, spoiled=True)
    records = list(run(**LONG, on_nan=policy))
    (back,) = [record for record in records if record.event == "rollback"]
    assert (back.step, back.to_step) == (7, 4)
    assert back.message.endswith("first in x: back from step 7 to 4, and on with other batches")
    found = [(record.event, record.step) for record in records if record.event in EVENTS]
    assert found == [
        *[*steps(1, 4), ("checkpoint", 4), *steps(5, 6), ("rollback", 7)],
        *[*steps(5, 8), ("checkpoint", 8), *steps(9, 12), ("checkpoint", 12)],
    ]
    assert all(np.isfinite(array).all() for array in saved(tmp_path / "out"))
    manifest = json.loads((tmp_path / "out/checkpoint/step-00000012/manifest.json").read_text("utf-8"))
    assert manifest["position"] == 2 * (12 + 3)  # the three steps that were undone have had their batches


def test_going_back_is_what_a_run_from_the_checkpoint_would_do(run, tmp_path, failing, monkeypatch):
    """Weights and moments are those of the checkpoint, to the bit: stopped there and sent on by hand it ends alike."""
    failing(12)
    list(run("back", **LONG, on_nan="rollback"))
    list(run("alone", **LONG, stop_after=4))
    load = checkpoint.load

    def moved(*arguments):
        found, passed = load(*arguments)
        return replace(found, position=14), passed

    monkeypatch.setattr(checkpoint, "load", moved)
    list(run("alone", resume=True, steps=12))
    ends = [load_file(tmp_path / name / "checkpoint/step-00000012/state.safetensors") for name in ("back", "alone")]
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_without_a_checkpoint_it_goes_back_to_the_start(run, tmp_path, failing):
    failing(4)
    found, error = collected(run(**LONG, on_nan="rollback"))
    assert error is None
    assert found[:4] == [*steps(1, 2), ("rollback", 3), *steps(1, 1)]


def test_it_does_not_go_back_for_ever(run, failing):
    failing(*range(6, 100, 2))
    found, error = collected(run(**LONG, on_nan="rollback"))
    assert found == [*steps(1, 3), ("rollback", 4), *[("rollback", 1)] * (MOST_ROLLBACKS - 1)]
    assert error.message == "the loss is not finite at step 1, first in x"


def test_a_run_that_stopped_goes_on_past_what_stopped_it(run, failing):
    failing(12)
    _, error = collected(run(**LONG))
    assert error is not None
    _, error = collected(run(resume=True))
    assert error is not None  # the same batch again
    found, error = collected(run(resume=True, on_nan="rollback"))
    assert error is None
    assert found[-1] == ("checkpoint", 12)


@pytest.mark.parametrize(("name", "value"), [("on_nan", "ignore"), ("on_spike", "stop")])
def test_an_unknown_policy_is_an_error(run, name, value):
    with pytest.raises(ConfigError, match=f"unknown --{name.replace('_', '-')} '{value}'"):
        next(run(**{name: value}))


def test_the_deviation_is_that_of_the_definition():
    draw = np.random.default_rng(0).normal(3, 0.1, WINDOW)
    assert deviation(deque(draw), 3.5) == pytest.approx((3.5 - draw.mean()) / draw.std(), rel=1e-12)
    assert deviation(deque([2.0] * WINDOW), 5.0) == 0  # no scale to measure by


def quiet(count):
    return [3 + 0.01 * math.sin(each) for each in range(count)]


def test_a_loss_that_jumps_is_marked(run, losses, tmp_path):
    losses(*quiet(WINDOW), 9.0, 3.0, 3.0)
    records = list(run(**LONG | {"steps": WINDOW + 3, "save_every": 1000}))
    (spike,) = [record for record in records if record.event == "spike"]
    assert (spike.step, spike.loss) == (WINDOW + 1, 9.0)
    assert spike.z > SPIKE
    assert spike.message.startswith(f"the loss of step {WINDOW + 1} is 9, ")


@pytest.mark.parametrize("values", [[*quiet(WINDOW - 1), 9.0], [*quiet(WINDOW), 3.02], [*quiet(WINDOW), 0.5]])
def test_too_few_losses_small_jumps_and_falls_are_none(run, losses, values):
    losses(*values)
    records = list(run(**LONG | {"steps": len(values), "save_every": 1000}))
    assert not [record for record in records if record.event == "spike"]


def test_a_resumed_run_sees_the_same_jump(run, losses):
    losses(*quiet(100), *quiet(WINDOW)[100:], 9.0)
    list(run(**LONG | {"steps": WINDOW + 1, "save_every": 1000, "stop_after": 100}))
    records = list(run(resume=True))
    assert [record.step for record in records if record.event == "spike"] == [WINDOW + 1]


@pytest.mark.parametrize(("z", "spikes"), [(SPIKE, 0), (SPIKE + 1e-9, 1)])
def test_a_loss_at_the_very_limit_is_none(run, monkeypatch, z, spikes):
    monkeypatch.setattr(recovery, "deviation", lambda *_: z)
    records = list(run(**LONG | {"steps": WINDOW + 1, "save_every": 1000}))
    assert [record.event for record in records].count("spike") == spikes


def test_losses_that_jump_again_and_again_are_gone_back_from_a_few_times(run, monkeypatch, losses):
    losses(*quiet(WINDOW), *quiet(1000))
    monkeypatch.setattr(recovery, "deviation", lambda _, loss: SPIKE + 1)
    records = list(run(**LONG | {"steps": WINDOW + 6, "save_every": WINDOW - 1}, on_spike="rollback"))
    assert [record.event for record in records].count("rollback") == MOST_ROLLBACKS
    assert records[-1].stopped == "steps"


def test_where_the_loss_jumps_it_may_go_back(run, losses):
    losses(*quiet(WINDOW), 9.0, *quiet(WINDOW + 2)[100:])
    records = list(run(**LONG | {"steps": WINDOW + 2, "save_every": 50}, on_spike="rollback"))
    events = [(record.event, record.step) for record in records if record.event in {"spike", "rollback"}]
    assert events == [("spike", WINDOW + 1), ("rollback", WINDOW + 1)]
    assert records[-1].stopped == "steps"


def test_going_back_keeps_the_best_model_that_was_found_since(run, tmp_path, failing, monkeypatch):
    """It was of other batches than those that follow, which may never be as good."""
    following = itertools.chain([3.0, 1.8], itertools.repeat(2.5))

    def score(self, batches=None):
        yield Score(tokens=10, bytes=20, nats=10 * next(following), hits=5)

    monkeypatch.setattr(Evaluator, "score", score)
    failing(14)
    records = list(run(**LONG | {"eval_every": 3, "eval_batches": 9999, "steps": 9}, on_nan="rollback"))
    found = [(record.event, record.step) for record in records if record.event in {"eval", "rollback"}]
    assert found[:3] == [("eval", 3), ("eval", 6), ("rollback", 8)]
    assert [record.best for record in records if record.event == "eval"][:3] == [True, True, False]
    assert records[-1].best_val_loss == 1.8


@pytest.mark.parametrize(("policy", "ends"), [("skip", "steps"), ("stop", "error"), ("rollback", "error")])
def test_the_last_word_on_the_validation_text_heeds_the_policy(run, monkeypatch, policy, ends):
    following = iter([2.0, math.nan])

    def score(self, batches=None):
        yield Score(tokens=10, bytes=20, nats=10 * next(following), hits=5)

    monkeypatch.setattr(Evaluator, "score", score)
    records, error = [], None
    try:
        for record in run(steps=3, eval_every=3, eval_batches=1, save_every=3, on_nan=policy):
            records.append(record)
    except TrainingError as raised:
        error = raised
    assert records[-1].stopped == ends
    assert (error is None) == (policy == "skip")
    assert [record.event for record in records].count("skip") == (policy == "skip")
    if error:
        assert "step-00000003 is whole" in error.hint
