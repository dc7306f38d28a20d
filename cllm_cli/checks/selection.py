"""What `cllm gradcheck` runs: the checks that were asked for, the kernels that they need, and what was wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cllm_cli.checks.differences import Check, Tally
from cllm_cli.checks.gradcheck import check_all, check_layers, check_trial
from cllm_cli.checks.harness import Bench
from cllm_cli.checks.precision import compare_all, compare_layers, compare_trials
from cllm_cli.checks.trained import fresh_flow, run_flow, run_trial
from cllm_cli.kernels.ahead import Call
from cllm_cli.layers import LAYERS
from cllm_cli.training.run_folder import RunFolder

FLOW_STEPS = 5

Wrong = tuple[str, str] | None


@dataclass(frozen=True)
class Chosen:
    """`calls`: the kernels to have ready first; `rows`: the events; `wrong`: after these, message and hint, or None.

    `notices` are to be shown before.
    """

    calls: list[Call]
    rows: Callable[[], Iterator[dict[str, Any]]]
    wrong: Callable[[], Wrong]
    notices: Sequence[str] = ()


def chosen_checks(folder: RunFolder | None, names: Sequence[str] | None, float32: bool, seed: int) -> Chosen:
    """Checks of a run, of the named layers, or of everything. Raises ConfigError for an unknown name, RunError."""
    if folder:
        return _of_run(folder, float32, seed)
    names = list(dict.fromkeys(names)) if names else None
    layers = [LAYERS.load(name) for name in names or LAYERS]
    precisions = (np.float32, np.float64) if float32 else (np.float64,)
    calls = [
        call for layer in layers for dtype in precisions for call in Bench(layer, layer.samples[-1], dtype).calls()
    ]
    checks: Iterator[Check]
    if names:
        checks = compare_layers(names, seed) if float32 else check_layers(names, seed)
    else:
        checks = compare_all(seed) if float32 else check_all(seed)
    return _counted(calls, Tally(checks))


def chosen_flow(folder: RunFolder | None, seed: int) -> Chosen:
    """The flow of a run's gradients, or without one of a new model's. Raises RunError."""
    flow, notices = run_flow(folder) if folder else (fresh_flow(seed), [])

    def rows() -> Iterator[dict[str, Any]]:
        flow.run(FLOW_STEPS)
        yield from flow.rows()

    def wrong() -> Wrong:
        found = flow.first_nonfinite
        return (f"not finite: {found}", "what comes after it is not finite either; look there first") if found else None

    return Chosen(flow.stepper.calls(), rows, wrong, notices)


def _of_run(folder: RunFolder, float32: bool, seed: int) -> Chosen:
    trial, number = run_trial(folder)
    if float32:
        single, _ = run_trial(folder, np.float32)
        return _counted([*single.calls(), *trial.calls()], Tally(compare_trials(single, trial)))
    checks = check_trial(trial, seed, number, number)
    return _counted(trial.calls(), Tally(checks, directions=number, entries=number + 1))


def _counted(calls: list[Call], tally: Tally) -> Chosen:
    def wrong() -> Wrong:
        count = len(tally.failed)
        said = f"{count} gradient{'s are' if count > 1 else ' is'} wrong: please report this line, and cllm --version"
        return (str(tally.failed[0]), said) if count else None

    return Chosen(calls, tally.rows, wrong)
