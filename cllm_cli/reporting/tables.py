"""The results of `cllm eval`, `gradcheck` and `profile` as tables.

Rows are the plain dictionaries that `--json` writes, the last of them perhaps the `end` object. They may come from a
generator: gradcheck's are shown as they come. A stream that is no terminal gets the same columns without styles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich.text import Text

from cllm_cli.printable import one_line
from cllm_cli.reporting.grid import Column, Grid, widened
from cllm_cli.reporting.memory import memory_lines
from cllm_cli.reporting.quantities import count, decimal, duration, loss, scientific, share, size
from cllm_cli.reporting.terminal import Signs, console_for, gauge, is_plain, signs_of

Row = Mapping[str, Any]

GAUGE = 8  # cells
EXCERPT = 160  # characters


class Printer:
    """Prints lines on a stream at its own width; a pipe has none. `signs` are what its drawings are made of."""

    def __init__(self, stream: TextIO) -> None:
        self._console = console_for(stream)
        self.width = None if is_plain(stream) else self._console.width
        self.signs: Signs = signs_of(stream)

    def show(self, line: Text | str) -> None:
        self._console.print(line, soft_wrap=True)


def show_evaluation(row: Row, stream: TextIO) -> None:
    """What `cllm eval` found: one label and figure a line."""
    printer = Printer(stream)
    facts = [
        ("loss", f"{loss(row['loss'])} nats a token"),
        ("bits per byte", decimal(row["bits_per_byte"], 3)),
        ("perplexity", decimal(row["perplexity"], 2)),
        ("accuracy", "-" if row.get("accuracy") is None else f"{100 * row['accuracy']:.1f} %"),
        ("scored", f"{count(row['tokens'])} tokens"),
        ("", f"{count(row['bytes'])} bytes"),
    ]
    for label, figure in facts:
        printer.show(Text.assemble((f"{label:<13}", "dim"), "  ", figure))


def show_copying(row: Row, stream: TextIO) -> None:
    """What `--check-copy` found: the longest overlap and its text, a line for the shares of new n-grams."""
    printer = Printer(stream)
    lines = [("longest copy", "nothing")]
    if row["overlap_tokens"]:
        size_ = f"{count(row['overlap_tokens'])} tokens, {count(row['overlap_bytes'])} bytes"
        lines = [("longest copy", f"{size_}, at byte {count(row['overlap_at'])} of the training text")]
        lines += [("", excerpt(row["overlap_text"]))]
    for number, (n, novel) in enumerate(row["novel"].items()):
        figure = "-" if novel is None else f"{100 * novel:.1f} %"
        lines.append(("" if number else "new n-grams", f"{n:>2} tokens  {figure:>7}"))
    for label, figure in lines:
        printer.show(Text.assemble((f"{label:<13}", "dim"), "  ", figure))


def excerpt(text: str) -> str:
    """A passage in one line of a terminal or two: its middle is left out where it is long."""
    if len(text) > EXCERPT:
        half = EXCERPT // 2
        return f'"{one_line(text[:half])}" ... "{one_line(text[-half:])}"'
    return f'"{one_line(text)}"'


GRADCHECK = (
    Column("layer", 14, left=True),
    Column("sizes", 22, rank=2, left=True),
    Column("tensor", 23, left=True),
    Column("dtype", 7, rank=4, left=True),
    Column("error", 8, rank=1),
    Column("tolerance", 9, rank=3),
    Column("", 4, left=True),
)


def show_gradcheck(rows: Iterable[Row], stream: TextIO) -> None:
    """A line for each checked gradient, as it comes; the `end` object becomes the sum."""
    printer = Printer(stream)
    grid = Grid(GRADCHECK, printer.width, printer.signs.more)
    printer.show(grid.head())
    for row in rows:
        if row["event"] == "end":
            failed = row["failed"]
            verdict = (f"{count(failed)} failed", "bold red") if failed else ("all passed", "bold green")
            if "directions" in row:
                printer.show(f"{row['directions']} directions and {row['entries']} entries of each tensor")
            taken = f" in {duration(row['seconds'])}" if "seconds" in row else ""
            printer.show(Text.assemble(f"{count(row['checks'])} checks{taken}, ", verdict, _worst(row.get("worst"))))
            continue
        sizes = row.get("sizes") or {}
        printer.show(
            grid.line(
                (
                    one_line(str(row["layer"])),
                    one_line(" ".join(f"{letter}={extent}" for letter, extent in sizes.items())),
                    short_name(row["tensor"]),
                    one_line(str(row["dtype"])),
                    scientific(row["error"]),
                    scientific(row["tolerance"]),
                    ("ok", "green") if row["ok"] else ("FAIL", "bold red"),
                )
            )
        )
        if not row["ok"] and "entry" in row:
            names = ("analytic", "numeric") if row["dtype"] == "float64" else ("float32", "float64")
            values = f"{names[0]} {row['analytic']:.9g}, {names[1]} {row['numeric']:.9g}"
            printer.show(Text(f"  at {one_line(row['entry'])} of shape {row['shape']}: {values}", "red"))


def short_name(name: Any) -> str:
    """A layer's or tensor's name for people, without what all of them begin with."""
    return one_line(str(name)).removeprefix("transformer.")


def _worst(check: Row | None) -> str:
    """The rest of the last line: the check that came nearest its tolerance."""
    if not check:
        return ""
    name = short_name(check["tensor"])
    name = name if "." in name else f"{one_line(str(check['layer']))} {name}"
    return f"; worst {scientific(check['error'])} of {check['tolerance']:.2g} ({name})"


PROFILE = (
    Column("layer", 10, left=True),
    Column("direction", 8, left=True),
    Column("calls", 5, rank=6),
    Column("ms", 8),
    Column("share", 5, rank=4),
    Column("GFLOP/s", 7, rank=2),
    Column("GB/s", 6, rank=5),
    Column("of roof", 7, rank=1),
    Column("", GAUGE, rank=3, left=True),
)


def show_profile(rows: Iterable[Row], stream: TextIO) -> None:
    """Time, rate and share of the machine's roof for each layer and direction; then the step as a whole and its memory.

    `ms` is for all calls of a step, `share` its part of the whole step. The roof is the one that is nearer, of
    operations or of bytes.
    """
    printer = Printer(stream)
    listed = list(rows)
    layers = [row for row in listed if row["event"] == "layer"]
    whole = sum(row["ms"] for row in layers)
    cells = [
        (
            one_line(str(row["name"])),
            one_line(str(row["direction"])),
            count(row["calls"]),
            decimal(row["ms"], 3),
            share(row["ms"] / whole if whole else None),
            decimal(row["gflops"], 1),
            decimal(row["gbytes_per_s"], 1),
            share(_nearest_roof(row)),
            (gauge(_nearest_roof(row) or 0.0, GAUGE, printer.signs), "cyan"),
        )
        for row in layers
    ]
    grid = Grid(widened(PROFILE, cells), printer.width, printer.signs.more)
    printer.show(grid.head())
    for line in cells:
        printer.show(grid.line(line))
    for row in listed:
        if row["event"] == "end":
            printer.show("")
            rate = f"{decimal(row['gflops'], 1)} of {decimal(row['machine_gflops'], 1)} GFLOP/s"
            printer.show(f"{decimal(row['ms_per_step'], 1)} ms a step, {count(row['tokens_per_s'])} tokens/s")
            printer.show(f"{rate}, {share(row['roof_share'])} of the roof")
            part = share(row["python_ms"] / row["ms_per_step"])
            printer.show(f"{decimal(row['python_ms'], 3)} ms outside of kernels, {part}")
            printer.show(_memory_picture(row["alive_bytes"], printer))
            for text in memory_lines(row.get("memory_bytes") or {}, printer.width):
                printer.show(text)


def _nearest_roof(row: Row) -> float | None:
    """The share of the machine's operations or of its bytes, whichever is more."""
    shares = [row[name] for name in ("roof_share", "copy_share") if row[name] is not None]
    return max(shares, default=None)


PICTURE = 60  # cells


def _memory_picture(alive: Sequence[int], printer: Printer) -> Text:
    """Activations in use from the step's first kernel to its last: a row of columns, the highest the peak."""
    title, most = "activations  ", f"  peak {size(max(alive))}"
    room = PICTURE if printer.width is None else max(1, printer.width - len(title) - len(most))
    cells = min(PICTURE, len(alive), room)
    parts = [alive[i * len(alive) // cells : (i + 1) * len(alive) // cells] for i in range(cells)]
    peak = max(alive) or 1
    heights = [max(part) / peak for part in parts]
    signs = printer.signs.heights
    drawn = "".join(signs[min(len(signs) - 1, int(height * len(signs)))] for height in heights)
    return Text.assemble((title, "dim"), (drawn, "cyan"), most)


SIZES = (
    Column("batch", 6),
    Column("block", 6),
    Column("ms/step", 9),
    Column("tokens/s", 9),
    Column("GFLOP/s", 8, rank=2),
    Column("of roof", 7, rank=1),
    Column("memory", 8, rank=3),
)


def show_sizes(rows: Iterable[Row], stream: TextIO) -> None:
    """A line for each size of batch and window that was profiled."""
    printer = Printer(stream)
    grid = Grid(SIZES, printer.width, printer.signs.more)
    printer.show(grid.head())
    for row in rows:
        figures = [
            count(row["batch_size"]),
            count(row["block_size"]),
            decimal(row["ms_per_step"], 1),
            count(row["tokens_per_s"]),
            decimal(row["gflops"], 1),
            share(row["roof_share"]),
            size((row.get("memory_bytes") or {}).get("total")),
        ]
        printer.show(grid.line(figures))
