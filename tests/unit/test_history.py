"""Days made of lines that can be counted by eye: 600 each, from one basket per household."""

from datetime import date, timedelta

import duckdb
import pyarrow as pa
import pytest

from pipelines import tables, warehouse
from pipelines.checks import log_rows
from pipelines.contracts import CORE_TRANSACTIONS
from pipelines.history import history_checks

SUNDAY = date(2017, 11, 19)
LINES = 600


def day_of(day, lines=LINES, **columns):
    """Lines 0, 1, 2 … of a day; each column is a value or a function of the line's number."""
    usual = {
        "business_date": day,
        "household_id": lambda n: n // 4,
        "store_id": 1,
        "basket_id": lambda n: n // 4,
        "product_id": lambda n: n % 2,
        "item_qty": 1,
        "sales_usd": lambda n: n % 50 + 1,
        "retail_discount_usd": 0,
        "coupon_discount_usd": 0,
        "coupon_match_discount_usd": 0,
        "transacted_at": None,
    }
    made = usual | columns
    return [{name: value(n) if callable(value) else value for name, value in made.items()} for n in range(lines)]


@pytest.fixture
def judge():
    """The checks of the days of `kept`, by name."""

    def judge(kept, history=()):
        with duckdb.connect() as connection:
            for name, rows in (("kept", kept), ("history", history)):
                connection.register(name, pa.Table.from_pylist(list(rows), CORE_TRANSACTIONS.schema))
            connection.execute(
                "CREATE VIEW products_known AS SELECT * FROM (VALUES (0, 'GROCERY', 'MILK'), (2, 'GROCERY', 'EGGS')) "
                "AS known(product_id, department, product_category)"
            )
            days = sorted({row["business_date"] for row in kept})
            found = history_checks(connection, days)
        assert list(found) == days
        return {day: {check.name: check for check in checks} for day, checks in found.items()}

    return judge


def weeks_before(*numbers, **columns):
    return [row for number in numbers for row in day_of(SUNDAY - timedelta(weeks=number), **columns)]


def failures(checks):
    return {name: check.is_blocking for name, check in checks.items() if not check.success}


def test_a_day_like_the_same_weekdays_before_passes_every_check(judge):
    checks = judge(day_of(SUNDAY), weeks_before(1, 2, 3, 4))[SUNDAY]

    assert failures(checks) == {}
    assert checks["lines"].observed == "600"
    # 600 / 1.4, 600 * 1.4 and 600 / 2.5, 600 * 2.5
    assert checks["lines"].expected == "429 to 840, never outside 240 to 1,500 (median of 4 Sundays: 600)"
    # lines 0 to 599 sell 1, 2 … 50 $ twelve times: 12 * 1,275 $ from 150 baskets of four lines
    assert checks["sales_usd"].observed == "15,300"
    assert checks["sales_usd_per_basket"].observed == "102"


def test_with_fewer_than_four_of_its_weekday_a_day_is_not_judged(judge):
    others = [row for number in range(1, 7) for row in day_of(SUNDAY - timedelta(days=number))]

    checks = judge(day_of(SUNDAY, lines=1), weeks_before(1, 2, 3) + others)[SUNDAY]

    assert failures(checks) == {}
    assert checks["lines"].expected == "not judged: 3 Sundays of 600 lines known"
    assert not checks["lines"].is_blocking


def test_weekdays_of_more_than_eight_weeks_ago_do_not_count(judge):
    checks = judge(day_of(SUNDAY), weeks_before(6, 7, 8, 9))[SUNDAY]

    assert checks["lines"].expected == "not judged: 3 Sundays of 600 lines known"


def test_a_small_shop_is_not_judged(judge):
    checks = judge(day_of(SUNDAY, lines=3), weeks_before(1, 2, 3, 4, lines=499))[SUNDAY]

    assert checks["lines"].expected == "not judged: 4 Sundays of 499 lines known"


@pytest.mark.fault("F13")
@pytest.mark.parametrize(("lines", "is_blocking"), [(60, True), (239, True), (400, False), (900, False), (6000, True)])
def test_a_day_with_far_too_few_or_too_many_lines_is_stopped_and_an_odd_one_reported(judge, lines, is_blocking):
    checks = judge(day_of(SUNDAY, lines=lines), weeks_before(1, 2, 3, 4))[SUNDAY]

    assert failures(checks)["lines"] is is_blocking


def test_where_the_weekday_varies_more_is_allowed(judge):
    history = [row for week, lines in enumerate((500, 600, 800, 900), 1) for row in weeks_before(week, lines=lines)]

    checks = judge(day_of(SUNDAY, lines=1200), history)[SUNDAY]

    # median 700, and half of the weeks lie 150 from it: 700 * exp(4 * 150 / 700) = 1,649
    assert checks["lines"].success
    assert checks["lines"].expected.startswith("297 to 1,649, ")


@pytest.mark.fault("F12")
@pytest.mark.parametrize("column", ["sales_usd", "item_qty"])
def test_a_fifth_of_a_column_turned_into_zero_is_stopped(judge, column):
    def broken(number):
        return 0 if number % 5 == 0 else number % 50 + 1

    usual = {column: lambda number: number % 50 + 1}
    checks = judge(day_of(SUNDAY, **{column: broken}), weeks_before(1, 2, 3, 4, **usual))[SUNDAY]

    assert checks[f"{column}_zero_share"].observed == "0.2"
    assert failures(checks)[f"{column}_zero_share"] is True


@pytest.mark.fault("F12")
@pytest.mark.parametrize("column", ["retail_discount_usd", "coupon_discount_usd", "coupon_match_discount_usd"])
def test_a_fifth_of_a_discount_made_equal_to_one_value_is_stopped(judge, column):
    broken = {column: lambda number: 9 if number % 5 == 0 else 0}

    checks = judge(day_of(SUNDAY, **broken), weeks_before(1, 2, 3, 4))[SUNDAY]

    assert checks[f"{column}_repeated_share"].observed == "0.2"
    assert failures(checks)[f"{column}_repeated_share"] is True


@pytest.mark.fault("F12")
def test_loyalty_discounts_missing_from_a_fifth_of_the_lines_are_stopped(judge):
    usual = {"retail_discount_usd": lambda number: (number + 1) % 2 * (number % 7 + 1)}  # product 0 is on offer
    broken = {"retail_discount_usd": lambda number: 0 if number % 10 == 0 else (number + 1) % 2 * (number % 7 + 1)}

    checks = judge(day_of(SUNDAY, **broken), weeks_before(1, 2, 3, 4, **usual))[SUNDAY]

    # 60 of the 300 lines of product 0 have none; of all lines, 60 % instead of 50 % have none
    assert checks["retail_discount_usd_uneven_share"].observed == "0.2"
    assert failures(checks)["retail_discount_usd_uneven_share"] is True


def test_sales_that_move_to_other_departments_are_stopped(judge):
    checks = judge(day_of(SUNDAY, product_id=1), weeks_before(1, 2, 3, 4))[SUNDAY]

    # every week product 0 (GROCERY) sells 1, 3 … 49 $ twelve times: 7,500 of 15,300 $; today nothing
    assert checks["department_mix_distance"].observed == "0.4902"
    assert failures(checks) == {"department_mix_distance": True, "silent_category_share": True}


def sold(*, eggs, lines=LINES):
    """So many of the day's lines are of EGGS, the rest of MILK; every amount is as on other days."""
    return {"lines": lines, "product_id": lambda number: 2 if number < eggs else 0}


def test_a_category_that_sells_every_day_and_has_no_line_today_is_stopped_and_named(judge):
    checks = judge(day_of(SUNDAY, **sold(eggs=0)), weeks_before(1, 2, 3, 4, **sold(eggs=21)))[SUNDAY]

    assert failures(checks) == {"silent_category_share": True}
    assert checks["silent_category_share"].observed == "0.035 (EGGS)"  # 21 of 600 lines


@pytest.mark.parametrize(("usual", "today"), [(20, 0), (21, 1)])
def test_a_category_that_sells_little_or_a_little_may_be_silent_or_low(judge, usual, today):
    checks = judge(day_of(SUNDAY, **sold(eggs=today)), weeks_before(1, 2, 3, 4, **sold(eggs=usual)))[SUNDAY]

    assert failures(checks) == {}


@pytest.mark.parametrize(("usual", "is_stopped"), [(36, False), (37, True)])
def test_a_category_is_large_by_its_share_however_much_is_sold(judge, usual, is_stopped):
    before = weeks_before(1, 2, 3, 4, **sold(eggs=usual, lines=6_000))
    checks = judge(day_of(SUNDAY, **sold(eggs=0, lines=6_000)), before)[SUNDAY]

    assert ("silent_category_share" in failures(checks)) is is_stopped  # .006 of 6,000 lines are 36


def test_a_day_in_cents_for_dollars_is_stopped(judge):
    checks = judge(day_of(SUNDAY, sales_usd=lambda number: 100 * (number % 50 + 1)), weeks_before(1, 2, 3, 4))[SUNDAY]

    # 102 $ a basket become 10,200
    assert failures(checks) == {"sales_usd": True, "sales_usd_per_basket": True}


def test_a_day_in_a_range_is_judged_by_the_earlier_days_of_the_range(judge):
    days = [day_of(SUNDAY - timedelta(weeks=4 - number), lines=60 if number == 4 else LINES) for number in range(5)]
    *earlier, last = days

    together = judge([row for rows in days for row in rows])
    alone = judge(last, [row for rows in earlier for row in rows])

    assert failures(together[SUNDAY])["lines"] is True
    assert together[SUNDAY] == alone[SUNDAY]
    assert all(not failures(checks) for day, checks in together.items() if day != SUNDAY)


def test_every_check_of_a_day_becomes_a_row_of_the_log_whether_it_failed_or_not(judge, settings):
    checks = judge(day_of(SUNDAY, lines=60), weeks_before(1, 2, 3, 4))[SUNDAY]
    warehouse.create_tables(settings, [])

    with warehouse.open_warehouse(settings) as connection:
        rows = log_rows(checks.values(), table="core__transactions", day=SUNDAY, run_id="night")
        warehouse.append_rows(connection, tables.CHECK_LOG, rows)
        logged = warehouse.read_rows(connection, tables.CHECK_LOG.select())

    (lines,) = [row for row in logged if row["check_name"] == "lines"]
    assert len(logged) == len(checks) > 10
    assert (lines["business_date"], lines["run_id"], lines["observed"]) == (SUNDAY, "night", "60")
    assert lines["expected"] == checks["lines"].expected
    assert (lines["is_blocking"], lines["is_success"]) == (True, False)
    assert lines["recorded_at"] is not None
