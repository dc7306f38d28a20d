"""The memory that this process has in use, as the system tells it."""

from __future__ import annotations

import resource
from pathlib import Path


def resident_bytes() -> int | None:
    """Memory of this process that is in use now, where the system tells."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * resource.getpagesize()


def peak_bytes() -> int:
    """The most memory this process has had in use."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
