from collections.abc import Mapping
from datetime import date, timedelta
from statistics import mean, stdev

import pyarrow as pa
import pytest
from corner_shop import SHOP, day, log, publish, rows_of, sell, snapshot

from pipelines import lake, tables
from pipelines.contracts import CORE_REDEMPTIONS
from pipelines.engine import open_core
from pipelines.errors import InvalidUseCase, MissingPartition
from pipelines.kpis import compute_kpis, evaluate
from pipelines.outcomes import record_outcomes
from pipelines.settings import Settings
from pipelines.use_case import Kpi
from pipelines.use_cases.category_propensity.kpis import KPIS

MARKET = SHOP.model_copy(update={"kpis": KPIS})  # the shop, with the KPIs of category propensity; day 6 is a Sunday
WEEK = range(7)
SALES = [(0, 1, 1, "10.00"), (5, 1, 4, "30.00"), (6, 1, 1, "2.50"), (6, 2, 2, "5.50")]


def test_daily_figures_count_that_day_alone(settings: Settings) -> None:
    sell(settings, *WEEK, purchases=SALES)

    report = compute_kpis(settings, MARKET, day(6), "test")

    figures = {name: report.daily[name] for name in ("revenue_usd", "active_households", "baskets", "basket_value_usd")}
    assert figures == {"revenue_usd": 8.0, "active_households": 2, "baskets": 2, "basket_value_usd": 4.0}
    assert "redemptions" not in report.daily


def test_the_week_ends_on_its_sunday_and_counts_fuel_and_redemptions(settings: Settings) -> None:
    sell(settings, *WEEK, purchases=SALES)
    redeemed = [{"business_date": day(n), "household_id": 1, "coupon_upc": n, "campaign_id": 1} for n in (0, 6)]
    rows = pa.Table.from_pylist(redeemed, schema=CORE_REDEMPTIONS.schema)
    lake.replace_dates(settings.lake, CORE_REDEMPTIONS.name, rows, first=day(0), last=day(6))

    weekly = compute_kpis(settings, MARKET, day(6), "test").weekly

    assert (weekly["revenue_usd"], weekly["active_households"], weekly["baskets"]) == (48.0, 2, 4)
    assert (weekly["basket_value_usd"], weekly["redemptions"]) == (12.0, 2)
    stored = {row["kpi"]: row for row in rows_of(settings, tables.KPI_WEEKLY)}
    assert (stored["revenue_usd"]["kpi_date"], stored["revenue_usd"]["value"]) == (day(6), 48.0)
    assert stored["revenue_usd"]["unit"] == "usd"
    assert "fuel" in stored["revenue_usd"]["meaning"]


def test_rows_after_the_date_do_not_count_and_a_second_run_changes_nothing(settings: Settings) -> None:
    sell(settings, *WEEK, 7, purchases=[*SALES, (7, 3, 1, "99.00")])
    compute_kpis(settings, MARKET, day(6), "test")
    once = [rows_of(settings, table) for table in (tables.KPI_DAILY, tables.KPI_WEEKLY)]

    compute_kpis(settings, MARKET, day(6), "again")

    assert [rows_of(settings, table) for table in (tables.KPI_DAILY, tables.KPI_WEEKLY)] == once
    assert next(row["value"] for row in once[0] if row["kpi"] == "revenue_usd") == 8.0


def test_no_week_is_computed_on_another_day_or_before_history_fills_one(settings: Settings) -> None:
    sell(settings, *range(3, 7), purchases=SALES)

    for number, said in ((5, "does not end a week"), (6, f"history begins on {day(3)}")):
        report = compute_kpis(settings, MARKET, day(number), "test")
        assert report.weekly == {}
        assert said in report.reason
    assert rows_of(settings, tables.KPI_WEEKLY) == []


def test_a_hole_in_the_week_is_an_error_and_writes_nothing(settings: Settings) -> None:
    sell(settings, 0, 1, 2, 4, 5, 6, purchases=SALES)

    with pytest.raises(MissingPartition, match=str(day(3))):
        compute_kpis(settings, MARKET, day(6), "test")
    assert rows_of(settings, tables.KPI_DAILY) == []


def test_a_closed_day_has_no_revenue_and_no_basket_value(settings: Settings) -> None:
    sell(settings, 0, purchases=SALES)
    log(settings, 1)

    daily = compute_kpis(settings, MARKET, day(1), "test").daily

    assert (daily["revenue_usd"], daily["baskets"], daily["basket_value_usd"]) == (0, 0, None)


def outcome_figures(values: Mapping[str, float | None]) -> tuple[float | None, ...]:
    return tuple(values[name] for name in ("hit_rate_at_10", "precision_at_10", "value_captured_share_at_10"))


def test_figures_of_the_lists_count_everybody_who_bought_and_everything_they_bought(
    settings: Settings,
) -> None:
    # Window of day 3: days 4 and 5. Household 1 buys MILK and BREAD of its list, and BEER; 2 only BEER,
    # not on its list; 3 has no list; 4 buys nothing; fuel is not recommendable.
    before = [(3, who, 1, "1.00") for who in (1, 2, 4)]
    bought = [(4, 1, 1, "2.00"), (5, 1, 2, "3.00"), (5, 1, 3, "1.00"), (5, 2, 3, "2.00"), (4, 3, 1, "2.00")]
    sell(settings, *WEEK, purchases=[*before, *bought, (4, 1, 4, "50.00")])
    snapshot(settings, 3)
    publish(settings, 3, {1: ["MILK", "BREAD"], 2: ["MILK"], 4: ["MILK"]})
    record_outcomes(settings, MARKET, day(5), "test")

    on_the_day = compute_kpis(settings, MARKET, day(5), "test")
    report = compute_kpis(settings, MARKET, day(6), "test")

    expected = (pytest.approx(1 / 3), pytest.approx((2 / 10) / 3), 5.0 / 10.0)
    assert outcome_figures(on_the_day.daily) == expected
    assert outcome_figures(report.daily) == (None, None, None)  # nothing matured on day 6
    assert outcome_figures(report.weekly) == expected


def test_a_kpi_that_gives_several_rows_is_refused(settings: Settings) -> None:
    many = Kpi(name="many", meaning="-", unit="-", sql="SELECT household_id FROM core__transactions")
    sell(settings, 0, purchases=[*SALES, (0, 2, 1, "1.00")])

    with pytest.raises(InvalidUseCase, match="KPI many"):
        compute_kpis(settings, SHOP.model_copy(update={"kpis": (many,)}), day(0), "test")


# Weekly mean and standard deviation over the 52 whole weeks of 2017, from the profile of the delivered data;
# ingest quarantines one line of it, of 24 $.
PROFILE = {
    "revenue_usd": (88_184, 5_997, 1),
    "active_households": (1_334, 38, 0.5),
    "baskets": (2_990, 124, 0.5),
    "basket_value_usd": (29.5, 1.4, 0.05),
    "redemptions": (40, 45, 1),
}


@pytest.mark.slow
def test_weekly_figures_of_the_real_year_agree_with_its_profile(year: Settings) -> None:
    kpis = [kpi for kpi in KPIS if kpi.name in PROFILE]
    sundays = [date(2017, 1, 8) + timedelta(weeks=week) for week in range(52)]
    with open_core(year, up_to=sundays[-1]) as connection:
        weeks = [evaluate(connection, kpis, sunday - timedelta(days=6), sunday) for sunday in sundays]

    for name, (average, spread, tolerance) in PROFILE.items():
        values = [week[name] for week in weeks]
        assert mean(values) == pytest.approx(average, abs=tolerance)
        assert stdev(values) == pytest.approx(spread, abs=tolerance)
