from __future__ import annotations

import math

import pytest

from cllm_cli.reporting import quantities


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "0:10"), (59.6, "1:00"), (3599.6, "1:00:00"), (93_784, "1d 02:03")],
)
def test_durations(seconds, text):
    assert quantities.duration(seconds) == text


@pytest.mark.parametrize(
    ("bytes_", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (34_848_864, "34.8 MB"), (999_499, "999 kB"), (999_600, "1.00 MB")],
)
def test_sizes(bytes_, text):
    assert quantities.size(bytes_) == text


@pytest.mark.parametrize(("seconds", "text"), [(-1.0, "0:00"), (0.4, "0:00"), (9.4, "0:09"), (61.0, "1:01")])
def test_time_left_is_in_whole_seconds(seconds, text):
    assert quantities.remaining(seconds) == text


def test_large_and_small_figures_stay_readable():
    assert quantities.loss(1.88124) == "1.8812"
    assert quantities.decimal(1234.5, 1) == "1,234.5"
    assert quantities.decimal(3.2e9, 2) == "3.20e+09"
    assert quantities.scientific(1e-3) == "1.00e-03"
    assert quantities.share(0.654) == "65 %"
    assert quantities.count(1_003_854) == "1,003,854"


@pytest.mark.parametrize("name", ["count", "size", "duration", "remaining", "loss", "scientific", "share"])
def test_what_is_missing_is_a_dash_and_what_is_not_finite_is_named(name):
    write = getattr(quantities, name)
    assert write(None) == "-"
    assert write(math.nan) == "nan"
    assert write(math.inf) == "inf"
