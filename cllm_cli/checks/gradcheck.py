"""The gradient check: every hand-written derivative against finite differences, for layers and for whole small models.

For each float input and each parameter, along some random directions of unit length and at some single entries, the
analytic derivative of an objective is compared with the numeric one in float64:

    error = |analytic − numeric| / max(|analytic|, |numeric|, RMS gradient of the tensor, 1e-8 of the gradient's norm)

The objective of a layer is a random weighting of its outputs, that of a model its loss over two micro-batches.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cllm_cli.checks.harness import IGNORED, KEY, Array, Bench, letters_of
from cllm_cli.layers import LAYERS
from cllm_cli.layers.base import Layer, gradient
from cllm_cli.model.build import Model, ModelConfig
from cllm_cli.model.init import initialize
from cllm_cli.model.program import TRAIN

SEED = 1337
# Right ones come within 1e-11 and 1e-9 in float64; one that lacks a term or a factor is off by 1e-3 and more.
LAYER_TOLERANCE, MODEL_TOLERANCE = 1e-7, 1e-6
DIRECTIONS, ENTRIES = 3, 3  # of each tensor
LEVELS = 10  # of halved steps
FIRST_STEP = 0.1  # of the tensor's RMS
FLOOR = 1e-8  # of the whole gradient's norm: below that a derivative counts as zero

SMALL: Mapping[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 12, "n_hidden": 20, "block_size": 7, "vocab_size": 11}
LETTERS = {"L": "n_layer", "NH": "n_head", "C": "n_embd", "F": "n_hidden", "S": "block_size", "V": "vocab_size"}
MICRO_BATCHES, BATCH, TIME, DROPOUT = 2, 2, 5, 0.2


@dataclass(frozen=True)
class Check:
    """One tensor's gradient, at the worst of its directions and entries: `entry` is "[3, 1]" or "[direction 0]"."""

    layer: str
    sizes: dict[str, int]
    tensor: str
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


@dataclass(frozen=True)
class _Worst:
    error: float
    entry: str
    analytic: float
    numeric: float


def derivative(difference: Callable[[float], float], step: float) -> float:
    """f'(0), where difference(h) = f(h) − f(−h), by Ridders' extrapolation from `step` on.

    A row of the table has the central difference of a step half as long as the row above, then what is left when the
    errors in h², h⁴, … are eliminated with it. An entry's error is estimated by its distance from the two that it was
    made of; the entry with the least is the result, and the table ends where round-off has taken over.

    (Ridders 1982, "Accurate computation of F'(x) and F'(x) F''(x)", Advances in Engineering Software 4(2))
    """
    best, least = math.nan, math.inf
    above: list[float] = []
    for level in range(LEVELS):
        h = step / 2**level
        row = [difference(h) / (2 * h)]
        for order, other in enumerate(above, start=1):
            row.append(row[-1] + (row[-1] - other) / (4**order - 1))
            estimate = max(abs(row[-1] - row[-2]), abs(row[-1] - other))
            if estimate <= least:
                best, least = row[-1], estimate
        if above and abs(row[-1] - above[-1]) >= 2 * least:
            break
        above = row
    return best


def check_layers(names: Sequence[str] | None = None, seed: int = SEED) -> Iterator[Check]:
    """Every sample of the named layers, or of all that are registered. Raises ConfigError for an unknown name."""
    for layer in [LAYERS.load(name) for name in names or LAYERS]:
        for sample in layer.samples:
            yield from check_layer(layer, sample, seed)


def check_layer(layer: Layer, sample: Mapping[str, Any], seed: int = SEED) -> Iterator[Check]:
    """One layer at one sample of sizes and constants: each float input, each parameter."""
    bench = Bench(layer, sample, np.float64, seed)
    bench.step()
    analytic = {name: bench.arrays[gradient(name)].copy() for name in bench.trained()}
    values = {name: bench.arrays[name] for name in analytic}
    for name, worst in _compare(values, analytic, bench.weighted_outputs, bench.rng):
        yield _judged(layer.name, letters_of(sample), name, worst, LAYER_TOLERANCE)


def check_model(arch: str, seed: int = SEED) -> Iterator[Check]:
    """A small model of an architecture: each parameter, tied ones too, through two accumulated micro-batches.

    Raises ConfigError for an unknown architecture.
    """
    small = _SmallModel(arch, seed)
    analytic = small.gradients()
    sizes = {letter: SMALL[name] for letter, name in LETTERS.items()} | {"B": BATCH, "T": TIME}
    for name, worst in _compare(small.model.arena.tensors(), analytic, small.weighted_losses, small.rng):
        yield _judged(arch, sizes, name, worst, MODEL_TOLERANCE)


class _SmallModel:
    """A model away from its initial values, where zeros and ones could hide a mistake, and what it is run on."""

    def __init__(self, arch: str, seed: int) -> None:
        self.rng = np.random.default_rng([seed, zlib.crc32(arch.encode())])
        self.model = Model(ModelConfig(arch, **SMALL, dropout=DROPOUT), np.float64)
        self.model.arena.make_gradients()
        initialize(self.model.arena, seed)
        for values in self.model.arena.tensors().values():
            values += 0.2 * self.rng.standard_normal(values.shape)
        rows, vocabulary = BATCH * TIME, SMALL["vocab_size"]
        self.tokens = self.rng.integers(0, vocabulary, (MICRO_BATCHES, rows))
        self.targets = self.rng.integers(0, vocabulary, (MICRO_BATCHES, rows))
        self.targets[0, 1:4] = IGNORED  # the parts have different numbers of targets
        self.targets[1, -1] = IGNORED
        self.scale = np.float64(1 / np.count_nonzero(self.targets != IGNORED))
        self.replay = self.model.replay(TRAIN, BATCH, TIME)

    def gradients(self) -> dict[str, Array]:
        """The accumulated gradient of every parameter."""
        self.model.arena.gradients.fill(0)
        for part in range(MICRO_BATCHES):
            self.replay.backward(**self._forward(part))
        return {name: self.model.arena.gradient(name).copy() for name in self.model.arena.parameters}

    def weighted_losses(self) -> Array:
        """scale · losses of all parts."""
        parts = []
        for part in range(MICRO_BATCHES):
            self._forward(part)
            parts.append(self.replay.results["losses"] * self.scale)
        return np.concatenate(parts)

    def _forward(self, part: int) -> dict[str, Any]:
        step = {"position": 0, "scale": self.scale, "key": np.uint64(KEY), "first_row": part * BATCH * TIME}
        self.replay.given["tokens"][:] = self.tokens[part]
        self.replay.given["targets"][:] = self.targets[part]
        self.replay.forward(**step)
        return step


def _compare(
    values: Mapping[str, Array],
    analytic: Mapping[str, Array],
    outputs: Callable[[], Array],
    rng: np.random.Generator,
) -> Iterator[tuple[str, _Worst]]:
    """For each tensor the worst of its directions and entries; Σ outputs() is the objective at the current values."""
    floor = FLOOR * math.sqrt(sum(float(np.vdot(each, each)) for each in analytic.values()))
    for name, value in values.items():
        least = max(_rms(analytic[name]), floor)
        step = FIRST_STEP * (_rms(value) or 1.0)
        found = []
        for entry, direction in _directions(value.shape, rng):
            exact = float(np.vdot(analytic[name], direction))
            numeric = derivative(functools.partial(_difference, outputs, value, direction), step)
            largest = max(abs(exact), abs(numeric), least)
            # Both zero is agreement; anything that is not finite stays so and is no agreement.
            error = abs(exact - numeric) / largest if largest > 0 else abs(exact - numeric)
            found.append(_Worst(error, entry, exact, numeric))
        yield name, max(found, key=lambda worst: math.inf if math.isnan(worst.error) else worst.error)


def _directions(shape: tuple[int, ...], rng: np.random.Generator) -> Iterator[tuple[str, Array]]:
    """Random directions, then single entries; each of length one."""
    for number in range(DIRECTIONS):
        direction = rng.standard_normal(shape)
        yield f"[direction {number}]", direction / np.linalg.norm(direction)
    size = math.prod(shape)
    for flat in rng.choice(size, min(size, ENTRIES), replace=False):
        index = np.unravel_index(flat, shape)
        single = np.zeros(shape)
        single[index] = 1
        yield str([int(place) for place in index]), single


def _difference(outputs: Callable[[], Array], value: Array, direction: Array, h: float) -> float:
    """f(h) − f(−h) along a direction, summed over the differences: what does not change adds no round-off."""
    kept = value.copy()
    value[...] = kept + h * direction
    above = outputs()
    value[...] = kept - h * direction
    below = outputs()
    value[...] = kept
    return float(np.sum(above - below))


def _judged(layer: str, sizes: dict[str, int], tensor: str, worst: _Worst, tolerance: float) -> Check:
    ok = worst.error <= tolerance  # false for NaN
    return Check(layer=layer, sizes=sizes, tensor=tensor, dtype="float64", tolerance=tolerance, ok=ok, **vars(worst))


def _rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array))))
