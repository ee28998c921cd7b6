"""What a killed process, a full disk and a second process at the same time leave behind: nothing that matters."""

import gzip
import multiprocessing
import signal
import time

import pytest
from deliveries import (
    DAY,
    a_line,
    after,
    as_csv,
    as_parquet,
    baskets,
    copy_of,
    core,
    in_process,
    ingest_at,
    ingest_with_little_disk,
    leftovers,
    put,
    put_day,
    quarantined,
    redeem_nothing,
    require_sound,
    tables_of,
)

from pipelines import quarantine
from pipelines.ingest import ingest
from pipelines.settings import Settings

INGEST_POINTS = ("storage.replacing", "ingest.after_reference", "ingest.after_quarantine", "ingest.after_core",
                 "ingest.after_log")  # fmt: skip
KILLED = -signal.SIGKILL


def shop(settings):
    """A date that was ingested, its correction, and the next date: CSV, a late line, a copy, a bad line, a coupon."""
    redeem_nothing(settings, DAY, after(1))
    put(settings, DAY, {"part-0.parquet": [a_line(1), a_line(2)]})
    ingest(settings, DAY, DAY, "first")
    put(settings, DAY, {"part-0.parquet": [a_line(1), a_line(2, quantity=5), a_line(3)]})
    lines = [a_line(4, after(1)), a_line(5, DAY), a_line(6, after(1), quantity=-1)]
    copy = [a_line(1), a_line(2, quantity=5), a_line(3)]
    put(settings, after(1), {"a.csv.gz": lines, "b.parquet": copy}, rows={"a.csv.gz": 3, "b.parquet": 3})
    coupon = {"coupon_upc": 5, "product_id": 10, "campaign_id": 1}
    put(settings, after(1), {"part-0.parquet": [coupon]}, name="coupons")


@pytest.mark.fault("F1")
def test_whatever_point_of_ingest_a_kill_hits_readers_see_whole_tables_and_the_next_run_ends_as_if_nothing_was(
    settings, tmp_path
):
    shop(settings)
    clean = copy_of(settings, tmp_path / "clean")
    expected_report = ingest(clean, after(1), after(1), "night")
    expected = tables_of(clean)
    before = core(settings)
    assert expected_report.affected == (DAY, after(1))
    for point in INGEST_POINTS:
        home = copy_of(settings, tmp_path / point)

        code, _ = in_process(ingest_at, home.home, after(1), after(1), "night", NIGHTJAR_CRASH_AT=point)

        assert code == KILLED, point
        assert core(home) in (before, expected["core__transactions"]), point
        report = ingest(home, after(1), after(1), "night")
        assert tables_of(home) == expected, point
        assert report.affected == expected_report.affected, point
        for path in [home.home / name for name in leftovers(home)]:
            assert path.is_relative_to(home.home / "scratch"), "readers see none; the janitor removes these"
            path.unlink()
        require_sound(home)


@pytest.mark.fault("F1")
def test_a_landing_killed_between_file_and_manifest_is_not_finished(settings, tmp_path):
    from datetime import date

    from pipelines.errors import MissingDrop, MissingManifest
    from pipelines.landing import land

    day = date(2017, 2, 6)

    code, _ = in_process(land_at, settings.home, day, NIGHTJAR_CRASH_AT="storage.replacing")

    assert code == KILLED
    with pytest.raises((MissingDrop, MissingManifest)):
        ingest(settings, day, day, "too early")
    land(settings, day, day)
    clean = Settings(home=tmp_path / "clean")
    land(clean, day, day)
    for home in (settings, clean):
        ingest(home, day, day, "r")
    assert tables_of(settings) == tables_of(clean)


def land_at(home, day):
    from pipelines.landing import land

    land(Settings(home=home), day, day)


@pytest.mark.fault("F1")
def test_kills_at_any_moment_leave_no_half_partition(settings, tmp_path):
    redeem_nothing(settings, DAY)
    put(settings, DAY, {"part-0.parquet": [a_line(number) for number in range(20_000)]})
    for number in range(6):
        home = copy_of(settings, tmp_path / str(number))
        process = multiprocessing.get_context("forkserver").Process(target=ingest_at, args=(home.home, DAY, DAY))
        process.start()
        process.join(0.25 + 0.3 * number)
        process.kill()
        process.join()

        assert len(core(home)) in (0, 20_000)
        ingest(home, DAY, DAY, "again")
        assert len(core(home)) == 20_000
        assert len(set(baskets(home))) == 20_000


@pytest.mark.fault("F1")
@pytest.mark.parametrize("step", ["replay", "drop"])
def test_a_kill_of_a_replay_or_a_drop_is_made_good_by_the_next_one(settings, tmp_path, step, monkeypatch):
    from expectations import transactions

    put_day(settings, DAY, a_line(1), a_line(2, quantity=150), a_line(3, quantity=160), a_line(4, quantity=-1))
    ingest(settings, DAY, DAY, "r")
    monkeypatch.setattr(transactions, "MAX_QUANTITY", 200)
    clean = copy_of(settings, tmp_path / "clean")
    run_step(clean.home, step)
    expected = tables_of(clean)
    assert baskets(clean) == {"replay": [1, 2, 3], "drop": [1]}[step]
    assert quarantined(clean) == [(4, "quantity_not_negative")]
    points = {"replay": ("after_core", "after_log"), "drop": ("after_decision", "after_log")}[step]
    for point in points:
        home = copy_of(settings, tmp_path / point)

        code, _ = in_process(run_step, home.home, step, NIGHTJAR_CRASH_AT=f"quarantine.{point}")

        assert code == KILLED, point
        run_step(home.home, step)
        assert tables_of(home) == expected, point
        require_sound(home)


def run_step(home, step):
    from expectations import transactions

    transactions.MAX_QUANTITY = 200
    if step == "replay":
        quarantine.replay(Settings(home=home), DAY, None, "r")
    else:
        quarantine.drop(Settings(home=home), DAY, "quantity_not_above_limit", "test", "r")


@pytest.mark.fault("F16")
def test_two_processes_on_two_dates_at_once_end_right_or_one_says_try_again(settings, tmp_path):
    for number in range(4):
        put_day(settings, after(number), a_line(number, after(number)), a_line(100 + number, after(max(0, number - 1))))
    ingest(settings, DAY, DAY, "history")
    clean = copy_of(settings, tmp_path / "clean")
    for number in (1, 2, 3):
        ingest(clean, after(number), after(number), f"night {number}")
    context = multiprocessing.get_context("forkserver")
    for attempt in range(3):
        home = copy_of(settings, tmp_path / str(attempt))
        start = context.Event()
        two = [context.Process(target=ingest_when, args=(start, home.home, after(number))) for number in (1, 2)]
        for process in two:
            process.start()
        time.sleep(0.5)
        start.set()
        for process in two:
            process.join(100)

        assert {process.exitcode for process in two} <= {0, 75}
        for number in (1, 2, 3):
            ingest(home, after(number), after(number), f"night {number}")
        assert tables_of(home) == tables_of(clean)
        require_sound(home)


def ingest_when(start, home, day):
    from pipelines.errors import EngineFailure

    start.wait(60)
    try:
        ingest_at(home, day, day)
    except EngineFailure as error:
        assert "run" in error.remedy
        raise SystemExit(75) from None


@pytest.mark.fault("F19")
@pytest.mark.parametrize("what", ["parquet", "csv.gz"])
def test_a_full_disk_is_named_leaves_the_tables_as_they_were_and_is_forgotten_when_there_is_space(
    settings, tmp_path, what
):
    put_day(settings, DAY, a_line(1))
    ingest(settings, DAY, DAY, "first")
    before = tables_of(settings)
    redeem_nothing(settings, after(1))
    lines = [a_line(number, after(1), sales_value=number / 7) for number in range(20_000)]
    content = as_parquet(lines) if what == "parquet" else gzip.compress(as_csv(lines), mtime=0)
    put(settings, after(1), {f"part-0.{what}": content}, rows={f"part-0.{what}": 20_000})

    code, said = in_process(ingest_with_little_disk, settings.home, after(1), after(1), 100_000)

    assert code == 1
    assert said.startswith("EngineFailure"), said[:2000]
    assert "space" in said.split("Traceback")[0] or "full" in said.split("Traceback")[0]
    assert tables_of(settings) == before
    ingest(settings, after(1), after(1), "again")
    assert len(core(settings, after(1))) == 20_000
    assert [name for name in leftovers(settings) if not name.startswith("lake/core__transactions/")] == []


@pytest.mark.fault("F19")
def test_a_warehouse_that_cannot_grow_is_named_and_the_next_run_ends_as_if_nothing_was(settings, tmp_path):
    put_day(settings, DAY, a_line(1), a_line(2, quantity=-1))
    ingest(settings, DAY, DAY, "first")
    put_day(settings, after(1), a_line(3, after(1)), a_line(4, DAY))
    clean = copy_of(settings, tmp_path / "clean")
    ingest(clean, after(1), after(1), "again")

    code, said = in_process(ingest_with_little_disk, settings.home, after(1), after(1), 24_000)

    assert (code, said.partition(":")[0]) in ((1, "EngineFailure"), (1, "WarehouseDown")), said[:2000]
    report = ingest(settings, after(1), after(1), "again")
    assert tables_of(settings) == tables_of(clean)
    assert report.affected == (DAY, after(1))
    assert quarantined(settings) == [(2, "quantity_not_negative")]
