"""The loss curve of a run as text: training loss, smoothed, as a line of dots; validation losses as marks on it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cllm_cli.reporting.quantities import count, loss
from cllm_cli.training.metrics import events_of
from cllm_cli.training.records import Evaluation, Record, Step

Point = tuple[float, float]  # step, loss in nats

MOST_POINTS = 2048  # a series that grows beyond is thinned to half: no screen shows more
SMOOTHING = 0.01  # half the width of the running mean, as a share of the points

BRAILLE = 0x2800
BRAILLE_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # row, column of a cell -> its bit


@dataclass
class Curve:
    """Losses by step, in order of steps. Values that are not finite are left out."""

    train: list[Point] = field(default_factory=list)
    val: list[Point] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Take the loss of a step or an evaluation; other records have none."""
        if isinstance(record, Step):
            _append(self.train, record.step, record.loss)
        elif isinstance(record, Evaluation):
            _append(self.val, record.step, record.val_loss)


def _append(series: list[Point], step: Any, value: Any) -> None:
    if not (_is_number(step) and _is_number(value)):
        return
    # A run that goes on from an earlier checkpoint repeats steps: the later ones count.
    while series and series[-1][0] >= step:
        series.pop()
    series.append((float(step), float(value)))
    if len(series) > MOST_POINTS:
        series[:] = _thinned(series, MOST_POINTS // 2)


def _thinned(series: list[Point], most: int) -> list[Point]:
    """The means over `most` equal spans of steps. Spans of equal counts would coarsen the old part again and again."""
    first, last = series[0][0], series[-1][0]
    spans: list[list[Point]] = [[] for _ in range(most)]
    for point in series:
        spans[min(int((point[0] - first) / (last - first) * most), most - 1)].append(point)
    return [(sum(s for s, _ in span) / len(span), sum(v for _, v in span) / len(span)) for span in spans if span]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18  # NaN fails too


def curve_from_metrics(path: Path) -> Curve:
    """The losses in a metrics.jsonl; lines that are torn or hold something else are passed over.

    Raises RunError where the file cannot be read.
    """
    curve = Curve()
    for event in events_of(path):
        if event.get("event") == "step":
            _append(curve.train, event.get("step"), event.get("loss"))
        elif event.get("event") == "eval":
            _append(curve.val, event.get("step"), event.get("val_loss"))
    return curve


@dataclass(frozen=True)
class _Style:
    """A cell of a drawing holds `across` × `down` dots."""

    across: int
    down: int
    mark: str
    line: str
    corner: str
    axis: str
    rule: str


_UNICODE = _Style(2, 4, mark="●", line="⠒⠒", corner="└", axis="│", rule="─")
_ASCII = _Style(1, 1, mark="o", line="..", corner="+", axis="|", rule="-")


def draw(curve: Curve, width: int, height: int, unicode: bool = True) -> str:
    """The curve in `height` lines of at most `width` cells: a legend, the drawing, the steps below it.

    The vertical axis runs from the highest to the lowest loss that is drawn, the horizontal one over the steps.
    """
    style = _UNICODE if unicode else _ASCII
    if not curve.train and not curve.val:
        return "no losses yet"
    steps = [step for step, _ in curve.train + curve.val]
    first, last = min(steps), max(steps)
    rows = max(height - 3, 2)

    # The labels' width decides how many columns are left, and the columns decide what is drawn; so the labels are
    # written twice, the second time with the extremes of the drawing.
    margin = max(map(len, _labels(*_extremes(curve.train + curve.val), rows)))
    columns = max(width - margin - 2, 8)

    def x_of(step: float) -> int:
        return round((step - first) / max(last - first, 1e-9) * (columns * style.across - 1))

    train = _binned([(x_of(step), value) for step, value in _smoothed(curve.train)])
    val = [(x_of(step), value) for step, value in curve.val]
    low, high = _extremes([*train, *val])
    labels = _labels(low, high, rows)

    def y_of(value: float) -> int:
        return round((high - value) / (high - low) * (rows * style.down - 1))

    canvas = _Canvas(columns, rows, style)
    canvas.line([(x, y_of(value)) for x, value in train])
    for x, value in val:
        canvas.mark(x, y_of(value))

    lines = [_legend(curve, style, width)]
    lines += [
        f"{label:>{margin}} {style.axis}{text}".rstrip() for label, text in zip(labels, canvas.texts(), strict=True)
    ]
    lines.append(" " * margin + f" {style.corner}" + style.rule * columns)
    left, right = count(first), count(last) if last > first else ""
    lines.append(" " * (margin + 2) + left + right.rjust(columns - len(left)))
    return "\n".join(lines)


def _extremes(points: Sequence[Point]) -> tuple[float, float]:
    values = [value for _, value in points]
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(abs(high), 1.0):  # a flat curve lies in the middle
        pad = max(abs(high) * 0.05, 0.05)
        return low - pad, high + pad
    return low, high


def _binned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """One point a column: the mean of those that fall into it."""
    columns: dict[int, list[float]] = {}
    for x, value in points:
        columns.setdefault(x, []).append(value)
    return [(x, sum(values) / len(values)) for x, values in columns.items()]


def _legend(curve: Curve, style: _Style, width: int) -> str:
    parts = []
    if curve.train:
        parts.append(f"{style.line} training loss")
    if curve.val:
        parts.append(f"{style.mark} validation, lowest {loss(min(value for _, value in curve.val))}")
    legend = "   ".join(parts)
    return legend if len(legend) <= width else "   ".join(part.split(",")[0] for part in parts)[:width]


def _labels(low: float, high: float, rows: int) -> list[str]:
    """A number for the first and the last row, and for some between where there is room."""
    form = ".2e" if max(abs(high), abs(low)) >= 1e5 else ".2f" if high - low >= 0.1 else ".4f"
    spaces = max(round((rows - 1) / 4), 1)  # about every fourth row
    chosen = {round(index * (rows - 1) / spaces) for index in range(spaces + 1)}
    return [f"{high - (high - low) * row / (rows - 1):{form}}" if row in chosen else "" for row in range(rows)]


def _smoothed(points: list[Point]) -> list[Point]:
    """A running mean over 2 % of the points; short series stay as they are."""
    reach = int(len(points) * SMOOTHING)
    if not reach:
        return points
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    smooth = []
    for index, (step, _) in enumerate(points):
        # The window shrinks alike on both sides at the ends, so that the first and the last point keep their place.
        near = min(reach, index, len(points) - 1 - index)
        smooth.append((step, (sums[index + near + 1] - sums[index - near]) / (2 * near + 1)))
    return smooth


class _Canvas:
    """Cells of dots; a mark hides the dots of its cell."""

    def __init__(self, columns: int, rows: int, style: _Style) -> None:
        self._style = style
        self._bits = [[0] * columns for _ in range(rows)]
        self._marks = [[False] * columns for _ in range(rows)]

    def _dot(self, x: int, y: int) -> None:
        bit = BRAILLE_DOTS[y % self._style.down][x % self._style.across]
        self._bits[y // self._style.down][x // self._style.across] |= bit

    def mark(self, x: int, y: int) -> None:
        self._marks[y // self._style.down][x // self._style.across] = True

    def line(self, dots: list[tuple[int, int]]) -> None:
        """Dots, one a column at most, joined from left to right."""
        if dots:
            self._dot(*dots[0])
        for (x0, y0), (x1, y1) in itertools.pairwise(dots):
            before = y0
            for x in range(x0 + 1, x1 + 1):
                y = round(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
                self._dot(x, y)
                # Where the line is steep, the gap to the column before is filled from both sides.
                for between in range(min(before, y) + 1, max(before, y)):
                    self._dot(x if abs(between - y) <= abs(between - before) else x - 1, between)
                before = y

    def texts(self) -> list[str]:
        """The drawing's rows."""
        return [
            "".join(self._cell(*cell) for cell in zip(bits, marks, strict=True))
            for bits, marks in zip(self._bits, self._marks, strict=True)
        ]

    def _cell(self, bits: int, marked: bool) -> str:
        if marked:
            return self._style.mark
        if not bits:
            return " "
        return chr(BRAILLE + bits) if self._style.across == 2 else "."
