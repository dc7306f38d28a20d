"""Columns of text that fit a width: the less important ones go first, numbers are never cut.

Widths are declared, not measured, so rows can be written as they come and nothing moves when a number grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, set_cell_size
from rich.text import Text

Cell = str | tuple[str, str]  # text, or text and its style

GAP = 2


@dataclass(frozen=True)
class Column:
    """`rank` 0 stays; of the others the highest is dropped first. Text columns stand left and may be cut."""

    title: str
    width: int = 0
    rank: int = 0
    left: bool = False

    @property
    def cells(self) -> int:
        return max(self.width, cell_len(self.title))


def widened(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> list[Column]:
    """`columns` as wide as what `rows` hold."""
    widths = [column.cells for column in columns]
    for row in rows:
        widths = [max(width, cell_len(_text(cell))) for width, cell in zip(widths, row, strict=True)]
    return [replace(column, width=width) for column, width in zip(columns, widths, strict=True)]


class Grid:
    """Lines of columns in `width` cells; None is a width without limit, such as a pipe's, where nothing is cut."""

    def __init__(self, columns: Sequence[Column], width: int | None = None, more: str = "..") -> None:
        self._columns = list(columns)
        self._more, self._cut = more, width is not None
        self._kept = list(range(len(columns)))
        if width is not None:
            self._fit(width)

    def _fit(self, width: int) -> None:
        while (excess := self.width - width) > 0:
            droppable = [index for index in self._kept if self._columns[index].rank]
            if not droppable:
                break
            self._kept.remove(max(droppable, key=lambda index: self._columns[index].rank))
        if excess > 0:
            texts = [index for index in self._kept if self._columns[index].left]
            if texts:
                longest = max(texts, key=lambda index: self._columns[index].cells)
                column = self._columns[longest]
                self._columns[longest] = replace(column, title=column.title[:4], width=max(column.cells - excess, 4))

    @property
    def width(self) -> int:
        """Cells that a line takes."""
        return sum(self._columns[index].cells + GAP for index in self._kept) - GAP

    def head(self) -> Text:
        """The titles."""
        return self.line([(column.title, "dim") for column in self._columns])

    def line(self, cells: Sequence[Cell]) -> Text:
        """One row; `cells` has an entry for every column, also for those that are not shown."""
        line = Text(no_wrap=True, overflow="crop")
        for place, index in enumerate(self._kept):
            column, cell = self._columns[index], cells[index]
            text = self._placed(_text(cell), column)
            line.append(" " * GAP * (place > 0) + text, cell[1] if isinstance(cell, tuple) else None)
        line.rstrip()
        return line

    def _placed(self, text: str, column: Column) -> str:
        room = column.cells - cell_len(text)
        if column.left and room < 0 and self._cut:
            return set_cell_size(text, column.cells - len(self._more)) + self._more
        return text + " " * room if column.left else " " * room + text


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]
