"""The workspace: one buffer for the activations of every program of a model, and the replay of a program on it.

Programs that never run at the same time (training, evaluation, generation) share the buffer; it is as large as the
largest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numba
import numpy as np

from cllm_cli.kernels.cores import bind_calls, own_cores
from cllm_cli.layers.base import arguments, gradient
from cllm_cli.model.arena import Arena, aligned
from cllm_cli.model.plan import Plan
from cllm_cli.model.program import Program
from cllm_cli.model.runs import CACHE, VALUE, Key, Place, Run

Caches = dict[Key, np.ndarray]


class Runner(NamedTuple):
    """A run's kernel with its fixed arguments, the names of the step arguments that follow, and its threads."""

    kernel: Callable[..., None]
    fixed: tuple[Any, ...]
    names: tuple[str, ...]
    threads: int

    def arguments(self, step: Mapping[str, Any]) -> tuple[Any, ...]:
        """All arguments, given the step's."""
        return (*self.fixed, *[step[name] for name in self.names])


class Workspace:
    """Memory for activations; it grows when a larger plan is replayed, and what was bound before stays valid."""

    def __init__(self) -> None:
        self.buffer = aligned(0, np.dtype(np.uint8))

    def reserve(self, size: int) -> np.ndarray:
        """A buffer of at least `size` bytes."""
        if self.buffer.size < size:
            self.buffer = aligned(size, np.dtype(np.uint8))
        return self.buffer


class Replay:
    """A program bound to memory: `given` and `results` are arrays by name, `forward` and `backward` run the kernels.

    `caches` is what generation keeps from run to run; programs that are given the same one share it.
    """

    def __init__(self, program: Program, plan: Plan, arena: Arena, workspace: Workspace, caches: Caches) -> None:
        self.program, self.plan = program, plan
        self._arena, self._buffer, self._caches = arena, workspace.reserve(plan.total), caches
        self.given = {name: self._tensor(tensor.index) for name, tensor in program.given.items()}
        self.results = {name: self._tensor(tensor.index) for name, tensor in program.calls[-1].outputs.items()}
        self.forward_runs = [self.bind(run) for run in plan.forward]
        self.backward_runs = [self.bind(run) for run in plan.backward]

    @property
    def threads(self) -> int:
        """The most threads that its kernels run on."""
        return self.program.sizes["threads"]

    def forward(self, **step: Any) -> None:
        """Runs the program; `step` has the step arguments that its layers declare."""
        for runner in self.ready(self.forward_runs):
            runner.kernel(*runner.arguments(step))

    def backward(self, **step: Any) -> None:
        """Adds the gradient of the last forward to the arena's gradients."""
        for runner in self.ready(self.backward_runs):
            runner.kernel(*runner.arguments(step))

    def ready(self, runners: Iterable[Runner]) -> Iterator[Runner]:
        """Each in turn when the threads are set for it; afterwards they are those of the program again."""
        # Scratch was planned for so many threads; another session, or another Python thread, may have set others.
        most = threads = self.threads
        with own_cores(most):
            for runner in runners:
                if runner.threads != threads:
                    threads = runner.threads
                    numba.set_num_threads(threads)
                yield runner
            if threads != most:
                numba.set_num_threads(most)

    def calls(self, step: Mapping[str, Any]) -> list[tuple[Any, tuple[Any, ...]]]:
        """Every kernel run with its arguments, and what binds threads, for whoever compiles them."""
        runs = [*self.forward_runs, *self.backward_runs]
        return [*bind_calls(), *[(runner.kernel, runner.arguments(step)) for runner in runs]]

    def bind(self, run: Run) -> Runner:
        """A run's kernel with the memory that its arguments mean."""
        fixed: list[Any] = []
        names: list[str] = []
        params = run.call.params
        for name in arguments(run.kernel):
            if name in run.places:
                fixed.append(self.array(run.places[name]))
            elif name in params:
                fixed.append(self._arena.parameter(params[name]))
            elif name in run.call.consts:
                fixed.append(self._scalar(run.call.consts[name]))
            elif name in run.call.layer.step_args:
                names.append(name)
            else:
                full = next(params[param] for param in params if gradient(param) == name)
                fixed.append(self._arena.gradient(full))
        threads = run.threads(self._arena.dtype.itemsize, self.threads)
        return Runner(run.kernel, tuple(fixed), tuple(names), threads)

    def array(self, place: Place) -> np.ndarray:
        """The memory that a place means."""
        if place.key[0] == CACHE:
            if place.key not in self._caches:
                flat = aligned(place.bytes // place.dtype.itemsize, place.dtype)
                self._caches[place.key] = flat.reshape(place.shape)
            return self._caches[place.key]
        at = self.plan.offsets[place.key]
        return self._buffer[at : at + place.bytes].view(place.dtype).reshape(place.shape)

    def _scalar(self, value: Any) -> Any:
        return self._arena.dtype.type(value) if isinstance(value, float) else np.int64(value)

    def _tensor(self, index: int) -> np.ndarray:
        tensor = self.program.tensors[index]
        dtype = np.dtype(tensor.dtype) if tensor.dtype else self._arena.dtype
        return self.array(Place((VALUE, index), tensor.shape, dtype))
