import re
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from statistics import mean, stdev

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from corner_shop import SHOP, day, log, publish, rows_of, sell, snapshot

from pipelines import lake, tables, warehouse
from pipelines.contracts import CORE_REDEMPTIONS
from pipelines.control import Estimate, ratio
from pipelines.engine import open_core
from pipelines.errors import InvalidUseCase, MissingPartition
from pipelines.kpi_page import PAGE
from pipelines.kpi_views import write_database
from pipelines.kpis import Figure, compute_kpis, evaluate, judged
from pipelines.outcomes import record_outcomes
from pipelines.settings import PROJECT, Settings
from pipelines.use_case import Kpi, Season
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


@pytest.fixture
def listed(settings: Settings) -> Settings:
    """The shop whose lists of day 3 are final at the end of day 5: MILK is hit by 1 alone, BREAD by 2 alone.

    By frequency the rule would have listed MILK and BREAD for 1; 2 has bought BREAD alone, and MILK fills its list.
    """
    before = [(3, 1, 1, "1.00"), (2, 1, 1, "1.00"), (3, 1, 2, "1.00"), (2, 1, 2, "1.00"), (3, 1, 3, "1.00")]
    before += [(3, 2, 2, "1.00")]
    sell(settings, *WEEK, purchases=[*before, (4, 1, 1, "2.00"), (5, 1, 2, "6.00"), (5, 2, 2, "3.00")])
    snapshot(settings, 3)
    publish(settings, 3, {1: ["MILK", "BEER"], 2: ["BREAD", "MILK"]})
    record_outcomes(settings, MARKET, day(5), "test")
    return settings


def test_a_figure_of_lists_has_an_interval_and_what_the_rules_lists_would_have_had(listed: Settings) -> None:
    compute_kpis(listed, MARKET, day(5), "test")

    rows = {row["kpi"]: row for row in rows_of(listed, tables.KPI_DAILY)}
    value, hit = rows["value_captured_share_at_10"], rows["hit_rate_at_10"]
    # Ours: 2 of 8 $ and 3 of 3 $. The rule's: all of it, for MILK fills its list of 2 as well.
    assert (value["value"], value["reference"]) == (pytest.approx(5 / 11), 1.0)
    ours = ratio(np.array([2.0, 3.0]), np.array([8.0, 3.0])).interval
    assert (value["low"], value["high"]) == (pytest.approx(ours[0]), pytest.approx(ours[1]))
    assert (hit["value"], hit["reference"], hit["low"], hit["high"]) == (1.0, 1.0, 1.0, 1.0)
    assert rows["revenue_usd"]["reference"] is None
    assert (rows["revenue_usd"]["owner"], hit["owner"]) == ("retail-controlling", "tests")


def test_lists_count_when_their_labels_are_final_and_not_before(listed: Settings) -> None:
    patient = MARKET.model_copy(update={"late_window_days": 1})
    record_outcomes(listed, patient, day(6), "test")

    assert compute_kpis(listed, patient, day(5), "test").daily["hit_rate_at_10"] is None
    assert compute_kpis(listed, patient, day(6), "test").daily["hit_rate_at_10"] == 1.0


def test_coverage_concentration_and_churn_are_of_the_last_night(listed: Settings) -> None:
    publish(listed, 5, {1: ["MILK", "BEER"], 2: ["MILK"]})
    publish(listed, 6, {1: ["MILK", "BREAD"], 3: ["CHEESE"]})

    daily = compute_kpis(listed, MARKET, day(6), "test").daily

    # One of 1's rows was there the day before, one was not; 3 had no list then. Three categories were bought, by two;
    # neither 3 nor CHEESE is among them.
    assert daily["list_churn_share"] == 1 / 2
    assert (daily["category_coverage_share"], daily["household_coverage_share"]) == (2 / 3, 1 / 2)
    assert daily["top_10_concentration_share"] == 1.0


def test_a_nights_scores_cost_what_its_first_good_steps_have_cost(listed: Settings) -> None:
    steps = [("scores__corner_shop", 3, True, 500, 0.02), ("publish__corner_shop", 3, True, 4, 0.03)]
    steps += [("scores__corner_shop", 3, True, 500, 9.0), ("scores__corner_shop", 5, True, 200, 0.01)]
    steps += [("features__corner_shop", 5, False, None, 9.0), ("features__corner_shop", 5, True, 7, 0.03)]
    with warehouse.open_warehouse(listed) as connection:
        for step, number, is_success, rows, euros in steps:
            row = {"run_id": "r", "step": step, "partition_key": str(day(number)), "is_success": is_success}
            row |= {"rows": rows, "euros": euros, "wall_s": 1.0, "cpu_s": 1.0, "peak_memory_mib": 1.0}
            warehouse.append_rows(connection, tables.RUN_COSTS, [row])

    on_day_5 = compute_kpis(listed, MARKET, day(5), "test").daily
    weekly = compute_kpis(listed, MARKET, day(6), "test").weekly

    assert on_day_5["cost_per_thousand_scores_eur"] == pytest.approx(1000 * (0.01 + 0.03) / 200)
    assert weekly["gain_per_cost_usd"] == pytest.approx((5 - 11) / (0.02 + 0.03))  # ours 5 $, the rule's 11 $
    assert weekly["retrainings_paid_share"] is None


PAST = [100.0, 104.0, 96.0, 101.0, 99.0, 102.0, 98.0, 100.0, 103.0, 97.0, 100.0, 100.0]


@pytest.mark.parametrize(
    ("value", "is_season", "status"),
    [
        (100.0, False, "ok"),
        (115.0, False, "ok"),
        (140.0, False, "alert"),
        (60.0, False, "alert"),
        (140.0, True, "info"),
    ],
)
def test_a_figure_far_from_its_past_is_an_alert_but_in_a_known_season(value, is_season, status) -> None:
    found = judged(Figure(value), [Estimate(one, 0, 0) for one in PAST], 4.5, is_season=is_season)

    assert found.status == status
    assert 60 < found.band_low < 85
    assert 115 < found.band_high < 140


def test_a_steady_figure_may_change_by_two_percent_and_a_short_past_says_nothing() -> None:
    steady = [Estimate(100.0, 0, 0)] * 12

    assert judged(Figure(101.9), steady, 4.5, is_season=False).status == "ok"
    assert judged(Figure(102.1), steady, 4.5, is_season=False).status == "alert"
    assert judged(Figure(500.0), steady[:3], 4.5, is_season=False) == Figure(500.0)


def test_what_is_usual_comes_from_the_same_weekday_and_not_from_seasons(settings: Settings) -> None:
    # 10 $ each Monday, 99 $ each Sunday; on the Monday of the festival it was 500 $.
    weeks = range(0, 43, 7)
    sold = [(number, 1, 1, "500.00" if number == 35 else "10.00") for number in weeks]
    sell(settings, *range(43), purchases=[*sold, *((number - 1, 1, 1, "99.00") for number in weeks if number)])
    festival = Season(name="festival", first_date=day(35), last_date=day(35))
    market = MARKET.model_copy(update={"calendar": (festival,)})

    compute_kpis(settings, market, day(42), "test")
    compute_kpis(settings, market, day(35), "test")

    rows = {row["kpi_date"]: row for row in rows_of(settings, tables.KPI_DAILY) if row["kpi"] == "revenue_usd"}
    assert (rows[day(42)]["band_low"], rows[day(42)]["band_high"]) == (pytest.approx(9.8), pytest.approx(10.2))
    assert (rows[day(42)]["status"], rows[day(35)]["status"]) == ("ok", "info")


def test_the_sql_of_the_page_gives_the_same_figures_in_the_file_of_the_command(
    listed: Settings, tmp_path: Path
) -> None:
    publish(listed, 6, {1: ["MILK"]})
    publish(listed, -1, {1: ["BEER"]})
    weekly = compute_kpis(listed, MARKET, day(6), "test").weekly
    write_database(listed, MARKET, day(0), day(6), tmp_path / "kpis.duckdb")
    page = (PROJECT / PAGE).read_text()
    shown = dict(re.findall(r"### `(\w+)`\n.*?```sql\n(.*?)\n```", page, re.DOTALL))

    with duckdb.connect(tmp_path / "kpis.duckdb", read_only=True) as connection:
        found = {name: connection.sql(sql).fetchall() for name, sql in shown.items()}

    assert {name: rows[0][0] and float(rows[0][0]) for name, rows in found.items()} == weekly
    assert len([value for value in weekly.values() if value is not None]) > 10


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
