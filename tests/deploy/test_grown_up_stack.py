"""What docker/compose.yaml starts, as processes: PostgreSQL, Redis, S3, MLflow, Airflow with two Celery workers.

The same night runs on the embedded default (SQLite, folders, one process) and on the stack, by settings alone. The
rows that readers see are the same, and nobody is paged.
"""

import os
import time
from contextlib import suppress
from datetime import date, timedelta

import pytest
import sqlalchemy as sa
from compose_stack import WORKERS, administrator, running_stack
from young_toy import USE_CASE

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
NIGHT = TRAINED + timedelta(days=1)
SCORE, MONITOR = (f"{kind}__{USE_CASE.name}" for kind in ("score", "monitor"))
SOON = {  # what fails is noticed within seconds instead of minutes
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    f"{PREFIX}RETRY_DELAY_S": "1",
    f"{PREFIX}SCHEDULE_END_DATE": "2017-12-31",
    f"{PREFIX}USE_CASES": "young_toy",
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
    land(settings, FIRST, NIGHT)
    ingest(settings, FIRST, TRAINED, "history")
    registry.set_alias(
        settings, USE_CASE, registry.CHAMPION, train(settings, USE_CASE, TRAINED, "history").model_version
    )


@pytest.fixture(scope="module")
def expected(stack, tmp_path_factory):
    """The rows of the night as the embedded default publishes them: their hash and number."""
    keys = {name: stack.secret(f"nightjar_{name}") for name in ("pseudonym_key", "signing_key")}
    embedded = Settings(home=tmp_path_factory.mktemp("embedded"), demo=True, use_cases=["young_toy"], **keys)
    bring_in(embedded)
    ingest(embedded, NIGHT, NIGHT, "night")
    build_features(embedded, USE_CASE, NIGHT, "night")
    version = score(embedded, USE_CASE, NIGHT, "night").model_version
    report = publish(embedded, USE_CASE, NIGHT, "night", version)
    return report.content_hash, report.rows


@pytest.fixture(scope="module")
def airflow(stack, expected, settings):
    bring_in(settings)
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
        with suppress(EngineFailure):
            if found := is_so():
                return found
        time.sleep(0.3)
    raise AssertionError(f"waited in vain for {what}")


def end_of(airflow, nights, chain=("ingest", SCORE)):
    """The states of the runs of the nights, once all have ended."""

    def ended():
        runs = [run for night in nights for run in airflow.runs(partition_key=str(night)) if run.dag_id in chain]
        known = {(run.partition_key, run.dag_id) for run in runs}
        return len(known) == len(chain) * len(nights) and all(run.is_finished for run in runs) and runs

    return {run.state for run in wait_until(ended, f"the end of {nights}")}


def nobody_is_paged(settings):
    state = read_state(settings)
    return not state.open and not state.outbox


def test_a_night_publishes_the_rows_that_the_embedded_default_publishes(airflow, settings, expected, published):
    airflow.switch([MONITOR], is_on=True)
    airflow.trigger("ingest", str(NIGHT))
    assert end_of(airflow, [NIGHT], ("ingest", SCORE, MONITOR)) == {"success"}
    assert published(NIGHT) == expected
    assert expected[1] > 3000
    assert settings.warehouse.startswith("postgresql") and settings.lake.is_remote
    assert nobody_is_paged(settings)
