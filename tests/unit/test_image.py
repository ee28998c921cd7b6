"""The image is really built, from a base that is made here, and looked at. Needs root, buildah, debootstrap."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
import yaml

from pipelines.settings import PROJECT

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]
CANARY = "canary-5f1c9d03aa7e"
STRAY = (
    ".env",
    "docker/.env",
    "docker/secrets/nightjar_signing_key",
    "var/warehouse.db",
    "pipelines/__pycache__/old.pyc",
)
BASE = "localhost/base"
PACKAGES = "ca-certificates,python3,python3-venv"


class Store:
    """Images and containers of our own, in a folder that goes with all that was mounted in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = os.environ | {"TMPDIR": str(folder), "BUILDAH_ISOLATION": "chroot"}
        self._options = [f"--root={folder}/store", f"--runroot={folder}/run"]
        self._options += [f"--storage-driver={self._driver()}"]

    def __call__(self, *arguments: str) -> str:
        status, shown, errors = self._run(*self._options, *arguments)
        assert status == 0, f"buildah {arguments[0]}: {(shown + errors)[-3000:]}"
        return shown.strip()

    def run(self, container: str, *command: str) -> str:
        """What a command prints in a container, as the image's own user."""
        return self("run", container, "--", *command)

    def close(self) -> None:
        self._run(*self._options, "umount", "--all")
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in reversed([place for place in mounted if place.startswith(f"{self.folder}/")]):
            subprocess.run(["umount", "--lazy", place], check=False)
        shutil.rmtree(self.folder)

    def _driver(self) -> str:
        """The overlay of the kernel, where it works: not upon another overlay."""
        tried = [f"--root={self.folder}/trial", f"--runroot={self.folder}/trial-run", "--storage-driver=overlay"]
        works = self._run(*tried, "from", "scratch")[0] == 0
        self._run(*tried, "rm", "--all")
        return "overlay" if works else "vfs"

    def _run(self, *arguments: str) -> tuple[int, str, str]:
        return run_to_the_end(["buildah", *arguments], self._environment)


def run_to_the_end(command, environment=None):
    """Status, output and errors of a command; nothing of it stays when the test is ended before it."""
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **piped) as process:
        try:
            shown, errors = process.communicate()
        except BaseException:
            family = psutil.Process(process.pid).children(recursive=True)  # some are in sessions of their own
            os.killpg(process.pid, signal.SIGKILL)
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            raise
    return process.returncode, shown, errors


@pytest.fixture(scope="module")
def store():
    with ExitStack() as undo:
        store = Store(Path(tempfile.mkdtemp(prefix="nightjar-image-")))
        undo.callback(store.close)
        yield store


@pytest.fixture(scope="module")
def context(store):
    """What git knows of the project, and files that lie beside it by chance."""
    folder = store.folder / "context"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / name, folder / name)
    for name in STRAY:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(CANARY)
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)  # a careful person's checkout
    return folder


@pytest.fixture(scope="module")
def image(store, context):
    """The name of the image, built from docker/Dockerfile as docs/deploying.md says."""
    suite = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)[1]
    made = store("from", "scratch")
    told = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, store("mount", made)]
    status, shown, errors = run_to_the_end(told)
    assert status == 0, (shown + errors)[-3000:]
    store("umount", made)
    store("commit", "--quiet", "--rm", made, BASE)
    dockerfile = str(context / "docker" / "Dockerfile")
    store(
        "bud",
        "--quiet",
        "--format=docker",
        f"--build-arg=BASE={BASE}",
        "--build-arg=VERSION=1.2+of.the.tests",
        *ours(store),
        "-t",
        "nightjar",
        "-f",
        dockerfile,
        str(context),
    )
    return "nightjar"


def ours(store):
    """What this machine needs to download, or has downloaded already: no part of the image."""
    (store.folder / "uv.toml").write_text("native-tls = true\n")
    (store.folder / "pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    cache = subprocess.run(
        [Path(sys.executable).with_name("uv"), "cache", "dir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    mounts = {"/etc/ssl/certs": "/etc/ssl/certs:ro", cache: "/root/.cache/uv"}
    mounts |= {str(store.folder / "uv.toml"): "/etc/uv/uv.toml:ro", str(store.folder / "pip.conf"): "/etc/pip.conf:ro"}
    return [f"--volume={here}:{there}" for here, there in mounts.items() if Path(here).exists()]


@pytest.fixture(scope="module")
def container(store, image):
    return store("from", "--pull-never", image)


@pytest.fixture(scope="module")
def files(store, container):
    """The folder in which the image's files are."""
    return Path(store("mount", container))


@pytest.mark.attack("S20")
def test_the_command_runs_as_somebody_who_can_write_nothing_but_the_home(store, container, files):
    assert "backtest" in store.run(container, "nightjar", "--help")
    assert store.run(container, "id", "-u") == "50000"
    find = (
        "find / -xdev -writable -not -type l -not -path '/proc/*' -not -path '/dev/*' -not -path '/sys/*' 2>/dev/null"
    )
    writable = set(store.run(container, "sh", "-c", f"{find} || true").split())
    assert writable <= {"/tmp", "/var/tmp", "/run/lock", "/var/lib/nightjar"}
    assert [path.stat().st_mode & 0o7000 for path in (files / "opt").rglob("*") if path.stat().st_mode & 0o6000] == []


@pytest.mark.attack("S20")
def test_the_image_says_its_user_its_check_and_nothing_secret(store, image):
    config = json.loads(store("inspect", "--type=image", image))["Docker"]["config"]
    assert config["User"] == "50000:0"
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Entrypoint"] == ["/usr/bin/tini", "--"]
    assert not [each for each in config["Env"] if re.search("PASSWORD|SECRET|TOKEN|CREDENTIAL|API_KEY", each)]


def test_airflow_reads_all_dags_in_the_image_and_knows_executors_logins_and_drivers(store, container):
    code = (
        "import asyncpg, psycopg2, redis, lightgbm, mlflow.server\n"
        "from airflow.providers.celery.executors.celery_executor import CeleryExecutor\n"
        "from airflow.providers.cncf.kubernetes.executors.kubernetes_executor import KubernetesExecutor\n"
        "from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager\n"
        "from airflow.dag_processing.dagbag import DagBag\n"
        "from airflow.configuration import conf\n"
        "for place in ('base_log_folder', 'dag_processor_child_process_log_directory'):\n"
        "    assert conf.get('logging', place).startswith('/var/lib/nightjar/'), 'nowhere else can be written'\n"
        "bag = DagBag('/opt/nightjar/dags')\n"
        "print(sorted(bag.dags), bag.import_errors)"
    )
    shown = store.run(container, "env", "NIGHTJAR_DEMO=true", "python", "-W", "ignore", "-c", code).splitlines()[-1]
    assert shown.endswith("] {}"), shown
    assert shown.count("'") == 2 * 8


def test_a_model_that_is_trained_in_the_image_names_its_code(store, container):
    code = "from pipelines.lineage import code_version; print(code_version())"
    assert store.run(container, "python", "-c", code) == "nightjar 1.2+of.the.tests"


def test_what_the_image_installed_is_what_is_locked(files):
    (packages,) = (files / "opt" / "venv" / "lib").glob("python*/site-packages")
    found = {as_locked(*folder.stem.split("-")) for folder in packages.glob("*.dist-info")}
    locks = "".join((PROJECT / f"requirements{kind}.txt").read_text() for kind in ("", "-deploy"))
    assert len(found) > 250
    assert found <= {as_locked(*pair) for pair in re.findall(r"^([\w.-]+)==([^ ;]+)", locks, re.MULTILINE)}


def as_locked(name, version):
    return re.sub(r"[-_.]+", "-", name).lower(), version


@pytest.mark.attack("S11")
def test_no_stray_file_and_no_secret_is_in_the_image(files):
    found = subprocess.run(["grep", "-rlF", CANARY, str(files)], capture_output=True, text=True, check=False)
    assert found.stdout == ""
    product = files / "opt" / "nightjar"
    assert {path.name for path in product.iterdir()} == {
        *(
            "bin",
            "nightjar.dist-info",
            "dags",
            "expectations",
            "feature_repo",
            "pipelines",
            "plugins",
            "requirements.txt",
        )
    }
    command = [
        sys.executable,
        "-m",
        "detect_secrets",
        "scan",
        "--all-files",
        "--force-use-all-plugins",
        "--no-verify",
        ".",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=product)
    assert json.loads(done.stdout)["results"] == {}


def test_compose_takes_the_file(tmp_path):
    shutil.copytree(PROJECT / "docker", tmp_path / "docker", ignore=shutil.ignore_patterns(".env", "secrets"))
    text = (PROJECT / "docker" / "env.example").read_text()
    (tmp_path / "docker" / ".env").write_text(re.sub(r"^(IMAGE_\w+)=$", r"\1=name@sha256:0", text, flags=re.MULTILINE))
    command = ["docker-compose", "-f", str(tmp_path / "docker" / "compose.yaml"), "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert all(service["image"] == "name@sha256:0" for service in services.values())
    assert services["worker"]["environment"]["NIGHTJAR_SECRETS_DIR"] == "/run/secrets"

    (tmp_path / "docker" / ".env").write_text(text)
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "IMAGE_" in refused.stderr
