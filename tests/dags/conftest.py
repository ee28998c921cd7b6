"""A private Airflow for the tests of DAGs; its environment must stand before Airflow is imported."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa

from local_stack.airflow_server import airflow_environment
from pipelines.settings import PROJECT, Settings

AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="nightjar-airflow-"))
os.environ.update(
    {
        name: value
        for name, value in airflow_environment(Settings(home=AIRFLOW_HOME), port=8080).items()
        if name.startswith("AIRFLOW_")
    }
)


def pytest_unconfigure():
    """Remove the home also where none of these tests was chosen."""
    shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def log_of_airflow():
    """Airflow's own log, whatever tests of other folders have made of it."""
    from airflow.logging_config import configure_logging

    configure_logging()


@pytest.fixture(scope="session")
def airflow_database():
    """Airflow's metadata database, migrated once."""
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def logged_out(settings, airflow_database, monkeypatch):
    """A client of Airflow's whole API server, which has loaded our plugins for the test's home."""
    monkeypatch.setenv("NIGHTJAR_HOME", str(settings.home))
    from airflow import plugins_manager
    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    plugins_manager.get_fastapi_plugins.cache_clear()
    with TestClient(create_app(apps="core"), base_url="http://testserver") as client:
        yield client


@pytest.fixture
def client(logged_out):
    """The same, logged in as a viewer."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="viewer", role="viewer"))
    logged_out.headers["Authorization"] = f"Bearer {token}"
    return logged_out


@pytest.fixture
def read_dags(settings, monkeypatch):
    """Reads dags/ for a home folder of the test's own, and for further use cases; gives the DagBag."""

    def read_dags(**variables):
        from airflow.dag_processing.dagbag import DagBag

        for name, value in {"NIGHTJAR_HOME": str(settings.home), **variables}.items():
            monkeypatch.setenv(name, value)
        return DagBag(str(PROJECT / "dags"))

    return read_dags


@pytest.fixture
def events_of(airflow_database):
    """The asset events that a run emitted: name, partition key and facts."""

    def events_of(run_id):
        from airflow.models.asset import AssetEvent
        from airflow.settings import Session

        query = sa.select(AssetEvent).where(AssetEvent.source_run_id == run_id)
        with Session() as session:
            return [(event.asset.name, event.partition_key, event.extra) for event in session.scalars(query)]

    return events_of


@pytest.fixture
def run_dag(airflow_database, read_dags, monkeypatch):
    """Runs a DAG in this process, for a partition key or with params; gives its tasks by their ids.

    Tasks whose id matches `mark_success` are not run but taken as done.
    """
    from airflow.models import dagrun

    create = dagrun.get_or_create_dagrun

    def run_dag(dag_id, partition_key=None, variables=None, mark_success=None, **params):
        def create_with_key(**arguments):
            run = create(**arguments)
            run.partition_key = partition_key
            arguments["session"].commit()
            return run

        # DAG.test() takes no partition key; this is the only way to give its run one.
        monkeypatch.setattr(dagrun, "get_or_create_dagrun", create_with_key)
        dag = read_dags(**(variables or {})).dags[dag_id]
        for place in (dag, *dag.tasks):  # DAG.test() calls callbacks with the params that the DAG itself has
            place.params.update({name: value for name, value in params.items() if name in place.params})
        run = dag.test(logical_date=None, run_conf=params, mark_success_pattern=mark_success)
        return {instance.task_id: instance for instance in run.get_task_instances()}

    return run_dag
