"""Where a number that is not finite comes from: the failed step is run once more, and looked at kernel by kernel.

A step looks at its loss and at its gradient's norm alone, which cost nothing; what a sum of them has swallowed is
looked for only when there is something to find. The step's randomness follows from its number: it fails alike again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cllm_cli.model.program import names_of
from cllm_cli.model.runs import GRADIENT, SCRATCH, Run

if TYPE_CHECKING:
    from cllm_cli.training.step import Stepper

UNKNOWN = "what a second look does not show"


def first_not_finite(stepper: Stepper, arguments: dict[str, Any]) -> str:
    """What stops being finite first in the step whose batches `stepper` still has, in words. Zeroes the gradients."""
    arena = stepper.model.arena
    found = not_finite_among(arena.tensors())
    summed = not_finite_among({f"the gradient of {name}": arena.gradient(name) for name in arena.parameters})
    arena.gradients.fill(0)
    try:
        for micro in range(stepper.accumulate):
            if not found:
                stepper.load(micro, arguments)
                found = _first_run(stepper, arguments)
    finally:
        arena.gradients.fill(0)
    return found or summed or UNKNOWN


def not_finite_among(tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    """The name of the first tensor that is not finite; empty where all are."""
    return next((name for name, tensor in tensors.items() if not is_finite(tensor)), "")


def is_finite(tensor: npt.NDArray[Any]) -> bool:
    """Whether all numbers are finite; needs no memory."""
    return bool(np.isfinite(tensor.min()) and np.isfinite(tensor.max()))  # both are NaN where one is


def _first_run(stepper: Stepper, arguments: Mapping[str, Any]) -> str:
    """The first kernel run of a micro-batch that leaves something that is not finite, in words."""
    replay = stepper.replay
    numbers = {id(call): number for number, call in enumerate(replay.program.calls)}
    names = names_of(replay.program)
    runs = [*replay.plan.forward, *replay.plan.backward]
    for run, runner in zip(runs, replay.ready([*replay.forward_runs, *replay.backward_runs]), strict=True):
        runner.kernel(*runner.arguments(arguments))
        kind = _left(stepper, run)
        if kind:
            return f"the {kind} of {names[numbers[id(run.call)]]}"
    return ""


def _left(stepper: Stepper, run: Run) -> str:
    """What of a run's is not finite: a gradient, an activation, or nothing."""
    for place in run.places.values():
        array = stepper.replay.array(place)
        if place.key[0] != SCRATCH and array.dtype.kind == "f" and not is_finite(array):
            return "gradient" if place.key[0] == GRADIENT else "activation"
    if run.direction != "forward":
        arena = stepper.model.arena
        if not all(is_finite(arena.gradient(name)) for name in run.call.params.values()):
            return "gradient"
    return ""
