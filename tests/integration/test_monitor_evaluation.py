"""A few weeks of the backtest of the monitor, on the real year."""

from datetime import date, timedelta

import pytest

from pipelines.backtest import weekly
from pipelines.monitor_backtest import HalfReport, Plan, _trials, _untouched
from pipelines.monitor_backtest_data import open_half
from pipelines.settings import Settings
from pipelines.use_cases import get_use_case

pytestmark = pytest.mark.slow
LEARNT, LAST = date(2017, 6, 11), date(2017, 8, 6)
TRIED = ("price rise +20 %", "category outage all lines", "households leave 30 %", "clock change")


@pytest.fixture(scope="module")
def report(year: Settings) -> HalfReport:
    """One half of the households, one onset, no bootstrap."""
    use_case = get_use_case("category_propensity", year)
    chosen = tuple(one for one in use_case.trials if f"{one.name} {one.size}".startswith(TRIED))
    use_case = use_case.model_copy(update={"trials": chosen})
    onset = LEARNT + timedelta(days=15)
    plan = Plan(date(2017, 1, 1), LEARNT, LAST, (onset,), LEARNT, seeds=1, with_tools=False)
    with open_half(year, use_case, 0, weekly(plan.first, LAST), LEARNT) as half:
        found = HalfReport(half.name, len(half.windows.entities))
        samples = [half.drawn(0)]
        _untouched(half, samples, plan, found)
        _trials(half, samples, plan, found, lambda *_: None)
    return found


def test_a_known_change_is_found_in_its_first_window_and_named(report):
    told = {one.trial: (one.delay, one.cause) for one in report.found}
    assert told["price rise"] == (1, "covariate shift")
    assert told["households leave"] == (1, "covariate shift")
    assert told["category outage"] == (1, "data fault")


def test_a_clock_change_and_untouched_weeks_are_not(report):
    (clock,) = (one for one in report.found if one.trial == "clock change")
    assert clock.delay is None
    assert report.figure_weeks > 400
    assert report.false_figure_weeks == 0


def test_what_a_half_can_show_is_told_of_each_figure(report):
    usual, smallest = report.detectable["shelf_price all"]
    assert usual == pytest.approx(1, abs=0.05)
    assert smallest < 0.05
