"""What an optimizer is: for each group of parameters a rule, that is an update kernel and the state that it keeps.

An update kernel works on flat slices of the arena, in one pass: clip, decay, moments, update, and the gradient zeroed
for the next step. Each thread writes to an element of `lost` 0, or NaN where it wrote something that is not finite: a
sum of what was written times 0. Parameters' names say what a kernel takes, in this order: values, gradients, the rule's
state, lost, then scalars among

    rate   the group's learning rate in this step        decay   decoupled weight decay, 0 where the group has none
    scale  what clipping multiplies gradients by         correction1, correction2   1 / (1 − βᵗ) of Adam's two moments
    and the settings beta1, beta2, eps, momentum, nesterov
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cllm_cli.layers.base import arguments
from cllm_cli.model.arena import GROUPS, Arena, aligned


@dataclass(frozen=True)
class Rule:
    """How a group is updated. `rate` is the setting with its peak learning rate."""

    kernel: Any
    state: tuple[str, ...] = ()
    decayed: bool = False
    rate: str = "lr"


@dataclass(frozen=True)
class Optimizer:
    """A rule for each group of parameters, and the settings' defaults."""

    name: str
    rules: Mapping[str, Rule]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def reads(self, setting: str) -> bool:
        """Whether a setting of optimizers has an effect with this one."""
        return any(
            setting in (*arguments(rule.kernel), rule.rate) or (setting == "weight_decay" and rule.decayed)
            for rule in self.rules.values()
        )


class Updater:
    """An optimizer on an arena: it owns the state and runs the update.

    settings: what the kernels name: beta1, beta2, eps, momentum, nesterov, weight_decay, lr, lr_embed.
    """

    def __init__(self, optimizer: Optimizer, arena: Arena, settings: Mapping[str, Any]) -> None:
        self.optimizer, self.arena, self.settings = optimizer, arena, dict(settings)
        self.state: dict[str, dict[str, npt.NDArray[Any]]] = {
            group: {name: aligned(_size(arena, group), arena.dtype) for name in optimizer.rules[group].state}
            for group in GROUPS
        }
        self._lost = np.zeros(numba.config.NUMBA_NUM_THREADS, arena.dtype)  # type: ignore[attr-defined]  # set by name

    @property
    def bytes(self) -> int:
        return state_bytes(self.optimizer, self.arena)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """The state as named views, a tensor `<state>.<parameter>` each."""
        found = {}
        for name, parameter in self.arena.parameters.items():
            start = self.arena.offsets[name] - self.arena.groups[parameter.group].start
            for state, flat in self.state[parameter.group].items():
                found[f"{state}.{name}"] = flat[start : start + parameter.size].reshape(parameter.shape)
        return found

    def update(self, step: int, rate: float, scale: float) -> bool:
        """Updates every parameter and zeroes every gradient. step counts from 1; rate is that of `lr`.

        Says whether all that it wrote is finite.
        """
        finite = True
        for kernel, args in self.calls(step, rate, scale):
            kernel(*args)
            finite = finite and not math.isnan(math.fsum(self._lost))
        return finite

    def calls(self, step: int, rate: float, scale: float) -> list[tuple[Any, tuple[Any, ...]]]:
        """The update's kernels with their arguments, one for each group that is not empty."""
        real = self.arena.dtype.type
        calls = []
        for group, part in self.arena.groups.items():
            if part.start == part.stop:
                continue
            rule = self.optimizer.rules[group]
            scalars = {
                **self.settings,
                "rate": rate * self.settings[rule.rate] / self.settings["lr"],
                "decay": self.settings["weight_decay"] if rule.decayed else 0.0,
                "scale": scale,
                "correction1": 1.0 / (1.0 - self.settings["beta1"] ** step),
                "correction2": 1.0 / (1.0 - self.settings["beta2"] ** step),
            }
            arrays = {
                "values": self.arena.values[part],
                "gradients": self.arena.gradients[part],
                **self.state[group],
                "lost": self._lost,
            }
            args = [arrays[name] if name in arrays else _scalar(scalars[name], real) for name in arguments(rule.kernel)]
            calls.append((rule.kernel, tuple(args)))
        return calls


def state_bytes(optimizer: Optimizer, arena: Arena) -> int:
    """Bytes of the state that an optimizer keeps for an arena."""
    elements = sum(len(optimizer.rules[group].state) * _size(arena, group) for group in GROUPS)
    return elements * arena.dtype.itemsize


def _size(arena: Arena, group: str) -> int:
    part = arena.groups[group]
    return int(part.stop - part.start)


def _scalar(value: Any, real: Any) -> Any:
    return np.bool_(value) if isinstance(value, bool) else real(value)
