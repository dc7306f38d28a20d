"""Where a training step's time goes: each kernel run timed within real steps, and summed over the calls of a layer.

Operations and bytes follow from the layers' declared shapes: the matrix products' multiplications and additions, and
every tensor that a kernel reads or writes, scratch aside, counted once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cllm_cli.kernels.cores import own_cores
from cllm_cli.model.runs import Run
from cllm_cli.optim.clip import global_norm, norm_scratch
from cllm_cli.profiling.roof import Roof
from cllm_cli.training.step import Stepper

# In units of the forward product's operations; what is computed again does not count.
PASSES = {"forward": 1, "backward": 2, "forward_backward": 3, "recompute": 0}


@dataclass(frozen=True)
class Span:
    """One run of a kernel: seconds since its step began. `alive` are the bytes of activations in use, if it has any."""

    name: str
    direction: str
    label: str
    began: float
    seconds: float
    alive: int | None = None


class StepProfile:
    """Training steps, each kernel run timed within them; `spans` are those of each step."""

    def __init__(self, stepper: Stepper, steps: int) -> None:
        self.stepper = stepper
        plan, replay = stepper.replay.plan, stepper.replay
        self._runs = [*plan.forward, *plan.backward]
        self._bound = [*replay.forward_runs, *replay.backward_runs]
        self._alive = plan.alive
        time_steps = stepper.model.config.block_size
        self._x = np.zeros((stepper.accumulate, stepper.batch, time_steps), np.int32)
        self._y = np.zeros_like(self._x)
        self._part = norm_scratch()
        self.spans: list[list[Span]] = []
        self.seconds: list[float] = []
        for step in range(steps):
            with own_cores(replay.threads):
                self._run(step)

    def _run(self, step: int) -> None:
        stepper, replay, x, y = self.stepper, self.stepper.replay, self._x, self._y
        spans: list[Span] = []
        start = time.perf_counter()

        def timed(name: str, direction: str, label: str, alive: int | None, run: Callable[[], Any]) -> None:
            began = time.perf_counter()
            run()
            spans.append(Span(name, direction, label, began - start, time.perf_counter() - began, alive))

        stepper.sampler.next_batch(x.reshape(-1, x.shape[2]), y.reshape(-1, x.shape[2]))
        values = stepper.arguments(step, x.size)
        for micro in range(stepper.accumulate):
            replay.given["tokens"][:] = x[micro].reshape(-1)
            replay.given["targets"][:] = y[micro].reshape(-1)
            for run, alive, runner in zip(self._runs, self._alive, replay.ready(self._bound), strict=True):
                arguments = runner.arguments(values)
                began = time.perf_counter()
                runner.kernel(*arguments)
                seconds = time.perf_counter() - began
                spans.append(Span(run.call.layer.name, run.direction, run.call.label, began - start, seconds, alive))
        gradients, name = stepper.model.arena.gradients, stepper.updater.optimizer.name
        timed("gradient norm", "update", "", None, lambda: global_norm(gradients, self._part))
        timed(name, "update", "", None, lambda: stepper.updater.update(step + 1, 0.0, 1.0))
        self.seconds.append(time.perf_counter() - start)
        self.spans.append(spans)

    def rows(self, roof: Roof) -> Iterator[dict[str, Any]]:
        """A row for each layer and direction, then the row `end`, as docs/cli.md names them.

        Times are medians over steps, in ms a step; GFLOP/s are of matrix products alone. `python_ms` is the part of a
        step that no kernel took.
        """
        stepper, accumulate = self.stepper, self.stepper.accumulate
        itemsize, arena = stepper.model.dtype.itemsize, stepper.model.arena
        grouped: dict[tuple[str, str], list[Run]] = {}
        for run in self._runs:
            grouped.setdefault((run.call.layer.name, run.direction), []).extend([run] * accumulate)
        flops = 0
        for (name, direction), runs in grouped.items():
            counted = sum(PASSES[direction] * run.call.layer.flops(run.call.sizes) for run in runs)
            moved = sum(run.moved_bytes(itemsize) for run in runs)
            shown = "backward" if direction == "forward_backward" else direction
            flops += counted
            yield _row(name, shown, len(runs), self._seconds(name, direction), counted, moved, roof)
        # Weights, gradients and state are read and written.
        touched = 2 * (arena.values.nbytes + arena.gradients.nbytes + stepper.updater.bytes)
        for name, moved in (("gradient norm", arena.gradients.nbytes), (stepper.updater.optimizer.name, touched)):
            yield _row(name, "update", 1, self._seconds(name, "update"), 0, moved, roof)
        whole = float(np.median(self.seconds))
        kernels = [sum(span.seconds for span in spans) for spans in self.spans]
        yield {
            "event": "end",
            "ms_per_step": 1e3 * whole,
            "python_ms": 1e3 * float(np.median(np.subtract(self.seconds, kernels))),
            "tokens_per_s": self._x.size / whole,
            "gflops": flops / whole / 1e9,
            "machine_gflops": roof.gflops,
            "machine_gbytes_per_s": roof.gbytes,
            "roof_share": flops / whole / 1e9 / roof.gflops,
            "alive_bytes": stepper.replay.plan.alive,
        }

    def _seconds(self, name: str, direction: str) -> float:
        """Median over the steps."""
        key = (name, direction)
        sums = [sum(span.seconds for span in spans if (span.name, span.direction) == key) for spans in self.spans]
        return float(np.median(sums))


def _row(name: str, direction: str, calls: int, seconds: float, flops: int, moved: int, roof: Roof) -> dict[str, Any]:
    gflops, gbytes = flops / seconds / 1e9, moved / seconds / 1e9
    return {
        "event": "layer",
        "name": name,
        "direction": direction,
        "calls": calls,
        "ms": 1e3 * seconds,
        "gflops": gflops,
        "gbytes_per_s": gbytes,
        "roof_share": gflops / roof.gflops,
        "copy_share": gbytes / roof.gbytes,
    }
