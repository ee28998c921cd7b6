"""Which day a purchase belongs to: by the stores' time zone, whatever the calendar and the machine's clock do."""

import os
import time
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import corner_shop
import pytest
import sqlalchemy as sa
from corner_shop import SHOP, put_scores, rows_of, sell, snapshot
from deliveries import (
    DAY,
    a_line,
    after,
    baskets,
    copy_of,
    in_process,
    ingest_at,
    put_day,
    quarantined,
    require_sound,
    tables_of,
)

from pipelines import monitoring, tables, warehouse
from pipelines.ingest import ingest
from pipelines.settings import Settings

pytestmark = pytest.mark.fault("F15")
NEW_YORK = ZoneInfo("America/New_York")


def moments(day):
    """The first and last second of a date in New York, and the times in UTC an hour apart between, as upstream."""
    start, end = (
        datetime(each.year, each.month, each.day, tzinfo=NEW_YORK).astimezone(UTC)
        for each in (day, day + timedelta(days=1))
    )
    hours = int((end - start) / timedelta(hours=1))
    return hours, [
        time_.replace(tzinfo=None)
        for time_ in (*(start + timedelta(hours=n) for n in range(hours)), end - timedelta(seconds=1))
    ]


@pytest.mark.parametrize(
    ("day", "hours"),
    [
        (date(2017, 3, 12), 23),  # clocks go forward
        (date(2017, 11, 5), 25),  # clocks go back: one hour comes twice
        (date(2016, 2, 29), 24),
        (date(2020, 2, 29), 24),
        (date(2016, 12, 31), 24),
        (date(2017, 1, 1), 24),
    ],
    ids=str,
)
def test_every_hour_of_an_odd_day_is_on_that_day_and_on_no_other(settings, day, hours):
    lines = {}
    number = 0
    for each in (day - timedelta(days=1), day, day + timedelta(days=1)):
        found, times = moments(each)
        lines[each] = [a_line(number + n, transaction_timestamp=time_) for n, time_ in enumerate(times)]
        number += 100
        put_day(settings, each, *lines[each])
        if each == day:
            assert found == hours

    ingest(settings, min(lines), max(lines), "r")

    for each, expected in lines.items():
        assert baskets(settings, each) == [line["basket_id"] for line in expected]
    assert len(baskets(settings, day)) == hours + 1
    assert quarantined(settings) == []
    require_sound(settings)


def ingest_in_zone(home, zone):
    os.environ["TZ"] = zone
    time.tzset()
    assert time.strftime("%z") in ("+0530", "-1000")
    ingest_at(home, DAY, after(1))


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Pacific/Honolulu"])
def test_the_time_zone_of_the_machine_changes_nothing(settings, tmp_path, zone):
    for number in (0, 1):
        _, times = moments(after(number))
        put_day(
            settings, after(number), *(a_line(100 * number + n, transaction_timestamp=t) for n, t in enumerate(times))
        )
    elsewhere = copy_of(settings, tmp_path / "elsewhere")
    ingest(settings, DAY, after(1), "child")

    assert in_process(ingest_in_zone, elsewhere.home, zone) == (0, "")

    assert tables_of(elsewhere) == tables_of(settings)


@pytest.mark.parametrize("hours", [-1, 1, 24 * 400])
def test_a_clock_that_jumps_does_not_change_which_attempt_is_the_last(settings, hours):
    put_day(settings, DAY, a_line(1))
    ingest(settings, DAY, DAY, "first")
    log = tables.INGEST_LOG
    with warehouse.open_warehouse(settings) as connection:  # as if the clock had been put back since
        noted = connection.scalars(sa.select(log.c.recorded_at)).first()
        connection.execute(sa.update(log).values(recorded_at=noted + timedelta(hours=hours)))
    put_day(settings, DAY, a_line(1), a_line(2))

    ingest(settings, DAY, DAY, "second")

    assert baskets(settings) == [1, 2]
    require_sound(settings)


WATCHED = (tables.METRICS, tables.FINDINGS, tables.KPI_DAILY, tables.KPI_WEEKLY, tables.RETRAIN_DECISIONS)
STEPS = (
    monitoring.record_outcomes,
    monitoring.measure_quality,
    monitoring.measure_drift,
    monitoring.compute_kpis,
    monitoring.record_findings,
    monitoring.decide_retraining,
)


def watch_nights(home, odd, zone):
    """The shop's monitor on the days around an odd one, in a time zone of the machine."""
    os.environ["TZ"] = zone
    time.tzset()
    settings, first = Settings(home=home), (odd - corner_shop.DAY).days - 4
    bought = [(first + n, 1 + n % 2, 1 + n % 3, "2.50") for n in range(8)]
    for number in range(first, first + 8):
        sell(settings, number, purchases=[one for one in bought if one[0] <= number])
        snapshot(settings, number)
        scores = [(who, corner_shop.PRODUCTS[what], 0.5, "baseline") for day, who, what, _ in bought if day <= number]
        put_scores(settings, number, sorted(set(scores)), version="rule:frequency")
        corner_shop.publish(settings, number, {1: ["MILK"], 2: ["BREAD"]}, version="rule:frequency")
        for step in STEPS:
            step(settings, SHOP, corner_shop.day(number), "night")


# clocks back, the end of a year, clocks forward, a leap day
@pytest.mark.parametrize("odd", [date(2017, 11, 5), date(2017, 12, 31), date(2018, 3, 11), date(2020, 2, 29)], ids=str)
def test_the_monitor_measures_and_decides_by_the_business_date_in_every_time_zone(tmp_path, odd):
    told = {}
    for zone in ("UTC", "Asia/Kolkata"):
        assert in_process(watch_nights, tmp_path / zone.replace("/", "-"), odd, zone) == (0, "")
        settings = Settings(home=tmp_path / zone.replace("/", "-"))
        told[zone] = {table.name: rows_of(settings, table) for table in WATCHED}

    assert told["Asia/Kolkata"] == told["UTC"]
    decided = [row["decision_date"] for row in told["UTC"][tables.RETRAIN_DECISIONS.name]]
    assert decided == [odd + timedelta(days=n) for n in range(-4, 4)]
    for row in told["UTC"][tables.METRICS.name]:
        wait = timedelta(days=SHOP.horizon_days + SHOP.late_window_days) if row["clock"] == "label" else timedelta(0)
        assert row["known_date"] == row["score_date"] + wait
    assert any(row["clock"] == "label" for row in told["UTC"][tables.METRICS.name])
