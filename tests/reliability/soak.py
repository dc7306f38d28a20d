"""A run that goes on and on: memory, open handles and threads stay as they are, and it gets no slower."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cllm_cli.training import train

from .forks import SIZES, TEXT

SAMPLES = 200  # measurements in all
FLAT = 2.0  # MB that memory may grow by from the first quarter of the time to the last
FAST = 0.97  # of the speed in the first tenth must be there in the last


def run(count: int, seed: int) -> dict[str, Any]:
    """Trains for so many seconds, with evaluations, samples and saves; measures from when it has warmed up."""
    settings = SIZES | {"eval_every": 200, "sample_every": 1000, "save_every": 100, "log_every": 10, "seed": seed}
    rows: list[tuple[float, int, float, int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(TEXT, "utf-8")
        records = train([text], Path(folder) / "run", steps=10**8, threads=1, stop=lambda: 0, **settings)
        for seconds, step in _measured(records, count):
            rows.append((seconds, step, *_taken()))
        records.close()
    time_, steps, memory, handles, threads = (np.array(column) for column in zip(*rows, strict=True))
    half, quarter, tenth = len(rows) // 2, max(1, len(rows) // 4), max(2, len(rows) // 10)
    grown = float(np.median(memory[-quarter:]) - np.median(memory[:quarter]))
    first, last = _speed(time_[:tenth], steps[:tenth]), _speed(time_[-tenth:], steps[-tenth:])
    wrong = [] if grown <= FLAT else [f"memory has grown by {grown:.1f} MB"]
    wrong += [f"{name} have grown" for name, taken in (("handles", handles), ("threads", threads)) if np.ptp(taken)]
    return {
        "seconds": round(float(time_[-1]), 1),
        "steps": int(steps[-1]),
        "memory_mb": [round(float(memory[place]), 1) for place in (0, half, -1)],
        # What malloc keeps goes on to grow for minutes, until it has what the rarest need.
        "memory_mb_an_hour_second_half": round(3600 * float(np.polyfit(time_[half:], memory[half:], 1)[0]), 3),
        "handles": [int(handles.min()), int(handles.max())],
        "threads": [int(threads.min()), int(threads.max())],
        "last_tenth_to_first": round(last / first, 4),
        "slower": bool(last < FAST * first),
        "failures": len(wrong),
        "wrong": wrong,
    }


def _measured(records: Any, seconds: float) -> Iterator[tuple[float, int]]:
    """Seconds since step 1,000, and the step, now and then until so many seconds have passed."""
    began = due = 0.0
    for record in records:
        if record.event != "step" or record.step < 1000:
            continue
        now = time.monotonic()
        began = began or now
        if now - began >= due:
            yield now - began, record.step
            due = now - began + seconds / SAMPLES
        if now - began >= seconds:
            return


def _taken() -> tuple[float, int, int]:
    """Resident MB, open handles and threads of this process."""
    process = Path("/proc/self")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024, len([*(process / "fd").iterdir()]), int(status["Threads"])


def _speed(seconds: Any, steps: Any) -> float:
    return float((steps[-1] - steps[0]) / (seconds[-1] - seconds[0]))
