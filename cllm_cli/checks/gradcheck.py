"""The gradient check: every hand-written derivative against finite differences, for layers and for whole models.

Each float input and each parameter is checked by itself, as `differences.py` says. The objective of a layer is a random
weighting of its outputs, that of a model its loss.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cllm_cli.checks.differences import DIRECTIONS, ENTRIES, Check, compare, derivative
from cllm_cli.checks.harness import Bench, letters_of
from cllm_cli.checks.trial import SMALL, Trial, small_trial
from cllm_cli.layers import LAYERS
from cllm_cli.layers.base import Layer, gradient
from cllm_cli.model import ARCHITECTURES

__all__ = ["SEED", "Check", "check_all", "check_layer", "check_layers", "check_model", "check_trial", "derivative"]

SEED = 1337
# Right ones come within 1e-10 in float64; one that lacks a term or a factor is off by 1e-3 and more.
LAYER_TOLERANCE, MODEL_TOLERANCE = 1e-7, 1e-6


def check_all(seed: int = SEED) -> Iterator[Check]:
    """Every layer, then small models of every architecture."""
    yield from check_layers(None, seed)
    for arch in ARCHITECTURES:
        yield from check_model(arch, seed)


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
    for name, worst in compare(values, analytic, bench.weighted_outputs, bench.rng):
        yield worst.judged(layer.name, letters_of(sample), name, values[name], LAYER_TOLERANCE)


def check_model(arch: str, seed: int = SEED) -> Iterator[Check]:
    """Small models of an architecture (trial.py says which): each parameter, tied ones too.

    Raises ConfigError for an unknown architecture.
    """
    for case in SMALL:
        yield from check_trial(small_trial(arch, case, seed), seed)


def check_trial(
    trial: Trial, seed: int = SEED, directions: int = DIRECTIONS, entries: int = ENTRIES
) -> Iterator[Check]:
    """Each parameter of a model in float64, on the trial's batches."""
    name = trial.model.config.arch
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), trial.tokens.size])
    values = trial.model.arena.tensors()
    for tensor, worst in compare(values, trial.gradients(), trial.weighted_losses, rng, directions, entries):
        yield worst.judged(name, trial.sizes, tensor, values[tensor], MODEL_TOLERANCE)
