"""What the tests share: settings with a folder of their own, drops made by hand, and the real year."""

import hashlib
import io
import multiprocessing
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import date
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from filelock import FileLock
from object_store import ACCESS_KEY, SECRET_KEY, Place, client_of, running_object_store
from postgres import Postgres, forget, put_warehouses_on, running_postgres

from local_stack.servers import Server
from pipelines import lake, tables, warehouse
from pipelines.contracts import CORE_TABLES, DROPS, QUARANTINE_TRANSACTIONS, SCHEMA_VERSION
from pipelines.drops import MANIFEST, DeliveredFile, Manifest, drop_name
from pipelines.ingest import ingest
from pipelines.landing import FIRST_DATE, LAST_DATE, land
from pipelines.settings import Settings

pytest_plugins = ["reliability"]
os.environ.setdefault("NIGHTJAR_DEMO", "true")  # the pseudonym key that everybody knows


class Deliver(Protocol):
    def __call__(self, name: str, day: date, rows: Sequence[Mapping[str, Any]] | pa.Table, **facts: Any) -> Place: ...


class ReadTable(Protocol):
    def __call__(self, settings: Settings, table: str, day: date | None = None) -> pa.Table: ...


class OnlyOnce(Protocol):
    def __call__(self, name: str, fill: Callable[[Settings], object], **chosen: object) -> Settings: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "database that holds the warehouses of all tests; tests of the warehouse itself run on both by default"
    parser.addoption("--warehouse", choices=("sqlite", "postgresql"), default="sqlite", help=told)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that use the fixture `database` run once on each."""
    if "database" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--warehouse")
        both = ("sqlite", "postgresql") if chosen == "sqlite" else (chosen,)
        metafunc.parametrize("database", both, indirect=True)


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """Ends what was forked and still waits for work, such as OpenLineage's pool: Python would wait for it in turn."""
    yield
    for process in multiprocessing.active_children():
        process.kill()
        process.join(10)
    end_forkserver()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL server."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def every_warehouse(request: pytest.FixtureRequest) -> Iterator[None]:
    """Puts all warehouses on PostgreSQL, where the command line asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("--warehouse") == "postgresql":
            put_warehouses_on(patch, request.getfixturevalue("postgres").url())
        yield


@pytest.fixture
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The kind of database that holds the test's warehouses: the test runs once on each."""
    kind: str = request.param
    is_switched = kind == "postgresql" and request.config.getoption("--warehouse") == "sqlite"
    if is_switched:
        end_forkserver()
        put_warehouses_on(monkeypatch, request.getfixturevalue("postgres").url())
    yield kind
    if is_switched:
        end_forkserver()


def end_forkserver() -> None:
    """End the process that new ones are forked from: it knows the environment that there was when it started.

    It would end by itself once nobody holds its pipe, but whatever was forked from this process meanwhile does.
    """
    if forkserver._forkserver._forkserver_pid is not None:
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
        forkserver._forkserver._stop()


@pytest.fixture(autouse=True)
def dropped_databases(request: pytest.FixtureRequest) -> Iterator[None]:
    """Drops the test's own databases behind it."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder and ("postgres" in request.fixturenames or request.config.getoption("--warehouse") == "postgresql"):
        forget(folder)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real S3 server."""
    with running_object_store(tmp_path_factory.mktemp("object_store")) as server:
        yield server


@pytest.fixture
def s3(object_store: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Settings for landing and lake in a bucket of the test's own; the key is in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    bucket = f"test-{uuid4().hex[:12]}"
    client_of(object_store.url).create_bucket(Bucket=bucket)
    uris = {f"{name}_uri": f"s3://{bucket}/{name}" for name in ("landing", "lake")}
    return {**uris, "s3_endpoint_url": object_store.url}


@pytest.fixture
def folders() -> dict[str, str]:
    """Settings for landing and lake in the home folder."""
    return {}


@pytest.fixture
def storage(folders: dict[str, str]) -> dict[str, str]:
    """Settings for landing and lake; a module overrides it to run its tests on S3 too."""
    return folders


@pytest.fixture
def settings(tmp_path: Path, storage: dict[str, str]) -> Settings:
    """Settings whose home is empty and the test's own."""
    return Settings(home=tmp_path / "var", **storage)


@pytest.fixture(scope="session")
def only_once(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> OnlyOnce:
    """Fills a home once for all workers that test side by side; each has its own where it has its own PostgreSQL."""

    def only_once(name: str, fill: Callable[[Settings], object], **chosen: object) -> Settings:
        has_its_own = "workerinput" not in vars(request.config) or request.config.getoption("--warehouse") != "sqlite"
        folder = tmp_path_factory.getbasetemp() if has_its_own else tmp_path_factory.getbasetemp().parent
        home = Settings(home=folder / name, **chosen)
        with FileLock(folder / f"{name}.lock"):
            if not (folder / f"{name}.ready").exists():
                shutil.rmtree(home.home, ignore_errors=True)
                fill(home)
                (folder / f"{name}.ready").touch()
        return home

    return only_once


@pytest.fixture(scope="session")
def year(only_once: OnlyOnce) -> Settings:
    """Settings of a home with the real year, landed and ingested; only for reading."""

    def fill(settings: Settings) -> None:
        land(settings, FIRST_DATE, LAST_DATE)
        ingest(settings, FIRST_DATE, LAST_DATE, "year")

    return only_once("year", fill)


@pytest.fixture
def deliver(settings: Settings) -> Deliver:
    """Delivers a drop: a file of the rows, and the manifest that it deserves except for the given facts."""

    def deliver(name: str, day: date, rows: Sequence[Mapping[str, Any]] | pa.Table, **facts: Any) -> Place:
        contract = DROPS[name]
        folder = Place(settings.landing, drop_name(contract, day))
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), contract.schema)
        sink = io.BytesIO()
        pq.write_table(table, sink)
        content = sink.getvalue()
        (folder / "part-0.parquet").write_bytes(content)
        entry = DeliveredFile(
            name="part-0.parquet",
            rows=table.num_rows,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        told = {
            "drop": name,
            "business_date": day,
            "schema_version": SCHEMA_VERSION,
            "is_closed": False,
            "files": (entry,),
            **facts,
        }
        (folder / MANIFEST).write_text(Manifest.model_validate(told).model_dump_json())
        return folder

    return deliver


@pytest.fixture(scope="session")
def read_table() -> ReadTable:
    """Reads a lake table, or one of its partitions, in the order of its key."""
    contracts = {table.name: table for table in (*CORE_TABLES.values(), QUARANTINE_TRANSACTIONS)}

    def read_table(settings: Settings, table: str, day: date | None = None) -> pa.Table:
        contract = contracts[table]
        parts = []
        for path in lake.files_of(settings.lake, table, first=day, last=day):
            rows = pq.read_table(path, partitioning=None)
            written = date.fromisoformat(Path(path).parent.name.removeprefix(f"{contract.partition}="))
            parts.append(rows.append_column(contract.partition, pa.array([written] * len(rows), pa.date32())))
        rows = pa.concat_tables(parts) if parts else contract.schema.empty_table()
        order = [(name, "ascending") for name in (contract.partition, *contract.key)]
        return rows.select(contract.schema.names).cast(contract.schema).sort_by(order)

    return read_table


@pytest.fixture(scope="session")
def year_copy(year: Settings, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    """Gives settings of a new home that holds the real year, or no more of it than up to a date."""

    def year_copy(until: date | None = None, home: Path | None = None, **chosen: object) -> Settings:
        settings = Settings(home=home or tmp_path_factory.mktemp("home"), **chosen)
        log = tables.INGEST_LOG
        with warehouse.open_warehouse(year, only_reads=True) as source:
            known = log.select() if until is None else log.select().where(log.c.business_date <= until)
            rows = warehouse.read_rows(source, known.order_by(log.c.ingest_id))
            checks = warehouse.read_rows(source, sa.select(tables.CHECK_LOG))
        warehouse.create_tables(settings, [])
        with warehouse.open_warehouse(settings) as copy:
            for table, kept in ((log, rows), (tables.CHECK_LOG, checks)):
                numbers = {column.name for column in table.primary_key}
                told = [{name: row[name] for name in row.keys() - numbers} for row in kept]
                warehouse.append_rows(copy, table, told)
        for table in year.lake.folder.glob("core__*"):
            shutil.copytree(table, settings.lake.folder / table.name, copy_function=os.link)
            if until:
                _forget_later(settings.lake.folder / table.name, until)
        return settings

    return year_copy


def _forget_later(table: Path, until: date) -> None:
    """Drop later partitions from the table and their files from the disk."""
    delta = deltalake.DeltaTable(str(table))
    delta.delete(f"business_date > '{until}'")
    delta.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)


@pytest.fixture(scope="session")
def trained_toy(year_copy: Callable[..., Settings], only_once: OnlyOnce) -> Settings:
    """A home with two versions of the toy, signed with a key of its own: 1 is champion, 2 challenger; nothing scored.

    There are features of Sunday 2017-11-19 and of the Sunday after it.
    """
    from toy import USE_CASE

    from pipelines import registry, warehouse
    from pipelines.features import build_features
    from pipelines.training import train

    chosen = {"use_cases": ["toy"], "signing_key": hashlib.sha256(b"of the toy").hexdigest()}

    def fill(place: Settings) -> None:
        settings = year_copy(home=place.home, **chosen)
        warehouse.create_tables(settings, [USE_CASE])
        for trained in (date(2017, 11, 5), date(2017, 11, 12)):
            train(settings, USE_CASE, trained, "test")
        registry.set_alias(settings, USE_CASE, registry.CHAMPION, "1")
        for night in (date(2017, 11, 19), date(2017, 11, 26)):
            build_features(settings, USE_CASE, night, "test")

    return only_once("toy", fill, **chosen)


@pytest.fixture(scope="session")
def toy_copy(trained_toy: Settings, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    """Gives a copy of the toy's home that may be spoilt; its artefacts are its own too."""

    def toy_copy(**chosen: object) -> Settings:
        old, new = trained_toy.home, tmp_path_factory.mktemp("toy") / "var"
        shutil.copytree(old, new, ignore=shutil.ignore_patterns("core__*", "landing"))
        for table in trained_toy.lake.folder.glob("core__*"):
            shutil.copytree(table, new / "lake" / table.name, copy_function=os.link)
        columns = [("experiments", "artifact_location"), ("runs", "artifact_uri")]
        columns += [("model_versions", name) for name in ("source", "storage_location")]
        with closing(sqlite3.connect(new / "mlflow.db")) as store:
            for table, column in columns:
                store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", [str(old), str(new)])
            store.commit()
        return trained_toy.model_copy(update={"home": new, **chosen})

    return toy_copy


@pytest.fixture
def toy_home(toy_copy: Callable[..., Settings]) -> Settings:
    """A copy of the toy's home for one test."""
    return toy_copy()
