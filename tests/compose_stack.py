"""The services of docker/compose.yaml as processes: their commands, variables and secrets, other addresses."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import yaml
from object_store import client_of, running_object_store
from postgres import Postgres, running_postgres

from local_stack.airflow_server import Airflow
from local_stack.servers import LOOPBACK, Server, family, free_port, start_server, stop_server, wait_until_up
from pipelines.settings import PROJECT, Settings
from pipelines.signing import public_key

KIT = PROJECT / "docker"
SERVICES = yaml.safe_load((KIT / "compose.yaml").read_text())["services"]
PLACES = ("postgres:5432", "redis:6379", "s3:8333", "mlflow:5000", "api-server:8080", "dask-scheduler:8786")
WORKERS = ("worker-1", "worker-2")
_OF_THE_IMAGE = dict(
    re.findall(r"^(?:ENV)? +([A-Z_]+)=([^\s$]+)(?: \\)?$", (KIT / "Dockerfile").read_text(), re.MULTILINE)
)


class Stack:
    """What runs: each server by the name of its service, two workers besides."""

    def __init__(self, folder: Path, chosen: dict[str, str]) -> None:
        self.folder, self.home, self.kit = folder, folder / "home", folder / "drawn"
        self.servers: dict[str, Server] = {}
        self.object_store: Server | None = None
        self.postgres: Postgres | None = None
        self._notes = Settings(home=folder / "processes", demo=True)  # what starts and stops them keeps its own there
        self._places = {place: f"{LOOPBACK}:{free_port()}" for place in PLACES}
        self.home.mkdir()
        subprocess.run([sys.executable, str(KIT / "draw_secrets.py"), str(self.kit)], check=True)
        key = public_key(Settings(home=self.home, demo=True, signing_key=self.secret("nightjar_signing_key")))
        self._chosen = {"NIGHTJAR_VERIFY_KEY": key, **chosen}

    def secret(self, name: str) -> str:
        return (self.kit / name).read_text()

    def port(self, place: str) -> int:
        return int(self._places[place].rpartition(":")[2])

    def variables(self, service: str, name: str = "") -> dict[str, str]:
        """All that the process knows: the image's variables, compose's, and where the tests' own modules are."""
        own = self._own(service, name or service)
        told = {**_OF_THE_IMAGE, **(SERVICES[service].get("environment") or {}), **self._chosen}
        here = {variable: self._here(str(value), own) for variable, value in told.items()}
        here.pop("PYTHONDONTWRITEBYTECODE")  # the image has everything compiled
        here["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        here["PYTHONPATH"] = f"{PROJECT}:{PROJECT / 'tests'}"
        here |= {"HOME": str(own), "NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK}
        if service == "api-server":
            here |= {"AIRFLOW__API__HOST": LOOPBACK, "AIRFLOW__API__PORT": str(self.port("api-server:8080"))}
            here["AIRFLOW__API__BASE_URL"] = f"http://{self._places['api-server:8080']}"
        if service == "scheduler":
            here["AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT"] = str(free_port())
        return here

    def start(self, service: str, *more: str, name: str = "") -> Server:
        """Start the process of a service, or start it again."""
        name = name or service
        command = [*self._command(service, name), *more]
        place = next((place for place in PLACES if place.startswith(service)), "")
        url = f"http://{self._places[place]}" if place else ""
        self.servers[name] = start_server(self._notes, name, command, self.variables(service, name), url)
        return self.servers[name]

    def start_worker(self, name: str) -> Server:
        return self.start("worker", "--celery-hostname", f"{name}@%h", name=name)

    def begin(self, service: str) -> subprocess.Popen[bytes]:
        """Let a service that ends begin."""
        log = (self.folder / f"{service}.log").open("wb")
        with log:
            return subprocess.Popen(
                self._command(service, service), env=self.variables(service), stdout=log, stderr=log, cwd=self.folder
            )

    def end(self, service: str, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of such a service."""
        if process.wait() != 0:
            raise RuntimeError(f"{service}: {(self.folder / f'{service}.log').read_text()[-3000:]}")

    def stop(self, name: str) -> None:
        stop_server(self._notes, self.servers[name], patience_s=4)

    def kill(self, name: str) -> None:
        """End a server and all that it started as the machine does that has no memory left."""
        processes = family(self.servers[name])
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=30)

    def close(self) -> None:
        for name in reversed(self.servers):
            self.stop(name)

    def _command(self, service: str, name: str) -> list[str]:
        told = [self._here(word, self._own(service, name)) for word in SERVICES[service]["command"]]
        found = shutil.which(told[0], path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if found is None:
            raise RuntimeError(f"{told[0]} is missing: make test-stack installs it")
        return [found, *told[1:], *self._here_alone(service)]

    def _here_alone(self, service: str) -> list[str]:
        """Options that have a server listen on this machine alone, on a port of its own."""
        if service == "redis":
            return ["--bind", LOOPBACK, "--port", str(self.port("redis:6379"))]
        if service == "dask-scheduler":
            return ["--host", LOOPBACK, "--port", str(self.port("dask-scheduler:8786"))]
        return ["--host", LOOPBACK] if service == "dask-worker" else []

    def _own(self, service: str, name: str) -> Path:
        """A folder of the process, in which are its secrets and no others."""
        own = self.folder / name
        if not own.exists():
            (own / "secrets").mkdir(parents=True)
            (own / "airflow").mkdir()
            (own / "airflow" / "airflow.cfg").touch()
            for each in SERVICES[service].get("secrets", ()):
                source, target = (each, each) if isinstance(each, str) else (each["source"], each["target"])
                (own / "secrets" / target).write_text(self._here(self.secret(source), own))
        return own

    def _here(self, text: str, own: Path) -> str:
        text = re.sub(r"(?<!\$)\$\{\w+:-(.*?)\}", r"\1", text).replace("$$", "$")
        text = text.replace("0.0.0.0 --port 5000", f"{LOOPBACK} --port {self.port('mlflow:5000')}")
        text = re.sub(r"\bdir /data$", f"dir {own}", text, flags=re.MULTILINE)
        places = {"/run/secrets": own / "secrets", "/var/lib/nightjar": self.home, "/opt/nightjar": PROJECT}
        for there, here in {**self._places, **places, "/opt/airflow": own / "airflow"}.items():
            text = text.replace(there, str(here))
        return text


@contextmanager
def running_stack(folder: Path, **chosen: str) -> Iterator[Stack]:
    """PostgreSQL, Redis, S3, MLflow, Dask, Airflow with two workers, as compose.yaml has them; stopped at the end."""
    stack = Stack(folder, chosen)
    with ExitStack() as undo:
        stack.postgres = undo.enter_context(running_postgres())
        stack._places["postgres:5432"] = f"{LOOPBACK}:{stack.postgres.port}"
        for statement in stack.secret("databases.sql").splitlines():
            stack.postgres.execute(statement)
        identities = json.loads(stack.secret("s3_identities.json"))["identities"]
        stack.object_store = undo.enter_context(running_object_store(folder / "s3", *identities))
        stack._places["s3:8333"] = stack.object_store.url.removeprefix("http://")
        for bucket in ("nightjar", "mlflow"):
            client_of(stack.object_store.url).create_bucket(Bucket=bucket)
        undo.callback(stack.close)
        once = {service: stack.begin(service) for service in ("setup-warehouse", "setup-airflow")}
        for process in once.values():
            undo.callback(process.kill)
        for service in ("redis", "mlflow", "dask-scheduler", "dask-worker"):
            stack.start(service)
        for service, process in once.items():
            stack.end(service, process)
        for service in ("api-server", "scheduler", "dag-processor", "triggerer"):
            stack.start(service)
        for worker in WORKERS:
            stack.start_worker(worker)
        wait_until_up(stack.servers["mlflow"], patience_s=600)
        yield stack


def administrator(stack: Stack) -> Airflow:
    """Airflow's REST interface, with the rights of the first user."""
    return Airflow(stack.servers["api-server"], stack.secret("airflow_admin_password"), "admin")
