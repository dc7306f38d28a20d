"""The loop's records where a run is no plain one: scripted losses, errors, stops at any moment, samples, minutes."""

from __future__ import annotations

import itertools
import signal
from types import SimpleNamespace

import pytest
from safetensors import safe_open
from tiny import TINY

from cllm_cli.errors import Interrupted, RunError, TrainingError
from cllm_cli.training import session, train
from cllm_cli.training.evaluate import Evaluator, Score
from cllm_cli.training.loop import Loop
from cllm_cli.training.metrics import Metrics
from cllm_cli.training.records import Checkpointed, End, Evaluating, Evaluation
from cllm_cli.training.step import Stepper


@pytest.fixture
def scripted(monkeypatch):
    """A function that makes evaluations give these losses one after another, and lists how many batches each took."""

    def script(*losses):
        following, asked = iter(losses), []

        def score(self, batches=None):
            asked.append(batches)
            yield Evaluating(1, 2)
            yield Score(tokens=10, bytes=20, nats=10 * next(following), hits=5)

        monkeypatch.setattr(Evaluator, "score", score)
        return asked

    return script


def best_step(folder):
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        return int(file.metadata()["step"])


PARTS = {"eval_every": 2, "eval_batches": 1}


def test_the_best_weights_are_those_of_the_smallest_loss(run, tmp_path, scripted):
    asked = scripted(3.0, 2.0, 4.0, 4.5, 2.5)  # three parts of the text; then all of it, last weights and best ones
    records = list(run(**PARTS))
    found = [(each.step, each.val_loss, each.best) for each in records if each.event == "eval"]
    assert found == [(2, 3.0, True), (4, 2.0, True), (6, 4.0, False), (6, 4.5, False)]
    assert asked == [1, 1, 1, None, None]
    assert (records[-1].val_loss, records[-1].best_val_loss) == (4.5, 2.5)
    assert best_step(tmp_path / "out") == 4


def test_over_all_of_the_text_the_last_weights_may_be_the_best(run, tmp_path, scripted):
    scripted(3.0, 2.0, 4.0, 2.25, 2.5)
    records = list(run(**PARTS))
    assert [each.best for each in records if each.event == "eval"] == [True, True, False, True]
    assert records[-1].val_loss == records[-1].best_val_loss == 2.25
    assert best_step(tmp_path / "out") == 6


def test_the_last_weights_are_scored_once_where_they_are_the_best(run, tmp_path, scripted):
    asked = scripted(3.0, 2.0, 1.0, 1.5)
    records = list(run(**PARTS))
    assert asked == [1, 1, 1, None]
    assert records[-1].best_val_loss == 1.5
    assert best_step(tmp_path / "out") == 6


def test_a_validation_loss_that_is_not_finite_is_told_and_never_the_best(run, tmp_path, scripted):
    scripted(float("nan"), float("inf"), 3.0, 3.5)
    records = list(run(**PARTS, on_nan="skip"))
    assert [each.best for each in records if each.event == "eval"] == [True, True]
    assert [each.message for each in records if each.event == "skip"] == [
        "the validation loss is not finite at step 2: skipped",
        "the validation loss is not finite at step 4: skipped",
    ]
    assert best_step(tmp_path / "out") == 6


def test_scoring_the_best_weights_leaves_the_last_ones_as_they_were(text, tmp_path, scripted):
    scripted(3.0, 2.0, 4.0, 4.5, 2.5)
    ready = session.start([text], tmp_path / "out", TINY | PARTS, False, None, None)
    arena, saved = ready.model.arena, b""
    for record in Loop(ready).run():
        if record.event == "checkpoint":
            saved = arena.values.tobytes()
    assert arena.values.tobytes() == saved
    assert not arena.gradients.any()


def test_an_error_is_told_after_the_end(run, monkeypatch):
    ran = Stepper.run

    def fail(self, step, schedule):
        if step == 2:
            raise TrainingError("the loss is not finite", "try another")
        return ran(self, step, schedule)

    monkeypatch.setattr(Stepper, "run", fail)
    records, error = collect(run())
    assert isinstance(error, TrainingError)
    assert [each.event for each in records if each.event == "step"] == ["step", "step"]
    assert (records[-1].event, records[-1].stopped, records[-1].step) == ("end", "error", 2)


def collect(records):
    """All records, and the error that ended them."""
    found = []
    try:
        for record in records:
            found.append(record)
    except (TrainingError, RunError) as error:
        return found, error
    return found, None


def test_a_full_disk_does_not_hide_the_end(run, monkeypatch):
    write = Metrics.write

    def full(self, record):
        if record.event in {"step", "end"}:
            raise RunError("cannot write: no space left")
        write(self, record)

    monkeypatch.setattr(Metrics, "write", full)
    records, error = collect(run())
    assert isinstance(error, RunError)
    assert (records[-1].event, records[-1].stopped) == ("end", "error")


@pytest.mark.parametrize("kind", ["Start", "Evaluating", "Sample", "Checkpointed"])
def test_a_stop_at_any_moment_saves_and_ends(run, tmp_path, kind):
    asked = []
    records = run(stop=lambda: signal.SIGTERM if asked else 0, sample_every=3, eval_every=3, eval_batches=1)
    found = []
    with pytest.raises(Interrupted) as raised:  # noqa: PT012 - it is raised within the loop
        for record in records:
            found.append(record)
            if type(record).__name__ == kind:
                asked.append(kind)
    assert asked
    assert raised.value.exit_code == 128 + signal.SIGTERM
    assert isinstance(found[-1], End)
    assert found[-1].stopped == "interrupt"
    # It can be gone on with, to the end of a run that was never stopped.
    rest = [each.loss for each in run(resume=True) if each.event == "step"]
    whole = [each.loss for each in run("whole", sample_every=3, eval_every=3, eval_batches=1) if each.event == "step"]
    assert rest == whole[len(whole) - len(rest) :]


def test_samples_come_with_evaluations(run):
    events = [each.event for each in run(sample_every=3) if each.event in {"eval", "sample", "checkpoint"}]
    assert events[:6] == ["eval", "sample", "checkpoint"] * 2


def test_minutes_become_steps_that_are_kept(text, tmp_path):
    settings = {name: value for name, value in TINY.items() if name != "steps"}
    records = train([text], tmp_path / "out", minutes=0.02, **settings | {"eval_every": 9999, "save_every": 9999})
    found = list(records)
    steps = [each.step for each in found if each.event == "step"]
    assert len(steps) >= 9  # eight that are timed, and one more
    assert found[-1].stopped == "minutes"
    again = list(train([text], tmp_path / "out", resume=True))
    assert [each.event for each in again if each.event == "step"] == []
    assert again[-1].step == steps[-1]


def test_epochs_become_steps(text, tmp_path):
    settings = {name: value for name, value in TINY.items() if name != "steps"}
    found = list(train([text], tmp_path / "out", epochs=0.05, **settings))
    assert found[-1].stopped == "epochs"
    assert found[-1].step == found[0].steps > 0


def test_a_run_is_saved_every_five_minutes_and_not_much_more_often(run, monkeypatch):
    """By the clock alone, of which a step takes twenty seconds here; the first checkpoint comes earlier."""
    clock = 0.0

    def step(self, *args, stepped=Stepper.run):
        nonlocal clock
        clock += 20
        return stepped(self, *args)

    monkeypatch.setattr("cllm_cli.training.loop.time", SimpleNamespace(monotonic=lambda: clock))
    monkeypatch.setattr(Stepper, "run", step)
    saved = [0.0]
    for record in run(steps=60, eval_every=1000, save_every=1000):
        if isinstance(record, Checkpointed):
            saved.append(clock)
    between = [after - before for before, after in itertools.pairwise(saved)]
    assert between[0] <= 60
    assert all(180 <= each <= 300 for each in between[1:-1])
    assert len(between) > 4
    assert saved[-1] == clock == 1200


@pytest.mark.parametrize(("seconds", "before"), [(9, False), (20, True)])
def test_a_run_is_saved_before_an_evaluation_that_would_take_it_past_its_time(run, monkeypatch, seconds, before):
    """Within an evaluation nothing is saved. Here a step takes so many seconds, and a batch to score a third."""
    clock = 0.0

    def step(self, *args, stepped=Stepper.run):
        nonlocal clock
        clock += seconds
        return stepped(self, *args)

    monkeypatch.setattr("cllm_cli.training.loop.time", SimpleNamespace(monotonic=lambda: clock))
    monkeypatch.setattr(Stepper, "run", step)
    records = run(steps=24, eval_every=12, save_every=1000, eval_batches=100, log_every=100, sample_every=0)
    kinds = [(type(each), each.step) for each in records if isinstance(each, Checkpointed | Evaluation)]
    at = kinds.index((Evaluation, 12))
    assert (kinds[at - 1] == (Checkpointed, 11)) == before


def test_a_run_that_was_killed_in_an_evaluation_goes_on_from_right_before_it(run, monkeypatch):
    def evaluations(records):
        return [(each.step, each.train_loss, each.val_loss) for each in records if isinstance(each, Evaluation)]

    whole = evaluations(run("whole", steps=4, eval_every=2, save_every=1000))
    monkeypatch.setattr(Loop, "_evaluation_seconds", lambda _: 1e9)
    records = run("killed", steps=4, eval_every=2, save_every=1000)
    for record in records:
        if isinstance(record, Checkpointed):
            break
    assert record.step == 1
    records.close()
    assert evaluations(run("killed", resume=True)) == whole


def test_pulses_come_between_logged_steps(run, monkeypatch):
    monkeypatch.setattr("cllm_cli.training.loop.PULSE", 0.0)
    names = [type(each).__name__ for each in run(log_every=3)]
    shown = [name for name in names if name in {"Step", "Pulse"}]
    assert shown == ["Pulse", "Pulse", "Step"] * 2


def test_stop_after_ends_a_part_and_says_so(run):
    first, second = list(run(stop_after=4)), list(run(resume=True))
    assert (first[-1].stopped, first[-1].step) == ("stop-after", 4)
    assert (second[-1].stopped, second[-1].step) == ("steps", 6)
    steps = [each.step for each in itertools.chain(first, second) if each.event == "step"]
    assert steps == [1, 2, 3, 4, 5, 6]
