"""Outside the demo Airflow does not start with a key or password that can be guessed; tasks know none of its keys."""

import base64
import importlib
import json
import os
import secrets
import subprocess
import sys

import pytest
from airflow.api_fastapi.app import create_app as create_airflow
from airflow.configuration import conf
from fastapi.testclient import TestClient

from local_stack.airflow_server import airflow_environment
from pipelines.settings import PREFIX, PROJECT

FERNET = base64.urlsafe_b64encode(b"\0" * 32).decode()
WEAK = [
    ("AIRFLOW__CORE__FERNET_KEY", "", "fernet_key"),
    ("AIRFLOW__CORE__FERNET_KEY", "too short", "fernet_key"),
    ("AIRFLOW__CORE__FERNET_KEY", FERNET, "fernet_key"),
    ("AIRFLOW__API_AUTH__JWT_SECRET", "", "jwt_secret"),
    ("AIRFLOW__API_AUTH__JWT_SECRET", "airflow_jwt_secret", "jwt_secret"),  # of the example for Docker
    ("AIRFLOW__API_AUTH__JWT_SECRET", "x" * 64, "jwt_secret"),
    ("AIRFLOW__API__SECRET_KEY", "change me", "secret_key"),
    (
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
        "postgresql+psycopg2://airflow:airflow@postgres/airflow",
        "sql_alchemy_conn",
    ),
    ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql+psycopg2://airflow:@postgres/airflow", "sql_alchemy_conn"),
    ("AIRFLOW__CELERY__BROKER_URL", "redis://:redis@redis:6379/0", "broker_url"),
    ("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "True", "all_admins"),
    ("AIRFLOW__CORE__LOAD_EXAMPLES", "True", "load_examples"),
    ("AIRFLOW__CORE__XCOM_BACKEND", "somewhere.PickledXCom", "xcom_backend"),
]


@pytest.fixture
def security():
    return importlib.import_module("nightjar_security")


@pytest.mark.attack("S12")
def test_the_configuration_that_we_start_airflow_with_has_nothing_to_mend(security):
    assert list(security.problems()) == []


@pytest.mark.attack("S12")
@pytest.mark.parametrize(("variable", "value", "option"), WEAK)
def test_what_can_be_guessed_or_lets_everybody_in_is_named_and_not_shown(
    security, monkeypatch, variable, value, option
):
    monkeypatch.setenv(variable, value)
    (found,) = security.problems()
    assert option in found
    assert len(value) < 9 or value not in found


@pytest.mark.attack("S12")
def test_weak_passwords_of_users_are_refused(security, monkeypatch, tmp_path):
    file = tmp_path / "passwords.json"
    file.write_text(json.dumps({"admin": "admin", "viewer": secrets.token_urlsafe(12)}))
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(file))
    assert list(security.problems()) == ["[core] simple_auth_manager_passwords_file: weak passwords of admin"]


@pytest.mark.attack("S12")
@pytest.mark.parametrize("is_demo", [True, False])
def test_a_process_of_a_real_airflow_ends_unless_it_is_a_demo(settings, is_demo):
    environment = airflow_environment(settings, 8080) | {"AIRFLOW__API_AUTH__JWT_SECRET": "airflow_jwt_secret"}
    environment |= {f"{PREFIX}DEMO": str(is_demo), "PYTHONPATH": str(PROJECT)}
    environment |= {f"{PREFIX}{name}": secrets.token_hex(20) for name in ("PSEUDONYM_KEY", "SIGNING_KEY")}
    program = "from airflow.jobs.job import Job; Job(); print('started')"  # as scheduler, triggerer and DAG processor
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, cwd=PROJECT
    )
    if is_demo:
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "started")
    else:
        assert done.returncode != 0
        assert "started" not in done.stdout
        assert "[api_auth] jwt_secret needs 24 characters" in done.stderr


@pytest.mark.attack("S13")
def test_values_between_tasks_are_plain_json_and_of_our_own_types(read_dags):
    assert conf.get("core", "xcom_backend").endswith("BaseXCom")
    assert not os.environ.get("AIRFLOW__CORE__ENABLE_XCOM_PICKLING")
    allowed = conf.get("core", "allowed_deserialization_classes")
    assert allowed == "airflow.*", "only Airflow's own classes may be made from an XCom"


@pytest.mark.attack("S13")
@pytest.mark.parametrize(
    ("verb", "path"),
    [
        *(("GET", f"/api/v2/{what}") for what in ("dags", "dags/~/dagRuns", "connections", "variables", "config")),
        ("POST", "/api/v2/dags/bootstrap/dagRuns"),
        ("PATCH", "/api/v2/dags/bootstrap"),
        ("GET", "/api/v2/dags/~/dagRuns/~/taskInstances/~/xcomEntries"),
    ],
)
def test_nothing_is_told_or_done_without_a_token(airflow_database, verb, path):
    with TestClient(create_airflow(apps="core"), base_url="http://testserver") as client:
        assert client.request(verb, path, json={}).status_code == 401
        client.headers["Authorization"] = "Bearer e30.e30.e30"
        assert client.request(verb, path, json={}).status_code in (401, 403)


@pytest.mark.attack("S13")
def test_a_task_knows_neither_the_database_nor_the_keys_of_airflow(settings):
    environment = airflow_environment(settings, 8080) | {f"{PREFIX}DEMO": "true", "PYTHONPATH": str(PROJECT)}
    program = """if True:
        import json, os
        from airflow.sdk.execution_time.supervisor import block_orm_access
        from airflow.sdk.execution_time.task_runner import TaskRunnerMarker
        from airflow.sdk.listener import get_listener_manager
        block_orm_access()  # what the supervisor does in the process that it forks for a task, and then the task itself
        get_listener_manager().hook.on_starting(component=TaskRunnerMarker())
        print(json.dumps(dict(os.environ)))
    """
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, cwd=PROJECT
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    keys = json.loads((settings.home / "airflow" / "keys.json").read_text())
    assert not {variable for variable, value in seen.items() for key in keys.values() if key in value}
    assert seen["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("airflow-db-not-allowed")
    assert str(settings.home / "airflow" / "airflow.db") not in done.stdout.splitlines()[-1]
