"""Training steps of cllm and of PyTorch side by side: tokens a second and peak memory at the same shape and batch.

Each side is a process that has warmed up and waits; they take turns, so only one computes at a time and a machine that
slows down slows both. What counts is the median over the turns, and the ratio within one run.

    python benchmarks/speed.py [--shapes S M L] [--sides cllm torch] [--compile] [--turns 7] [--threads N]

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
from shapes import SHAPES, Shape
from streams import Result, emit, tell

PAUSE = 0.3  # seconds between turns: threads that the last side left spinning come to rest


class Side:
    """A worker process. It has warmed up when the constructor returns."""

    def __init__(self, name: str, command: list[str], threads: int) -> None:
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
        stdin: TextIO = self.process.stdin  # type: ignore[assignment]  # a pipe, so never None
        stdin.write(f"go {steps}\n")
        stdin.flush()
        answer = self._answer()
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

    def _answer(self) -> Result:
        stdout: TextIO = self.process.stdout  # type: ignore[assignment]
        line = stdout.readline()
        if not line:
            raise SystemExit(f"the worker '{self.name}' ended with exit code {self.process.wait()}; see above")
        answer: Result = json.loads(line)
        return answer


def commands(options: argparse.Namespace, shape: str) -> dict[str, list[str]]:
    """The worker's command line for every side of this run."""
    here = Path(__file__).parent
    arguments = [shape, str(options.threads)]
    torch = [options.torch_python, str(here / "torch_worker.py"), *arguments]
    chosen = {}
    if "cllm" in options.sides:
        chosen["cllm"] = [options.cllm_python, str(here / "cllm_worker.py"), *arguments]
    if "torch" in options.sides:
        chosen["torch eager"] = torch
        if options.compile:
            chosen["torch compiled"] = [*torch, "--compile"]
    return chosen


def measure(name: str, shape: Shape, options: argparse.Namespace) -> list[Result]:
    """All turns of all sides at one shape."""
    sides: list[Side] = []
    try:
        for title, command in commands(options, name).items():
            tell(f"{name}: {title} warms up")
            sides.append(Side(title, command, options.threads))
        # As many steps a turn for every side, so that the slowest one's turn lasts about --turn-seconds.
        steps = max(1, math.ceil(options.turn_seconds / max(side.go(1) for side in sides)))
        for turn in range(options.turns):
            # The order is reversed every other turn: what a side leaves behind in caches and clocks meets each alike.
            for side in sides if turn % 2 == 0 else reversed(sides):
                side.turn(steps)
            tell(f"{name}: turn {turn + 1}: " + ", ".join(f"{s.name} {s.seconds[-1] * 1e3:.1f} ms" for s in sides))
        return [result(name, shape, side, steps) for side in sides]
    finally:
        for side in sides:
            side.close()


def result(name: str, shape: Shape, side: Side, steps: int) -> Result:
    """What is reported of one side at one shape."""
    seconds = statistics.median(side.seconds)
    return {
        "event": "speed",
        "shape": name,
        "side": side.name,
        "tokens_per_s": shape.tokens / seconds,
        "ms": seconds * 1e3,
        "gflops": shape.flops / seconds / 1e9,
        "peak_rss": side.peak_rss,
        "steps_per_turn": steps,
        "turns_ms": [value * 1e3 for value in side.seconds],
        **side.hello,
    }


def table(results: list[Result]) -> str:
    """One row a side and shape; both ratios are against the better PyTorch side of the same shape."""
    rows = [
        f"{'shape':<7}{'side':<16}{'ms/step':>10}{'tokens/s':>10}{'GFLOP/s':>9}{'speed':>8}{'peak MB':>9}{'memory':>8}"
    ]
    for row in results:
        rivals = [r for r in results if r["shape"] == row["shape"] and r["side"].startswith("torch")]
        speed, memory = "–", "–"
        if rivals:
            speed = f"{row['tokens_per_s'] / max(r['tokens_per_s'] for r in rivals):.2f}×"
            memory = f"{row['peak_rss'] / min(r['peak_rss'] for r in rivals):.0%}"
        rows.append(
            f"{row['shape']:<7}{row['side']:<16}{row['ms']:>10.1f}{row['tokens_per_s']:>10.0f}{row['gflops']:>9.0f}"
            f"{speed:>8}{row['peak_rss'] / 1e6:>9.0f}{memory:>8}"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--sides", nargs="+", choices=("cllm", "torch"), default=["cllm", "torch"])
    parser.add_argument("--compile", action="store_true", help="measure PyTorch compiled as well")
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
    for name in options.shapes:
        measured = measure(name, SHAPES[name], options)
        for row in measured:
            emit(row)
        results += measured
    tell("\n" + table(results))


if __name__ == "__main__":
    main()
