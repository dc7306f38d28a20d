"""The results of `cllm gradcheck --flow`: a table of layers, one of parameters, bars beside the figures, and findings.

Bars are logarithmic, from the least to the largest figure of their column; ratios have one where they are judged, in
matrices.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich.text import Text

from cllm_cli.reporting.grid import Cell, Column, Grid, widened
from cllm_cli.reporting.quantities import count, loss, scientific
from cllm_cli.reporting.tables import Printer, short_name
from cllm_cli.reporting.terminal import gauge

Row = Mapping[str, Any]

BAR = 8  # cells
NAMED = 6  # tensors of a finding that are named
LAYERS = (
    Column("layer", 16, left=True),
    Column("activation", 9),
    Column("", BAR, rank=3, left=True),
    Column("gradient", 9),
    Column("", BAR, rank=2, left=True),
    Column("dead", 4, rank=4),
    Column("", 0, left=True),
)
PARAMETERS = (
    Column("parameter", 16, left=True),
    Column("weight", 8, rank=3),
    Column("gradient", 8),
    Column("update", 8, rank=4),
    Column("/weight", 8),
    Column("", BAR, rank=2, left=True),
    Column("", 0, left=True),
)


def show_flow(rows: Iterable[Row], stream: TextIO) -> None:
    """Shows rows as `--json` writes them, the last of them `end`."""
    printer = Printer(stream)
    listed = list(rows)
    layers = [row for row in listed if row.get("kind") == "layer"]
    parameters = [row for row in listed if row.get("kind") == "parameter"]
    forward, backward = (_bars([row[name] for row in layers], printer) for name in ("activation_rms", "gradient_rms"))
    ratio = _bars([row["update_ratio"] if len(row["shape"]) > 1 else None for row in parameters], printer)
    cells: list[Sequence[Cell]] = [
        (
            short_name(row["name"]),
            scientific(row["activation_rms"]),
            (forward[at], "cyan"),
            scientific(row["gradient_rms"]),
            (backward[at], "magenta"),
            "-" if row["dead"] is None else count(row["dead"]),
            _findings(row),
        )
        for at, row in enumerate(layers)
    ]
    _table(LAYERS, cells, printer)
    cells = [
        (
            short_name(row["name"]),
            scientific(row["weight_rms"]),
            scientific(row["gradient_rms"]),
            scientific(row["update_rms"]),
            scientific(row["update_ratio"]),
            (ratio[at], "cyan"),
            _findings(row),
        )
        for at, row in enumerate(parameters)
    ]
    _table(PARAMETERS, cells, printer)
    for row in listed:
        if row["event"] == "end":
            _show_end(row, [*layers, *parameters], printer)


def _table(columns: Sequence[Column], cells: list[Sequence[Cell]], printer: Printer) -> None:
    grid = Grid(widened(columns, cells), printer.width, printer.signs.more)
    printer.show(grid.head())
    for line in cells:
        printer.show(grid.line(line))
    printer.show("")


def _show_end(end: Row, rows: list[Row], printer: Printer) -> None:
    named: dict[str, list[str]] = {}
    for row in rows:
        for finding in row["findings"]:
            named.setdefault(finding, []).append(short_name(row["name"]))
    for finding, names in named.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        line = f"{finding}: {', '.join(names[:NAMED])}{more}"
        for number, part in enumerate(textwrap.wrap(line, printer.width or len(line), subsequent_indent="  ")):
            text = Text(part)
            text.stylize("bold red", 0, 0 if number else len(finding))
            printer.show(text)
    losses = end["losses"]
    change = f"loss {loss(losses[0])} to {loss(losses[-1])}, " if losses else ""
    parts = f"{end['grad_accum']} x " if end["grad_accum"] > 1 else ""
    steps = f"{end['steps']} step{'' if end['steps'] == 1 else 's'} of {parts}{end['batch']} x {end['time']} tokens, "
    rate = "" if any(end["rates"]) or not end["rates"] else "learning rate 0, "
    verdict = f"{count(end['findings'])} findings" if end["findings"] else "nothing out of the ordinary"
    printer.show(Text.assemble(steps, change, rate, (verdict, "bold red" if end["findings"] else "bold green")))


def _bars(values: Sequence[float | None], printer: Printer) -> list[str]:
    """A bar for each figure; none where it is missing, zero or not finite."""
    figures = [value if value and math.isfinite(value) else None for value in values]
    logs = [math.log10(figure) for figure in figures if figure]
    low, high = min(logs, default=0.0), max(logs, default=1.0)
    span = max(high - low, 1.0)  # a decade at least: what is alike shall look alike
    return [
        gauge((math.log10(figure) - low + span / BAR) / (span + span / BAR), BAR, printer.signs) if figure else ""
        for figure in figures
    ]


def _findings(row: Row) -> Cell:
    return ", ".join(row["findings"]), "bold red"
