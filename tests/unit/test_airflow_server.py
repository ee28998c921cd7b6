import json
import stat

from local_stack.airflow_runs import last_error
from local_stack.airflow_server import airflow_environment, private_keys


def test_keys_are_drawn_once_for_a_home_and_differ_between_homes(settings, tmp_path):
    other = settings.model_copy(update={"home": tmp_path / "other"})
    assert private_keys(settings) == private_keys(settings)
    assert set(private_keys(settings).values()).isdisjoint(private_keys(other).values())


def test_only_the_owner_can_read_keys_and_passwords(settings):
    private_keys(settings)
    folder = settings.home / "airflow"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    passwords = json.loads((folder / "passwords.json").read_text())
    assert passwords["admin"] == private_keys(settings)["password"] != passwords["viewer"]


def test_nothing_of_another_airflow_leaks_into_ours(settings, monkeypatch):
    monkeypatch.setenv("AIRFLOW_HOME", "/srv/production")
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql+psycopg2://production")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgres://production")
    environment = airflow_environment(settings, 8080)
    assert "production" not in json.dumps(
        {name: value for name, value in environment.items() if name.startswith("AIRFLOW")}
    )
    assert environment["AIRFLOW_HOME"] == str(settings.home / "airflow")
    assert environment["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"


def test_our_airflow_listens_on_the_loopback_interface_asks_for_a_password_and_reports_nothing_home(settings):
    environment = airflow_environment(settings, 8080)
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"] == "admin:admin,approver:user,viewer:viewer"
    assert "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS" not in environment
    assert environment["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
    assert environment["AIRFLOW__USAGE_DATA_COLLECTION__ENABLED"] == "False"


def test_the_schedule_of_the_embedded_airflow_ends_with_the_data_unless_the_settings_say_otherwise(
    settings, monkeypatch
):
    monkeypatch.delenv("NIGHTJAR_SCHEDULE_END_DATE", raising=False)
    assert airflow_environment(settings, 8080)["NIGHTJAR_SCHEDULE_END_DATE"] == "2017-12-31"
    monkeypatch.setenv("NIGHTJAR_SCHEDULE_END_DATE", "2031-01-01")
    assert airflow_environment(settings, 8080)["NIGHTJAR_SCHEDULE_END_DATE"] == "2031-01-01"


def test_the_last_error_of_a_task_log_is_the_one_that_ended_it(tmp_path):
    first = {"event": "Task failed with exception", "error_detail": [{"exc_value": "MissingDrop: no drop"}]}
    second = {"event": "Task failed with exception", "error_detail": [{"exc_value": "WrongType: text"}]}
    log = tmp_path / "attempt=1.log"
    log.write_text("\n".join(json.dumps(line) for line in (first, {"event": "retry"}, second, {"event": "end"})))
    assert last_error(log) == "WrongType: text"
    assert last_error(tmp_path / "absent.log") == "no log"
