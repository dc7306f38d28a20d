"""Regular files, and nothing in their place: opening a FIFO waits for whoever writes, and a device may never end."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def check_regular(path: Path) -> None:
    """Raise OSError unless `path` is a regular file, or a link to one."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))


def open_regular(path: Path) -> BufferedReader:
    """A regular file to read. Raises OSError for all else."""
    check_regular(path)
    return path.open("rb")
