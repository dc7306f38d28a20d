from __future__ import annotations

import json
import math
import re

import pytest
from rich.cells import cell_len

from cllm_cli.reporting.console import Screen
from cllm_cli.training.records import Compiling, Evaluation, Notice, Sample, Start, Step

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def played(records, stream) -> Screen:
    """A screen that has shown `records`, a second apart."""
    clock = Clock()
    screen = Screen(stream, clock)
    for record in records:
        clock.now += 1
        screen.show(record)
    return screen


@pytest.mark.parametrize("width", [20, 40, 60, 100])
@pytest.mark.parametrize("height", [10, 24, 50])
def test_lines_fit_the_terminal(records, terminal, width, height):
    stream = terminal(width, height)
    played(records, stream)
    assert max(cell_len(line) for line in stream.lines()) <= max(width, 31)
    if width >= 40:
        assert max(cell_len(line) for line in stream.lines()) <= width


@pytest.mark.parametrize("height", [5, 12, 24, 50])
def test_the_live_part_is_never_higher_than_the_terminal(records, terminal, height):
    stream = terminal(60, height)
    played(records[:-1], stream)
    climbs = [climb.count("\x1b[1A") for climb in re.findall("(?:\x1b\\[1A\x1b\\[2K)+", stream.getvalue())]
    assert 0 < max(climbs) < height


def test_everything_is_on_the_screen(records, terminal):
    stream = terminal(100, 50)
    played(records, stream)
    text = "\n".join(stream.lines())
    for phrase in (
        "run         runs/a tale",
        "1,003,854 training tokens",
        "note: the corpus is small",
        "compiling, once: linear_forward",
        "1 of 2 kernels",
        "evaluating 1 of 2",
        "saved at step 100",
        "18,400     41.7",
        "activations",
        "measured",
        "  │ To be,",
        "step 200  validation 1.7427  best",
        "190 of 200   95 %   0:00 left",
        "● validation, lowest 1.7427",
        "step 200 reached in 1:23",
    ):
        assert phrase in text


def test_an_evaluation_stands_in_the_row_of_its_step(records, terminal):
    stream = terminal(100, 50)
    played(records, stream)
    assert any(line.split()[:4] == ["200", "1.6427", "1.7427", "best"] for line in stream.lines())


def test_the_cursor_comes_back_at_the_end_and_after_an_exception(records, terminal):
    for shown in (records, records[:12]):
        stream = terminal()
        screen = played(shown, stream)
        screen.close()
        screen.close()
        assert stream.getvalue().count(HIDE_CURSOR) == stream.getvalue().count(SHOW_CURSOR) == 1


def test_a_screen_that_showed_nothing_writes_nothing(terminal):
    stream = terminal()
    Screen(stream).close()
    assert stream.getvalue() == ""


def test_hostile_text_never_reaches_the_terminal_raw(terminal):
    stream = terminal(60, 40)
    config = {"arch": "\x1b[2J", "tokenizer": "\x9b31m"}
    hostile = "a\x1b]0;title\x07b\x1b[2J\x9b31m\r\u202ec\td"
    played([Start(1, 1, 1, {}, config, hostile), Notice(hostile), Compiling(hostile, 0, 2), Sample(1, hostile)], stream)
    for sequence in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\u202e", "\t"):
        assert sequence not in stream.getvalue()
    assert r"a\x1b]0;title\x07b" in stream.getvalue()


def test_markup_and_links_in_text_mean_nothing(terminal):
    stream = terminal(80, 40)
    played([Notice("[bold]x[/bold] [link=http://a]b[/link] :smile:")], stream)
    assert "[bold]x[/bold] [link=http://a]b[/link] :smile:" in "\n".join(stream.lines())


def test_a_long_sample_is_cut(terminal):
    stream = terminal(60, 40)
    played([Sample(1, "word " * 10_000)], stream)
    assert sum("│" in line for line in stream.lines()) <= 12
    assert "…" in stream.getvalue()


def test_a_terminal_without_unicode_gets_ascii(records, terminal):
    stream = terminal(80, 50, encoding="ascii")
    played(records, stream)
    assert stream.getvalue().isascii()
    assert "=" * 10 in stream.getvalue()


def test_records_that_come_fast_are_drawn_seldom(records, terminal):
    stream, clock = terminal(), Clock()
    screen = Screen(stream, clock)
    screen.show(records[0])
    before = len(stream.getvalue())
    for step in range(1, 1001):
        clock.now += 0.001
        screen.show(Step(step, 2.0, 1e-3, 1.0, 1.0, 1.0, steps=2000))
    frames = stream.getvalue()[before:].count(" of 2,000")
    assert 2 <= frames <= 4


def test_drawing_keeps_to_its_share_of_the_time(records, terminal):
    ticks = iter(range(1_000_000))
    screen = Screen(terminal(), clock=lambda: 0.003 * next(ticks))  # every look at the clock takes 3 ms
    drawn = 0
    for step in range(1, 2001):
        before = screen._next_drawing
        screen.show(Step(step, 2.0, 1e-3, 1.0, 1.0, 1.0) if step > 1 else records[0])
        drawn += screen._next_drawing != before
    assert 8 <= drawn <= 12


def test_losses_that_are_not_finite_and_unknown_lengths_are_shown(terminal):
    stream = terminal(100, 50)
    start = Start(1, 1, 1, {}, {}, "runs/x")
    step = Step(10, math.nan, 1e-3, math.inf, 0.0, 1.0)
    played(
        [start, step, Evaluation(10, None, math.nan, math.nan, math.inf), Evaluation(25, None, 2.0, 3.0, 7.0)], stream
    )
    text = "\n".join(stream.lines())
    assert "nan" in text
    assert "step 10" in text


def test_a_resumed_run_shows_the_curve_from_its_beginning(terminal, tmp_path):
    lines = [{"event": "step", "step": step, "loss": 9.0 - step / 100} for step in range(0, 500, 10)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stream = terminal(300, 60)  # in which the folder's name has room
    start = Start(1, 1, 1, {}, {}, str(tmp_path), step=500, steps=1000)
    played([start, Step(510, 3.0, 1e-3, 1.0, 1.0, 1.0)], stream)
    text = "\n".join(stream.lines())
    assert "resumed at step 500" in text
    assert "9.00 │" in text
