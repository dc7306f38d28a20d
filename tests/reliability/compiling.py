"""Commands that compile a kernel or two into a cache of their own, in processes that can be watched and killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cllm_cli.kernels.jit import CACHE_VARIABLE

COMMAND = ["gradcheck", "--layer", "add", "--json"]
PATIENCE = 60.0  # seconds that a process may compile on after the one that started it is gone


def start(cache: Path) -> subprocess.Popen[str]:
    """Starts the command on a cache."""
    environment = {**os.environ, CACHE_VARIABLE: str(cache)}
    command = [sys.executable, "-m", "cllm_cli", *COMMAND]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[str]) -> str:
    """What it says of the checks, without the time that they took; else how it failed."""
    out, err = process.communicate(timeout=600)
    checks, end, _ = out.rpartition('{"event":"end"')
    return checks if end and not err and not process.returncode else f"exit code {process.returncode}: {err or out}"


def alive(cache: Path) -> list[int]:
    """The processes that use a cache, found by their environment."""
    wanted, found = f"{CACHE_VARIABLE}={cache}\0".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def wait_until_gone(cache: Path) -> bool:
    """Whether the processes that use a cache end by themselves."""
    until = time.monotonic() + PATIENCE
    while alive(cache) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(cache)


def kill_all(cache: Path) -> None:
    """Ends every process that uses a cache."""
    for pid in alive(cache):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def files(cache: Path) -> dict[str, tuple[int, int]]:
    """Each file of a cache: when it was written, and its size."""
    found = {str(path.relative_to(cache)): path.stat() for path in cache.rglob("*") if path.is_file()}
    return {name: (status.st_mtime_ns, status.st_size) for name, status in found.items()}


def wrong_with(cache: Path, expected: str) -> list[str]:
    """What is wrong with a cache after what it went through: it serves, and holds nothing else than kernels."""
    said = finish(start(cache))
    wrong = [] if said == expected else [said]
    if strays := [name for name in files(cache) if not name.endswith((".nbi", ".nbc"))]:
        wrong.append(f"strays: {', '.join(strays)}")
    return wrong


def wrong_with_loading(cache: Path, expected: str) -> list[str]:
    """What is wrong where all is there already: nothing is written again."""
    before = files(cache)
    wrong = wrong_with(cache, expected)
    return wrong if files(cache) == before else [*wrong, "what was there could not be loaded"]
