"""Schedules against their closed forms."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import strategies as st
from laws import law
from reference import schedules as oracle

from cllm_cli.optim.schedule import SCHEDULES, Schedule

names = pytest.mark.parametrize("name", SCHEDULES)


def test_every_schedule_has_an_oracle():
    assert set(SCHEDULES) == set(oracle.SCHEDULES)


@names
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 40), (7, 40), (40, 40), (50, 40), (1, 2)])
@pytest.mark.parametrize("decay", [0.0, 0.2, 0.35, 1.0])
def test_every_step_is_that_of_the_closed_form(name, warmup, total, decay):
    schedule = Schedule(name, 3e-3, 2e-4, warmup, total, decay)
    for step in range(total + 10):
        wanted = oracle.SCHEDULES[name](step, lr=3e-3, min_lr=2e-4, warmup=warmup, total=total, decay_fraction=decay)
        assert schedule.rate(step) == pytest.approx(wanted, rel=1e-12)


@names
@law(
    40,
    2000,
    peak=st.floats(1e-6, 10),
    share=st.floats(0, 1),
    warmup=st.integers(0, 400),
    total=st.integers(1, 1000),
    decay=st.floats(0, 1),
    step=st.integers(0, 1200),
)
def test_any_step_of_any_schedule_is_that_of_the_closed_form(name, peak, share, warmup, total, decay, step):
    least = peak * share
    rate = Schedule(name, peak, least, warmup, total, decay).rate(step)
    wanted = oracle.SCHEDULES[name](step, lr=peak, min_lr=least, warmup=warmup, total=total, decay_fraction=decay)
    assert rate == pytest.approx(wanted, rel=1e-9)
    rounding = 1e-12 * peak  # of peak − (peak − least): a least rate far below the peak is lost in it
    assert (0 if step < warmup else least) - rounding <= rate <= peak + rounding


@names
def test_warm_up_rises_in_equal_steps_to_the_peak(name):
    schedule = Schedule(name, 1.0, 0.1, 10, 100)
    rates = [schedule.rate(step) for step in range(10)]
    assert rates == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert schedule.rate(10) == pytest.approx(1.0)


@names
def test_after_the_warm_up_no_rate_rises_and_the_end_is_the_least(name):
    schedule = Schedule(name, 1.0, 0.1, 10, 100)
    rates = [schedule.rate(step) for step in range(10, 200)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))
    assert rates[-1] == pytest.approx(1.0 if name == "constant" else 0.1)
    assert schedule.rate(100) == rates[-1]


def test_the_middle_of_each():
    def rate(name, step, decay=0.2):
        return Schedule(name, 1.0, 0.0, 0, 100, decay).rate(step)

    assert rate("linear", 50) == pytest.approx(0.5)
    assert rate("cosine", 50) == pytest.approx(0.5)
    assert rate("cosine", 25) == pytest.approx(0.8535533905932737)  # ½ (1 + √½)
    assert rate("wsd", 79) == 1.0
    assert rate("wsd", 90) == pytest.approx(0.5)
    assert rate("wsd", 50, decay=1.0) == pytest.approx(0.5)
