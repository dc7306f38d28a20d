"""How long one waits: the first start of all with nothing compiled, a warm start, and the help.

    python benchmarks/start.py [--preset nano] [--turns 9] [--cold-turns 3] [--program FILE]

A start is measured from the start of the process to the event of its first training step. Cold ones each have an
empty folder of compiled kernels. FILE is the single-file binary, which also unpacks itself at the first start of all.
Standard output: JSON lines. Standard error: a table of medians.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from machine import describe, versions
from streams import emit, tell

SAMPLE = Path(__file__).parents[1] / "sample_data"


def seconds_to_step(program: list[str], preset: str, folder: Path, cache: Path) -> float:
    """From the start of `cllm train` to its first step."""
    text = next(SAMPLE.glob("*.txt"))
    command = [*program, "train", str(text), "--preset", preset, "--out", str(folder)]
    command += ["--json", "--quiet", "--log-every", "1", "--steps", "50", "--force"]
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "CLLM_CACHE_DIR": str(cache)}
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if json.loads(line)["event"] == "step":
                seconds = time.perf_counter() - began
                process.kill()
                return seconds
    raise SystemExit(f"cllm train ended with exit code {process.returncode} before its first step")


def seconds_to_help(program: list[str], cache: Path) -> float:
    """Of `cllm --help`."""
    environment = {**os.environ, "CLLM_CACHE_DIR": str(cache)}
    began = time.perf_counter()
    subprocess.run([*program, "--help"], stdout=subprocess.DEVNULL, check=True, env=environment)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--cold-turns", type=int, default=3)
    parser.add_argument("--program", type=Path, help="instead of the installed package")
    options = parser.parse_args()
    program = [str(options.program.resolve())] if options.program else [sys.executable, "-m", "cllm_cli"]
    emit({"event": "machine", **describe(), "versions": versions("cllm", "numba", "llvmlite")})
    with tempfile.TemporaryDirectory() as name:
        folder, warm = Path(name, "run"), Path(name, "warm")
        caches = iter(Path(name, f"cold {turn}") for turn in range(options.cold_turns))
        step = functools.partial(seconds_to_step, program, options.preset, folder)
        waits: dict[str, tuple[int, Callable[[], float]]] = {
            "first start of all": (
                options.cold_turns,
                lambda: step(next(caches)),
            ),
            "warm start": (options.turns, lambda: step(warm)),
            "--help": (options.turns, lambda: seconds_to_help(program, warm)),
        }
        step(warm)
        for what, (turns, wait) in waits.items():
            seconds = [wait() for _ in range(turns)]
            emit({"event": "start", "what": what, "seconds": statistics.median(seconds), "turns": seconds})
            tell(f"{what:<20}{statistics.median(seconds):>8.2f} s   ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
