"""Kernels compiled before they are needed, in processes of their own; this process then loads them from the cache.

Several processes compile at once, and a signal ends them without harm. There is a second reason: a kernel that was
compiled in this process does not run the very code that it leaves in the cache. Its parallel loops were compiled as
functions of their own first, and again as parts of the kernel, and the two can round differently. Who only ever loads
runs the same code in every process, so a run's bits do not depend on what was compiled when. `worker.py` is what runs
in these processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numba
import numpy as np

from cllm_cli.errors import ConfigError
from cllm_cli.kernels.jit import CACHE_VARIABLE, cache_root, is_cached, working_root

Call = tuple[Any, tuple[Any, ...]]

COMPILE, LOAD, HERE, UNKEPT = "compile", "load", "here", "unkept"
"""What is being done: compiling elsewhere, loading, compiling in this process although others were to do it, or
compiling without a folder that keeps it: elsewhere or, where none can be made for the time being, in this process."""

WORKER = f"{__package__}.worker"
HEAVY = ("attention", "linear", "cross_entropy")  # what takes longest is begun first


def describe(value: Any) -> str:
    """The type of an argument as text: "float32[2]" is a C-contiguous array, "int64" a scalar."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name}[{value.ndim}]"
    return "bool" if isinstance(value, bool | np.bool_) else np.dtype(type(value)).name


def type_of(description: str) -> Any:
    """Numba's type for what `describe` gave."""
    name, _, rank = description.partition("[")
    dtype = np.dtype(name)
    return numba.typeof(np.zeros((1,) * int(rank[:-1]), dtype) if rank else dtype.type(0))


def compile_ahead(calls: Iterable[Call], workers: int) -> Iterator[tuple[str, int, int, str]]:
    """Makes the kernels of `calls` ready: first compiles what is missing, then loads all.

    Yields a kernel's name, how many are ready, of how many, and what is being done: COMPILE, LOAD, HERE or UNKEPT.

    Where no other process can do it they are compiled here, in this run alone.
    """
    wanted = _by_types(calls)
    types = {key: tuple(map(type_of, key[2:])) for key in wanted}
    missing = [key for key, kernel in wanted.items() if not is_cached(kernel, types[key])]
    missing.sort(key=lambda key: not key[1].startswith(HEAVY))
    root = working_root() if missing else None
    if root is not None:
        for done, name in _elsewhere(missing, workers, environment={CACHE_VARIABLE: str(root.parent)}):
            yield name, done, len(missing), COMPILE if cache_root() else UNKEPT
    for done, (key, kernel) in enumerate(wanted.items()):
        alone = key in missing and not is_cached(kernel, types[key])
        yield key[1], done, len(wanted), (HERE if cache_root() else UNKEPT) if alone else LOAD
        kernel.compile(types[key])


def compile_for(level: str, folder: Path, calls: Iterable[Call], workers: int) -> Iterator[tuple[str, int, int]]:
    """Compiles the kernels of `calls` for a CPU level, which this CPU need not have, into `folder`.

    Yields a kernel's name, how many are done, and of how many. Raises ConfigError where it cannot.
    """
    keys, done = [*_by_types(calls)], 0
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        for done, name in _elsewhere(keys, workers, level, {CACHE_VARIABLE: place}):
            yield name, done, len(keys)
        if done < len(keys):
            raise ConfigError(f"{len(keys) - done} of {len(keys)} kernels could not be compiled for {level}")
        made = Path(place) / "kernels"
        for each in (made, *made.iterdir()):
            each.chmod(0o755)  # whoever installs the package owns them, everyone reads them
        made.replace(folder)


def _by_types(calls: Iterable[Call]) -> dict[tuple[str, ...], Any]:
    """The different kernels of `calls`: module, name and types of arguments → kernel."""
    found: dict[tuple[str, ...], Any] = {}
    for kernel, args in calls:
        if hasattr(kernel, "compile"):  # with the JIT off a kernel is a plain function
            function = kernel.py_func
            found[function.__module__, function.__name__, *map(describe, args)] = kernel
    return found


def _elsewhere(
    keys: list[tuple[str, ...]], workers: int, level: str = "", environment: Mapping[str, str] | None = None
) -> Iterator[tuple[int, str]]:
    """Has other processes compile `keys`; yields how many are done, and the name of one that is under way.

    A kernel whose process dies, for want of memory perhaps, is given to one other.
    """
    waiting, done = list(enumerate(keys)), 0
    processes: list[subprocess.Popen[str]] = []
    running: dict[Any, int] = {}
    failed: set[int] = set()
    try:
        for _ in range(min(workers, len(keys))):
            processes.append(_start(level, environment))
            _give(processes[-1], waiting, running)
        while running:
            yield done, keys[next(iter(running.values()))][1]
            ready, _, _ = select.select([process.stdout for process in running], [], [], 0.25)
            for process in [process for process in running if process.stdout in ready]:
                number = running.pop(process)
                if process.stdout.readline():
                    done += 1
                else:  # the process died
                    if number not in failed:
                        waiting.append((number, keys[number]))
                    failed.add(number)
                    process = _start(level, environment) if waiting else process
                    processes.append(process)
                _give(process, waiting, running)
        yield done, keys[-1][1]
    except OSError:
        return
    finally:
        for process in processes:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not yet sent to a process that has died
                    pipe.close()
            process.wait()


def _start(level: str, environment: Mapping[str, str] | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", WORKER, *([level] if level else [])],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # a Ctrl-C is for this process, which ends them
    )


def _give(process: Any, waiting: list[tuple[int, tuple[str, ...]]], running: dict[Any, int]) -> None:
    if waiting:
        number, key = waiting.pop(0)
        running[process] = number
        with contextlib.suppress(BrokenPipeError):  # it has died already, and its output ends as well
            process.stdin.write(json.dumps(key) + "\n")
            process.stdin.flush()
