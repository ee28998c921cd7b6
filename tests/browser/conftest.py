"""A real Airflow after `make run`, and a browser that is logged in to it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from chromium import logged_in
from stoppable import run_to_the_end

from local_stack.airflow_server import (
    USER,
    airflow_environment,
    private_keys,
    ready_airflow,
    start_airflow,
    stop_airflow,
)
from local_stack.servers import recall
from pipelines import tables, warehouse
from pipelines.settings import PREFIX, PROJECT, Settings
from pipelines.use_cases import load_use_cases

HOME_VARIABLE = "BROWSER_TEST_HOME"  # a home folder that `make run` has filled; the tests add nights to it
SCREENSHOTS_VARIABLE = "SCREENSHOT_FOLDER"


@pytest.fixture(scope="session")
def settings(tmp_path_factory):
    """Settings of a home folder in which `make run` has succeeded."""
    given = os.environ.get(HOME_VARIABLE)
    settings = Settings(home=Path(given) if given else tmp_path_factory.mktemp("browser") / "var")
    if not (settings.home / "warehouse.db").exists():
        command = [sys.executable, "-m", "local_stack", "run"]
        status, _ = run_to_the_end(command, PROJECT, os.environ | {f"{PREFIX}HOME": str(settings.home)})
        assert status == 0
    return settings


@pytest.fixture(scope="session")
def use_case(settings):
    return load_use_cases(settings)["category_propensity"]


@pytest.fixture(scope="session")
def airflow(settings, use_case):
    """The REST interface of a running Airflow, whose nightly DAGs are switched on."""
    server = start_airflow(settings)
    try:
        train = f"train__{use_case.name}"
        with ready_airflow(settings, server, [train], patience_s=300) as airflow:
            airflow.switch([train], is_on=False)  # the dates of the tests may ask for a model, which takes minutes
            yield airflow
    finally:
        stop_airflow(settings)
        assert recall(settings, "airflow") is None


@pytest.fixture
def page(airflow, settings):
    """A page of the administrator."""
    with logged_in(airflow.server.url, USER, private_keys(settings)["password"]) as page:
        yield page


@pytest.fixture
def picture(page, tmp_path):
    """Takes a screenshot, into the folder that the environment names or one of the test's own."""
    folder = Path(os.environ.get(SCREENSHOTS_VARIABLE) or tmp_path)

    def picture(name):
        page.wait_for_timeout(1000)  # lets transitions end
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"{name}.png")
        assert (folder / f"{name}.png").stat().st_size > 20_000

    return picture


@pytest.fixture
def published_dates(settings, use_case):
    """The score dates that the warehouse holds."""

    def published_dates():
        query = sa.select(tables.scores_table(use_case).c.score_date).distinct()
        with warehouse.open_warehouse(settings) as connection:
            return set(connection.scalars(query))

    return published_dates


@pytest.fixture
def wait_for_runs(airflow, use_case):
    """Waits until the chain of each key has ended, and gives the state of each of its runs."""

    def wait_for_runs(keys, patience_s=600):
        chain = {"ingest", f"score__{use_case.name}", f"monitor__{use_case.name}"}
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            runs = [run for key in keys for run in airflow.runs(partition_key=key)]
            ended = {(run.partition_key, run.dag_id): run.state for run in runs if run.is_finished}
            if set(ended) == {(key, dag_id) for key in keys for dag_id in chain}:
                return set(ended.values())
            time.sleep(1)
        raise AssertionError(f"only these ended: {ended}")

    return wait_for_runs


@pytest.fixture
def airflow_command(airflow, settings):
    """Runs `airflow …` against the running Airflow."""

    def airflow_command(*arguments):
        environment = airflow_environment(settings, port=int(airflow.server.url.rsplit(":", 1)[1]))
        return subprocess.run(
            ["airflow", *arguments], env=environment, capture_output=True, text=True, check=True
        ).stdout

    return airflow_command
