"""The warehouse: bulk loads keep every value, and share the fate of their transaction."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest
import sqlalchemy as sa
from corner_shop import SHOP, day, rows_of

from pipelines import tables, warehouse
from pipelines.errors import EngineFailure

pytestmark = pytest.mark.usefixtures("database")
SCORES = tables.scores_table(SHOP)
COLUMNS = ("household_id", "rank", "product_category", "score", "reason_1", "reason_2", "is_low_confidence")
ODD = [
    (2**62, 1, 'MILK, "fresh"\n', 0.1 + 0.2, "", None, True),
    (2**62, 2, "BRÖD; \\N \\. \t", 5e-324, "NULL", "'; DROP TABLE x; --", False),
    (-1, 1, "=1+1", 1.0, None, "", False),
]


@pytest.fixture
def shop(settings):
    warehouse.create_tables(settings, [SHOP])
    return settings


def night(number, rows, version="1"):
    told = {"score_date": day(number), "score_source": "champion", "model_version": version}
    told |= {"feature_version": "f", "run_id": "r"}
    return pa.Table.from_pylist([told | dict(zip(COLUMNS, row, strict=True)) for row in rows])


def seen(shop):
    return [tuple(row[name] for name in COLUMNS) for row in rows_of(shop, SCORES)]


def test_a_bulk_load_keeps_every_value_as_it_is(shop):
    with warehouse.open_warehouse(shop) as connection:
        assert warehouse.load_rows(connection, SCORES, night(0, ODD)) == 3

    assert seen(shop) == [ODD[2], ODD[0], ODD[1]]
    assert {(row["score_date"], row["reason_3"], row["run_id"]) for row in rows_of(shop, SCORES)} == {
        (day(0), None, "r")
    }


def test_what_is_loaded_replaces_its_date_alone(shop):
    many = [(household, 1, "MILK", 0.5, None, None, False) for household in range(120_001)]  # in more than one piece
    with warehouse.open_warehouse(shop) as connection:
        warehouse.load_rows(connection, SCORES, night(0, ODD))
        warehouse.load_rows(connection, SCORES, night(1, ODD))
        assert warehouse.replace_rows(connection, SCORES, night(0, many), score_date=day(0)) == 120_001

    with warehouse.open_warehouse(shop) as connection:
        query = sa.select(SCORES.c.score_date, sa.func.count()).group_by(SCORES.c.score_date)
        assert dict(map(tuple, connection.execute(query))) == {day(0): 120_001, day(1): 3}


def test_times_come_back_as_they_went_in(shop):
    at = datetime(2017, 11, 19, 23, 59, 59, 123456, tzinfo=UTC)
    with warehouse.open_warehouse(shop) as connection:
        told = {"household_id": 7, "run_id": "r", "recorded_at": at}
        warehouse.load_rows(connection, tables.TOMBSTONES, pa.Table.from_pylist([told]))

    (row,) = rows_of(shop, tables.TOMBSTONES)
    assert row["recorded_at"].replace(tzinfo=row["recorded_at"].tzinfo or UTC) == at


@pytest.mark.parametrize(
    "bad",
    [
        ODD[:1] * 2,  # the key twice
        [(1, 1, "MILK", 0.5, None, None, None)],  # a null where none may be
    ],
)
def test_a_load_that_the_database_refuses_leaves_what_was_there(shop, bad):
    with warehouse.open_warehouse(shop) as connection:
        warehouse.load_rows(connection, SCORES, night(0, ODD))
    before = seen(shop)

    refused = pytest.raises(EngineFailure, match="nothing of the transaction remains")
    with refused, warehouse.open_warehouse(shop) as connection:
        warehouse.replace_rows(connection, SCORES, night(0, bad), score_date=day(0))

    assert seen(shop) == before
