"""cllm and PyTorch side by side: tokens a second and peak memory at the same shape and batch.

Each side is a process that has warmed up and waits; they take turns, so only one computes at a time and a machine that
slows down slows both. What counts is the median over the turns, and the ratio within one run.

    python benchmarks/speed.py [--task train] [--shapes S M L | --sweep width] [--sides "cllm" "torch eager"]
        [--turns 7] [--threads N]

Standard output: JSON lines. Standard error: progress, and a table at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from machine import cores, describe
from shapes import SHAPES, SWEEPS, named_shape
from streams import Result, emit, tell
from worker import ROOF, TASKS

# Each side's worker, threads (None: as many as --threads) and flags.
SIDES: dict[str, tuple[str, int | None, list[str]]] = {
    "cllm": ("cllm", None, []),
    "cllm none": ("cllm", None, ["--recompute", "none"]),
    "cllm block": ("cllm", None, ["--recompute", "block"]),
    "cllm one thread": ("cllm", 1, []),
    "cllm v3": ("cllm", None, ["--cpu", "x86-64-v3"]),
    "cllm v4": ("cllm", None, ["--cpu", "x86-64-v4"]),
    "cllm avx2": ("cllm", None, ["--cpu", "native-avx2"]),
    "torch eager": ("torch", None, []),
    "torch compiled": ("torch", None, ["--compile"]),
}
WORKERS = {**SIDES, ROOF: ("cllm", None, ["--task", ROOF])}
PAUSE = 0.3  # seconds between turns: threads that the last side left spinning come to rest


ROOFS = ("roof_gflops", "copy_gbytes_per_s")


class Side:
    """A worker process. It has warmed up when the constructor returns."""

    def __init__(self, name: str, shape: str, options: argparse.Namespace) -> None:
        worker, threads, flags = WORKERS[name]
        threads = threads or options.threads
        script = Path(__file__).parent / f"{worker}_worker.py"
        python = {"cllm": options.cllm_python, "torch": options.torch_python}[worker]
        command = [python, str(script), shape, str(threads), "--task", options.task, *flags]
        self.name = name
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **limits}
        )
        self.hello = self._answer()
        self.seconds: list[float] = []  # a step, turn by turn
        self.peak_rss = 0

    def go(self, steps: int) -> float:
        """Run some steps; seconds a step."""
        answer = self.ask(steps)
        self.peak_rss = answer["peak_rss"]
        return float(answer["seconds"]) / steps

    def turn(self, steps: int) -> None:
        """A measured turn."""
        time.sleep(PAUSE)
        self.seconds.append(self.go(steps))

    def close(self) -> None:
        """End the process: with its input it ends by itself, unless it hangs."""
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, steps: int) -> Result:
        """Run some steps; all that the worker answers."""
        stdin: TextIO = self.process.stdin  # type: ignore[assignment]  # a pipe, so never None
        stdin.write(f"go {steps}\n")
        stdin.flush()
        return self._answer()

    def _answer(self) -> Result:
        stdout: TextIO = self.process.stdout  # type: ignore[assignment]  # a pipe as well
        line = stdout.readline()
        if not line:
            raise SystemExit(f"the worker '{self.name}' ended with exit code {self.process.wait()}; see above")
        answer: Result = json.loads(line)
        return answer


def measure(name: str, options: argparse.Namespace) -> list[Result]:
    """All turns of all sides at one shape; the roofs are measured between them."""
    sides: list[Side] = []
    roofs: list[Result] = []
    roof = Side(ROOF, name, options) if any(title.startswith("cllm") for title in options.sides) else None
    try:
        for title in options.sides:
            tell(f"{name}: {title} warms up")
            sides.append(Side(title, name, options))
        # As many steps a turn for every side, so that the slowest one's turn lasts about --turn-seconds.
        steps = max(1, math.ceil(options.turn_seconds / max(side.go(1) for side in sides)))
        for turn in range(options.turns):
            # The order is reversed every other turn: what a side leaves behind in caches and clocks meets each alike.
            for side in sides if turn % 2 == 0 else reversed(sides):
                side.turn(steps)
            if roof:
                roofs.append(roof.ask(1))
            tell(f"{name}: turn {turn + 1}: " + ", ".join(f"{s.name} {s.seconds[-1] * 1e3:.1f} ms" for s in sides))
        limits = {key: statistics.median(found[key] for found in roofs) for key in ROOFS if roofs}
        return [result(name, side, steps, options.task, limits) for side in sides]
    finally:
        for side in [*sides, *([roof] if roof else [])]:
            side.close()


def result(name: str, side: Side, steps: int, task: str, limits: Result) -> Result:
    """What is reported of one side at one shape."""
    shape = named_shape(name)
    seconds = statistics.median(side.seconds)
    tokens = 1 if task == "generate" else shape.tokens
    figures: Result = {"tokens_per_s": tokens / seconds, "ms": seconds * 1e3}
    if task == "generate":
        figures["gbytes_per_s"] = 4 * shape.weights / seconds / 1e9
    else:
        figures["gflops"] = shape.flops / (3 if task == "eval" else 1) / seconds / 1e9
    return {
        "event": "speed",
        "task": task,
        "shape": name,
        "side": side.name,
        **figures,
        **limits,
        "peak_rss": side.peak_rss,
        "steps_per_turn": steps,
        "turns_ms": [value * 1e3 for value in side.seconds],
        **side.hello,
    }


def table(results: list[Result]) -> str:
    """One row a side and shape; both ratios are against the better PyTorch side of the same shape."""
    width = max(len(row["shape"]) for row in results)
    head = f"{'ms':>10}{'tokens/s':>10}{'of roof':>9}{'speed':>8}{'peak MB':>9}{'memory':>8}"
    rows = [f"{'shape':<{width}} {'side':<16}{head}"]
    for row in results:
        roof, ratios = roof_share(row), against_torch(row, results)
        speed, memory = (f"{ratios[0]:.2f}×", f"{ratios[1]:.0%}") if ratios else ("–", "–")
        rows.append(
            f"{row['shape']:<{width}} {row['side']:<16}{row['ms']:>10.2f}{row['tokens_per_s']:>10.0f}"
            f"{'–' if roof is None else f'{roof:.0%}':>9}{speed:>8}{row['peak_rss'] / 1e6:>9.0f}{memory:>8}"
        )
    return "\n".join(rows)


def against_torch(row: Result, results: list[Result]) -> tuple[float, float] | None:
    """Speed and memory, relative to the better of the PyTorch sides at the same task and shape, where there is one."""
    place = (row["task"], row["shape"])
    rivals = [r for r in results if (r["task"], r["shape"]) == place and r["side"].startswith("torch")]
    if not rivals:
        return None
    speed = row["tokens_per_s"] / max(r["tokens_per_s"] for r in rivals)
    return speed, row["peak_rss"] / min(r["peak_rss"] for r in rivals)


def roof_share(row: Result) -> float | None:
    """Of the machine's operations, or of a copy's bytes where a step is bound by reading the weights."""
    if "roof_gflops" not in row:
        return None
    if "gflops" in row:
        return float(row["gflops"] / row["roof_gflops"])
    return float(row["gbytes_per_s"] / row["copy_gbytes_per_s"])


def shape_name(text: str) -> str:
    """The name, if there is such a shape."""
    named_shape(text)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default=TASKS[0])
    parser.add_argument(
        "--shapes", nargs="+", type=shape_name, metavar="SHAPE", default=list(SHAPES), help="S, M, L or M:NAME=N,…"
    )
    parser.add_argument("--sweep", choices=SWEEPS, help="shapes that differ in one size")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["cllm", "torch eager"])
    parser.add_argument("--turns", type=int, default=7, help="turns of each side, at least 5 for a figure to quote")
    parser.add_argument("--turn-seconds", type=float, default=2.0, help="length of the slowest side's turn")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--cllm-python", default=sys.executable, help="the interpreter that has cllm")
    parser.add_argument("--torch-python", default=sys.executable, help="the interpreter that has PyTorch")
    options = parser.parse_args()
    if options.turns < 1:
        parser.error("--turns must be at least 1")

    emit({"event": "machine", **describe(), "threads": options.threads})
    results: list[Result] = []
    for name in SWEEPS[options.sweep] if options.sweep else options.shapes:
        measured = measure(name, options)
        for row in measured:
            emit(row)
        results += measured
    tell("\n" + table(results))


if __name__ == "__main__":
    main()
