"""The live screen of `cllm train`: what has happened scrolls away above, what is happening stands below.

Above, for good: what the run is about to do, notices, each evaluation with a sample of what the model writes. Below,
redrawn in place: progress and time left, the latest steps, memory as planned and as measured, and the loss curve where
the terminal is tall enough. When the run ends, the lower part gives way to the curve of the whole run.

Nothing refreshes by itself: a thread would wake amid kernels that use every core, and might hold a lock while
compilation forks. The screen is drawn when a record comes, as often as the constants below allow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rich.console import Group
from rich.live import Live
from rich.text import Text

import cllm_cli
from cllm_cli.errors import RunError
from cllm_cli.printable import one_line, printable
from cllm_cli.reporting.consumer import Consumer
from cllm_cli.reporting.lines import ending, facts
from cllm_cli.reporting.memory import memory_lines
from cllm_cli.reporting.plots import Curve, curve_from_metrics, draw
from cllm_cli.reporting.quantities import count, remaining
from cllm_cli.reporting.steps import StepTable, evaluation_line
from cllm_cli.reporting.terminal import bar, console_for, is_unicode, signs_of
from cllm_cli.training.records import (
    Checkpointed,
    Compiled,
    Compiling,
    End,
    Evaluating,
    Evaluation,
    Notice,
    Record,
    Sample,
    Start,
    Step,
    Trouble,
)
from cllm_cli.training.resident import peak_bytes, resident_bytes

PAUSE, LONGEST_PAUSE = 0.25, 1.0  # seconds between two drawings: faster, numbers cannot be read
BUDGET = 0.005  # share of the time that drawing may take
CURVE_BUDGET = 0.002  # and what the curve may take besides
WIDEST = 100  # cells of bar and curve
ROWS = 6  # latest steps
CURVE_HEIGHT = 11
TALL = 35  # lines of a terminal that has room for a curve below the steps
SAMPLE_LINES = 6
SAMPLE_LENGTH = 2000  # characters that are looked at for these lines


class Screen(Consumer):
    """Shows a run on a terminal. `clock` gives seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.perf_counter) -> None:
        self._console = console_for(stream)
        self._signs = signs_of(stream)
        self._unicode = is_unicode(stream)
        self._clock = clock
        self._live: Live | None = None
        self._next_drawing = 0.0
        self._above: list[Text] = []  # lines that go above the live part with the next drawing
        self._kind = ""  # of the last of them
        self._curve = Curve()
        self._curve_lines: list[Text] = []
        self._next_curve = 0.0
        self._table = StepTable(ROWS)
        self._start: Start | None = None
        self._work: Compiling | Evaluating | None = None
        self._step = self._steps = 0
        self._seconds_left: float | None = None
        self._saved: int | None = None

    def show(self, record: Record) -> None:
        match record:
            case Step():
                self._work = None
                self._step, self._steps = record.step, record.steps or self._steps
                self._seconds_left = record.seconds_left
                self._table.add(record)
                self._curve.add(record)
            case Compiling() | Evaluating():
                self._work = record
            case Compiled():
                self._work = None
            case Evaluation():
                self._work = None
                self._table.add(record)
                self._curve.add(record)
                self._next_curve = 0.0
                self._put("evaluation", [evaluation_line(record, self._steps, self._console.width)])
            case Sample():
                self._put("sample", self._sample(record))
            case Checkpointed():
                self._saved = record.step
            case Notice() | Trouble():
                self._put("note", self._folded(Text(one_line(record.message)), label=("note: ", "yellow")))
            case Start():
                self._take_start(record)
            case End():
                self._show_end(record)
                return
        self._draw_if_due()

    def close(self) -> None:
        """Leave the last drawing in place and give the cursor back."""
        if self._live is not None:
            live, self._live = self._live, None
            live.update(Group(*self._drawing()))
            live.stop()

    def _take_start(self, start: Start) -> None:
        self._start, self._step, self._steps = start, start.step, start.steps
        if start.step:
            try:
                self._curve = curve_from_metrics(Path(start.run) / "metrics.jsonl")
            except RunError:
                self._curve = Curve()  # a curve that begins here is better than no run
        lines = [Text(f"cllm {start.version or cllm_cli.__version__}", "bold")]
        for label, phrase in facts(start).items():
            lines += self._folded(Text(phrase), label=(f"{label:<12}", "dim"))
        self._put("start", lines)

    def _show_end(self, end: End) -> None:
        if self._live is not None:
            self._live.transient = True
        self.close()
        width, height = self._console.size
        if self._curve.train or self._curve.val:
            self._put("curve", self._drawn_curve(width, max(min(height - 8, 16), 7)))
        if self._start is not None:
            self._put("memory", memory_lines(self._start.memory_bytes, width, {"peak": peak_bytes()}))
        self._put("end", [Text(ending(end))])
        self._console.print(Group(*self._above))
        self._above = []

    # What stays

    def _put(self, kind: str, lines: list[Text]) -> None:
        """Have `lines` stand above the live part, apart from those of another kind. A sample joins its evaluation."""
        if self._kind not in ("", kind) and (self._kind, kind) != ("evaluation", "sample"):
            self._above.append(Text())
        self._kind = kind
        self._above += lines

    def _folded(self, text: Text, label: tuple[str, str], side: str = "", most: int = 1000) -> list[Text]:
        """`text` wrapped beside a label and, from its second line on, beside `side`; `most` lines of it at most."""
        name, style = label
        more = f" {self._signs.more}"
        lines = text.wrap(self._console, max(self._console.width - len(name) - len(more), 10))
        folded = []
        for index, line in enumerate(lines[:most]):
            line.rstrip()
            before = (name, style) if index == 0 else (side.ljust(len(name)), style)
            folded.append(Text.assemble(before, line, (more if index + 1 == most < len(lines) else "", style)))
        return folded

    def _sample(self, sample: Sample) -> list[Text]:
        text = printable(sample.text[:SAMPLE_LENGTH]).strip("\n").expandtabs(4)
        side = f"  {self._signs.side} "
        return self._folded(Text(text, "italic"), label=(side, "dim"), side=side, most=SAMPLE_LINES)

    # What is redrawn

    def _draw_if_due(self) -> None:
        if self._start is None and self._work is None and not self._above:
            return
        if self._live is None:
            self._live = Live(
                console=self._console, auto_refresh=False, redirect_stdout=False, vertical_overflow="crop"
            )
            self._live.start()
        elif self._clock() < self._next_drawing and not self._above:
            return
        self._update_curve()
        began = self._clock()
        self._live.update(Group(*self._drawing()))
        with self._console:  # all that changes goes out in one piece
            if self._above:
                self._console.print(Group(*self._above))
                self._above = []
            self._live.refresh()
        ended = self._clock()
        self._next_drawing = ended + min(max(PAUSE, (ended - began) / BUDGET), LONGEST_PAUSE)

    def _drawing(self) -> list[Text]:
        width, height = self._console.size
        lines = [Text()] * bool(self._kind) + self._progress(width)
        if self._start is None or not self._table:
            return lines
        lines += [Text(), *self._table.lines(width)]
        memory = memory_lines(self._start.memory_bytes, width, {"measured": resident_bytes()})
        if memory and len(lines) + 1 + len(memory) < height:
            lines += [Text(), *memory]
        if self._curve_lines:
            lines += [Text(), *self._curve_lines]
        return lines

    def _progress(self, width: int) -> list[Text]:
        """How far the run or, before it, the compilation is; and a line of what else is going on."""
        work, notes = self._work, []
        if isinstance(work, Compiling):
            done, total, after = work.done, work.total, f"{work.done} of {work.total} kernels"
            notes.append(f"{'loading' if work.loading else 'compiling, once:'} {one_line(work.kernel)}")
        else:
            done, total = self._step, self._steps
            after = f"{count(done)} of {count(total)}  {100 * done // total:3} %" if total else f"step {count(done)}"
            if self._seconds_left is not None:
                after += f"  {remaining(self._seconds_left):>5} left"
        if isinstance(work, Evaluating):
            notes.append(f"evaluating {work.done} of {work.total}")
        if self._saved is not None:
            notes.append(f"saved at step {count(self._saved)}")
        line = Text(no_wrap=True, overflow="crop")
        room = min(width, WIDEST) - len(after) - 2
        if total and room >= 4:
            filled, rest = bar(done / total, room, self._signs)
            line.append(filled, "cyan").append(rest, "dim").append("  ")
        return [line.append(after), Text("   ".join(notes), "dim", no_wrap=True, overflow="ellipsis")]

    def _update_curve(self) -> None:
        """Draw the curve anew where there is room for one and it is time to."""
        width, height = self._console.size
        began = self._clock()
        if height < TALL:
            self._curve_lines = []
        elif began >= self._next_curve:
            self._curve_lines = self._drawn_curve(width, CURVE_HEIGHT)
            ended = self._clock()
            self._next_curve = ended + max(1.0, (ended - began) / CURVE_BUDGET)

    def _drawn_curve(self, width: int, height: int) -> list[Text]:
        lines = []
        for line in draw(self._curve, min(width, WIDEST), height, self._unicode).split("\n"):
            text = Text(line, no_wrap=True, overflow="crop")
            text.highlight_regex("[\u2801-\u28ff]+", "cyan")
            text.highlight_regex("●", "green")
            lines.append(text)
        return lines
