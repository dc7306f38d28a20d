"""What library code makes Python do beyond computing: sockets, processes, code from data, pickle. None of it may be.

`AUDIT.start()` adds an audit hook (PEP 578), which cannot be taken away again. An event is the library's when a frame
of the package is on the stack; what stands nearer to the event decides whether it is allowed.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cllm_cli

PACKAGE = str(Path(cllm_cli.__file__).parent)
WATCHED = {
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
    *("exec", "compile", "marshal.loads", "pickle.find_class", "ctypes.dlopen", "ftplib.connect", "urllib.Request"),
}
ALLOWED = {
    "subprocess.Popen": ("/kernels/ahead.py",),  # the processes that compile
    "os.fork": ("/kernels/ahead.py",),
    "os.posix_spawn": ("/kernels/ahead.py",),
    "pickle.find_class": ("/numba/",),  # its cache of kernels, in a folder that is the user's alone
    "ctypes.dlopen": ("/numba/", "/llvmlite/", "/numpy/", "/ctypes/"),
    "compile": (
        "<frozen importlib",
        "/numba/",
        "/dataclasses.py",
        "/collections/",
        "/typing.py",
        "/ast.py",
        "/attr/",
        inspect.__file__,  # not commands/inspect.py of the package
    ),
    "marshal.loads": ("<frozen importlib",),
    "exec": (
        "<frozen importlib",
        "/numba/",
        "/dataclasses.py",
        "/collections/",
        "/attr/",
        "/pydantic/",
        "/typing",
        inspect.__file__,
    ),
}
"""Event → what must be on the stack nearer to it than the package's innermost frame, or that frame itself."""


class Audit:
    """Counts the library's events: `allowed` by event, `refused` by event and place."""

    def __init__(self) -> None:
        self.allowed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._on = False

    def start(self) -> None:
        if not self._on:
            self._on = True
            sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in WATCHED and not event.startswith("socket."):
            return
        frame, nearer = sys._getframe(1), []
        while frame is not None:
            name = frame.f_code.co_filename
            nearer.append(name)
            if name.startswith(PACKAGE):
                break
            frame = frame.f_back  # type: ignore[assignment]
        else:
            return  # not the library's
        if any(part in name for name in nearer for part in ALLOWED.get(event, ())):
            self.allowed[event] += 1
        else:
            self.refused[f"{event} in {name.removeprefix(PACKAGE)}:{frame.f_lineno} {args!r:.80}"] += 1


AUDIT = Audit()
