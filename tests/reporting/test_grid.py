from __future__ import annotations

import pytest

from cllm_cli.reporting.grid import Column, Grid, widened

COLUMNS = (Column("name", 12, left=True), Column("ms", 8), Column("calls", 5, rank=2), Column("share", 6, rank=1))
ROW = ("attention", "1.20", "4", "12 %")


def test_without_a_limit_all_columns_are_shown():
    grid = Grid(COLUMNS)
    assert grid.head().plain == "name                ms  calls   share"
    assert grid.line(ROW).plain == "attention         1.20      4    12 %"


@pytest.mark.parametrize("width", range(12, 50))
def test_lines_fit_and_numbers_are_whole(width):
    grid = Grid(COLUMNS, width)
    line = grid.line(ROW).plain
    assert max(len(line), len(grid.head().plain)) <= max(width, 14)
    assert "1.20" in line


def test_the_highest_rank_goes_first():
    assert "calls" not in Grid(COLUMNS, 36).head().plain
    assert "share" in Grid(COLUMNS, 36).head().plain
    assert "share" not in Grid(COLUMNS, 28).head().plain


def test_text_is_cut_to_its_column_in_cells():
    grid = Grid((Column("name", 6, left=True), Column("n", 2)), 10, more="…")
    assert grid.line(("embedding", "1")).plain == "embed…   1"
    assert grid.line(("日本語日本", "1")).plain == "日本 …   1"
    assert Grid((Column("name", 6, left=True), Column("n", 2))).line(("embedding", "1")).plain == "embedding   1"


def test_columns_can_be_as_wide_as_their_rows():
    (name, number) = widened((Column("name", left=True), Column("n")), [("attention", "1"), ("ffn", ("12345", "red"))])
    assert (name.width, number.width) == (9, 5)
