"""Publications that are killed, doubled, or wake up too late: readers see one whole set of rows, and the right one."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from corner_shop import LISTS, SHOP, day, keep_scores, open_shop, rows_of
from deliveries import in_process, paused

from pipelines import tables, warehouse
from pipelines.errors import Superseded
from pipelines.publishing import publish
from pipelines.retention import clean

SCORES, STAGING, LOG = tables.scores_table(SHOP), tables.staging_table(SHOP), tables.PUBLISH_LOG
BEFORE_COMMIT = ("after_fence", "after_staging", "after_audit", "after_delete", "after_insert", "before_commit")
KILLED = -signal.SIGKILL
NEW = [(1, "MILK", 0.5, 1), (2, "BEER", 0.4, 1), (2, "BREAD", 0.3, 2)]


@pytest.fixture
def shop(settings):
    """Version 1's lists are published; those of versions 2 and 3 are scored."""
    open_shop(settings)
    keep_scores(settings, LISTS)
    for version in ("2", "3"):
        keep_scores(settings, NEW, version=version)
    publish(settings, SHOP, day(0), "yesterday", "1")
    return settings


def publish_at(settings, version, run_id):
    publish(settings, SHOP, day(0), run_id, version)


def publish_when(start, settings, version, run_id):
    start.wait(120)
    try:
        publish_at(settings, version, run_id)
    except Superseded:
        raise SystemExit(75) from None


def lists(settings):
    """What readers see: household, category, rank, version and run."""
    told = ("household_id", "product_category", "rank", "model_version", "run_id")
    return [tuple(row[name] for name in told) for row in rows_of(settings, SCORES)]


def published(rows, version, run_id):
    return sorted((who, what, rank, version, run_id) for who, what, _, rank in rows if rank <= SHOP.top_n)


OLD_LISTS = published(LISTS, "1", "yesterday")


def log_of(settings):
    return [(row["model_version"], row["status"], row["run_id"]) for row in rows_of(settings, LOG)]


@pytest.mark.fault("F2")
@pytest.mark.parametrize("point", BEFORE_COMMIT)
def test_a_kill_before_the_commit_leaves_the_old_rows_and_the_retry_publishes_once(shop, point):
    code, _ = in_process(publish_at, shop, "2", "tonight", NIGHTJAR_CRASH_AT=f"publish.{point}")

    assert code == KILLED
    assert sorted(lists(shop)) == OLD_LISTS
    assert len(log_of(shop)) == 1
    publish_at(shop, "2", "retry")
    assert sorted(lists(shop)) == published(NEW, "2", "retry")
    assert log_of(shop)[1:] == [("2", "published", "retry")]
    assert rows_of(shop, STAGING) == []


def test_the_janitor_clears_away_what_a_killed_attempt_staged_once_it_is_long_over(shop):
    in_process(publish_at, shop, "2", "tonight", NIGHTJAR_CRASH_AT="publish.after_staging")
    assert len(rows_of(shop, STAGING)) == 3

    clean(shop, day(0), "janitor")
    assert len(rows_of(shop, STAGING)) == 3  # the attempt is some seconds old
    clean(shop.model_copy(update={"leftover_hours": 0}), day(0), "janitor")
    assert rows_of(shop, STAGING) == []


@pytest.mark.fault("F3")
def test_a_kill_after_the_commit_is_told_from_one_before_it_and_the_retry_does_nothing(shop):
    code, _ = in_process(publish_at, shop, "2", "tonight", NIGHTJAR_CRASH_AT="publish.after_commit")

    assert code == KILLED
    after = lists(shop)
    assert sorted(after) == published(NEW, "2", "tonight")
    assert not publish(shop, SHOP, day(0), "retry", "2").is_changed
    assert lists(shop) == after
    assert log_of(shop)[1:] == [("2", "published", "tonight")]


@pytest.mark.fault("F4")
def test_the_same_task_twice_at_once_publishes_one_set_of_rows(shop):
    context = multiprocessing.get_context("forkserver")
    for attempt in range(3):
        version, rows = ("2", NEW) if attempt % 2 == 0 else ("1", LISTS)
        start, runs = context.Event(), [f"{attempt} one", f"{attempt} two"]
        two = [context.Process(target=publish_when, args=(start, shop, version, run)) for run in runs]
        for process in two:
            process.start()
        time.sleep(0.5)  # both wait for the start
        start.set()
        for process in two:
            process.join(120)

        codes = {process.exitcode for process in two}
        assert codes <= {0, 75}
        assert 0 in codes
        winner = lists(shop)[0][-1]
        assert winner in runs
        assert sorted(lists(shop)) == published(rows, version, winner)
        assert [run for _, _, run in log_of(shop)][1 + attempt :] == [winner]
        assert rows_of(shop, STAGING) == []


@pytest.mark.fault("F5")
@pytest.mark.parametrize("point", ["after_fence", "after_staging", "after_audit"])
def test_a_worker_that_wakes_up_after_its_replacement_finished_changes_nothing(shop, point):
    with paused(publish_at, shop, "3", "zombie", at=f"publish.{point}") as zombie:
        publish_at(shop, "2", "replacement")
        after = lists(shop)

        os.kill(zombie.pid, signal.SIGCONT)
        zombie.join(60)

    assert zombie.exitcode not in (0, None)
    assert lists(shop) == after
    assert sorted(after) == published(NEW, "2", "replacement")
    assert [run for _, _, run in log_of(shop)] == ["yesterday", "replacement"]
    assert rows_of(shop, STAGING) == []


@pytest.mark.fault("F2")
def test_eight_readers_never_see_a_mixture_while_the_date_is_published_again_and_again(shop):
    is_over, seen = threading.Event(), []

    def read():
        engine = sa.create_engine(shop.warehouse, poolclass=sa.NullPool)
        while not is_over.is_set():
            with engine.connect() as connection:
                seen.append(tuple(sorted(tuple(row) for row in connection.execute(sa.text(QUERY)))))
        engine.dispose()

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read) for _ in range(8)]
        try:
            for number in range(12):
                publish_at(shop, "12"[number % 2], f"night {number}")
        finally:
            is_over.set()
    for reader in readers:
        reader.result()

    whole = {tuple((who, rank, version) for who, _, rank, version, _ in published(rows, version, ""))
             for rows, version in ((LISTS, "1"), (NEW, "2"))}  # fmt: skip
    assert {tuple(sorted(rows)) for rows in whole} == set(seen)
    assert len(seen) > 100


QUERY = "SELECT household_id, rank, model_version FROM scores__corner_shop"


def test_a_connection_that_is_lost_before_the_commit_leaves_nothing(shop):
    with pytest.raises(RuntimeError), warehouse.open_warehouse(shop) as connection:
        connection.execute(sa.delete(SCORES))
        raise RuntimeError("the worker fell over")

    assert sorted(lists(shop)) == OLD_LISTS
