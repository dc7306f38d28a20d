"""What is compared: shapes with their weights and batches, and twenty steps of training.

Weights are numbers that float16 can hold, so that every precision starts from the very same ones.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from reference import gpt2 as oracle

from cllm_cli.model.build import ModelConfig

Tensors = dict[str, np.ndarray]

IGNORED = -1


@dataclass(frozen=True)
class Case:
    """A model's sizes, and a batch of `batch` windows of `time` tokens, worked off in `parts` micro-batches."""

    n_layer: int
    n_head: int
    n_embd: int
    n_hidden: int
    vocab_size: int
    block_size: int
    batch: int
    time: int
    parts: int = 1
    dropout: float = 0.0

    @property
    def config(self) -> ModelConfig:
        names = ("n_layer", "n_head", "n_embd", "n_hidden", "block_size", "vocab_size", "dropout")
        return ModelConfig("gpt2", **{name: getattr(self, name) for name in names})

    @property
    def longest(self) -> int:
        """The longest sum in the model: over a row of some width, or over all rows."""
        return max(3 * self.n_embd, self.n_hidden, self.vocab_size, self.batch * self.time)


# What the golden file holds too: small, and together every odd thing that the sizes can do.
SMALL = {
    "usual": Case(2, 2, 12, 48, 11, 9, batch=3, time=9),
    "one token": Case(2, 2, 12, 20, 11, 9, batch=3, time=1),
    "one window, one head": Case(1, 1, 12, 20, 11, 9, batch=1, time=7),
    "one of everything": Case(1, 1, 3, 1, 2, 1, batch=1, time=1),
    "accumulated": Case(2, 3, 12, 7, 13, 8, batch=4, time=5, parts=4),
    "T=17, C=48, V=97, 16 heads": Case(1, 16, 48, 37, 97, 17, batch=2, time=17),
}

CASES = SMALL | {
    "T=17, C=48, V=97, one head": Case(2, 1, 48, 192, 97, 32, batch=3, time=17),
    "C=48, one token of one window": Case(3, 4, 48, 100, 97, 17, batch=1, time=1),
    "heads of one channel": Case(2, 12, 12, 20, 31, 12, batch=2, time=11),
    "odd everywhere": Case(3, 3, 21, 67, 101, 41, batch=5, time=37),
    "accumulated by two": Case(2, 6, 48, 100, 97, 17, batch=6, time=17, parts=3),
    "dropout with given masks": Case(2, 3, 12, 20, 13, 9, batch=4, time=7, parts=2, dropout=0.25),
}

# Several strips of attention, blocks of a product and chunks of logits.
LARGE = {
    "long window": Case(2, 3, 48, 192, 97, 300, batch=4, time=300),
    "large vocabulary": Case(1, 4, 48, 100, 50257, 17, batch=8, time=17, parts=2),
    "as wide as GPT-2": Case(2, 12, 768, 3072, 5003, 64, batch=2, time=64),
}


def batches_of(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    """The batches of the steps of training."""
    return [batch_of(case, number) for number in range(STEPS)]


def weights_of(case: Case) -> Tensors:
    """Parameters that hide no mistake, by their names in transformers: float64, values of float16."""
    sizes = {name: getattr(case, name) for name in ("n_layer", "n_embd", "n_hidden", "vocab_size", "block_size")}
    # Wider layers take smaller weights, or softmax would be all or nothing.
    drawn = oracle.random_parameters(_generator(case, "weights"), std=min(0.2, 1.4 / case.n_embd**0.5), **sizes)
    return {name: value.astype(np.float16).astype(np.float64) for name, value in drawn.items()}


def batch_of(case: Case, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """tokens and targets (B, T) of batch `number`: a fifth is ignored, and all of the first micro-batch of several."""
    rng = _generator(case, f"batch {number}")
    tokens, targets = rng.integers(0, case.vocab_size, (2, case.batch, case.time))
    targets[rng.random(targets.shape) < 0.2] = IGNORED
    if case.parts > 1:
        targets[: case.batch // case.parts] = IGNORED
    targets[-1, -1] = tokens[0, 0]
    return tokens, targets


def _generator(case: Case, purpose: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{purpose} of {case}".encode()))


OPTIMIZERS = {
    "adamw": ("adamw", {"lr": 0.01, "lr_embed": 0.02, "weight_decay": 0.1}),
    "sgd": ("sgd", {"lr": 0.02, "lr_embed": 0.03, "weight_decay": 0.1}),
    "sgd, Nesterov": ("sgd", {"lr": 0.02, "lr_embed": 0.03, "weight_decay": 0.1, "nesterov": True}),
    "adam-embed": ("adam-embed", {"lr": 0.05, "lr_embed": 0.01}),
}
"""Names in the registry, and settings beside the common ones. No two rates are the same."""

COMMON = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}

SCHEDULE = {"warmup": 4, "total": 16, "decay": 0.25}
"""wsd falls from step 12 on; the last four steps lie beyond the end."""

SCHEDULES = ("constant", "cosine", "linear", "wsd")
LEAST = 0.1  # of the peak
CLIP = 1.5
STEPS = 20

Pair = tuple[str, str]
"""An optimizer and a schedule."""

PAIRS = tuple(product(OPTIMIZERS, SCHEDULES))

# What is trained, with which pairs the golden file holds it: the second has each optimizer and each schedule once.
TRAINED = {
    "two heads": Case(1, 2, 8, 12, 11, 6, batch=4, time=6, parts=2),
    "seven heads of one channel": Case(1, 7, 7, 5, 13, 5, batch=3, time=5, parts=3),
}
GOLDEN_PAIRS = dict(zip(TRAINED, (PAIRS, tuple(zip(OPTIMIZERS, SCHEDULES, strict=True))), strict=True))

# A step takes windows as long as the model's longest.
TRAINED_ALSO = {
    name: replace(CASES[name], block_size=CASES[name].time)
    for name in (
        "C=48, one token of one window",
        "T=17, C=48, V=97, 16 heads",
        "T=17, C=48, V=97, one head",
        "heads of one channel",
    )
}


def settings_of(optimizer: str) -> dict[str, float]:
    """Every setting that an optimizer's kernels name."""
    return {**COMMON, **OPTIMIZERS[optimizer][1]}
