"""A number that is not finite, wherever it comes up: found in its step, named, never applied.

Each kernel run of a step is followed by a hand that puts a NaN, an infinity or 1e38 into what it wrote. The first two
have to be found; 1e38 may also be taken in, if all stays finite.
"""

from __future__ import annotations

import numpy as np
import pytest
from test_step import STEADY, stepper_of

from cllm_cli.errors import NotFiniteError
from cllm_cli.layers.base import gradient
from cllm_cli.model.program import names_of
from cllm_cli.training.not_finite import UNKNOWN

POISONS = [np.nan, np.inf, -np.inf, 1e38]
poisons = pytest.mark.parametrize("poison", POISONS)
PARAMETERS = list(stepper_of().model.arena.parameters)


@pytest.fixture(scope="module")
def shared():
    """A stepper, with what it is made of as it was at the start."""
    stepper = stepper_of(accumulate=2)
    runs = [
        (way, number) for way in ("forward", "backward") for number in range(len(getattr(stepper.replay.plan, way)))
    ]
    return stepper, runs


@pytest.fixture
def stepper(shared):
    """It again, weights, moments and position put back afterwards."""
    stepper, _ = shared
    kept = {name: array.copy() for name, array in everything(stepper).items()}
    forward, backward = list(stepper.replay.forward_runs), list(stepper.replay.backward_runs)
    yield stepper
    for name, array in everything(stepper).items():
        array[...] = kept[name]
    stepper.model.arena.gradients.fill(0)
    stepper.sampler.position = 0
    stepper.replay.forward_runs[:], stepper.replay.backward_runs[:] = forward, backward


def everything(stepper):
    return {**stepper.model.arena.tensors(), **stepper.updater.tensors()}


def outcome_of(stepper, step=7):
    """The error of a step, or None where it ends well; checks what has to be so in either case."""
    before = {name: array.copy() for name, array in everything(stepper).items()}
    error = None
    try:
        stepper.run(step, STEADY)
    except NotFiniteError as raised:
        error = raised
    assert not stepper.model.arena.gradients.any()
    if error is None:
        assert all(np.isfinite(array).all() for array in everything(stepper).values())
    elif not error.spoiled:
        for name, array in everything(stepper).items():
            assert np.array_equal(array, before[name], equal_nan=True), name
    assert error is None or error.step == step + 1
    return error


def written(run):
    """The places of floats that a run writes, by the name of the tensor."""
    call = run.call
    names = list(call.outputs) if run.direction == "forward" else [gradient(name) for name in call.inputs]
    if run.direction == "forward_backward":
        names += list(call.outputs)
    return {name: run.places[name] for name in names if name in run.places and run.places[name].dtype.kind == "f"}


def poisoned_after(stepper, way, number, place, poison):
    """Lets a run of the program be followed by the poison."""
    runs = getattr(stepper.replay, f"{way}_runs")
    kernel, array = runs[number].kernel, stepper.replay.array(place)

    def then(*arguments):
        kernel(*arguments)
        array.reshape(-1)[0] = poison

    runs[number] = runs[number]._replace(kernel=then)


@poisons
def test_an_activation_or_its_gradient_is_found_and_named(shared, stepper, poison):
    _, runs = shared
    names, calls = names_of(stepper.replay.program), stepper.replay.program.calls
    places = [
        (way, number, name)
        for way, number in runs
        for name in written(getattr(stepper.replay.plan, way)[number])
        if name != "hits"  # a count for people, which no number follows from
    ]
    assert len(places) >= 40
    plain = {way: list(getattr(stepper.replay, f"{way}_runs")) for way in ("forward", "backward")}
    for way, number, name in places:
        run = getattr(stepper.replay.plan, way)[number]
        poisoned_after(stepper, way, number, written(run)[name], poison)
        with np.errstate(all="ignore"):
            error = outcome_of(stepper)
        if not np.isfinite(poison):
            kind = "gradient" if name.startswith("d") and run.direction != "forward" else "activation"
            called = names[next(at for at, call in enumerate(calls) if call is run.call)]
            assert error is not None, (way, name, called)
            assert not error.spoiled
            assert error.message.endswith(f"is not finite at step 8, first in the {kind} of {called}"), (name, error)
        getattr(stepper.replay, f"{way}_runs")[:] = plain[way]


@poisons
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_weight_is_found_and_named(stepper, name, poison):
    stepper.model.arena.parameter(name).reshape(-1)[-1] = poison
    error = outcome_of(stepper)
    if np.isfinite(poison):
        return
    assert not error.spoiled
    assert error.message.endswith(f"is not finite at step 8, first in {name}")


@poisons
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adam-embed"])
def test_a_moment_is_found_before_anything_follows_from_it(optimizer, poison):
    stepper = stepper_of(optimizer)
    stepper.run(0, STEADY)
    kept = {name: array.copy() for name, array in everything(stepper).items()}
    for name in stepper.updater.tensors():
        stepper.updater.tensors()[name].reshape(-1)[0] = poison
        error = outcome_of(stepper)
        if not np.isfinite(poison):
            assert error.spoiled
            assert error.message.endswith("is not finite after step 8")
            assert name.partition(".")[2] in error.message
        for each, array in everything(stepper).items():
            array[...] = kept[each]


@poisons
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_gradient_is_found_and_named(stepper, monkeypatch, name, poison):
    """Of a hand that is not there any more when the step is looked at once more."""
    backward = stepper.replay.backward
    monkeypatch.setattr(stepper.replay, "backward", lambda **step: (backward(**step), put()))

    def put():
        stepper.model.arena.gradient(name).reshape(-1)[0] = poison

    error = outcome_of(stepper)
    assert (error is None) == bool(np.isfinite(poison))
    if error:
        assert error.message == f"the gradient is not finite at step 8, first in the gradient of {name}"


def test_what_a_second_look_does_not_show_is_an_error_all_the_same(stepper, monkeypatch):
    forward = stepper.replay.forward
    monkeypatch.setattr(stepper.replay, "forward", lambda **step: (forward(**step), put()))

    def put():
        stepper.replay.results["losses"][0] = np.nan

    assert outcome_of(stepper).message == f"the loss is not finite at step 8, first in {UNKNOWN}"


def test_a_step_that_fails_leaves_the_next_one_as_it_is(stepper):
    """With other batches, since the position has moved on."""
    other = stepper_of(accumulate=2)
    other.sampler.position = stepper.sampler.position + stepper.batch * stepper.accumulate
    values = stepper.model.arena.parameter("transformer.wte.weight")
    kept, values[0, 0] = values[0, 0], np.nan
    assert outcome_of(stepper) is not None
    values[0, 0] = kept
    assert stepper.run(1, STEADY) == other.run(1, STEADY)
    assert np.array_equal(stepper.model.arena.values, other.model.arena.values)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adam-embed"])
def test_rates_a_million_times_too_large(optimizer):
    """All is finite, or the run ends with an error; nothing in between."""
    stepper = stepper_of(optimizer, clip=0.0, lr=3e4)
    for step in range(60):
        with np.errstate(all="ignore"):
            if outcome_of(stepper, step) is not None:
                break
