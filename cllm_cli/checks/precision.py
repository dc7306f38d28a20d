"""Gradients in float32 against those in float64, entry by entry, within a bound that follows from the sizes.

With u = 2⁻²⁴ each operation in float32 is off by a factor 1 + δ, |δ| ≤ u. A sum of n terms t whose rounding errors are
of mean zero and do not depend on each other is off by at most λ √n u Σ|t|, for λ = 8 with a probability above
1 − 2 exp(−λ²/2) ≈ 1 − 3e-14 (Higham & Mary 2019, "A new approach to probabilistic rounding error analysis", SIAM J.
Sci. Comput. 41(5)). By Cauchy and Schwarz Σ|t| ≤ √n (Σ t²)^½, and where the terms' signs are mixed (Σ t²)^½ is what the
sum itself is like: the RMS of the tensor's entries. So relative to max(|float32|, |float64|, RMS)

    layer    2 λ (D + 16) u             D: all its dimensions together, and no sum in it is longer; 16: what exp, tanh,
                                        division and root add to a sum; 2: what LayerNorm and softmax amplify
    model    2 λ u √(2 Σ (D + 16)²)     over its calls, forward and backward: errors of different calls do not add up,
                                        but their squares do (the same theorem)

The RMS is that of DRAWS draws of a layer's numbers: a single number may be small by chance, as where GELU's slope
crosses 0, and what cancelled there is not. D is below 500 in every sample, so that a factor of 1.001, off by 1e-3 in
each entry above the RMS, is twice the bound and more; of 300 seeds the worst error was 0.2 of its bound. What is left
of terms that cancel wholly (the float64 gradient is below 1e-8 of the whole gradient's norm, as LayerNorm's over one
channel) shows no longer how large they were: there float32 may leave √u of that norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cllm_cli.checks.differences import FLOOR, Check, Worst, norm, place, rms
from cllm_cli.checks.gradcheck import SEED
from cllm_cli.checks.harness import Array, Bench, letters_of
from cllm_cli.checks.trial import SMALL, Trial, small_trial
from cllm_cli.layers import LAYERS
from cllm_cli.layers.base import Layer, Sizes, gradient, letters, resolve
from cllm_cli.model import ARCHITECTURES
from cllm_cli.model.program import Program

UNIT = 2.0**-24
CONFIDENCE = 8.0  # λ
ELEMENTARY, AMPLIFIED = 16, 2
DRAWS = 8


def layer_bound(layer: Layer, sizes: Sizes) -> float:
    """The bound for a layer whose letters have these sizes."""
    return AMPLIFIED * CONFIDENCE * UNIT * _roundings(layer, sizes)


def model_bound(program: Program) -> float:
    """The bound for a recorded model."""
    squares = sum(_roundings(call.layer, call.sizes) ** 2 for call in program.calls)
    return AMPLIFIED * CONFIDENCE * UNIT * math.sqrt(2 * squares)


def _roundings(layer: Layer, sizes: Sizes) -> int:
    shapes = [*layer.inputs.values(), *layer.params.values(), *layer.outputs.values()]
    dimensions = {letter for shape in shapes for letter in letters(shape)}
    return ELEMENTARY + sum(resolve(" ".join(sorted(dimensions)), sizes))


def compare_all(seed: int = SEED) -> Iterator[Check]:
    """Every layer, then small models of every architecture."""
    yield from compare_layers(None, seed)
    for arch in ARCHITECTURES:
        yield from compare_models(arch, seed)


def compare_layers(names: Sequence[str] | None = None, seed: int = SEED) -> Iterator[Check]:
    """Every sample of the named layers, or of all that are registered. Raises ConfigError for an unknown name."""
    for layer in [LAYERS.load(name) for name in names or LAYERS]:
        for sample in layer.samples:
            yield from compare_layer(layer, sample, seed)


def compare_layer(layer: Layer, sample: Mapping[str, Any], seed: int = SEED) -> Iterator[Check]:
    """One layer at one sample, with DRAWS of its numbers: each float input, each parameter."""
    pairs = []
    for draw in range(DRAWS):
        benches = [Bench(layer, sample, dtype, DRAWS * seed + draw) for dtype in (np.float32, np.float64)]
        for bench in benches:
            bench.step()
        pairs.append(benches)
    names = [gradient(name) for name in bench.trained()]
    single, double = (
        {name[1:]: np.stack([pair[side].arrays[name] for pair in pairs]) for name in names} for side in (0, 1)
    )
    yield from _compare(layer.name, letters_of(sample), single, double, layer_bound(layer, bench.sizes))


def compare_models(arch: str, seed: int = SEED) -> Iterator[Check]:
    """Small models of an architecture. Raises ConfigError for an unknown one."""
    for case in SMALL:
        yield from compare_trials(*(small_trial(arch, case, seed, dtype) for dtype in (np.float32, np.float64)))


def compare_trials(single: Trial, double: Trial) -> Iterator[Check]:
    """The same model and batch in float32 and float64: each parameter."""
    bound = model_bound(single.replay.program)
    low, high = ({name: values[None] for name, values in trial.gradients().items()} for trial in (single, double))
    yield from _compare(single.model.config.arch, single.sizes, low, high, bound)


def _compare(
    layer: str, sizes: Mapping[str, int], single: Mapping[str, Array], double: Mapping[str, Array], bound: float
) -> Iterator[Check]:
    """Tensors with their draws as first dimension; typical is what they are like over all draws."""
    whole = norm(double)
    for name, wanted in double.items():
        actual = single[name].astype(np.float64)
        typical = rms(wanted)
        cancelled = typical <= FLOOR * whole
        scale = np.full(wanted.shape, whole) if cancelled else np.maximum(np.abs(actual), np.abs(wanted))
        difference, scale = np.abs(actual - wanted), np.maximum(scale, typical)
        errors = np.divide(difference, scale, out=difference.copy(), where=scale > 0)
        index = np.unravel_index(np.argmax(errors), errors.shape)  # NaN, where there is one
        worst = Worst(float(errors[index]), place(index[1:]), float(actual[index]), float(wanted[index]))
        yield worst.judged(layer, sizes, name, single[name][0], math.sqrt(UNIT) if cancelled else bound)
