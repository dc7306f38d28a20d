from __future__ import annotations

import itertools
import json
import math

import pytest

from cllm_cli.errors import RunError
from cllm_cli.reporting.plots import MOST_POINTS, Curve, curve_from_metrics, draw
from cllm_cli.training.records import Evaluation, Sample, Step


def rows_of(drawing: str, axis: str) -> list[str]:
    """What stands right of the axis, from the top."""
    return [line.split(axis, 1)[1] for line in drawing.split("\n") if axis in line]


def test_the_extremes_are_in_the_corners_and_on_the_axis():
    drawing = draw(Curve(train=[(0, 5.0), (50, 2.5), (100, 1.0)]), 60, 12, unicode=False)
    lines, rows = drawing.split("\n"), rows_of(drawing, "|")
    assert lines[1].startswith("5.00 |.")
    assert rows[-1].rstrip().endswith(".")
    assert lines[-3].startswith("1.00 |")
    assert lines[-1].split() == ["0", "100"]
    assert len(lines[-1]) == len(lines[-2]) == 60


def test_a_validation_mark_stands_at_its_step_and_loss():
    curve = Curve(train=[(0, 4.0), (100, 2.0)], val=[(50, 3.0)])
    for unicode, axis, mark in ((False, "|", "o"), (True, "│", "●")):
        rows = rows_of(draw(curve, 65, 14, unicode), axis)
        (row,) = (index for index, text in enumerate(rows) if mark in text)
        assert abs(row - (len(rows) - 1) / 2) <= 0.5
        assert abs(rows[row].index(mark) - 29) <= 1


def test_a_validation_loss_above_the_training_loss_sets_the_scale():
    drawing = draw(Curve(train=[(0, 2.0), (10, 1.0)], val=[(10, 9.0)]), 40, 10, unicode=False)
    assert "9.00 |" in drawing
    assert "1.00 |" in drawing


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", [20, 40, 100])
@pytest.mark.parametrize(
    "curve",
    [
        Curve(train=[(7, 2.0)]),
        Curve(val=[(7, 2.0)]),
        Curve(train=[(step, 3.0) for step in range(50)]),
        Curve(train=[(step, 0.0) for step in range(50)]),
        Curve(train=[(step, 2 + math.cos(step / 100)) for step in range(5000)], val=[(step, 2) for step in range(900)]),
        Curve(train=[(1, 1e-12), (2, 1e17)]),
    ],
    ids=["one step", "one evaluation", "constant", "zero", "thousands", "far apart"],
)
def test_any_curve_fits_its_box(curve, width, unicode):
    lines = draw(curve, width, 11, unicode).split("\n")
    assert len(lines) == 11
    assert max(map(len, lines)) <= max(width, 30)
    if width >= 40:
        assert max(map(len, lines)) <= width
    if not unicode:
        assert "\n".join(lines).isascii()


def test_no_losses_say_so():
    assert draw(Curve(), 40, 10) == "no losses yet"


def test_values_that_are_not_finite_are_left_out():
    curve = Curve()
    for step, loss in enumerate([4.0, math.nan, math.inf, 2.0]):
        curve.add(Step(step, loss, 1e-3, 1.0, 1.0, 1.0))
    curve.add(Evaluation(3, None, math.nan, 1.0, 1.0))
    curve.add(Sample(3, "text"))
    assert curve == Curve(train=[(0, 4.0), (3, 2.0)])


def test_many_points_are_thinned_and_keep_their_shape():
    curve = Curve()
    for step in range(10 * MOST_POINTS):
        curve.add(Step(step, 5.0 - step / (10 * MOST_POINTS), 1e-3, 1.0, 1.0, 1.0))
    assert len(curve.train) <= MOST_POINTS
    assert [step for step, _ in curve.train] == sorted({step for step, _ in curve.train})
    assert curve.train[0][1] == pytest.approx(5.0, abs=0.01)
    assert curve.train[-1][1] == pytest.approx(4.0, abs=0.01)
    gaps = [after - before for (before, _), (after, _) in itertools.pairwise(curve.train)]
    assert max(gaps) <= 5 * 10 * MOST_POINTS / len(curve.train)


def test_smoothing_keeps_the_mean_and_removes_noise():
    noisy = Curve(train=[(step, 2.0 + (-1) ** step) for step in range(1000)])
    inner = [text.strip() for text in rows_of(draw(noisy, 200, 21, unicode=False), "|")]
    assert max(inner, key=len) == inner[len(inner) // 2]


def test_metrics_are_read_past_torn_and_foreign_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = [
        {"event": "start", "params": 1},
        {"event": "step", "step": 1, "loss": 4.0},
        {"event": "step", "step": 2, "loss": None},
        {"event": "step", "step": "3", "loss": 3.0},
        {"event": "step", "step": 4, "loss": True},
        {"event": "eval", "step": 4, "val_loss": 3.5},
        {"event": "step", "step": 5, "loss": 3},
    ]
    bad = ["", "[1]", "null", "[" * 100_000, "1" * 5000, '{"event":"step","step":6,"loss":NaN}', "\x00"]
    lines = [json.dumps(values) for values in good] + bad + ['{"event":"step","step":7,"lo']
    path.write_bytes("\n".join(lines).encode() + b"\xff\xfe")
    assert curve_from_metrics(path) == Curve(train=[(1, 4.0), (5, 3.0)], val=[(4, 3.5)])


def test_steps_that_a_resumed_run_repeats_count_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    steps = [(1, 4.0), (2, 3.0), (3, 2.0), (2, 3.5), (3, 2.5)]
    path.write_text("".join(json.dumps({"event": "step", "step": s, "loss": v}) + "\n" for s, v in steps))
    assert curve_from_metrics(path).train == [(1, 4.0), (2, 3.5), (3, 2.5)]


def test_a_missing_file_has_no_losses(tmp_path):
    assert curve_from_metrics(tmp_path / "metrics.jsonl") == Curve()


def test_what_is_no_file_cannot_be_read(tmp_path):
    with pytest.raises(RunError, match="it is no regular file"):
        curve_from_metrics(tmp_path)
