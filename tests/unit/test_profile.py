"""The profile of a small table; its page is Evidently's, so what counts is what it is about and what it leaves out."""

from datetime import date, timedelta

import pyarrow as pa
import pytest

from pipelines import lake, profile
from pipelines.contracts import CORE_PRODUCTS, CORE_TRANSACTIONS
from pipelines.errors import MissingPartition

DAY = date(2017, 11, 19)
HOUSEHOLD = 8_123_456_789


@pytest.fixture
def write_lines(settings):
    """Writes days of lines whose sales are 1, 2, 3 … $, times a factor."""

    def write_lines(day, lines, factor=1):
        row = dict.fromkeys(CORE_TRANSACTIONS.schema.names, 1) | {"business_date": day, "transacted_at": None}
        rows = [row | {"household_id": HOUSEHOLD + n, "sales_usd": factor * (n + 1)} for n in range(lines)]
        table = pa.Table.from_pylist(rows, CORE_TRANSACTIONS.schema)
        lake.replace_dates(settings.lake, CORE_TRANSACTIONS.name, table, first=day, last=day)

    return write_lines


def test_the_page_compares_a_day_with_the_28_days_before_it(settings, write_lines):
    for number, lines in ((0, 40), (1, 30), (28, 20), (29, 10)):
        write_lines(DAY - timedelta(days=number), lines, factor=1 if number else 100)

    report = profile.profile(settings, "core__transactions", DAY)

    assert (report.rows, report.reference_rows) == (40, 30 + 20)
    assert report.page == settings.home / "profiles" / "core__transactions" / "2017-11-19.html"
    page = report.page.read_text()
    assert all(column in page for column in ("sales_usd", "item_qty", "retail_discount_usd"))
    assert "Drift is detected for 20.0% of columns" in page  # of the five amounts, sales alone


def test_the_page_holds_no_id_and_loads_nothing_from_elsewhere(settings, write_lines):
    write_lines(DAY, 40)
    write_lines(DAY - timedelta(days=1), 40)

    page = profile.profile(settings, "core__transactions", DAY).page.read_text()

    assert "household_id" not in page
    assert "basket_id" not in page
    assert str(HOUSEHOLD)[:7] not in page
    assert 'src="http' not in page
    assert '<link rel="stylesheet" href="http' not in page


def test_no_more_rows_are_drawn_than_the_sample_has_and_always_the_same(settings, write_lines, monkeypatch):
    monkeypatch.setattr(profile, "SAMPLE_ROWS", 15)
    write_lines(DAY, 40)
    drawn = []
    for _ in range(2):
        with profile.open_engine(settings) as connection:
            files = lake.files_of(settings.lake, "core__transactions")
            drawn.append(sorted(profile._sample(connection, files).as_dataframe()["sales_usd"]))

    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 15
    assert drawn[0] != [float(n + 1) for n in range(15)]  # not merely the first rows


def test_a_table_without_an_earlier_partition_is_drawn_without_drift(settings):
    row = dict.fromkeys(CORE_PRODUCTS.schema.names, "x") | {"business_date": DAY, "manufacturer_id": 1}
    products = pa.Table.from_pylist([row | {"product_id": n} for n in range(20)], CORE_PRODUCTS.schema)
    lake.replace_dates(settings.lake, CORE_PRODUCTS.name, products, first=DAY, last=DAY)

    report = profile.profile(settings, "core__products", DAY)

    assert (report.rows, report.reference_rows) == (20, 0)
    assert "product_category" in report.page.read_text()
    assert "Drift is detected" not in report.page.read_text()


FEATURES = "features__shop"


@pytest.fixture
def keep_features(settings):
    """Keeps a snapshot of a feature whose values are 1, 2, 3 …, times a factor."""

    def keep_features(number, rows, factor=1.0):
        table = pa.table(
            {
                "household_id": pa.array([HOUSEHOLD + n for n in range(rows)], pa.int64()),
                "spend_usd": pa.array([factor * n for n in range(rows)], pa.float64()),
                "purchases": pa.array([n % 3 for n in range(rows)], pa.int64()),
            }
        )
        lake.replace_snapshot(settings.lake, FEATURES, table, DAY - timedelta(days=number))

    return keep_features


def test_features_are_compared_with_the_newest_snapshot_that_is_a_month_old(settings, keep_features):
    for number, rows in ((0, 40), (1, 30), (28, 20), (35, 10)):
        keep_features(number, rows, factor=1.0 if number else 100.0)

    report = profile.profile(settings, FEATURES, DAY)

    assert (report.rows, report.reference_rows) == (40, 20)
    page = report.page.read_text()
    assert report.page == settings.home / "profiles" / FEATURES / "2017-11-19.html"
    assert "spend_usd" in page
    assert "household_id" not in page
    assert "Drift is detected for 50.0% of columns" in page  # spend, and not purchases


def test_features_are_compared_with_the_date_that_is_asked_for(settings, keep_features):
    keep_features(0, 40)
    keep_features(7, 15)

    assert profile.profile(settings, FEATURES, DAY, DAY - timedelta(days=7)).reference_rows == 15
    assert profile.profile(settings, FEATURES, DAY).reference_rows == 0


def test_a_snapshot_or_a_day_to_compare_with_that_is_missing_is_a_clear_error(settings, keep_features, write_lines):
    keep_features(0, 10)
    write_lines(DAY, 40)
    week_ago = DAY - timedelta(days=7)

    for table in (FEATURES, "core__transactions"):
        with pytest.raises(MissingPartition, match="2017-11-12"):
            profile.profile(settings, table, DAY, week_ago)


@pytest.mark.parametrize("table", ["core__transactions", "core__nothing", "../../elsewhere"])
def test_nothing_to_draw_is_a_clear_error_and_leaves_no_file(settings, table):
    with pytest.raises(MissingPartition) as caught:
        profile.profile(settings, table, DAY)

    assert caught.value.where == f"{table}, 2017-11-19"
    assert not (settings.home / "profiles").exists()
