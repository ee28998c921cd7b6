"""Two hundred nights on which several things go wrong, as chance has it: no row is lost and none is doubled."""

import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from contextlib import contextmanager

import nights
import pytest
import sqlalchemy as sa
from deliveries import PRELOADED, in_process, paused
from nights import NIGHT, deliver, night_at, night_when, open_shop, run_night
from test_crash_points import POINTS, copy_of, require_as_if_nothing_was

from pipelines import lake, warehouse
from pipelines.settings import Settings

SCHEDULES, PARTS = 200, 40
# Places outside a transaction, so that a paused process locks nobody out; whoever waits for a lock gives up in the end.
PAUSES = ("ingest.after_reference", "ingest.after_quarantine", "ingest.after_core", "ingest.after_log",
          "features.before_log", "labels.before_log", "score.after_rows", "publish.after_fence",
          "publish.after_staging", "publish.after_audit", "publish.after_commit", "outcomes.after_labels",
          "lake.after_commit", "steps.before_cost")  # fmt: skip
FAULTS = ("kill", "kill", "kill", "zombie", "twice", "full disk", "locked", "repeated drop", "first try")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The shop before its night, what a night without faults leaves, and what Great Expectations says of the frames."""
    verdicts = tmp_path_factory.mktemp("verdicts") / "verdicts"
    with pytest.MonkeyPatch.context() as patch:
        nights.remember(verdicts, patch)
        settings = Settings(home=tmp_path_factory.mktemp("shop"))
        open_shop(settings)
        clean = copy_of(settings, tmp_path_factory.mktemp("clean") / "home")
        deliver(clean, NIGHT, is_first_try=True)
        run_night(clean, NIGHT, "first try")
        shutil.rmtree(clean.home)
        clean = copy_of(settings, clean.home)
        run_night(clean, NIGHT, "night")
        nights.write_down(verdicts)
        yield settings, verdicts, nights.left_by(clean)


def a_schedule(chance):
    """From one to three faults; a first try of the drop can only come first."""
    faults = [chance.choice(FAULTS) for _ in range(chance.choice((1, 1, 2, 3)))]
    return sorted(faults, key=lambda fault: fault != "first try")


def suffer(fault, settings, verdicts, chance, run_id):
    """One run of the night in which the fault happens."""
    if fault == "kill":
        where = f"{chance.choice(POINTS)}#{chance.choice((1, 1, 2, 5))}"
        code, said = in_process(night_at, settings, verdicts, run_id, NIGHTJAR_CRASH_AT=where)
        assert code in (0, -signal.SIGKILL), said
    elif fault == "zombie":
        overtake(settings, verdicts, chance, run_id)
    elif fault == "twice":
        at_once(settings, verdicts, run_id)
    elif fault == "full disk":
        code, said = in_process(night_at, settings, verdicts, run_id, chance.choice((3, 8, 20, 60, 150)) * 1024)
        assert code in (0, 1), said
    elif fault == "locked":
        with locked(settings, chance.uniform(0.1, 0.8)):
            code, said = in_process(night_at, settings, verdicts, run_id)
        assert code == 0, said
    elif fault == "repeated drop":
        deliver(settings, NIGHT)
        run_night(settings, NIGHT, run_id)
    else:
        deliver(settings, NIGHT, is_first_try=True)
        if chance.random() < 0.5:
            run_night(settings, NIGHT, run_id)
        else:
            suffer("kill", settings, verdicts, chance, run_id)


def overtake(settings, verdicts, chance, run_id):
    """A run stands still, another one does its work, and the first one goes on."""
    point = chance.choice(PAUSES)
    with paused(night_at, settings, verdicts, f"{run_id}, paused", at=point) as zombie:
        run_night(settings, NIGHT, run_id)
        if zombie.is_alive():  # with nothing left to do, it does not come to every point
            os.kill(zombie.pid, signal.SIGCONT)
        zombie.join(100)
    assert zombie.exitcode is not None


def at_once(settings, verdicts, run_id):
    """Two runs begin at the same time; at least one of them comes through, or both say that the other is at it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    start = context.Event()
    two = [context.Process(target=night_when, args=(start, settings, verdicts, f"{run_id}, {one}")) for one in "ab"]
    for process in two:
        process.start()
    start.set()
    for process in two:
        process.join(100)
    assert {process.exitcode for process in two} <= {0, 75}


@contextmanager
def locked(settings, seconds):
    """Somebody else holds the warehouse's lock, for so many seconds from now."""
    holder = threading.Thread(target=hold_lock, args=(settings, seconds))
    holder.start()
    yield
    holder.join()


def hold_lock(settings, seconds):
    with warehouse.open_warehouse(settings) as connection:  # SQLite has one lock for all
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("LOCK TABLE ops__ingest_log, ops__publish_fences"))
        time.sleep(seconds)


@pytest.mark.fault("F1")
@pytest.mark.fault("F2")
@pytest.mark.fault("F4")
@pytest.mark.fault("F5")
@pytest.mark.fault("F6")
@pytest.mark.fault("F7")
@pytest.mark.fault("F19")
@pytest.mark.fault("F21")
@pytest.mark.parametrize("part", range(PARTS))
def test_after_any_sequence_of_faults_a_run_leaves_what_a_night_without_faults_leaves(
    shop, tmp_path, part, reliability, is_thorough
):
    settings, verdicts, expected = shop
    suffered = 0
    seeds = range(part, SCHEDULES if is_thorough else PARTS, PARTS)
    for number in seeds:
        chance = random.Random(number)
        home = copy_of(settings, tmp_path / str(number))
        faults = a_schedule(chance)
        for place, fault in enumerate(faults):
            suffer(fault, home, verdicts, chance, f"run {place}")

        deliver(home, NIGHT)
        run_night(home, NIGHT, "last")
        for table in lake.tables(home.lake):  # as the janitor does: files of a writer that was overtaken
            lake.vacuum(home.lake, table, 0, only_orphans=True)

        try:
            require_as_if_nothing_was(home, expected)
        except AssertionError as error:
            raise AssertionError(f"schedule {number}: {faults}") from error
        suffered += len(faults)
        shutil.rmtree(home.home)
    reliability("Nights with random faults, after which no row was lost and none doubled", len(seeds))
    reliability("Faults in these nights", suffered)
