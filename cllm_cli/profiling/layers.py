"""Where a training step's time goes: each kernel run timed within real steps, and summed over the calls of a layer.

Operations and bytes follow from the layers' declared shapes: the matrix products' multiplications and additions, and
every tensor that a kernel reads or writes, scratch aside, counted once.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from cllm_cli.layers.base import arguments, gradient, resolve
from cllm_cli.model.runs import SCRATCH, Run
from cllm_cli.optim.clip import global_norm, norm_scratch
from cllm_cli.training.step import Stepper

# In units of the forward product's operations; what is computed again does not count.
PASSES = {"forward": 1, "backward": 2, "forward_backward": 3, "recompute": 0}


def profile_steps(stepper: Stepper, steps: int, roof: float) -> Iterator[dict[str, Any]]:
    """Runs `steps` training steps; yields a row for each layer and direction, then the row `end`, as cli.md names them.

    Times are medians over steps, in ms a step; GFLOP/s are of matrix products alone, and roof_share of
    `roof`, the GFLOP/s that the machine is capable of.
    """
    plan, replay = stepper.replay.plan, stepper.replay
    runs = [*plan.forward, *plan.backward]
    bound = [*replay.forward_runs, *replay.backward_runs]
    time_steps = stepper.model.config.block_size
    x = np.zeros((stepper.accumulate, stepper.batch, time_steps), np.int32)
    y = np.zeros_like(x)
    part = norm_scratch()
    times = np.zeros((steps, len(runs)))
    norms, updates, wholes = [], [], []
    for step in range(steps):
        began = time.perf_counter()
        stepper.sampler.next_batch(x.reshape(-1, time_steps), y.reshape(-1, time_steps))
        values = stepper.arguments(step, x.size)
        for micro in range(stepper.accumulate):
            replay.given["tokens"][:] = x[micro].reshape(-1)
            replay.given["targets"][:] = y[micro].reshape(-1)
            for number, (kernel, fixed, names) in enumerate(bound):
                started = time.perf_counter()
                kernel(*fixed, *[values[name] for name in names])
                times[step, number] += time.perf_counter() - started
        started = time.perf_counter()
        global_norm(stepper.model.arena.gradients, part)
        norms.append(time.perf_counter() - started)
        started = time.perf_counter()
        stepper.updater.update(step + 1, 0.0, 1.0)
        updates.append(time.perf_counter() - started)
        wholes.append(time.perf_counter() - began)
    grouped: dict[tuple[str, str], list[int]] = {}
    for number, run in enumerate(runs):
        grouped.setdefault((run.call.layer.name, run.direction), []).append(number)
    flops = 0
    for (name, direction), numbers in grouped.items():
        shown = "backward" if direction == "forward_backward" else direction
        calls = [runs[number] for number in numbers] * stepper.accumulate
        counted = sum(PASSES[direction] * run.call.layer.flops(run.call.sizes) for run in calls)
        moved = sum(moved_bytes(run, stepper.model.dtype.itemsize) for run in calls)
        flops += counted
        seconds = float(np.median(times[:, numbers].sum(axis=1)))
        yield _row(name, shown, len(calls), seconds, counted, moved, roof)
    arena = stepper.model.arena
    yield _row("gradient norm", "update", 1, statistics.median(norms), 0, arena.gradients.nbytes, roof)
    # Weights, gradients and state are read and written.
    touched = 2 * (arena.values.nbytes + arena.gradients.nbytes + stepper.updater.bytes)
    yield _row(stepper.updater.optimizer.name, "update", 1, statistics.median(updates), 0, touched, roof)
    whole = statistics.median(wholes)
    yield {
        "event": "end",
        "ms_per_step": 1e3 * whole,
        "tokens_per_s": x.size / whole,
        "gflops": flops / whole / 1e9,
        "machine_gflops": roof,
        "roof_share": flops / whole / 1e9 / roof,
    }


def moved_bytes(run: Run, itemsize: int) -> int:
    """Bytes of every tensor that a run touches, scratch aside; of a table the rows that are looked up."""
    tensors = sum(place.bytes for place in run.places.values() if place.key[0] != SCRATCH)
    layer, sizes = run.call.layer, run.call.sizes
    elements = 0
    for name in layer.params:
        rows, *rest = resolve(layer.params[name], sizes)
        if name in layer.rows:
            rows = min(rows, sizes[layer.rows[name]])
        # The parameter, its gradient, or both.
        elements += math.prod([rows, *rest]) * sum(each in arguments(run.kernel) for each in (name, gradient(name)))
    return tensors + itemsize * elements


def _row(name: str, direction: str, calls: int, seconds: float, flops: int, moved: int, roof: float) -> dict[str, Any]:
    gflops = flops / seconds / 1e9
    return {
        "event": "layer",
        "name": name,
        "direction": direction,
        "calls": calls,
        "ms": 1e3 * seconds,
        "gflops": gflops,
        "gbytes_per_s": moved / seconds / 1e9,
        "roof_share": gflops / roof,
    }
