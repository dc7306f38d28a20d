"""Learning-rate schedules: the rate of each step in closed form, after a linear warm-up.

Step s counts from 0, of `total`; w is the warm-up, p = (s − w) / (total − w) the progress after it.

    warm-up    peak (s + 1) / w                                        for s < w
    constant   peak
    linear     peak + (least − peak) p
    cosine     least + ½ (peak − least)(1 + cos πp)                    (Loshchilov & Hutter 2017, arXiv:1608.03983)
    wsd        peak, then linear to `least` in the last `decay` share of the steps   (Hu et al. 2024, arXiv:2404.06395)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cllm_cli.registry import Entry, Registry

_HERE = "cllm_cli.optim.schedule"

SCHEDULES = Registry(
    "schedule",
    {
        "cosine": Entry(f"{_HERE}:cosine", "half a cosine from peak to least"),
        "linear": Entry(f"{_HERE}:linear", "a line from peak to least"),
        "constant": Entry(f"{_HERE}:constant", "the peak throughout"),
        "wsd": Entry(f"{_HERE}:wsd", "the peak, then a line to least at the end"),
    },
)


@dataclass(frozen=True)
class Schedule:
    """The rate of every step. `least` is the rate at the end, `decay` the share of the steps that wsd falls in."""

    name: str
    peak: float
    least: float
    warmup: int
    total: int
    decay: float = 0.2

    def rate(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0; past the end it stays where it was."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        shape: Callable[[Schedule, int], float] = SCHEDULES.load(self.name)
        return shape(self, step)

    def progress(self, step: int) -> float:
        """How far step is between the warm-up and the end, from 0 to 1."""
        return min(1.0, max(0.0, (step - self.warmup) / max(1, self.total - self.warmup)))


def constant(schedule: Schedule, step: int) -> float:
    return schedule.peak


def linear(schedule: Schedule, step: int) -> float:
    return schedule.peak + (schedule.least - schedule.peak) * schedule.progress(step)


def cosine(schedule: Schedule, step: int) -> float:
    turn = math.cos(math.pi * schedule.progress(step))
    return schedule.least + 0.5 * (schedule.peak - schedule.least) * (1 + turn)


def wsd(schedule: Schedule, step: int) -> float:
    fall = schedule.total * schedule.decay
    start = schedule.total - fall
    if fall == 0 or step < start:
        return schedule.peak
    fallen = min(1.0, (step - start) / fall)
    return schedule.peak + (schedule.least - schedule.peak) * fallen
