"""Where a training step's time goes: each kernel run timed within real steps, and summed over the calls of a layer.

Operations and bytes follow from the layers' declared shapes: the matrix products' multiplications and additions, and
every tensor that a kernel reads or writes, scratch aside, counted once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cllm_cli.layers.base import arguments, gradient, resolve
from cllm_cli.model.plan import SCRATCH, Run
from cllm_cli.optim.clip import global_norm, norm_scratch
from cllm_cli.profiling.roof import machine_gflops
from cllm_cli.training.step import Stepper

PASSES = {"forward": 1, "backward": 2, "forward_backward": 3}  # in units of the forward product's operations


def profile_steps(stepper: Stepper, steps: int) -> Iterator[dict[str, Any]]:
    """Runs `steps` training steps; yields a row for each layer and direction, then the row `end`, as cli.md names them.

    Times are medians over steps, in ms a step; GFLOP/s are of matrix products alone, and roof_share of
    `machine_gflops`.
    """
    plan, replay = stepper.replay.plan, stepper.replay
    runs = [*plan.forward, *plan.backward]
    bound = [*replay.forward_runs, *replay.backward_runs]
    x = np.zeros((stepper.batch, stepper.model.config.block_size), np.int32)
    y = np.zeros_like(x)
    part = norm_scratch()
    times = np.zeros((steps, len(runs)))
    norms, updates, wholes = [], [], []
    for step in range(steps):
        began = time.perf_counter()
        stepper.sampler.next_batch(x, y)
        replay.given["tokens"][:] = x.reshape(-1)
        replay.given["targets"][:] = y.reshape(-1)
        values = stepper.arguments(step, x.size)
        for number, (kernel, fixed, names) in enumerate(bound):
            started = time.perf_counter()
            kernel(*fixed, *[values[name] for name in names])
            times[step, number] = time.perf_counter() - started
        started = time.perf_counter()
        global_norm(stepper.model.arena.gradients, part)
        norms.append(time.perf_counter() - started)
        started = time.perf_counter()
        stepper.updater.update(step + 1, 0.0, 1.0)
        updates.append(time.perf_counter() - started)
        wholes.append(time.perf_counter() - began)
    roof = machine_gflops()
    grouped: dict[tuple[str, str], list[int]] = {}
    for number, run in enumerate(runs):
        grouped.setdefault((run.call.layer.name, run.direction), []).append(number)
    flops = 0
    for (name, direction), numbers in grouped.items():
        shown = "backward" if direction == "forward_backward" else direction
        counted = sum(PASSES[direction] * runs[number].call.layer.flops(runs[number].call.sizes) for number in numbers)
        moved = sum(moved_bytes(runs[number], stepper.model.dtype.itemsize) for number in numbers)
        flops += counted
        seconds = float(np.median(times[:, numbers].sum(axis=1)))
        yield _row(name, shown, len(numbers), seconds, counted, moved, roof)
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
    """Bytes of every tensor that a run touches, scratch aside."""
    tensors = sum(place.bytes for place in run.places.values() if place.key[0] != SCRATCH)
    params: Mapping[str, str] = run.call.layer.params
    named = {**params, **{gradient(name): shape for name, shape in params.items()}}
    shapes = [resolve(named[name], run.call.sizes) for name in arguments(run.kernel) if name in named]
    return tensors + itemsize * sum(int(np.prod(shape)) for shape in shapes)


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
