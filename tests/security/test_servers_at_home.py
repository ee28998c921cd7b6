"""What `make up` starts beside Airflow: MLflow answers only to its own address, and runs nothing for anybody."""

import importlib.metadata
import os
import stat

import httpx
import pytest

from local_stack.__main__ import _start_mlflow
from local_stack.servers import stop_server, wait_until_up
from pipelines.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.attack("S14")]
OLDEST = (3, 11)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTJAR_HOME", str(tmp_path_factory.mktemp("mlflow") / "var"))
        patch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")  # what somebody's shell may have set
        patch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "*")
        patch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
        yield load_settings()


@pytest.fixture(scope="module")
def mlflow(home):
    server = _start_mlflow(home)
    try:
        wait_until_up(server)
        yield server
    finally:
        stop_server(home, server)


def ask(server, path, **headers):
    return httpx.request("POST", f"{server.url}{path}", json={"max_results": 1}, headers=headers, trust_env=False)


SEARCH = "/api/2.0/mlflow/experiments/search"


def test_mlflow_is_of_a_version_without_known_holes():
    version = importlib.metadata.version("mlflow")
    assert tuple(int(part) for part in version.split(".")[:2]) >= OLDEST


def test_mlflow_answers_to_its_own_address(mlflow):
    assert ask(mlflow, SEARCH).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "10.1.2.3:5000", "192.168.0.7", "127.0.0.1.evil.example"])
def test_mlflow_refuses_a_request_that_names_another_host(mlflow, host):
    assert ask(mlflow, SEARCH, Host=host).status_code == 403


def test_mlflow_refuses_what_a_page_of_elsewhere_asks_in_somebodys_browser(mlflow):
    assert ask(mlflow, "/api/2.0/mlflow/experiments/create", Origin="https://evil.example").status_code == 403


def test_mlflow_runs_no_jobs(mlflow):
    answers = [
        ask(mlflow, f"/ajax-api/3.0/{path}") for path in ("jobs", "jobs/", "mlflow/jobs", "mlflow/scorer/invoke")
    ]
    assert not [answer.status_code for answer in answers if answer.is_success]


def test_what_mlflow_writes_is_its_owners_alone(home, mlflow):
    for place in (home.home, *home.home.rglob("*")):
        assert stat.S_IMODE(place.stat().st_mode) & 0o077 == 0, place
    assert os.umask(0o077) == 0o077
