"""A small shop in a real Airflow: what becomes of a changed taste, and of a faulty drop, with no hand."""

import json
import time
from datetime import date, timedelta

import numpy as np
import pytest
import sqlalchemy as sa
from deliveries import a_line, at, put_day
from small_shop import USE_CASE

from local_stack.airflow_server import ready_airflow, start_airflow, stop_airflow
from local_stack.receivers import Receivers
from pipelines import monitoring, tables, warehouse
from pipelines.features import build_features
from pipelines.gate import judge
from pipelines.ingest import ingest
from pipelines.labels import mature_on
from pipelines.promotion import promote
from pipelines.publishing import publish
from pipelines.scoring import score
from pipelines.settings import PREFIX, PROJECT, load_settings
from pipelines.training import train
from pipelines.warehouse import create_tables

pytestmark = pytest.mark.slow
OPENED = date(2017, 2, 27)  # a Monday
TRAINED = date(2017, 5, 14)
SHIFT = date(2017, 6, 19)  # on this Monday households begin to leave the store of the week before
LAST_SCORED = SHIFT - timedelta(days=1)
NIGHT = mature_on(USE_CASE, LAST_SCORED)
FAULTY = NIGHT + timedelta(days=1)
HOUSEHOLDS, STORES, OWN = 400, 8, 3
SCORE, MONITOR, TRAIN = (f"{kind}__{USE_CASE.name}" for kind in ("score", "monitor", "train"))


def stores_of_weeks(weeks, shift):
    """The store of each household in each week: mostly that of the week before; from `shift` on, mostly another."""
    random = np.random.default_rng(1)
    own = np.array([random.permutation(STORES)[:OWN] for _ in range(HOUSEHOLDS)])
    place, found = np.zeros(HOUSEHOLDS, int), []
    for week in range(weeks):
        moves = random.random(HOUSEHOLDS) < (0.15 if week < shift else 0.9)
        place = (place + moves * random.integers(1, OWN, HOUSEHOLDS)) % OWN
        found.append(own[np.arange(HOUSEHOLDS), place])
    return found


def deliver(settings, first, last, ids_from=1):
    """A drop for each day: every third household shops, at its store of the week."""
    stores = stores_of_weeks((FAULTY - OPENED).days // 7 + 1, (SHIFT - OPENED).days // 7)
    for number in range((first - OPENED).days, (last - OPENED).days + 1):
        day = OPENED + timedelta(days=number)
        shoppers = np.flatnonzero(np.random.default_rng(1000 + number).random(HOUSEHOLDS) < 0.3)
        lines = [
            a_line(
                1_000 * number + position,
                household_id=int(household) + ids_from,
                store_id=int(stores[number // 7][household]) + 300,
                transaction_timestamp=at(day),
            )
            for position, household in enumerate(shoppers)
        ]
        put_day(settings, day, *lines)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Some months of shopping, a champion, and the lists of its Sundays with what became of them."""
    with pytest.MonkeyPatch.context() as patch, Receivers() as inbox:
        told = {"HOME": str(tmp_path_factory.mktemp("shop")), "USE_CASES": "small_shop", "RETRIES": "0"}
        told |= {"SCHEDULE_END_DATE": str(OPENED)}  # nights are woken by hand, the rest follows
        for name, value in ({PREFIX + name: value for name, value in told.items()} | inbox.variables).items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", f"{PROJECT}:{PROJECT / 'tests'}")
        settings = load_settings()
        create_tables(settings, [USE_CASE])
        last = NIGHT - timedelta(days=1)
        deliver(settings, OPENED, last)
        ingest(settings, OPENED, last, "history")
        version = train(settings, USE_CASE, TRAINED, "history").model_version
        judge(settings, USE_CASE, version, TRAINED, "history")
        assert promote(settings, USE_CASE, version, "history").is_promoted
        for back in range(4, -1, -1):
            show(settings, LAST_SCORED - timedelta(days=7 * back))
        for step in (monitoring.record_outcomes, monitoring.measure_quality):
            step(settings, USE_CASE, last, "history")
        yield settings, inbox


def show(settings, day):
    build_features(settings, USE_CASE, day, "history")
    publish(settings, USE_CASE, day, "history", score(settings, USE_CASE, day, "history").model_version)


@pytest.fixture(scope="module")
def airflow(shop):
    settings, _ = shop
    server = start_airflow(settings)
    try:
        with ready_airflow(settings, server, ("ingest", SCORE, MONITOR, TRAIN), patience_s=300) as airflow:
            airflow.switch(("ingest", SCORE, MONITOR, TRAIN), is_on=True)
            yield airflow
    finally:
        stop_airflow(settings)


def end_of(airflow, dag_id, day):
    """The states in which the runs of a date ended; a run before them that fails ends the wait."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        runs = airflow.runs(dag_id, str(day))
        if runs and all(run.is_finished for run in runs):
            return {run.state for run in runs}
        assert not [run for run in airflow.runs(partition_key=str(day)) if run.state == "failed" and run not in runs]
        time.sleep(1)
    raise TimeoutError(f"{dag_id} of {day}")


def rows_of(settings, table, **where):
    query = sa.select(table).where(*(table.c[name] == value for name, value in where.items()))
    with warehouse.open_warehouse(settings) as connection:
        return warehouse.read_rows(connection, query)


def test_a_changed_taste_is_found_and_a_model_asked_for_trained_and_judged_with_no_hand(shop, airflow):
    settings, inbox = shop
    deliver(settings, NIGHT, NIGHT)
    airflow.trigger("ingest", str(NIGHT))

    assert end_of(airflow, TRAIN, NIGHT) == {"success"}

    found = rows_of(settings, tables.FINDINGS, finding_date=NIGHT)
    assert "concept shift" in {row["cause"] for row in found if row["action"] == "retrain"}
    (decided,) = rows_of(settings, tables.RETRAIN_DECISIONS, decision_date=NIGHT)
    assert (decided["action"], decided["is_requested"]) == ("request", True)
    told = [(one["by"], one["outcome"]) for one in json.loads(decided["evidence"])["triggers"]]
    assert told == [("nightjar", "admitted")]
    judged = rows_of(settings, tables.PROMOTION_LOG)[-1]
    assert (judged["to_version"], judged["actor"], judged["trainer"]) == ("2", "nightjar", "nightjar")
    assert judged["action"] in ("promote", "refuse")
    assert inbox.subjects("email") == []


def test_a_faulty_drop_is_not_published_trains_nothing_and_is_one_page(shop, airflow):
    settings, inbox = shop
    deliver(settings, FAULTY, FAULTY, ids_from=100_001)  # upstream has given every household a new number
    airflow.trigger("ingest", str(FAULTY))

    assert end_of(airflow, SCORE, FAULTY) == {"failed"}
    time.sleep(10)  # what would follow comes now

    assert [row["status"] for row in rows_of(settings, tables.PUBLISH_LOG, score_date=FAULTY)] == ["refused"]
    assert rows_of(settings, tables.scores_table(USE_CASE), score_date=FAULTY) == []
    assert airflow.runs(MONITOR, str(FAULTY)) == airflow.runs(TRAIN, str(FAULTY)) == []
    assert rows_of(settings, tables.RETRAIN_DECISIONS, decision_date=FAULTY) == []
    assert [subject.startswith(f"[Nightjar] {SCORE} failed for {FAULTY}") for subject in inbox.subjects("email")] == [
        True
    ]
