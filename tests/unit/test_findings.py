"""Findings of a date of the shop: written once, with what follows, and one page for a fault of the data."""

from datetime import UTC, datetime, timedelta

import pytest
from corner_shop import SHOP, day, log, publish, rows_of, sell

from pipelines import paging, tables, warehouse, watch
from pipelines.findings import record_findings, season_near
from pipelines.measurements import ALERT, DATA, LABEL, WARN, Measurement, replace_measurements
from pipelines.use_case import Season, Signal

AT = datetime(2017, 6, 1, 6, tzinfo=UTC)
LAST = 97  # the last of fourteen weeks
PRICE = Signal(
    name="price",
    meaning="Sales per line, US$",
    sql="""
        SELECT window_of(business_date) AS window_date, household_id, 'all' AS slice, sum(sales_usd) AS numerator,
               count(*) AS denominator
        FROM core__transactions WHERE window_of(business_date) IS NOT NULL GROUP BY ALL
    """,
    is_relative=True,
    fault_factor=3,
)
WATCHED = SHOP.model_copy(update={"signals": (PRICE,)})


@pytest.fixture
def shop(settings):
    """The shop with scores of three days published."""
    log(settings, *range(-7, 7))
    for number in (4, 5, 6):
        publish(settings, number, {1: ["MILK"]})
    return settings


def note(settings, number, *found, metric="rate_ratio"):
    replace_measurements(settings, SHOP, day(number), [metric], found)


def label(status=ALERT, value=0.8):
    return Measurement("rate_ratio", "1", value, "household_id 1", 1.0, 0.9, status, LABEL)


def share(status=ALERT):
    return Measurement("drift_share", "1", 0.5, threshold=0.25, status=status, clock=DATA)


def found_on(settings, number):
    return [row for row in rows_of(settings, tables.FINDINGS) if row["finding_date"] == day(number)]


def test_a_quiet_date_has_no_findings(shop):
    report = record_findings(shop, SHOP, day(6), "test")

    assert (report.watched, report.blocking, report.retraining, report.told) == (0, 0, 0, ())
    assert rows_of(shop, tables.FINDINGS) == []


def test_an_alert_of_labels_that_are_final_is_a_concept_shift_and_a_warning_is_none(shop):
    note(shop, 4, label())  # day 4 matures with day 6
    note(shop, 5, label())
    record_findings(shop, SHOP, day(6), "test")

    (row,) = found_on(shop, 6)
    assert (row["cause"], row["action"], row["clock"]) == ("concept shift", "retrain", "label")
    assert row["slice"] == "household_id 1"
    assert (row["value"], row["reference"], row["threshold"]) == (0.8, 1.0, 0.9)

    note(shop, 4, label(WARN))
    record_findings(shop, SHOP, day(6), "again")
    assert found_on(shop, 6) == []


def test_what_lasts_keeps_the_date_on_which_it_was_first_found(shop):
    for number in (4, 6):
        note(shop, number, share(), metric="drift_share")
        record_findings(shop, SHOP, day(number), "test")
    record_findings(shop, SHOP, day(6), "again")

    assert [row["first_date"] for row in rows_of(shop, tables.FINDINGS)] == [day(4), day(4)]


def test_a_season_reaches_into_the_week_after_it():
    fair = Season(name="Fair", first_date=day(0), last_date=day(1))
    festive = SHOP.model_copy(update={"calendar": (fair,)})

    assert [season_near(festive, day(number)) for number in (-1, 0, 14, 15)] == ["", "Fair", "Fair", ""]


def test_drift_in_a_season_informs(shop):
    fair = Season(name="Fair", first_date=day(0), last_date=day(1))
    note(shop, 6, share(), metric="drift_share")

    record_findings(shop, SHOP.model_copy(update={"calendar": (fair,)}), day(6), "test")

    (row,) = found_on(shop, 6)
    assert (row["cause"], row["action"]) == ("season", "inform")


@pytest.fixture
def dear(settings):
    """Fourteen weeks of ten households that buy for about 10 $ a day; on the last Thursday each pays a thousand."""
    dear_day = LAST - 3
    bought = [
        (number, household, 1, "1000.00" if number == dear_day else f"{10 + (7 * household + 3 * number) % 5}.00")
        for number in range(LAST + 1)
        for household in range(1, 11)
    ]
    sell(settings, *range(LAST + 1), purchases=bought)
    name = {"source_file": "transactions/drop/part-0.parquet", "business_date": day(dear_day)}
    with warehouse.open_warehouse(settings) as connection:
        (old,) = warehouse.read_rows(
            connection, tables.INGEST_LOG.select().where(tables.INGEST_LOG.c.business_date == day(dear_day))
        )
        told = {key: value for key, value in old.items() if key != "ingest_id"}
        warehouse.append_rows(connection, tables.INGEST_LOG, [told | name | {"attempt": 2, "rows_kept": 10}])
    publish(settings, LAST, {1: ["MILK"]})
    publish(settings, LAST + 1, {1: ["MILK"]})
    return settings


def test_a_price_that_nobody_pays_is_a_fault_that_blocks_and_names_the_drop_of_its_day(dear):
    report = record_findings(dear, WATCHED, day(LAST), "test")

    assert (report.blocking, report.retraining) == (1, 0)
    (row,) = found_on(dear, LAST)
    assert (row["cause"], row["action"], row["metric"]) == ("data fault", "block", "price")
    assert row["source"] == f"core__transactions of {day(LAST - 3)}: transactions/drop/part-0.parquet"
    measured = {(one["metric"], one["slice"]): one for one in rows_of(dear, tables.METRICS)}
    price = measured["price", "all"]
    assert price["value"] == pytest.approx((6 * 12 + 1000) / 7, rel=0.01)
    assert price["status"] == "alert" and price["low"] < price["value"] < price["high"]
    assert 0 < measured["shift_detectable", "price all"]["value"] < price["value"]


def test_a_fault_is_one_page_and_over_once_the_data_are_mended(dear):
    for attempt in ("first", "second"):
        record_findings(dear, WATCHED, day(LAST), attempt)
        watch.page_incidents(dear, WATCHED, AT)

    (known,) = paging.read_state(dear).open.values()
    assert known.page.what == f"the data of corner_shop are at fault since {day(LAST)}"
    assert known.page.runbook == "the-data-are-at-fault"
    assert len(rows_of(dear, tables.INCIDENTS)) == 1

    sell(dear, LAST - 3, purchases=[(LAST - 3, household, 1, "12.00") for household in range(1, 11)])
    record_findings(dear, WATCHED, day(LAST), "mended")
    watch.page_incidents(dear, WATCHED, AT + timedelta(hours=1))

    assert found_on(dear, LAST) == []
    assert paging.read_state(dear).open == {}
    (incident,) = rows_of(dear, tables.INCIDENTS)
    assert incident["resolved_date"] == day(LAST)


def test_lines_in_quarantine_beyond_a_hundredth_are_a_fault_of_their_files(shop):
    with warehouse.open_warehouse(shop) as connection:
        (old,) = warehouse.read_rows(
            connection, tables.INGEST_LOG.select().where(tables.INGEST_LOG.c.business_date == day(3))
        )
        told = {key: value for key, value in old.items() if key != "ingest_id"} | {"attempt": 2}
        bad = {"source_file": "transactions/bad.parquet", "rows_in": 1000, "rows_quarantined": 11, "rows_kept": 989}
        warehouse.append_rows(connection, tables.INGEST_LOG, [told | bad])

    record_findings(shop, SHOP, day(6), "test")

    (row,) = found_on(shop, 6)
    assert (row["metric"], row["cause"], row["source"]) == (
        "quarantined_share",
        "data fault",
        "transactions/bad.parquet",
    )
    assert row["value"] == pytest.approx(0.011)
