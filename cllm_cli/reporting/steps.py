"""The table of a run's latest steps, and the line of an evaluation."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import isfinite

from rich.text import Text

from cllm_cli.reporting.grid import Cell, Column, Grid
from cllm_cli.reporting.quantities import count, decimal, loss, scientific
from cllm_cli.training.records import Evaluation, Step

LATEST = (
    Column("step", 7),
    Column("loss", 7),
    Column("validation", 11, left=True),
    Column("lr", 8, rank=2),
    Column("grad norm", 9, rank=3),
    Column("tokens/s", 9, rank=1),
    Column("ms", 7, rank=4),
)


@dataclass
class _Row:
    """A step, an evaluation, or both."""

    step: int
    values: Step | None = None
    val_loss: float | None = None


class StepTable:
    """The latest `rows` steps; it is as high when it is empty, so that nothing below it moves."""

    def __init__(self, rows: int) -> None:
        self.height = rows + 1
        self._rows: deque[_Row] = deque(maxlen=rows)
        self._best: float | None = None

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, record: Step | Evaluation) -> None:
        """Take a step as a row; an evaluation goes into its step's row."""
        if isinstance(record, Step):
            self._rows.append(_Row(record.step, record))
            return
        if not self._rows or self._rows[-1].step != record.step:
            self._rows.append(_Row(record.step))
        self._rows[-1].val_loss = record.val_loss
        if record.best:
            self._best = record.val_loss

    def lines(self, width: int) -> list[Text]:
        """Titles and rows in `width` cells."""
        grid = Grid(LATEST, width)
        lines = [grid.head()]
        for row in self._rows:
            best = row.val_loss is not None and row.val_loss == self._best
            validation = "" if row.val_loss is None else loss(row.val_loss) + (" best" if best else "")
            cells: list[Cell] = [count(row.step), "", (validation, "green" if best else ""), "", "", "", ""]
            if (step := row.values) is not None:
                cells[1] = (loss(step.loss), "bold" if isfinite(step.loss) else "bold red")
                cells[3:] = [
                    scientific(step.lr),
                    decimal(step.grad_norm, 3),
                    count(step.tokens_per_s),
                    decimal(step.ms, 1),
                ]
            lines.append(grid.line(cells))
        return lines + [Text()] * (self.height - len(lines))


def evaluation_line(found: Evaluation, steps: int, width: int) -> Text:
    """An evaluation of a run of `steps` steps (0: not known), aligned with those before and after it."""
    digits = len(count(steps)) if steps else 7
    columns = (
        Column("", 5 + digits, left=True),
        Column("", 17, left=True),
        Column("", 4, left=True),
        Column("", 15, rank=1, left=True),
        Column("", 12, rank=2, left=True),
        Column("", 17, rank=3, left=True),
    )
    cells: list[Cell] = [
        f"step {count(found.step):>{digits}}",
        (f"validation {loss(found.val_loss)}", "bold"),
        ("best" if found.best else "", "green"),
        f"bits/byte {decimal(found.bits_per_byte, 3)}",
        "" if found.train_loss is None else f"train {loss(found.train_loss)}",
        f"perplexity {decimal(found.perplexity, 2)}",
    ]
    return Grid(columns, width).line(cells)
