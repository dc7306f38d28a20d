"""A folder for compiled kernels that goes with the process, for machines where no folder can keep them.

A process that is killed leaves its folder, and the next one removes it: whoever uses a folder holds a lock on it, which
the system takes back when a process ends.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import os
import shutil
import tempfile
import threading
from pathlib import Path

from cllm_cli.kernels.private import make_private

PREFIX = "cllm-kernels-"
KERNELS = "kernels"
"""The folder of compiled kernels within a cache folder."""

_one_at_a_time = threading.Lock()


def temporary_root() -> Path | None:
    """The folder KERNELS of a private one among the temporary files, the same at each call; None where none is safe."""
    with _one_at_a_time:
        return _made()


@functools.cache
def _made() -> Path | None:
    try:
        place = Path(tempfile.mkdtemp(prefix=PREFIX))
        atexit.register(_remove, place, os.getpid())
        if not make_private(place / KERNELS) or _locked(place, fcntl.LOCK_SH) is None:
            return None
    except OSError:
        return None
    for other in place.parent.glob(f"{PREFIX}*"):
        _remove_abandoned(other)
    return place / KERNELS


def _remove(place: Path, process: int) -> None:
    if os.getpid() == process:  # and no fork of it, which ends before
        shutil.rmtree(place, ignore_errors=True)


def _remove_abandoned(place: Path) -> None:
    try:
        if place.lstat().st_uid != os.geteuid():
            return
        held = _locked(place, fcntl.LOCK_EX)
    except OSError:
        return
    if held is not None:
        shutil.rmtree(place, ignore_errors=True)
        os.close(held)


def _locked(folder: Path, kind: int) -> int | None:
    """A file descriptor that holds a lock on a folder, None where another process holds one. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
