"""The history checks on the real year: how often they are wrong, and which faults they find.

| fault, on each of 336 days | stopped | stopped or reported |
|---|---|---|
| none | 0 | 28 days, 42 of 6,046 checks |
| a tenth of the baskets; ten times the baskets | 100 % | 100 % |
| three tenths of the baskets; three times the baskets | 99 % | 100 % |
| half of the baskets | 7 % | 100 % |
| a fifth of `sales_usd` or of `item_qty` becomes 0, or one other value | 100 % | 100 % |
| a fifth of a discount becomes one other value | 100 % | 100 % |
| a fifth of `retail_discount_usd` becomes 0 | 99 % | 100 % |
| a fifth of a coupon discount becomes 0: 98.7 % are 0 already | 0 | 8 % |
"""

from datetime import date

import duckdb
import pytest

from pipelines import lake
from pipelines.history import HISTORY_DAYS, history_checks

pytestmark = pytest.mark.slow
A_FIFTH = "hash(basket_id, product_id) % 5 = 0"
ORDINARY, FEASTS = date(2017, 9, 14), [date(2017, 11, 22), date(2017, 11, 23), date(2017, 12, 24), date(2017, 12, 26)]


@pytest.fixture(scope="module")
def connection(year):
    tables = (("lines", "core__transactions"), ("products_known", "core__products"))
    with duckdb.connect() as connection:
        for name, table in tables:
            files = lake.files_of(year.lake, table)
            rows = f"read_parquet({files}, hive_partitioning = true, hive_types = {{'business_date': DATE}})"
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM {rows}")
        yield connection


@pytest.fixture(scope="module")
def verdicts(connection):
    """The judged checks of each day of the year, brought in as one range."""
    connection.execute(
        "CREATE OR REPLACE TABLE kept AS FROM lines; CREATE OR REPLACE TABLE history AS FROM lines LIMIT 0"
    )
    days = [day for (day,) in connection.execute("SELECT DISTINCT business_date FROM lines ORDER BY ALL").fetchall()]
    found = history_checks(connection, days)
    return {day: [each for each in checks if "not judged" not in str(each.expected)] for day, checks in found.items()}


def test_no_day_of_the_year_is_stopped_not_even_the_feasts(verdicts):
    judged = {day: checks for day, checks in verdicts.items() if checks}
    assert len(judged) == 336  # 364 open days but for the first four weeks
    assert set(FEASTS) <= set(judged)
    assert [
        str(check) for checks in judged.values() for check in checks if check.is_blocking and not check.success
    ] == []


def test_fewer_than_one_check_in_a_hundred_warns_without_cause(verdicts):
    checks = [check for judged in verdicts.values() for check in judged]
    warnings = [check for check in checks if not check.success]
    assert 0 < len(warnings) <= len(checks) / 100


@pytest.mark.parametrize("day", [ORDINARY, *FEASTS], ids=str)
def test_a_night_comes_to_the_same_verdict_as_the_range(connection, verdicts, day):
    _set_apart(connection, day, "SELECT * FROM lines")
    assert [check for check in history_checks(connection, [day])[day] if check in verdicts[day]] == verdicts[day]


@pytest.mark.fault("F13")
@pytest.mark.parametrize("day", [ORDINARY, *FEASTS], ids=str)
@pytest.mark.parametrize(
    "rows",
    [
        "SELECT * FROM lines WHERE hash(basket_id) % 10 = 0",
        "SELECT lines.* REPLACE (basket_id * 10 + copy AS basket_id) FROM lines, range(10) AS copies(copy)",
    ],
    ids=["a tenth", "ten times"],
)
def test_a_collapse_or_a_flood_is_stopped(connection, day, rows):
    _set_apart(connection, day, rows)
    assert {"lines", "baskets", "sales_usd"} <= _stopped_by(connection, day)


@pytest.mark.fault("F12")
@pytest.mark.parametrize(
    ("column", "value", "measure"),
    [
        ("sales_usd", 0, "sales_usd_zero_share"),
        ("sales_usd", 7, "sales_usd_repeated_share"),
        ("item_qty", 0, "item_qty_zero_share"),
        ("item_qty", -1, "item_qty_repeated_share"),
        ("retail_discount_usd", 0, "retail_discount_usd_uneven_share"),
        ("retail_discount_usd", 1, "retail_discount_usd_repeated_share"),
        ("coupon_discount_usd", 1, "coupon_discount_usd_repeated_share"),
        ("coupon_match_discount_usd", 1, "coupon_match_discount_usd_repeated_share"),
    ],
)
def test_a_fifth_of_a_column_replaced_by_a_code_is_stopped(connection, column, value, measure):
    rows = f"SELECT * REPLACE (CASE WHEN {A_FIFTH} THEN {value} ELSE {column} END AS {column}) FROM lines"
    _set_apart(connection, ORDINARY, rows)
    assert measure in _stopped_by(connection, ORDINARY)


@pytest.mark.parametrize("category", ["SOFT DRINKS", "BEEF", "CHEESE"])
def test_a_day_without_a_large_category_is_stopped(connection, category):
    missing = f"SELECT product_id FROM products_known WHERE product_category = '{category}'"
    _set_apart(connection, ORDINARY, f"SELECT * FROM lines WHERE product_id NOT IN ({missing})")
    assert "silent_category_share" in _stopped_by(connection, ORDINARY)


@pytest.mark.parametrize("factor", ["100", "0.01"])
def test_a_day_in_cents_for_dollars_is_stopped(connection, factor):
    _set_apart(connection, ORDINARY, f"SELECT * REPLACE (sales_usd * {factor} AS sales_usd) FROM lines")
    assert "sales_usd_per_basket" in _stopped_by(connection, ORDINARY)


def test_products_that_lost_their_department_are_stopped(connection):
    replaced = "CASE WHEN hash(product_id) % 10 < 3 THEN -product_id ELSE product_id END"
    _set_apart(connection, ORDINARY, f"SELECT * REPLACE ({replaced} AS product_id) FROM lines")
    assert "department_mix_distance" in _stopped_by(connection, ORDINARY)


def _set_apart(connection, day, rows):
    """Makes the day's lines of the query the new ones, and the true lines of the weeks before the history."""
    connection.execute(f"CREATE OR REPLACE TABLE kept AS SELECT * FROM ({rows}) WHERE business_date = '{day}'")
    connection.execute(
        f"CREATE OR REPLACE TABLE history AS FROM lines WHERE business_date >= DATE '{day}' - {HISTORY_DAYS} "
        f"AND business_date < '{day}'"
    )


def _stopped_by(connection, day):
    return {check.name for check in history_checks(connection, [day])[day] if check.is_blocking and not check.success}
