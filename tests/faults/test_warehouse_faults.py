"""A warehouse that dies, is away or is locked: one clear error in bounded time, nothing by halves, and it goes on."""

import threading
import time

import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
from corner_shop import SHOP, day, publish, rows_of
from postgres import running_postgres

from pipelines import tables, warehouse
from pipelines.errors import EngineFailure
from pipelines.settings import Settings

SCORES = tables.scores_table(SHOP)


@pytest.fixture(scope="module")
def server():
    """A server that waits for the disk, as a real one does; the tests kill it."""
    with running_postgres(is_durable=True) as server:
        yield server


@pytest.fixture
def shop(server, tmp_path):
    """A published night in a database of the server."""
    name = f"shop_{time.monotonic_ns()}"
    server.execute(f"CREATE DATABASE {name}")
    settings = Settings(home=tmp_path / "var", warehouse_url=server.url(name), warehouse_lock_timeout_s=0.5)
    warehouse.create_tables(settings, [SHOP])
    publish(settings, 0, {1: ["MILK", "BREAD"], 2: ["BEER"]})
    return settings


def items(settings):
    return [row["product_category"] for row in rows_of(settings, SCORES)]


@pytest.mark.fault("F20")
def test_a_server_killed_in_the_middle_of_a_transaction_leaves_the_old_night_and_takes_the_new_one_later(server, shop):
    patient = shop.model_copy(update={"warehouse_patience_s": 1})
    lost = pytest.raises(EngineFailure, match="nothing of the transaction remains")
    with lost, warehouse.open_warehouse(patient) as connection:
        connection.execute(sa.delete(SCORES))
        assert connection.scalar(sa.select(sa.func.count()).select_from(SCORES)) == 0
        server.kill()
        connection.execute(sa.select(SCORES))
    server.start()

    assert items(shop) == ["MILK", "BREAD", "BEER"]
    publish(shop, 0, {3: ["MILK"]})
    assert items(shop) == ["MILK"]


@pytest.mark.fault("F20")
def test_what_was_committed_is_there_after_the_server_was_killed(server, shop):
    publish(shop, 1, {7: ["BEER"]})
    server.kill()
    server.start()

    assert items(shop) == ["MILK", "BREAD", "BEER", "BEER"]


@pytest.mark.fault("F20")
def test_a_server_that_is_away_for_seconds_is_waited_for(server, shop):
    server.stop()
    back = threading.Timer(2, server.start)
    back.start()
    try:
        assert items(shop) == ["MILK", "BREAD", "BEER"]
    finally:
        back.join()


@pytest.mark.fault("F20")
def test_a_server_that_stays_away_is_an_error_in_bounded_time_that_shows_no_password(server, shop):
    server.stop()
    began = time.monotonic()
    try:
        with pytest.raises(EngineFailure, match=r"127\.0\.0\.1") as caught:
            items(shop.model_copy(update={"warehouse_patience_s": 2}))
    finally:
        took = time.monotonic() - began
        server.start()

    assert 1 < took < 15
    assert server.password not in str(caught.value)
    assert items(shop) == ["MILK", "BREAD", "BEER"]


@pytest.mark.fault("F20")
def test_a_wrong_password_is_no_outage_and_not_tried_again(server, shop):
    stranger = shop.model_copy(update={"warehouse_url": server.url(password="wrong"), "warehouse_patience_s": 60})
    began = time.monotonic()
    with pytest.raises(EngineFailure, match="password authentication failed"):
        items(stranger)
    assert time.monotonic() - began < 15


@pytest.mark.fault("F21")
@pytest.mark.parametrize("how", ["rows", "bulk"])
def test_a_lock_that_is_held_times_out_and_the_error_names_the_table(shop, how):
    new = [row | {"score": 0.1} for row in rows_of(shop, SCORES)]
    with psycopg.connect(shop.warehouse.replace("+psycopg", "")) as other:
        other.execute("LOCK TABLE scores__corner_shop IN ACCESS EXCLUSIVE MODE")
        refused = pytest.raises(EngineFailure, match=r"(?s)scores__corner_shop.*lock timeout")
        with refused, warehouse.open_warehouse(shop) as connection:
            if how == "rows":
                warehouse.replace_rows(connection, SCORES, new, score_date=day(0))
            else:
                columns = pa.schema([one for one in warehouse.arrow_schema(SCORES) if one.name in new[0]])
                warehouse.load_rows(connection, SCORES, pa.Table.from_pylist(new, columns))
        other.rollback()

    assert items(shop) == ["MILK", "BREAD", "BEER"]


@pytest.mark.fault("F21")
def test_a_writer_that_holds_sqlite_is_waited_for_no_longer_than_the_setting_says(settings):
    short = settings.model_copy(update={"warehouse_url": f"sqlite:///{settings.home / 'w.db'}"})
    short = short.model_copy(update={"warehouse_lock_timeout_s": 0.5})
    warehouse.create_tables(short, [SHOP])
    began = time.monotonic()
    with warehouse.open_warehouse(short), pytest.raises(EngineFailure, match=r"w\.db(.|\n)*locked"):
        publish(short, 0, {1: ["MILK"]})
    assert time.monotonic() - began < 10


@pytest.mark.fault("F21")
def test_a_statement_that_takes_too_long_is_ended_and_shown(shop):
    short = shop.model_copy(update={"warehouse_statement_timeout_s": 0.5})
    began = time.monotonic()
    ended = pytest.raises(EngineFailure, match=r"(?s)pg_sleep.*statement timeout")
    with ended, warehouse.open_warehouse(short) as connection:
        connection.execute(sa.select(sa.func.pg_sleep(60)))
    assert time.monotonic() - began < 15


@pytest.mark.fault("F21")
def test_of_two_that_wait_for_each_other_one_gets_an_error_and_the_other_goes_on(shop):
    patient = shop.model_copy(update={"warehouse_lock_timeout_s": 30.0})
    publish(shop, 1, {1: ["MILK"]})
    both, ends = threading.Barrier(2), {}

    def update(name, first, second):
        try:
            with warehouse.open_warehouse(patient) as connection:
                for number in (first, second):
                    connection.execute(sa.update(SCORES).where(SCORES.c.score_date == day(number)).values(run_id=name))
                    if number == first:
                        both.wait(20)
            ends[name] = "done"
        except EngineFailure as error:
            ends[name] = str(error)

    threads = [threading.Thread(target=update, args=told) for told in (("a", 0, 1), ("b", 1, 0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(end == "done" for end in ends.values()) == [False, True]
    winner = next(name for name, end in ends.items() if end == "done")
    assert "deadlock detected" in ends[{"a": "b", "b": "a"}[winner]]
    assert {row["run_id"] for row in rows_of(shop, SCORES)} == {winner}
