"""The ledger: equal content has an equal hash, and only what may change a snapshot makes it stale."""

from datetime import date

import corner_shop as shop
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import lake, ledger
from pipelines.engine import open_core
from pipelines.ledger import FEATURES, Made, inputs_up_to

SQL = "SELECT * FROM core__transactions JOIN Core__Products USING (product_id)"
SOLD = [(0, 1, 1, "1.00"), (1, 1, 2, "2.00"), (2, 2, 1, "4.00")]


@pytest.fixture
def home(settings):
    """Three days, a sale on each."""
    shop.sell(settings, 0, 1, 2, purchases=SOLD)
    return settings


def made(home, day=1):
    return Made(as_of=shop.day(day), version="v", content={}, inputs=inputs_up_to(home, shop.day(day), SQL))


def is_current(home, day=1, sql=SQL):
    return ledger.is_current(home, shop.SHOP, FEATURES, shop.day(day), inputs_up_to(home, shop.day(day), sql))


def test_inputs_are_the_core_tables_that_the_sql_names(home):
    assert set(inputs_up_to(home, shop.day(1), SQL).core_versions) == {"core__transactions", "core__products"}


def test_a_table_before_its_first_write_has_no_version(home):
    found = inputs_up_to(home, shop.day(1), "SELECT * FROM core__coupons")

    assert found.core_versions == {"core__coupons": None}


def test_what_was_never_recorded_is_not_current(home):
    assert not is_current(home)


@pytest.mark.parametrize(("corrected", "stays"), [(0, False), (1, False), (2, True)])
def test_a_snapshot_is_stale_once_a_day_up_to_its_own_was_replaced(home, corrected, stays):
    ledger.record(home, shop.SHOP, FEATURES, made(home), "test")
    assert is_current(home)
    rows = pa.Table.from_pylist([], schema=shop.CORE_TRANSACTIONS.schema)

    lake.replace_dates(home.lake, "core__transactions", rows, first=shop.day(corrected), last=shop.day(corrected))

    assert is_current(home) == stays


def test_a_snapshot_of_other_sql_is_stale(home):
    ledger.record(home, shop.SHOP, FEATURES, made(home), "test")

    assert not is_current(home, sql=SQL + " WHERE item_qty > 0")


def test_the_newest_entry_counts_and_older_versions_can_still_be_asked_for(home):
    first = made(home)
    second = first.model_copy(update={"version": "w"})
    for entry in (first, second):
        ledger.record(home, shop.SHOP, FEATURES, entry, "test")

    assert ledger.newest(home, shop.SHOP, FEATURES, shop.day(1)) == second
    assert ledger.newest(home, shop.SHOP, FEATURES, shop.day(1), "v") == first
    assert ledger.newest(home, shop.SHOP, FEATURES, shop.day(2)) is None


def test_the_core_is_read_as_of_older_versions(home):
    then = inputs_up_to(home, shop.day(2), SQL).core_versions
    lake.replace_dates(
        home.lake,
        "core__transactions",
        pa.Table.from_pylist([], schema=shop.CORE_TRANSACTIONS.schema),
        first=shop.day(1),
        last=shop.day(1),
    )

    def sold(**versions):
        with open_core(home, up_to=shop.day(2), **versions) as connection:
            return connection.sql("SELECT sum(sales_usd)::VARCHAR FROM core__transactions").fetchall()[0][0]

    assert (sold(), sold(versions=then)) == ("5.00", "7.00")


def test_a_table_that_did_not_exist_then_is_empty(home):
    with open_core(home, up_to=shop.day(2), versions={"core__products": None}) as connection:
        assert connection.sql("SELECT count(*) FROM core__products").fetchall() == [(0,)]
        assert connection.sql("SELECT count(*) FROM core__transactions").fetchall() == [(3,)]


def test_content_read_back_has_the_hash_that_it_was_written_with(tmp_path):
    """What lies under a null is anything: 7 here, and something else once it was in a file."""
    under_null = pa.Array.from_buffers(
        pa.int64(), 3, [pa.py_buffer(b"\x05"), pa.array([1, 7, 3], pa.int64()).buffers()[1]], null_count=1
    )
    rows = pa.table({"n": under_null, "b": [True, None, False], "t": ["a", None, ""], "d": [date(2017, 1, 1)] * 3})
    pq.write_table(rows, tmp_path / "rows.parquet")

    read = pq.read_table(tmp_path / "rows.parquet")

    assert rows.column("n").to_pylist() == [1, None, 3]
    assert lake.content_hash(read) == lake.content_hash(rows)


@pytest.mark.parametrize(
    "other",
    [
        {"n": [1, None, 3], "t": ["a", "b", None]},
        {"n": [None, 1, 3], "t": ["a", "b", "c"]},
        {"n": [1, 3, None], "t": ["a", "b", "c"]},
        {"m": [1, None, 3], "t": ["a", "b", "c"]},
        {"n": [1.0, None, 3.0], "t": ["a", "b", "c"]},
        {"n": [3, None, 1], "t": ["c", "b", "a"]},
    ],
)
def test_other_content_has_another_hash(other):
    rows = pa.table({"n": [1, None, 3], "t": ["a", "b", "c"]})

    assert lake.content_hash(pa.table(other)) != lake.content_hash(rows)
    assert lake.content_hash(pa.concat_tables([rows.slice(0, 1), rows.slice(1)])) == lake.content_hash(rows)
