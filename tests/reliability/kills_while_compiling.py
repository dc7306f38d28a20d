"""SIGKILL while kernels are compiled: what compiles for the killed process ends too, and the cache is whole."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from . import compiling


def run(count: int, seed: int) -> dict[str, Any]:
    """Kills so many times: the command alone, or all of its processes. Each time on an empty cache."""
    random = Random(seed)
    wrong: list[str] = []
    killed = tries = 0
    with tempfile.TemporaryDirectory() as folder:
        # What a command says, and how long its processes compile.
        process = compiling.start(Path(folder) / "first")
        while len(compiling.alive(Path(folder) / "first")) < 2:
            time.sleep(0.01)
        began = time.monotonic()
        expected = compiling.finish(process)
        compile_seconds = time.monotonic() - began
        while killed < count and not wrong:
            cache, tries = Path(folder) / f"cache-{tries}", tries + 1
            process = compiling.start(cache)
            while process.poll() is None and len(compiling.alive(cache)) < 2:
                time.sleep(0.01)
            time.sleep(random.uniform(0, compile_seconds))
            process.kill()
            if random.random() < 0.5:
                compiling.kill_all(cache)
            process.communicate()
            if process.returncode != -signal.SIGKILL:  # it had ended by itself
                wrong += [f"exit code {process.returncode}"] if process.returncode else []
                continue
            killed += 1
            if not compiling.wait_until_gone(cache):
                wrong.append("a process is left")
            wrong += compiling.wrong_with(cache, expected)
        if not wrong:
            wrong += compiling.wrong_with_loading(cache, expected)
    return {"kills": killed, "failures": len(wrong), "wrong": wrong[:5]}
