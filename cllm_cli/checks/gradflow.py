"""Gradient flow: what a few real optimizer steps do to activations, gradients and weights, layer by layer.

Kernel runs are observed one by one, as soon as they are done, while what they wrote is still there: the workspace
reuses memory. Figures are root mean squares over all steps; an update's ratio is |update| / |weight|, likewise. What is
out of the ordinary is named in the rows: see findings.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cllm_cli.checks.differences import rms
from cllm_cli.checks.findings import MASSIVE, MASSIVE_RATIO, PASSED, layer_findings, parameter_findings
from cllm_cli.checks.harness import Array
from cllm_cli.layers.base import IGNORED, Layer, gradient, is_real
from cllm_cli.model.program import Program, names_of
from cllm_cli.model.runs import GRADIENT, Run
from cllm_cli.optim.clip import clip_scale, global_norm, norm_scratch
from cllm_cli.optim.schedule import Schedule
from cllm_cli.text.batches import Windows
from cllm_cli.training.step import Stepper


@dataclass
class _Seen:
    """Sums over what was observed of a tensor."""

    squares: float = 0.0
    count: int = 0
    largest: float = 0.0
    massive: bool = False

    def add(self, array: Array) -> bool:
        """Takes an array; says whether all of it is finite."""
        magnitudes = np.abs(array)
        self.squares += float(np.sum(np.square(array, dtype=np.float64)))
        self.count += array.size
        largest = float(magnitudes.max())
        self.largest = float(np.maximum(self.largest, largest))
        if MASSIVE < largest < math.inf:
            self.massive |= largest > MASSIVE_RATIO * float(np.median(magnitudes))
        return math.isfinite(largest)

    @property
    def rms(self) -> float | None:
        return math.sqrt(self.squares / self.count) if self.count else None


@dataclass
class _Weights:
    """What was observed of a parameter: RMS of weights, and of each step's gradient and update."""

    weight: float
    gradients: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)


class Flow:
    """Observes steps of `stepper` on the batches of `windows`, one after another, from step number `first` on."""

    def __init__(self, stepper: Stepper, schedule: Schedule, windows: Windows, first: int = 0) -> None:
        self.stepper, self.schedule, self.windows, self.first = stepper, schedule, windows, first
        self.program: Program = stepper.replay.program
        self.names = names_of(self.program)
        self.losses: list[float] = []
        self.first_nonfinite = ""
        self.rates: list[float] = []
        self._at = first
        self._outputs = [_Seen() for _ in self.program.calls]
        self._gradients = [_Seen() for _ in self.program.tensors]
        self._units: dict[int, tuple[Array, Array]] = {}  # of pointwise calls, by column: it passes, it is reached
        self._numbers = {id(call): number for number, call in enumerate(self.program.calls)}
        arena = stepper.model.arena
        self._weights = {name: _Weights(rms(values)) for name, values in arena.tensors().items()}
        for name, seen in self._weights.items():
            self._meet(math.isfinite(seen.weight), name, "weight")

    def run(self, steps: int) -> None:
        """Observes `steps` steps, fewer where something is not finite."""
        for step in range(self.first, self.first + steps):
            self._step(step)
            if self.first_nonfinite:
                return

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each layer that computes something, then for each parameter; then `end`, as cli.md names them."""
        listed = [*self._layers(), *self._parameters()]
        yield from listed
        yield {
            "event": "end",
            "steps": len(self.losses),
            "batch": self.stepper.batch,
            "grad_accum": self.stepper.accumulate,
            "time": self.stepper.model.config.block_size,
            "losses": self.losses,
            "rates": self.rates,
            "findings": sum(len(row["findings"]) for row in listed),
            "first_nonfinite": self.first_nonfinite or None,
        }

    def _step(self, step: int) -> None:
        stepper, arena, size = self.stepper, self.stepper.model.arena, len(self.windows)
        self._at, parts = step, stepper.accumulate
        at = len(self.losses) * parts
        batches = [self.windows[(at + part) % size] for part in range(parts)]
        targets = max(1, sum(int(np.count_nonzero(y != IGNORED)) for _, y in batches))
        values, total = stepper.arguments(step, targets), 0.0
        for part, (x, y) in enumerate(batches):
            values["first_row"] = part * x.size
            total += self._forward_backward(x, y, values)
        self.losses.append(total / targets)
        before = {name: array.copy() for name, array in arena.tensors().items()}
        for name, seen in self._weights.items():
            seen.gradients.append(rms(arena.gradient(name)))
            self._meet(math.isfinite(seen.gradients[-1]), name, "gradient")
        if self.first_nonfinite:
            return
        scale = clip_scale(global_norm(arena.gradients, norm_scratch()), stepper.clip)
        self.rates.append(self.schedule.rate(step))
        stepper.updater.update(step + 1, self.rates[-1], scale)
        for name, seen in self._weights.items():
            moved, weight = rms(arena.parameter(name) - before[name]), rms(before[name])
            seen.updates.append(moved)
            if weight > 0 and self.rates[-1] > 0:  # a finished schedule may end at 0
                seen.ratios.append(moved / weight)
            self._meet(math.isfinite(moved), name, "update")

    def _forward_backward(self, x: Array, y: Array, values: Mapping[str, Any]) -> float:
        replay = self.stepper.replay
        replay.given["tokens"][:] = x.reshape(-1)
        replay.given["targets"][:] = y.reshape(-1)
        plan, loss, done = replay.plan, 0.0, set[int]()
        bound = [*replay.forward_runs, *replay.backward_runs]
        for run, runner in zip([*plan.forward, *plan.backward], replay.ready(bound), strict=True):
            runner.kernel(*runner.arguments(values))
            number = self._numbers[id(run.call)]
            if run.direction in ("forward", "forward_backward"):  # what is recomputed was seen
                output = next(iter(run.call.outputs))
                if output in run.places:
                    array = replay.array(run.places[output])
                    self._meet(self._outputs[number].add(array), self.names[number], "activation")
            if run.direction in ("backward", "forward_backward"):
                self._see_gradients(run, number, done)
            if run.direction == "forward_backward":
                loss = float(replay.results["losses"].sum(dtype=np.float64))
        return loss

    def _see_gradients(self, run: Run, number: int, done: set[int]) -> None:
        """After a backward run: gradients of activations that it wrote or read, each once (`done`) a micro-batch."""
        found = {}
        for name, place in run.places.items():
            if place.key[0] != GRADIENT:
                continue
            found[name], tensor = self.stepper.replay.array(place), place.key[1]
            if tensor not in done:
                done.add(tensor)
                self._meet(self._gradients[tensor].add(found[name]), self.names[number], "gradient")
        if is_pointwise(run.call.layer):
            dx, dout = (np.abs(found[gradient(name)]) for name in (*run.call.inputs, *run.call.outputs))
            passes, reached = ~(dx <= PASSED * dout).all(axis=0), (dout > 0).any(axis=0)
            before = self._units.get(number, (passes, reached))
            self._units[number] = passes | before[0], reached | before[1]

    def _meet(self, finite: bool, name: str, what: str) -> None:
        if not finite and not self.first_nonfinite:
            self.first_nonfinite = f"{what} of {name} at step {self._at + 1}"

    def _layers(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for number, call in enumerate(self.program.calls):
            if not self._outputs[number].count:
                continue
            output = next(iter(call.outputs.values()))
            seen, back = self._outputs[number], self._gradients[output.index]
            units = self._units.get(number)
            dead = None if units is None else int(np.sum(units[1] & ~units[0]))
            rows.append(
                {
                    "event": "flow",
                    "kind": "layer",
                    "name": self.names[number],
                    "layer": call.layer.name,
                    "shape": list(output.shape),
                    "activation_rms": seen.rms,
                    "activation_max": seen.largest,
                    "gradient_rms": back.rms,
                    "gradient_max": back.largest if back.count else None,
                    "units": None if units is None else units[0].size,
                    "dead": dead,
                    "massive": seen.massive,
                }
            )
        arriving = next((row["gradient_rms"] for row in reversed(rows) if row["gradient_rms"] is not None), math.nan)
        return [{**row, "findings": layer_findings(row, arriving)} for row in rows]

    def _parameters(self) -> list[dict[str, Any]]:
        arena, rows = self.stepper.model.arena, []
        for name in self.program.parameters:
            seen = self._weights[name]
            parameter, values = arena.parameters[name], arena.parameter(name)
            gain = parameter.init.std == 0 and parameter.init.value != 0
            row = {
                "event": "flow",
                "kind": "parameter",
                "name": name,
                "shape": list(parameter.shape),
                "weight_rms": seen.weight,
                "gradient_rms": _mean(seen.gradients),
                "update_rms": _mean(seen.updates),
                "update_ratio": _mean(seen.ratios),
                "shut": int(np.sum(np.abs(values) < PASSED * abs(parameter.init.value))) if gain else None,
            }
            rows.append({**row, "findings": parameter_findings(row)})
        return rows


def is_pointwise(layer: Layer) -> bool:
    """Whether each output is a function of one input and nothing else: one input, one output of its shape."""
    shapes = [*layer.inputs.values(), *layer.outputs.values()]
    other = layer.params or layer.saved or layer.step_args or layer.consts or layer.alias
    return len(shapes) == 2 and shapes[0] == shapes[1] and is_real(shapes[0]) and not other


def _mean(figures: Sequence[float]) -> float | None:
    """The root mean square over steps."""
    return math.sqrt(sum(figure * figure for figure in figures) / len(figures)) if figures else None
