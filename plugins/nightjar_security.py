"""Keeps Airflow from starting with a key or password that can be guessed, and its own keys out of tasks."""

import base64
import binascii
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from airflow import __version__
from airflow.configuration import conf
from airflow.listeners import hookimpl
from airflow.sdk.plugins_manager import AirflowPlugin

from pipelines.settings import SHORTEST_PASSWORD, is_guessable, load_settings

OLDEST = (3, 2, 2)
SHORTEST = 24  # as long as those that Airflow draws itself where none is given
_OF_NO_TASK = ("AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__API__SECRET_KEY", "AIRFLOW__CORE__FERNET_KEY")
_PLAIN_XCOMS = "airflow.sdk.execution_time.xcom.BaseXCom"


@hookimpl
def on_starting(component: object) -> None:
    """End scheduler, triggerer or DAG processor, with every reason; take from a task what it does not need."""
    if type(component).__name__ == "TaskRunnerMarker":
        for variable in _OF_NO_TASK:
            os.environ.pop(variable, None)
        return
    found = [] if load_settings().demo else list(problems())
    if found:  # Airflow logs a listener's exceptions and goes on: only this one ends it
        raise SystemExit("Airflow is not safe to start:\n  " + "\n  ".join(found))


def problems() -> Iterator[str]:
    """What must be mended in Airflow's configuration, with the option's name and without its value."""
    if tuple(int(part) for part in __version__.split(".")[:3] if part.isdecimal()) < OLDEST:
        yield f"Airflow {__version__} is older than {'.'.join(map(str, OLDEST))}"
    if conf.getboolean("core", "simple_auth_manager_all_admins", fallback=False):
        yield "[core] simple_auth_manager_all_admins lets everybody in"
    if conf.getboolean("core", "load_examples", fallback=False):
        yield "[core] load_examples brings DAGs that nobody has looked at"
    if conf.get("core", "xcom_backend", fallback=_PLAIN_XCOMS) != _PLAIN_XCOMS:
        yield "[core] xcom_backend must be Airflow's own, which keeps plain JSON"
    yield from _weak_keys()
    yield from _weak_passwords()


def _weak_keys() -> Iterator[str]:
    if not all(map(_is_fernet_key, conf.get("core", "fernet_key", fallback="").split(","))):
        yield "[core] fernet_key needs 32 random bytes: cryptography.fernet.Fernet.generate_key() draws them"
    for section, name in (("api", "secret_key"), ("api_auth", "jwt_secret")):
        by_key_pair = name == "jwt_secret" and conf.get(section, "jwt_private_key_path", fallback=None)
        if not by_key_pair and is_guessable(conf.get(section, name, fallback=""), SHORTEST):
            yield f"[{section}] {name} needs {SHORTEST} characters drawn at random"


def _weak_passwords() -> Iterator[str]:
    for section, name in (("database", "sql_alchemy_conn"), ("celery", "broker_url"), ("celery", "result_backend")):
        password = urlsplit(conf.get(section, name, fallback=None) or "").password
        if password is not None and is_guessable(password, SHORTEST_PASSWORD):
            yield f"[{section}] {name}: its password needs {SHORTEST_PASSWORD} random characters"
    file = Path(conf.get("core", "simple_auth_manager_passwords_file", fallback=None) or "")
    users = json.loads(file.read_text()) if file.is_file() else {}
    if weak := [user for user, password in users.items() if is_guessable(password, SHORTEST_PASSWORD)]:
        yield f"[core] simple_auth_manager_passwords_file: weak passwords of {', '.join(weak)}"


def _is_fernet_key(key: str) -> bool:
    try:
        return len(base64.urlsafe_b64decode(key)) == 32 and not is_guessable(key, 44)
    except (binascii.Error, ValueError):
        return False


class SafeStart(AirflowPlugin):
    """Registers the check with Airflow."""

    name = "nightjar_security"
    listeners: ClassVar = [sys.modules[__name__]]
