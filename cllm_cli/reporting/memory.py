"""How the memory of a run is shown."""

from __future__ import annotations

from collections.abc import Mapping

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
