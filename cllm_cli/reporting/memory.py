"""Memory of a run, as planned and as measured, in bytes."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path

from rich.text import Text

from cllm_cli.printable import one_line
from cllm_cli.reporting.grid import Column, Grid
from cllm_cli.reporting.quantities import size

TITLES = {"params": "weights", "grads": "gradients", "total": "planned"}  # the other parts go by their names


def memory_lines(
    planned: Mapping[str, int], width: int | None, more: Mapping[str, int | None] | None = None
) -> list[Text]:
    """The parts of a memory plan in bytes and their total, on two lines; on one where the width asks for it.

    `more` adds columns at the right, such as what was measured.
    """
    if not planned:
        return []
    order = [*(part for part in planned if part != "total"), *(part for part in planned if part == "total")]
    columns = [Column("memory", left=True)]
    columns += [Column(TITLES.get(part, one_line(part)), 8) for part in order]
    columns += [Column(title, 8) for title in more or {}]
    grid = Grid(columns)
    figures = [size(planned[part]) for part in order] + [size(value) for value in (more or {}).values()]
    if width is None or grid.width <= width:
        return [grid.head(), grid.line(["", *figures])]
    sums = {TITLES["total"]: planned.get("total"), **(more or {})}
    return [Text("memory ", "dim") + Text(", ".join(f"{size(value)} {title}" for title, value in sums.items()))]


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
