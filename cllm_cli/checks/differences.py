"""Analytic derivatives against numeric ones: directions, step sizes, the error and how it is judged.

For each tensor, along some random directions of unit length and at some single entries, the analytic derivative of an
objective is compared with the numeric one in float64:

    error = |analytic − numeric| / max(|analytic|, |numeric|, RMS gradient of the tensor, 1e-8 of the gradient's norm)

The step starts at a share of the tensor's own RMS and is halved until round-off takes over; a tensor that is small
beside the others starts from a share of theirs, where round-off matters less, and from its own if that does not settle.
So the error is the gradient's and not that of the difference quotient.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cllm_cli.checks.harness import Array

DIRECTIONS, ENTRIES = 3, 5  # of each tensor
LEVELS, FRUITLESS = 12, 2  # halved steps at most, and as many in succession without a better estimate
FIRST_STEP = 0.1  # of the tensor's RMS
UNIT = 2.0**-53
SMALL = 0.01  # of the RMS of all tensors: from here on they start from a step of their own
SETTLED = 1e-9  # relative error of an estimate that needs no other first step
FLOOR = 1e-8  # of the whole gradient's norm: below that a derivative counts as zero


@dataclass(frozen=True)
class Check:
    """One tensor's gradient, at the worst of its directions and entries: `entry` is "[3, 1]" or "[direction 0]".

    `dtype` is that of the gradient which is checked: a float64 one against the numeric derivative, a float32 one
    against that in float64, which is then called `numeric`. `shape` is the tensor's.
    """

    layer: str
    sizes: dict[str, int]
    tensor: str
    shape: list[int]
    dtype: str
    error: float
    tolerance: float
    ok: bool
    entry: str
    analytic: float
    numeric: float

    def as_dict(self) -> dict[str, Any]:
        """The event of `cllm gradcheck --json`."""
        return {"event": "check", **vars(self)}

    def __str__(self) -> str:
        """Layer, tensor, entry, shape, sizes and both values in a line."""
        sizes = " ".join(f"{letter}={extent}" for letter, extent in self.sizes.items())
        pair = ("analytic", "numeric") if self.dtype == "float64" else ("float32", "float64")
        values = f"{pair[0]} {self.analytic:.9g}, {pair[1]} {self.numeric:.9g}"
        return f"{self.layer}, {self.tensor}{self.entry} of shape {self.shape} with {sizes}: {values}"


@dataclass(frozen=True)
class Worst:
    """The worst of a tensor's comparisons."""

    error: float
    entry: str
    analytic: float
    numeric: float

    def judged(self, layer: str, sizes: Mapping[str, int], tensor: str, value: Array, tolerance: float) -> Check:
        """The check that it makes; `value` is the tensor. NaN is no agreement."""
        return Check(
            layer=layer,
            sizes=dict(sizes),
            tensor=tensor,
            shape=list(value.shape),
            dtype=value.dtype.name,
            tolerance=tolerance,
            ok=self.error <= tolerance,
            **vars(self),
        )


class Tally:
    """Counts checks while they go by. `rows()` are the events of `cllm gradcheck --json`; `failed` are what failed."""

    def __init__(self, checks: Iterable[Check], **facts: Any) -> None:
        self.failed: list[Check] = []
        self._checks, self._facts = checks, facts

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each check as it comes, then `end` with counts and the check that came nearest its tolerance."""
        began, count, nearest = time.perf_counter(), 0, -1.0
        worst: dict[str, Any] | None = None
        for check in self._checks:
            count += 1
            if not check.ok:
                self.failed.append(check)
            yield check.as_dict()
            share = math.inf if math.isnan(check.error) else check.error / check.tolerance
            if share > nearest:
                nearest, shown = share, ("layer", "tensor", "error", "tolerance")
                worst = {name: value for name, value in vars(check).items() if name in shown}
        end = {"event": "end", "checks": count, "failed": len(self.failed), "worst": worst}
        yield {**end, "seconds": time.perf_counter() - began, **self._facts}


def derivative(
    difference: Callable[[float], float], steps: Iterable[float], scale: float = 0.0, noise: float = 0.0
) -> float:
    """f'(0), where difference(h) = f(h) − f(−h), by Ridders' extrapolation from the first step, or the next ones.

    A next one is tried while the estimate's error is not small beside the derivative or `scale`; the best is taken.
    `noise` is the round-off of a difference: below it two may agree by chance.
    """
    best, least = math.nan, math.inf
    for step in steps:
        found, error = _extrapolated(difference, step, noise)
        if error <= least:
            best, least = found, error
        if least <= SETTLED * max(abs(best), scale):
            break
    return best


def _extrapolated(difference: Callable[[float], float], step: float, noise: float) -> tuple[float, float]:
    """f'(0) from `step` on, and how far it may be off.

    A row of the table has the central difference of a step half as long as the row above, then what is left when the
    errors in h², h⁴, … are eliminated with it. An entry's error is estimated by its distance from the two that it was
    made of; the entry with the least is the result, and the table ends where round-off has taken over. One row that
    brings nothing does not show that: two coarse differences may agree by chance.

    (Ridders 1982, "Accurate computation of F'(x) and F'(x) F''(x)", Advances in Engineering Software 4(2))
    """
    best, least, fruitless = math.nan, math.inf, 0
    above: list[float] = []
    for level in range(LEVELS):
        h = step / 2**level
        row = [difference(h) / (2 * h)]
        fruitless += 1
        for order, other in enumerate(above, start=1):
            row.append(row[-1] + (row[-1] - other) / (4**order - 1))
            estimate = max(abs(row[-1] - row[-2]), abs(row[-1] - other), noise / (2 * h))
            if estimate <= least:
                best, least, fruitless = row[-1], estimate, 0
        if level and fruitless == FRUITLESS:
            break
        above = row
    return best, least


def compare(
    values: Mapping[str, Array],
    analytic: Mapping[str, Array],
    outputs: Callable[[], Array],
    rng: np.random.Generator,
    directions: int = DIRECTIONS,
    entries: int = ENTRIES,
) -> Iterator[tuple[str, Worst]]:
    """For each tensor the worst of its directions and entries; Σ outputs() is the objective at the current values.

    Beside `entries` random ones, the entry of the largest analytic gradient is compared.
    """
    floor = FLOOR * norm(analytic)
    noise = UNIT * float(np.abs(outputs()).sum())
    together = norm(values) / math.sqrt(sum(value.size for value in values.values()))
    for name, value in values.items():
        least = max(rms(analytic[name]), floor)
        scales = sorted({rms(value), max(rms(value), SMALL * together)} - {0.0}, reverse=True)
        steps = [FIRST_STEP * scale for scale in scales or [1.0]]
        found = []
        for entry, where, direction in _directions(analytic[name], rng, directions, entries):
            exact = float(np.vdot(analytic[name][where], direction))
            numeric = derivative(functools.partial(_difference, outputs, value[where], direction), steps, least, noise)
            largest = max(abs(exact), abs(numeric), least)
            # Both zero is agreement; anything that is not finite stays so and is no agreement.
            error = abs(exact - numeric) / largest if largest > 0 else abs(exact - numeric)
            found.append(Worst(error, entry, exact, numeric))
        yield name, max(found, key=lambda worst: math.inf if math.isnan(worst.error) else worst.error)


def _directions(
    gradient: Array, rng: np.random.Generator, directions: int, entries: int
) -> Iterator[tuple[str, tuple[Any, ...], Array]]:
    """Random directions, then single entries, each of length one: a name, the place, the direction there."""
    for number in range(directions):
        direction = rng.standard_normal(gradient.shape)
        yield f"[direction {number}]", (...,), direction / np.linalg.norm(direction)
    drawn = rng.choice(gradient.size, min(gradient.size, entries), replace=False)
    for flat in dict.fromkeys([int(np.argmax(np.abs(gradient))), *map(int, drawn)]):
        index = np.unravel_index(flat, gradient.shape)
        yield place(index), (*index, ...), np.ones(())  # an ellipsis makes it a view


def place(index: Any) -> str:
    """An entry's indices as text: "[3, 1]"."""
    return str([int(part) for part in index])


def _difference(outputs: Callable[[], Array], value: Array, direction: Array, h: float) -> float:
    """f(h) − f(−h) along a direction, summed over the differences: what does not change adds no round-off."""
    kept = value.copy()
    value[...] = kept + h * direction
    above = outputs()
    value[...] = kept - h * direction
    below = outputs()
    value[...] = kept
    return float(np.sum(above - below))


def norm(tensors: Mapping[str, Array]) -> float:
    """The Euclidean norm of all tensors together."""
    return math.sqrt(sum(float(np.vdot(each, each)) for each in tensors.values()))


def rms(array: Array) -> float:
    """The root of the mean square, in double precision; NaN where anything is NaN."""
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))
