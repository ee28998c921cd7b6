"""What docker/compose.yaml starts, as processes: PostgreSQL, Redis, S3, MLflow, Airflow with two Celery workers, Dask.

The same nights run on the embedded default (SQLite, folders, one process) and on the stack, by settings alone. There,
the stack is broken in mid-night, and brings in several nights beside each other. The rows that readers see are the
same, and nobody is paged.

With `BACKFILL_NIGHTS` so many are brought in, first one after another, then as many beside each other, with their
monitoring, and the seconds are printed.
"""

import os
import subprocess
import time
from contextlib import closing, suppress
from datetime import date, timedelta
from itertools import pairwise

import psutil
import pytest
import sqlalchemy as sa
from compose_stack import WORKERS, administrator, running_stack
from object_store import without_object_store
from postgres import without_warehouse
from young_toy import USE_CASE

from local_stack.servers import family, is_running
from pipelines import registry, tables, warehouse
from pipelines.errors import EngineFailure
from pipelines.features import build_features
from pipelines.ingest import ingest
from pipelines.landing import land
from pipelines.paging import read_state
from pipelines.publishing import publish
from pipelines.scoring import score
from pipelines.settings import PREFIX, Settings, load_settings
from pipelines.training import train

pytestmark = pytest.mark.stack
FIRST, TRAINED = date(2017, 1, 15), date(2017, 3, 5)
MEASURED = int(os.environ.get("BACKFILL_NIGHTS", "0"))
TOGETHER = MEASURED or 4
NIGHTS = [TRAINED + timedelta(days=number) for number in range(1, MEASURED + TOGETHER + 6)]
ONE_BY_ONE, BACKFILL = NIGHTS[:MEASURED], NIGHTS[MEASURED:-5]
NIGHT, KILLED_NIGHT, DARK_NIGHT, BARE_NIGHT, ORPHAN = NIGHTS[-5:]
SCORE, MONITOR = (f"{kind}__{USE_CASE.name}" for kind in ("score", "monitor"))
AWAY_S = 5
SOON = {  # what fails is noticed within seconds instead of minutes
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    f"{PREFIX}RETRY_DELAY_S": "3",
    f"{PREFIX}RETRIES": "6",  # so soon, so much more often
    f"{PREFIX}WAREHOUSE_LOCK_TIMEOUT_S": "5",
    f"{PREFIX}SCHEDULE_END_DATE": "2017-12-31",
    f"{PREFIX}USE_CASES": "young_toy",
    f"{PREFIX}ENGINE": "dask",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with running_stack(tmp_path_factory.mktemp("stack"), **SOON) as stack:
        yield stack


@pytest.fixture(scope="module")
def settings(stack):
    """What a worker knows, here too: the stack's stores."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith((PREFIX, "AWS_"))]:
            patch.delenv(name)
        for name, value in stack.variables("worker", WORKERS[0]).items():
            if name.startswith((PREFIX, "AWS_")):
                patch.setenv(name, value)
        yield load_settings()


def bring_in(settings):
    """Seven weeks of history, and the champion that learned from them."""
    warehouse.create_tables(settings, [USE_CASE])
    land(settings, FIRST, NIGHTS[-1])
    ingest(settings, FIRST, TRAINED, "history")
    registry.set_alias(
        settings, USE_CASE, registry.CHAMPION, train(settings, USE_CASE, TRAINED, "history").model_version
    )


@pytest.fixture(scope="module")
def expected(stack, tmp_path_factory):
    """The rows of each night as the embedded default publishes them, one after another: their hash and number."""
    keys = {name: stack.secret(f"nightjar_{name}") for name in ("pseudonym_key", "signing_key")}
    embedded = Settings(home=tmp_path_factory.mktemp("embedded"), demo=True, use_cases=["young_toy"], **keys)
    bring_in(embedded)
    found = {}
    for night in NIGHTS:
        ingest(embedded, night, night, "night")
        build_features(embedded, USE_CASE, night, "night")
        version = score(embedded, USE_CASE, night, "night").model_version
        report = publish(embedded, USE_CASE, night, "night", version)
        found[night] = (report.content_hash, report.rows)
    return found


@pytest.fixture(scope="module")
def airflow(stack, expected, settings):
    bring_in(settings.model_copy(update={"engine": "local"}))  # workers grow other trees, as good but not the same
    with administrator(stack) as airflow:
        airflow.wait_until_ready(["ingest", SCORE, MONITOR], patience_s=600)
        airflow.switch(["ingest", SCORE], is_on=True)
        yield airflow


@pytest.fixture
def published(settings):
    """What readers have of a night, if it was published once and is as it was published."""

    def published(night):
        log, scores = tables.PUBLISH_LOG, tables.scores_table(USE_CASE)
        with warehouse.open_warehouse(settings, only_reads=True) as connection:
            (entry,) = connection.execute(
                sa.select(log.c.content_hash, log.c.rows).where(
                    log.c.score_date == night, log.c.use_case == USE_CASE.name
                )
            ).all()
            rows = connection.scalar(sa.select(sa.func.count()).where(scores.c.score_date == night))
        assert rows == entry.rows
        return tuple(entry)

    return published


def wait_until(is_so, what, patience_s=600):
    """Return what is asked for once there is any; that Airflow does not answer means not yet."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with suppress(EngineFailure, psutil.Error):
            if found := is_so():
                return found
        time.sleep(0.3)
    raise AssertionError(f"waited in vain for {what}")


def end_of(airflow, nights, chain=("ingest", SCORE), patience_s=600):
    """The states of the runs of the nights, once all have ended or one has failed."""
    keys = {str(night) for night in nights}

    def ended():
        runs = [run for dag_id in chain for run in airflow.runs(dag_id) if run.partition_key in keys]
        known = {(run.partition_key, run.dag_id) for run in runs}
        is_whole = len(known) == len(chain) * len(nights) and all(run.is_finished for run in runs)
        return (is_whole or any(run.state == "failed" for run in runs)) and runs

    return {run.state for run in wait_until(ended, f"the end of {nights}", patience_s)}


def worker_of(stack, airflow, dag_id, night, task_id):
    """The worker that runs a task, once one does."""

    def running():
        for run in airflow.runs(dag_id, str(night)):
            path = f"/api/v2/dags/{dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}"
            title = f"airflow worker -- {airflow.get(path)['id']}"
            for name in WORKERS:
                if any(title in " ".join(process.cmdline()) for process in family(stack.servers[name])):
                    return name
        return None

    return wait_until(running, f"{task_id} of {night}")


def attempts_at(airflow, dag_id, night, task_id):
    (run,) = airflow.runs(dag_id, str(night))
    return next(task.attempt for task in airflow.tasks(run) if task.task_id == task_id)


def nobody_is_paged(settings):
    state = read_state(settings)
    return not state.open and not state.outbox


@pytest.mark.fault("F16")
def test_nights_that_a_backfill_brings_in_beside_each_other_are_what_they_are_one_after_another(
    stack, airflow, settings, expected, published, capsys
):
    chain = ("ingest", SCORE, MONITOR) if MEASURED else ("ingest", SCORE)
    airflow.switch([MONITOR], is_on=MONITOR in chain)
    times = [time.monotonic()]
    for night in ONE_BY_ONE:
        airflow.trigger("ingest", str(night))
        assert end_of(airflow, [night], chain) == {"success"}
    times.append(time.monotonic())
    days = ["--from-date", str(BACKFILL[0]), "--to-date", str(BACKFILL[-1] + timedelta(days=1))]
    active = "1" if MEASURED else "4"  # in order, as the runbook has it; in any order the rows must be the same
    command = ["airflow", "backfill", "create", "--dag-id", "ingest", "--max-active-runs", active, *days]
    subprocess.run(command, env=stack.variables("dag-processor"), check=True, capture_output=True)
    assert end_of(airflow, BACKFILL, chain, patience_s=300 * TOGETHER) == {"success"}
    times.append(time.monotonic())
    assert {night: published(night) for night in BACKFILL} == {night: expected[night] for night in BACKFILL}
    assert nobody_is_paged(settings)
    if MEASURED:
        alone, together = (later - earlier for earlier, later in pairwise(times))
        runs = sum(run.partition_key in map(str, BACKFILL) for run in airflow.runs(SCORE))
        with capsys.disabled():
            print(f"\n{MEASURED} nights one after another: {alone:.0f} s, beside each other: {together:.0f} s,")
            print(f"{alone / together:.2f} times as fast; they were scored in {runs} runs")


def test_a_night_publishes_the_rows_that_the_embedded_default_publishes(airflow, settings, expected, published):
    airflow.switch([MONITOR], is_on=True)
    airflow.trigger("ingest", str(NIGHT))
    assert end_of(airflow, [NIGHT], ("ingest", SCORE, MONITOR)) == {"success"}
    airflow.switch([MONITOR], is_on=False)  # of the other nights it would tell nothing new
    assert published(NIGHT) == expected[NIGHT]
    assert expected[NIGHT][1] > 3000
    assert settings.warehouse.startswith("postgresql") and settings.lake.is_remote
    assert nobody_is_paged(settings)


@pytest.mark.fault("F31")
def test_workers_that_are_killed_in_mid_night_cost_a_retry_and_nothing_else(
    stack, airflow, settings, expected, published
):
    airflow.trigger("ingest", str(KILLED_NIGHT))
    worker_of(stack, airflow, SCORE, KILLED_NIGHT, "build_features")
    max(family(stack.servers["dask-worker"]), key=psutil.Process.create_time).kill()  # one of two: the others go on
    killed = worker_of(stack, airflow, SCORE, KILLED_NIGHT, "score_candidates")
    stack.kill(killed)
    assert end_of(airflow, [KILLED_NIGHT]) == {"success"}
    assert attempts_at(airflow, SCORE, KILLED_NIGHT, "build_features") == 1
    assert attempts_at(airflow, SCORE, KILLED_NIGHT, "score_candidates") == 2
    assert published(KILLED_NIGHT) == expected[KILLED_NIGHT]
    assert nobody_is_paged(settings)
    stack.start_worker(killed)


@pytest.mark.fault("F20")
@pytest.mark.fault("F21")
def test_redis_and_warehouse_are_away_and_a_table_is_locked_and_the_night_waits_for_them(
    stack, airflow, settings, expected, published
):
    airflow.trigger("ingest", str(DARK_NIGHT))
    worker_of(stack, airflow, SCORE, DARK_NIGHT, "build_features")
    stack.stop("redis")
    with without_warehouse(stack.postgres.url("nightjar")):
        time.sleep(AWAY_S)
    stack.start("redis")

    def is_tried_again():
        if not is_running(stack.servers["scheduler"]):  # it ends without its broker; compose starts it again
            stack.start("scheduler")
        return attempts_at(airflow, SCORE, DARK_NIGHT, "publish_scores") > 1

    with closing(stack.postgres.connect("nightjar")) as other, other.transaction():
        other.execute(f"LOCK TABLE {USE_CASE.scores_table} IN ACCESS EXCLUSIVE MODE")
        wait_until(is_tried_again, "the lock's end")
    assert end_of(airflow, [DARK_NIGHT]) == {"success"}
    assert published(DARK_NIGHT) == expected[DARK_NIGHT]
    assert nobody_is_paged(settings)


def test_the_object_store_is_killed_in_mid_night_and_the_night_waits_for_it(
    stack, airflow, settings, expected, published
):
    airflow.trigger("ingest", str(BARE_NIGHT))
    worker_of(stack, airflow, SCORE, BARE_NIGHT, "build_features")
    with without_object_store(stack.object_store):
        wait_until(lambda: attempts_at(airflow, SCORE, BARE_NIGHT, "build_features") > 1, "a step that misses it")
    assert end_of(airflow, [BARE_NIGHT]) == {"success"}
    assert published(BARE_NIGHT) == expected[BARE_NIGHT]
    assert nobody_is_paged(settings)


@pytest.mark.fault("F31")
def test_all_of_airflow_but_the_workers_is_killed_in_mid_night_and_the_night_goes_on_where_it_was(
    stack, airflow, settings, expected, published
):
    airflow.trigger("ingest", str(ORPHAN))
    worker_of(stack, airflow, SCORE, ORPHAN, "build_features")
    killed = ("scheduler", "dag-processor", "api-server")
    for name in killed:
        stack.kill(name)
    time.sleep(AWAY_S)
    for name in killed:
        stack.start(name)
    assert end_of(airflow, [ORPHAN]) == {"success"}
    assert published(ORPHAN) == expected[ORPHAN]
    assert nobody_is_paged(settings)
