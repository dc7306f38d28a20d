"""Learning rates in closed form. Steps count from 0; `lr` is the peak, `total` the step at which the schedule ends.

Each starts with a linear warm-up: lr (s + 1) / warmup for s < warmup. Afterwards `progress` runs from 0 to 1:

    p = (s − warmup) / max(1, total − warmup), clipped to [0, 1]
"""

from __future__ import annotations

import math
from collections.abc import Callable


def constant(step: int, *, lr: float, min_lr: float, warmup: int, total: int, decay_fraction: float = 0.0) -> float:
    """lr throughout."""
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr


def linear(step: int, *, lr: float, min_lr: float, warmup: int, total: int, decay_fraction: float = 0.0) -> float:
    """lr + (min_lr − lr) p"""
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr + (min_lr - lr) * progress(step, warmup, total)


def cosine(step: int, *, lr: float, min_lr: float, warmup: int, total: int, decay_fraction: float = 0.0) -> float:
    """min_lr + ½ (lr − min_lr) (1 + cos πp)   (Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5)"""
    if step < warmup:
        return lr * (step + 1) / warmup
    return min_lr + 0.5 * (lr - min_lr) * (1.0 + math.cos(math.pi * progress(step, warmup, total)))


def wsd(step: int, *, lr: float, min_lr: float, warmup: int, total: int, decay_fraction: float) -> float:
    """Warm-up, stable, decay: lr until the last decay_fraction · total steps, then linear to min_lr at step `total`.

    (Hu et al. 2024, arXiv:2404.06395, section 4.2)
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    decay_steps = decay_fraction * total
    decay_start = total - decay_steps
    if decay_steps == 0 or step <= decay_start:
        return lr
    return lr + (min_lr - lr) * min(1.0, (step - decay_start) / decay_steps)


def progress(step: int, warmup: int, total: int) -> float:
    """How much of the way from the end of the warm-up to `total` is done, in [0, 1]."""
    return min(1.0, max(0.0, (step - warmup) / max(1, total - warmup)))


SCHEDULES: dict[str, Callable[..., float]] = {"constant": constant, "linear": linear, "cosine": cosine, "wsd": wsd}
