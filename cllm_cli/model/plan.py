"""The plan: which memory every tensor of a recorded program lives in, and from when to when.

Each call's kernels say by their parameters' names what they touch. So the first and the last use of every value,
gradient, saved and scratch tensor are known; a tensor that is a view of another shares its memory; and what is dead is
reused. The peak is known before anything is allocated.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cllm_cli.errors import ConfigError
from cllm_cli.layers.base import arguments, gradient, is_real, resolve
from cllm_cli.model.arena import LINE
from cllm_cli.model.program import GENERATE, TRAIN, Call, Program
from cllm_cli.model.recompute import NONE, dropped_calls, with_replays
from cllm_cli.model.runs import CACHE, GRADIENT, SAVED, SCRATCH, VALUE, Key, Place, Run


@dataclass
class Plan:
    """The runs of forward and backward, in order; for each key its offset in a buffer of `total` bytes.

    `alive` are the bytes of the buffer that are in use at each run.
    """

    forward: list[Run] = field(default_factory=list)
    backward: list[Run] = field(default_factory=list)
    offsets: dict[Key, int] = field(default_factory=dict)
    total: int = 0
    alive: list[int] = field(default_factory=list)


@dataclass
class _Block:
    size: int = 0
    first: int = 2**62
    last: int = -1

    def use(self, size: int, first: int, last: int) -> None:
        self.size, self.first, self.last = max(self.size, size), min(self.first, first), max(self.last, last)

    @property
    def lines(self) -> int:
        """Bytes, in whole cache lines."""
        return -(-self.size // LINE) * LINE


def make_plan(program: Program, real: np.dtype[Any], recompute: str = NONE) -> Plan:
    """Lays out a recorded program in precision `real`, with forward calls run again in backward as `recompute` says.

    Raises ConfigError where a gradient has not just one writer.
    """
    plan = Plan()
    calls = list(enumerate(program.calls))
    for number, call in calls:
        kernel, direction = _forward_kernel(call, program.mode)
        if kernel:
            plan.forward.append(Run(call, kernel, direction, _places(number, call, kernel, number, real)))
    if program.mode == TRAIN:
        _check_read_once(program)
        for number, call in reversed(calls):
            if call.layer.backward:
                places = _places(number, call, call.layer.backward, len(calls) + number, real)
                plan.backward.append(Run(call, call.layer.backward, "backward", places))
    share = _aliases(program)

    def forward_again(number: int) -> Run:
        call = program.calls[number]
        places = _places(number, call, call.layer.forward, number, real)
        return Run(call, call.layer.forward, "recompute", places)

    dropped = dropped_calls(program, recompute)
    plan.backward = with_replays(program, plan.backward, dropped, lambda key: _owner(key, share), forward_again)
    blocks: dict[Key, _Block] = {}
    keys: set[Key] = set()
    for time, run in enumerate([*plan.forward, *plan.backward]):
        for place in run.places.values():
            if place.key[0] != CACHE:
                keys.add(place.key)
                blocks.setdefault(_owner(place.key, share), _Block()).use(place.bytes, time, time)
    for tensor in [*program.given.values(), *program.calls[-1].outputs.values()]:
        owner = _owner((VALUE, tensor.index), share)
        blocks[owner].use(0, 0, 2**62)  # read and written from outside
    starts, plan.total = _pack(blocks)
    plan.alive = _alive(blocks, len(plan.forward) + len(plan.backward))
    plan.offsets = {key: starts[_owner(key, share)] for key in keys}
    return plan


def _forward_kernel(call: Call, mode: str) -> tuple[Any, str]:
    if mode == TRAIN and call.layer.forward_backward:
        return call.layer.forward_backward, "forward_backward"
    if mode == GENERATE and call.layer.cached:
        return call.layer.cached, "forward"
    return call.layer.forward, "forward"


def _places(number: int, call: Call, kernel: Any, time: int, real: np.dtype[Any]) -> dict[str, Place]:
    """What each tensor argument of a kernel means, by name."""
    layer, found = call.layer, {}
    values = {**call.inputs, **call.outputs}
    key: Key
    for name in arguments(kernel):
        if name in values:
            key, shape = (VALUE, values[name].index), {**layer.inputs, **layer.outputs}[name]
        elif name[1:] in values and name == gradient(name[1:]):
            key, shape = (GRADIENT, values[name[1:]].index), {**layer.inputs, **layer.outputs}[name[1:]]
        elif name in layer.saved:
            key, shape = (SAVED, number, name), layer.saved[name]
        elif name in layer.scratch:
            key, shape = (SCRATCH, time, name), layer.scratch[name]
        elif name in layer.cache:
            key, shape = (CACHE, number, name), layer.cache[name]
        else:
            continue
        dtype = real if is_real(shape) else np.dtype(shape.split(":")[1])
        found[name] = Place(key, resolve(shape, call.sizes), dtype)
    return found


def _check_read_once(program: Program) -> None:
    """A gradient is written by the one call that reads its tensor: more readers need a split, none is an omission."""
    readers = [0] * len(program.tensors)
    for call in program.calls:
        for tensor in call.inputs.values():
            readers[tensor.index] += 1
    results = {tensor.index for tensor in program.calls[-1].outputs.values()}
    for call in program.calls:
        for name, tensor in call.outputs.items():
            if readers[tensor.index] != 1 and tensor.index not in results:
                raise ConfigError(
                    f"{name} of {call.label} is read {readers[tensor.index]} times",
                    "a tensor that is read twice goes through a split",
                )


def _aliases(program: Program) -> dict[Key, Key]:
    """For each tensor that is a view of another, that other one."""
    share: dict[Key, Key] = {}
    for call in program.calls:
        values = {**call.inputs, **call.outputs}
        for name, source in call.layer.alias.items():
            if name in call.outputs:
                share[VALUE, values[name].index] = (VALUE, values[source].index)
            else:
                share[GRADIENT, values[name[1:]].index] = (GRADIENT, values[source[1:]].index)
    return share


def _owner(key: Key, share: dict[Key, Key]) -> Key:
    while key in share:
        key = share[key]
    return key


def _pack(blocks: dict[Key, _Block]) -> tuple[dict[Key, int], int]:
    """Offsets such that blocks alive at the same time do not overlap: the largest first, each as low as it fits."""
    placed: list[tuple[int, int, _Block]] = []  # by their starts
    starts: dict[Key, int] = {}
    for key, block in sorted(blocks.items(), key=lambda item: -item[1].size):
        size, at = block.lines, 0
        for start, stop, other in placed:
            if other.last < block.first or block.last < other.first:
                continue
            if at + size <= start:
                break
            at = max(at, stop)
        starts[key] = at
        bisect.insort(placed, (at, at + size, block), key=lambda entry: entry[0])
    return starts, max((stop for _, stop, _ in placed), default=0)


def _alive(blocks: dict[Key, _Block], times: int) -> list[int]:
    """The bytes of the blocks that are in use at each time."""
    changes = [0] * (times + 1)
    for block in blocks.values():
        changes[block.first] += block.lines
        changes[min(block.last + 1, times)] -= block.lines
    return list(itertools.accumulate(changes[:times]))
