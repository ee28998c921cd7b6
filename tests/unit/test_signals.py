"""Windows of a shop of a few households, and the errors of a thousand households."""

from datetime import date, timedelta

import numpy as np
import pytest
from corner_shop import SHOP, day, sell

from pipelines.control import ratio
from pipelines.engine import open_core
from pipelines.errors import InvalidRunParameter
from pipelines.settings import Settings
from pipelines.signals import Sums, Windows, read_windows
from pipelines.use_case import BaseTable, MonitorPolicy, Signal

LINES = BaseTable(
    name="watched",
    sql="""SELECT household_id, product_id, sales_usd, window_of(business_date) AS window_date
           FROM core__transactions WHERE window_of(business_date) IS NOT NULL""",
)
SPEND = Signal(
    name="spend",
    meaning="Sales per line",
    sql="""SELECT window_date, household_id, 'all' AS slice, sum(sales_usd) AS numerator, count(*) AS denominator
           FROM watched GROUP BY ALL""",
)
REACH = Signal(
    name="reach",
    meaning="Share of the households that bought which bought the product",
    sql="""SELECT DISTINCT window_date, household_id, product_id::VARCHAR AS slice, 1 AS numerator, 0 AS denominator
           FROM watched
           UNION ALL SELECT DISTINCT window_date, household_id, NULL, 0, 1 FROM watched""",
    lookback_days=2,
)
WATCHED = SHOP.model_copy(
    update={"signals": (SPEND, REACH), "signal_tables": (LINES,), "monitor": MonitorPolicy(window_days=2)}
)


def shop_windows(settings: Settings, *last_days: int) -> Windows:
    """Days 0 and 1 are a window and so are 2 and 3; household 1 buys in both, household 2 in the second."""
    sales = [(0, 1, 1, "2.00"), (1, 1, 2, "4.00"), (2, 1, 1, "6.00"), (3, 2, 1, "1.00"), (3, 2, 2, "2.00")]
    sell(settings, 0, 1, 2, 3, purchases=sales)
    with open_core(settings, up_to=day(3)) as connection:
        return read_windows(connection, WATCHED, [day(number) for number in last_days])


def test_a_figure_is_the_ratio_of_sums_over_the_households_of_a_window(settings):
    windows = shop_windows(settings, 1, 3)
    assert windows.sums["spend", "all"].numerators.tolist() == [[6.0, 0.0], [6.0, 3.0]]
    assert windows.sums["spend", "all"].denominators.tolist() == [[2.0, 0.0], [1.0, 2.0]]
    assert windows.figures[day(3)]["spend", "all"].value == 3.0  # 9 US$ on 3 lines
    assert windows.figures[day(3)]["spend", "all"].entities == 2


def test_a_row_without_slice_is_in_the_denominator_of_each(settings):
    figures = shop_windows(settings, 1, 3).figures[day(3)]
    assert figures["reach", "1"].value == 1.0
    assert figures["reach", "2"].value == 0.5


def test_a_window_whose_look_back_begins_before_the_first_day_lacks_the_figure(settings):
    assert set(shop_windows(settings, 1, 3).figures[day(1)]) == {("spend", "all")}


def test_weights_repeat_households(settings):
    twice_the_second = shop_windows(settings, 3).weighted(np.array([1.0, 2.0]))
    assert twice_the_second.figures[day(3)]["spend", "all"].value == pytest.approx((6 + 2 * 3) / (1 + 2 * 2))


def test_windows_that_overlap_are_refused(settings):
    with pytest.raises(InvalidRunParameter, match="the windows overlap"):
        shop_windows(settings, 2, 3)


@pytest.mark.parametrize("mean", [0.3, 4.0, 60.0])
def test_the_error_of_a_ratio_is_that_of_a_bootstrap_of_households(mean):
    generator = np.random.default_rng(7)
    below = generator.poisson(3, 1000).astype(float)
    above = below * generator.gamma(2, mean / 2, 1000)
    dates = (date(2017, 5, 7),)
    windows = Sums(dates, above[None], below[None])
    drawn = [
        windows.estimates(generator.multinomial(1000, np.full(1000, 1 / 1000)).astype(float))[dates[0]].value
        for _ in range(2000)
    ]
    assert ratio(above, below).error == pytest.approx(np.std(drawn), rel=0.06)


def test_the_real_weeks_have_the_errors_of_a_bootstrap_of_households(year):
    from pipelines.use_cases import get_use_case

    use_case = get_use_case("category_propensity", year)
    last = date(2017, 6, 25)
    with open_core(year, up_to=last) as connection:
        windows = read_windows(connection, use_case, [last, last - timedelta(days=7)])
    generator = np.random.default_rng(7)
    shares = np.full(len(windows.entities), 1 / len(windows.entities))
    weights = [generator.multinomial(len(windows.entities), shares).astype(float) for _ in range(400)]
    off = []
    for key, sums in windows.sums.items():
        drawn = [sums.estimates(one)[last].value for one in weights]
        off.append(windows.figures[last][key].error / np.std(drawn) - 1)
    assert np.median(np.abs(off)) < 0.04
    assert np.quantile(np.abs(off), 0.9) < 0.15
