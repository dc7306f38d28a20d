"""One side of a speed comparison, in a process of its own that computes only when it is told to.

The protocol, line by line: the worker warms up and writes one JSON object, its hello; then for each "go N" on standard
input it runs N steps and answers {"seconds": …, "peak_rss": …} and what the steps themselves found, if anything.
It ends with its input.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from machine import versions

WARM_UP_STEPS = 3
TASKS = ("train", "eval", "generate")
ROOF = "roof"  # no task to compare: what the machine can do at best

Step = Callable[[int], dict[str, float] | None]  # runs so many steps, and then gives what they found


def serve(step: Step, packages: tuple[str, ...]) -> None:
    """Warm `step` up, say so, and run it as often as asked."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    started = time.perf_counter()
    step(WARM_UP_STEPS)
    answer(warm_up_seconds=time.perf_counter() - started, versions=versions(*packages))
    for line in sys.stdin:
        word, count = line.split()
        if word != "go":
            raise SystemExit(f"expected 'go N', not {line!r}")
        started = time.perf_counter()
        found = step(int(count)) or {}
        answer(seconds=time.perf_counter() - started, peak_rss=peak_rss(), **found)


def peak_rss() -> int:
    """The most memory that this process has had resident so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
