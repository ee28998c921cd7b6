"""Airflow standalone as a server of ours: its private environment, its start, and its REST interface."""

import base64
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from local_stack.servers import (
    LOOPBACK,
    Server,
    free_port,
    is_running,
    newest_lines,
    recall,
    start_server,
    stop_server,
)
from pipelines.errors import EngineFailure
from pipelines.settings import PREFIX, PROJECT, Settings

NAME = "airflow"
USER, APPROVER, VIEWER = "admin", "approver", "viewer"  # nobody approves the model that they trained
POOL, POOL_SLOTS = "nightjar", 2
LAST_DATE_OF_THE_DATA = "2017-12-31"
NO_TELEMETRY = {
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "DO_NOT_TRACK": "true",
    "FEAST_USAGE": "False",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "SCARF_ANALYTICS": "false",
}
_COMPONENTS = ("metadatabase", "scheduler", "dag_processor", "triggerer")
_NOT_FOUND, _CONFLICT = 404, 409


@dataclass(frozen=True)
class DagRun:
    """A run of a DAG and how it stands."""

    dag_id: str
    run_id: str
    state: str
    partition_key: str | None

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen in it."""
        return self.state in ("success", "failed")


@dataclass(frozen=True)
class TaskRun:
    """A task of a run, in its newest attempt."""

    dag_id: str
    run_id: str
    task_id: str
    state: str | None
    seconds: float
    attempt: int
    ended_at: str

    @property
    def is_finished(self) -> bool:
        """Whether this attempt is over, well or badly."""
        return self.state in ("success", "failed", "skipped", "upstream_failed", "removed", "up_for_retry")


def start_airflow(settings: Settings, port: int = 0) -> Server:
    """Start Airflow on the loopback interface, on the port if it is free, with its state in the home."""
    chosen = free_port(port)
    environment = airflow_environment(settings, chosen)
    command = [str(Path(sys.executable).with_name("airflow")), "standalone"]
    return start_server(settings, NAME, command, environment, f"http://{LOOPBACK}:{chosen}")


def ready_airflow(settings: Settings, server: Server, dag_ids: Sequence[str], patience_s: float = 180) -> "Airflow":
    """The started Airflow, once the DAGs can be triggered; `stop_airflow` ends it, also where this fails.

    One that is not healthy within the patience is stopped and started once more: seen on a busy machine was an
    API server that answered, and found its database out of reach for as long as anybody waited.

    Raises:
        EngineFailure: it has died, cannot import a DAG, or needs longer than the patience for the second time.
    """
    airflow = Airflow(server, private_keys(settings)["password"])
    if not airflow.gets_healthy(patience_s):
        airflow.__exit__()
        stop_airflow(settings)
        again = start_airflow(settings, int(server.url.rpartition(":")[2]))
        airflow = Airflow(again, private_keys(settings)["password"])
    airflow.wait_until_ready(dag_ids, patience_s)
    return airflow


def stop_airflow(settings: Settings) -> int:
    """Stop this home's Airflow, if it runs; gives the number of processes that had to be killed."""
    server = recall(settings, NAME)
    return stop_server(settings, server) if server else 0


def airflow_environment(settings: Settings, port: int) -> dict[str, str]:
    """The whole environment of our Airflow; nothing of another Airflow leaks in."""
    home = settings.home / "airflow"
    keys = private_keys(settings)
    url = f"http://{LOOPBACK}:{port}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    inherited.setdefault(f"{PREFIX}SCHEDULE_END_DATE", LAST_DATE_OF_THE_DATA)
    sections: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": PROJECT / "dags",
            "plugins_folder": PROJECT / "plugins",
            "load_examples": False,
            "executor": "LocalExecutor",
            "parallelism": 4,
            "fernet_key": keys["fernet"],
            "execution_api_server_url": f"{url}/execution/",
            "simple_auth_manager_users": f"{USER}:admin,{APPROVER}:user,{VIEWER}:viewer",
            "simple_auth_manager_passwords_file": home / "passwords.json",
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}"},
        "api": {"host": LOOPBACK, "port": port, "base_url": url, "workers": 1, "secret_key": keys["api"]},
        "api_auth": {"jwt_secret": keys["jwt"]},
        "logging": {
            "namespace_levels": "great_expectations=WARNING",  # it tells of every function that it imports
            "worker_log_server_port": free_port(),
            "trigger_log_server_port": free_port(),
            "file_task_handler_new_folder_permissions": "0o700",
            "file_task_handler_new_file_permissions": "0o600",
        },
        "dag_processor": {"refresh_interval": 10, "parsing_processes": 1},
        "openlineage": {"namespace": "nightjar"},
    }
    if not any(name.startswith("OPENLINEAGE_") for name in inherited):  # its own variables say where events go instead
        events = settings.home / "openlineage" / "events.jsonl"
        events.parent.mkdir(parents=True, exist_ok=True)
        transport = {"type": "file", "log_file_path": str(events), "append": True}
        sections["openlineage"]["transport"] = json.dumps(transport)
    ours = {
        f"AIRFLOW__{section}__{option}".upper(): str(value)
        for section, options in sections.items()
        for option, value in options.items()
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"
    no_proxy = ",".join(filter(None, [inherited.get("NO_PROXY"), LOOPBACK, "localhost"]))
    places = {"AIRFLOW_HOME": str(home), f"{PREFIX}HOME": str(settings.home), "PATH": path}
    return inherited | ours | NO_TELEMETRY | places | {"NO_PROXY": no_proxy, "no_proxy": no_proxy}


def private_keys(settings: Settings) -> dict[str, str]:
    """Airflow's keys and passwords for this home, drawn at random once, readable by their owner alone."""
    folder = settings.home / "airflow"
    file = folder / "keys.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        fernet = base64.urlsafe_b64encode(os.urandom(32)).decode()
        drawn = {name: secrets.token_urlsafe(32) for name in ("jwt", "api")}
        passwords = {name: secrets.token_urlsafe(9) for name in (USER, APPROVER, VIEWER)}
        _write_private(folder / "passwords.json", passwords)
        _write_private(file, {"fernet": fernet, "password": passwords[USER]} | drawn)
    keys: dict[str, str] = json.loads(file.read_text())
    return keys


def _write_private(file: Path, content: Mapping[str, str]) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(content, stream)


class Airflow:
    """Airflow's REST interface, with the rights of a user: the administrator's, if no other is named."""

    def __init__(self, server: Server, password: str, user: str = USER) -> None:
        self.server, self._password, self._user = server, password, user
        self._http = httpx.Client(base_url=server.url, timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def gets_healthy(self, patience_s: float) -> bool:
        """Whether every component reports within the patience that it is well."""
        return not self._wait(self._ill, patience_s)

    def wait_until_ready(self, dag_ids: Sequence[str], patience_s: float = 180) -> None:
        """Return once every component is healthy and the DAGs can be triggered.

        Raises:
            EngineFailure: Airflow has died, cannot import a DAG, or needs longer than the patience.
        """
        missing = self._wait(lambda: self._ill() or self._unread(dag_ids), patience_s)
        if missing:
            raise EngineFailure(
                "Airflow did not become ready",
                where=self.server.url,
                expected=f"ready within {patience_s:.0f} s",
                found=f"{missing}; the end of its log:\n{newest_lines(self.server)}",
                remedy=f"read {self.server.log}; a machine that is too busy may need a second try",
            )
        self._create_pool()

    def _wait(self, missing: Callable[[], str], patience_s: float) -> str:
        """Ask until nothing is missing; gives what still is when the patience or Airflow's process has ended."""
        found, deadline = "", time.monotonic() + patience_s
        while time.monotonic() < deadline and is_running(self.server):
            found = missing()
            if not found:
                return ""
            time.sleep(1)
        return found or "its process has ended"

    def _ill(self) -> str:
        try:
            health = self._http.get("/api/v2/monitor/health").json()
        except (httpx.TransportError, ValueError):
            return "the API server does not answer yet"
        ill = [name for name in _COMPONENTS if (health.get(name) or {}).get("status") != "healthy"]
        return f"not healthy yet: {', '.join(ill)}" if ill else ""

    def _unread(self, dag_ids: Sequence[str]) -> str:
        if "Authorization" not in self._http.headers:
            self._log_in()
        known = {dag["dag_id"] for dag in self.get("/api/v2/dags?limit=1000")["dags"]}
        unknown = sorted(set(dag_ids) - known)
        broken = [each["filename"] for each in self.get("/api/v2/importErrors")["import_errors"]]
        return f"not read yet: {', '.join(unknown)}; broken: {broken or 'none'}" if unknown else ""

    def _log_in(self) -> None:
        answer = self._call("POST", "/auth/token", {"username": self._user, "password": self._password})
        self._http.headers["Authorization"] = f"Bearer {answer['access_token']}"

    def _create_pool(self) -> None:
        body = {"name": POOL, "slots": POOL_SLOTS, "description": "Heavy steps at one time on this machine"}
        self._call("POST", "/api/v2/pools", body, fine=_CONFLICT)

    def get(self, path: str) -> dict[str, Any]:
        """The answer to a question, as plain values."""
        return self._call("GET", path)

    def switch(self, dag_ids: Sequence[str], *, is_on: bool) -> None:
        """Let the DAGs run, or keep them from it."""
        for dag_id in dag_ids:
            self._call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": not is_on})

    def trigger(self, dag_id: str, partition_key: str | None = None, **params: str) -> str:
        """Start a run by hand; gives its id."""
        body = {"logical_date": None, "partition_key": partition_key, "conf": params}
        return str(self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def give_up(self, run: DagRun) -> None:
        """End a run as failed, with its tasks."""
        self._call("PATCH", f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}", {"state": "failed"})

    def runs(self, dag_id: str = "~", partition_key: str | None = None) -> list[DagRun]:
        """The newest runs, at most 100, of one DAG or of all, newest first."""
        wanted = f"&partition_key_prefix_pattern={partition_key}" if partition_key else ""
        answer = self.get(f"/api/v2/dags/{dag_id}/dagRuns?order_by=-id&limit=100{wanted}")
        return [
            DagRun(run["dag_id"], run["dag_run_id"], run["state"], run["partition_key"]) for run in answer["dag_runs"]
        ]

    def tasks(self, run: DagRun) -> list[TaskRun]:
        """The run's tasks in the order in which they ended; unfinished ones last."""
        answer = self.get(f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances")
        tasks = [
            TaskRun(
                run.dag_id,
                run.run_id,
                each["task_id"],
                each["state"],
                each["duration"] or 0.0,
                each["try_number"],
                each["end_date"] or "9999",
            )
            for each in answer["task_instances"]
        ]
        return sorted(tasks, key=lambda task: task.ended_at)

    def report(self, task: TaskRun) -> dict[str, Any]:
        """What the task's step reported; empty when it reported nothing."""
        path = f"/api/v2/dags/{task.dag_id}/dagRuns/{task.run_id}/taskInstances/{task.task_id}/xcomEntries"
        answer = self._call("GET", f"{path}/return_value", fine=_NOT_FOUND)
        value = answer.get("value")
        return value if isinstance(value, dict) else {}

    def _call(self, verb: str, path: str, body: object = None, *, fine: int | None = None) -> dict[str, Any]:
        try:
            answer = self._http.request(verb, path, json=body)
        except httpx.TransportError as error:
            raise EngineFailure(
                "Airflow does not answer",
                where=f"{verb} {path}",
                found=error,
                remedy=f"read {self.server.log}",
            ) from error
        if answer.status_code == fine:
            return {}
        if answer.is_error:
            raise EngineFailure(
                "Airflow refused a request",
                where=f"{verb} {path}",
                found=f"{answer.status_code} {answer.text[:500]}",
                remedy=f"read {self.server.log}",
            )
        found: dict[str, Any] = answer.json()
        return found
