"""Kernels compiled before they are needed, in processes of their own; this process then loads them from the cache.

Several processes compile at once, and a signal ends them without harm. There is a second reason: a kernel that was
compiled in this process does not run the very code that it leaves in the cache. Its parallel loops were compiled as
functions of their own first, and again as parts of the kernel, and the two can round differently. Who only ever loads
runs the same code in every process, so a run's bits do not depend on what was compiled when.

    python -m cllm_cli.kernels.ahead        a worker: a kernel a line on standard input, its name back when done
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numba
import numpy as np

from cllm_cli.kernels.jit import cache_root, is_cached

Call = tuple[Any, tuple[Any, ...]]

COMPILE, LOAD, HERE = "compile", "load", "here"
"""What is being done: compiling elsewhere, loading, or compiling in this process although others were to do it."""

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

    Yields a kernel's name, how many are ready, of how many, and what is being done: COMPILE, LOAD or HERE.

    Without a cache they are compiled here, in every run alike. Where no other process can do it, in this run alone.
    """
    wanted: dict[tuple[str, ...], Any] = {}
    for kernel, args in calls:
        if hasattr(kernel, "compile"):  # with the JIT off a kernel is a plain function
            function = kernel.py_func
            wanted[function.__module__, function.__name__, *map(describe, args)] = kernel
    types = {key: tuple(map(type_of, key[2:])) for key in wanted}
    missing = [key for key, kernel in wanted.items() if not is_cached(kernel, types[key])]
    missing.sort(key=lambda key: not key[1].startswith(HEAVY))
    if missing and cache_root() is not None:
        for done, name in _elsewhere(missing, workers):
            yield name, done, len(missing), COMPILE
    for done, (key, kernel) in enumerate(wanted.items()):
        alone = key in missing and cache_root() is not None and not is_cached(kernel, types[key])
        yield key[1], done, len(wanted), HERE if alone else LOAD
        kernel.compile(types[key])


def _elsewhere(keys: list[tuple[str, ...]], workers: int) -> Iterator[tuple[int, str]]:
    """Has other processes compile `keys`; yields how many are done, and the name of one that is under way.

    A kernel whose process dies, for want of memory perhaps, is given to one other.
    """
    waiting, done = list(enumerate(keys)), 0
    processes: list[subprocess.Popen[str]] = []
    running: dict[Any, int] = {}
    failed: set[int] = set()
    try:
        for _ in range(min(workers, len(keys))):
            processes.append(_start())
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
                    process = _start() if waiting else process
                    processes.append(process)
                _give(process, waiting, running)
    except OSError:
        return
    finally:
        for process in processes:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not yet sent to a process that has died
                    pipe.close()
            process.wait()


def _start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", __spec__.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # a Ctrl-C is for this process, which ends them
    )


def _give(process: Any, waiting: list[tuple[int, tuple[str, ...]]], running: dict[Any, int]) -> None:
    if waiting:
        number, key = waiting.pop(0)
        process.stdin.write(json.dumps(key) + "\n")
        process.stdin.flush()
        running[process] = number


def main() -> None:
    """Compiles what standard input names, until it ends, as it does when the process that started this one is gone."""
    os.nice(1)  # the other process is the one that somebody watches
    numba.get_num_threads()  # starts the threads, whose symbols kernels refer to
    for line in sys.stdin:
        module, name, *types = json.loads(line)
        getattr(importlib.import_module(module), name).compile(tuple(map(type_of, types)))
        sys.stdout.write(name + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
