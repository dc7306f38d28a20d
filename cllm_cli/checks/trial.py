"""A trial: a whole model on fixed batches, whose loss is an objective and whose accumulated gradient is its derivative.

Small models are made here, away from their initial values, where zeros and ones could hide a mistake: tied weights,
dropout with a mask that stays, accumulated micro-batches of unequal weight, ignored targets, odd sizes. A trained
model is tried with its real weights on its real text.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cllm_cli.checks.harness import KEY, Array
from cllm_cli.layers.base import IGNORED
from cllm_cli.model.build import Model, ModelConfig
from cllm_cli.model.init import initialize
from cllm_cli.model.program import TRAIN
from cllm_cli.text.batches import Windows
from cllm_cli.text.tokenizers.base import TokenArray

LETTERS = {"L": "n_layer", "NH": "n_head", "C": "n_embd", "F": "n_hidden", "S": "block_size", "V": "vocab_size"}

SMALL: tuple[Mapping[str, Any], ...] = (
    # dropout, two accumulated micro-batches, ignored targets, windows shorter than the longest
    {"L": 2, "NH": 2, "C": 12, "F": 20, "S": 7, "V": 11, "B": 2, "T": 5, "parts": 2, "dropout": 0.2},
    # no dropout, one head, windows of full length, a hidden layer narrower than the stream
    {"L": 1, "NH": 1, "C": 9, "F": 5, "S": 4, "V": 7, "B": 3, "T": 4, "parts": 1, "dropout": 0.0},
    # single tokens, heads of one channel, three micro-batches
    {"L": 1, "NH": 8, "C": 8, "F": 13, "S": 1, "V": 5, "B": 4, "T": 1, "parts": 3, "dropout": 0.1},
)


class Trial:
    """A model on `tokens` and `targets`, each (parts, B·T): micro-batches whose gradients are accumulated.

    `sizes` are the model's and the batch's, by letter.
    """

    def __init__(self, model: Model, tokens: Array, targets: Array, batch: int, time: int) -> None:
        self.model, self.tokens, self.targets = model, tokens, targets
        if not model.arena.gradients.size:
            model.arena.make_gradients()
        self.sizes = {letter: getattr(model.config, name) for letter, name in LETTERS.items()} | {"B": batch, "T": time}
        self._scale = model.dtype.type(1 / max(1, int(np.count_nonzero(targets != IGNORED))))
        self.replay = model.replay(TRAIN, batch, time)

    def gradients(self) -> dict[str, Array]:
        """The accumulated gradient of every parameter."""
        arena = self.model.arena
        arena.gradients.fill(0)
        for part in range(len(self.tokens)):
            self.replay.backward(**self._forward(part))
        return {name: arena.gradient(name).copy() for name in arena.parameters}

    def weighted_losses(self) -> Array:
        """scale · losses of all parts; their sum is the objective."""
        parts = []
        for part in range(len(self.tokens)):
            self._forward(part)
            parts.append(self.replay.results["losses"] * self._scale)
        return np.concatenate(parts)

    def calls(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Every kernel of a step, with arguments of the right types."""
        return self.replay.calls(self._step(0))

    def _forward(self, part: int) -> dict[str, Any]:
        step = self._step(part)
        self.replay.given["tokens"][:] = self.tokens[part]
        self.replay.given["targets"][:] = self.targets[part]
        self.replay.forward(**step)
        return step

    def _step(self, part: int) -> dict[str, Any]:
        first = part * self.tokens.shape[1]
        return {"position": 0, "scale": self._scale, "key": np.uint64(KEY), "first_row": first}


def small_trial(arch: str, case: Mapping[str, Any], seed: int, dtype: Any = np.float64) -> Trial:
    """A small model of an architecture on random tokens, the same numbers in every precision.

    Raises ConfigError for an unknown architecture.
    """
    rng = np.random.default_rng([seed, zlib.crc32(arch.encode())])
    sizes = {name: case[letter] for letter, name in LETTERS.items()}
    model = Model(ModelConfig(arch, **sizes, dropout=case["dropout"]), dtype)
    initialize(model.arena, seed)
    for values in model.arena.tensors().values():
        values[...] = (values + 0.2 * rng.standard_normal(values.shape)).astype(np.float32)
    shape = case["parts"], case["B"] * case["T"]
    tokens = rng.integers(0, case["V"], shape)
    targets = rng.integers(0, case["V"], shape)
    targets[0, 1 : shape[1] // 2] = IGNORED  # the parts have different numbers of targets
    targets[-1, -1] = IGNORED
    return Trial(model, tokens, targets, case["B"], case["T"])


def text_trial(model: Model, tokens: TokenArray, batch: int, time: int) -> Trial:
    """A model on the first windows of a text."""
    x, y = Windows(tokens, time, batch)[0]
    return Trial(model, x.reshape(1, -1), y.reshape(1, -1), batch, time)
