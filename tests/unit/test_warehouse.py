"""The warehouse: bulk loads keep every value, and share the fate of their transaction."""

import threading
from datetime import UTC, datetime

import pyarrow as pa
import pytest
import sqlalchemy as sa
from corner_shop import SHOP, day, rows_of
from postgres import warehouse_of

from pipelines import tables, warehouse
from pipelines.errors import EngineFailure, OutdatedSchema
from pipelines.retention import _published
from pipelines.settings import Settings

SCORES = tables.scores_table(SHOP)
COLUMNS = ("household_id", "rank", "product_category", "score", "reason_1", "reason_2", "is_low_confidence")
ODD = [
    (2**62, 1, 'MILK, "fresh"\n', 0.1 + 0.2, "", None, True),
    (2**62, 2, "BRÖD; \\N \\. \t", 5e-324, "NULL", "'; DROP TABLE x; --", False),
    (-1, 1, "=1+1", 1.0, None, "", False),
]


@pytest.fixture
def shop(database, settings):
    """A warehouse with the shop's tables, on both databases."""
    warehouse.create_tables(settings, [SHOP])
    return settings


def night(number, rows, version="1"):
    told = {"score_date": day(number), "score_source": "champion", "model_version": version}
    told |= {"feature_version": "f", "run_id": "r"}
    return pa.Table.from_pylist([told | dict(zip(COLUMNS, row, strict=True)) for row in rows])


def seen(shop):
    return [tuple(row[name] for name in COLUMNS) for row in rows_of(shop, SCORES)]


def test_a_column_that_an_upgrade_brings_is_missing_and_the_error_names_the_command(shop):
    with warehouse.open_warehouse(shop) as connection:
        connection.execute(sa.text("ALTER TABLE ops__publish_log DROP COLUMN reason"))

    with pytest.raises(OutdatedSchema) as found:
        rows_of(shop, tables.PUBLISH_LOG)
    assert found.value.remedy == "nightjar warehouse upgrade"
    with pytest.raises(OutdatedSchema), warehouse.open_warehouse(shop) as connection:
        connection.execute(sa.insert(tables.PUBLISH_LOG), {"reason": "why"})
    with pytest.raises(OutdatedSchema), warehouse.open_warehouse(shop) as connection:
        connection.execute(sa.text("SELECT 1 FROM ops__of_a_later_year"))


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


def months(connection):
    return sa.inspect(connection).get_table_names(schema="partitions")


@pytest.fixture
def on_postgresql(postgres, tmp_path):
    """A warehouse with the shop's tables; no month of scores is there yet."""
    home = tmp_path / "var"
    settings = Settings(home=home, warehouse_url=warehouse_of(postgres.url(), home))
    warehouse.create_tables(settings, [SHOP])
    return settings


def test_a_month_of_scores_is_made_with_its_first_night_and_found_by_its_date(on_postgresql):
    with warehouse.open_warehouse(on_postgresql) as connection:
        assert months(connection) == []
        for number in (0, 30, 31):  # 1 May, 31 May and 1 June 2017
            warehouse.load_rows(connection, SCORES, night(number, ODD))
        assert sorted(months(connection)) == ["scores__corner_shop__2017_05", "scores__corner_shop__2017_06"]
        plan = f"EXPLAIN SELECT * FROM scores__corner_shop WHERE score_date = '{day(31)}'"
        read = "\n".join(connection.scalars(sa.text(plan)))

    assert "2017_06" in read
    assert "2017_05" not in read, "the other months are not looked at"


def test_eight_publishers_of_a_new_month_all_get_through_while_a_reader_reads_on(on_postgresql):
    ends = []

    def publish_one(number):
        with warehouse.open_warehouse(on_postgresql) as connection:
            connection.execute(sa.delete(SCORES).where(SCORES.c.score_date == day(number)))
            both.wait(30)
            warehouse.load_rows(connection, SCORES, night(number, ODD))
        ends.append(number)

    with warehouse.open_warehouse(on_postgresql) as connection:
        warehouse.load_rows(connection, SCORES, night(0, ODD))
    both = threading.Barrier(8)
    threads = [threading.Thread(target=publish_one, args=(number,)) for number in range(31, 39)]
    with warehouse.open_warehouse(on_postgresql) as reader:
        assert len(reader.execute(sa.select(SCORES)).all()) == 3
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    assert sorted(ends) == list(range(31, 39))
    assert len(seen(on_postgresql)) == 27


def test_the_database_itself_says_what_tables_and_columns_mean(on_postgresql):
    with warehouse.open_warehouse(on_postgresql) as connection:
        inspector = sa.inspect(connection)
        names = [name for name in inspector.get_table_names() if name != "alembic_version"]
        told = {name: inspector.get_table_comment(name)["text"] for name in names}
        columns = {column["name"]: column["comment"] for column in inspector.get_columns(SCORES.name)}
        warehouse.load_rows(connection, SCORES, night(0, ODD))
        [month] = inspector.get_columns(f"{SCORES.name}__2017_05", schema="partitions")[4:5]
    assert len(told) >= 18
    assert all(told.values()), told
    assert told["ops__run_costs"] == "What each step of each run cost"
    assert columns["rank"] == "1 is the likeliest"
    assert month["comment"].startswith("Calibrated probability")


def test_whole_months_go_at_once_and_the_rest_of_a_month_by_its_rows(shop):
    for number in (0, 30, 31, 40):  # two nights of May, two of June
        with warehouse.open_warehouse(shop) as connection:
            warehouse.load_rows(connection, SCORES, night(number, ODD))

    assert _published(shop, day(40)) == 9
    assert {row["score_date"] for row in rows_of(shop, SCORES)} == {day(40)}
    with warehouse.open_warehouse(shop) as connection:
        if connection.dialect.name == "postgresql":
            assert months(connection) == ["scores__corner_shop__2017_06"]
