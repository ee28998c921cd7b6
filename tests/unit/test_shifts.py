"""What counts as a shift, on series of weeks that a person can check by eye."""

from datetime import date, timedelta

import numpy as np
import pytest
from corner_shop import SHOP

from pipelines.control import Estimate
from pipelines.measurements import ALERT, OK, WARN
from pipelines.shifts import Shift, find_shifts
from pipelines.signals import Sums, Windows
from pipelines.use_case import Season, Signal

LAST = date(2017, 7, 2)
PRICE = Signal(name="price", meaning="Price", sql="", is_relative=True, season_change=0, fault_factor=3)
BASKETS = Signal(name="baskets", meaning="Baskets", sql="", season_change=2)
UNKNOWN = Signal(name="unknown", meaning="Unknown products", sql="", is_quality=True, min_change=0.5)
WATCHED = SHOP.model_copy(update={"signals": (PRICE, BASKETS, UNKNOWN)})
NOISE = [0.1, -0.2, 0.0, 0.2, -0.1, 0.1, 0.0, -0.2, 0.2, -0.1, 0.1, 0.0]  # around 10


def judged(signal: str, newest: list[float], use_case=WATCHED, error: float = 0.05) -> Shift:
    """The figure's status after twelve usual weeks and these; by default its errors are small beside the noise."""
    values = [10 + one for one in NOISE] + newest
    days = [LAST - timedelta(days=7 * back) for back in reversed(range(len(values)))]
    key = (signal, "all")
    figures = {day: {key: Estimate(value, error, 100)} for day, value in zip(days, values, strict=True)}
    windows = Windows(tuple(days), figures, {key: Sums(tuple(days), None, None)}, np.arange(100))
    (found,) = find_shifts(use_case, windows, LAST)
    return found


def test_a_usual_week_is_ok():
    found = judged("baskets", [10.1])
    assert (found.status, found.value, found.reference) == (OK, 10.1, pytest.approx(10.05))
    assert found.threshold > 10.5


def test_one_unusual_week_warns_and_a_second_alerts_and_says_since_when():
    assert judged("baskets", [11.1]).status == WARN
    found = judged("baskets", [11.1, 11.2])
    assert found.status == ALERT
    assert found.first_date == LAST - timedelta(days=7)
    assert found.reference == pytest.approx(10.05), "the unusual week is no reference for the next"


def test_two_unusual_weeks_to_opposite_sides_are_chance():
    assert judged("baskets", [11.1, 8.9]).status == WARN


def test_a_gross_shift_counts_at_once():
    assert judged("baskets", [15.0]).status == ALERT


def test_small_changes_to_one_side_add_up():
    steps = [10.0 + 0.17 * step for step in range(1, 13)]
    assert ALERT in {judged("baskets", steps[:length]).status for length in range(1, 13)}


def test_a_week_after_a_holiday_is_judged_by_the_weeks_before_it():
    assert judged("baskets", [13.0, 10.0]).status == OK


def test_a_hundredfold_price_is_a_fault_and_a_fifth_more_is_none():
    cents, dearer = judged("price", [1000.0]), judged("price", [12.0])
    assert (cents.status, cents.is_fault) == (ALERT, True)
    assert (dearer.status, dearer.is_fault) == (ALERT, False)


def test_a_shift_of_a_quality_figure_is_a_fault_unless_it_is_too_small_to_matter():
    broken = judged("unknown", [15.0], error=0.005)
    assert (broken.status, broken.is_fault) == (ALERT, True)
    assert judged("unknown", [10.45], error=0.001).status == OK


def test_a_season_is_told_for_what_it_explains():
    week = Season(name="Christmas", first_date=LAST - timedelta(days=6), last_date=LAST - timedelta(days=6))
    festive = WATCHED.model_copy(update={"calendar": (week,)})
    assert judged("baskets", [11.1, 11.2], festive).is_season
    assert not judged("baskets", [15.0], festive).is_season, "no season does that"
    assert not judged("price", [12.0], festive).is_season
    assert not judged("baskets", [11.1, 11.2]).is_season


def test_a_figure_with_a_short_history_is_not_judged():
    days = [LAST - timedelta(days=7 * back) for back in reversed(range(8))]
    figures = {day: {("baskets", "all"): Estimate(10.0, 0.1, 100)} for day in days}
    windows = Windows(tuple(days), figures, {("baskets", "all"): Sums(tuple(days), None, None)}, np.arange(100))
    assert find_shifts(WATCHED, windows, LAST) == []


def test_what_one_window_can_show_is_reported():
    found = judged("baskets", [10.0])
    spread = (found.reference - found.threshold) / WATCHED.monitor.limit
    assert found.detectable == pytest.approx((WATCHED.monitor.limit + 0.8416) * spread)
