"""What the tests share: settings with a folder of their own, drops made by hand, and the real year."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import lake
from pipelines.contracts import CORE_TABLES, DROPS, QUARANTINE_TRANSACTIONS, SCHEMA_VERSION
from pipelines.drops import MANIFEST, DeliveredFile, Manifest, drop_name
from pipelines.ingest import ingest
from pipelines.landing import FIRST_DATE, LAST_DATE, land
from pipelines.settings import Settings

os.environ.setdefault("NIGHTJAR_DEMO", "true")  # the pseudonym key that everybody knows


class Deliver(Protocol):
    def __call__(self, name: str, day: date, rows: Sequence[Mapping[str, Any]] | pa.Table, **facts: Any) -> Path: ...


class ReadTable(Protocol):
    def __call__(self, settings: Settings, table: str, day: date | None = None) -> pa.Table: ...


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose home is empty and the test's own."""
    return Settings(home=tmp_path / "var")


@pytest.fixture(scope="session")
def year(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a home with the real year, landed and ingested; only for reading."""
    settings = Settings(home=tmp_path_factory.mktemp("year"))
    land(settings, FIRST_DATE, LAST_DATE)
    ingest(settings, FIRST_DATE, LAST_DATE, "year")
    return settings


@pytest.fixture
def deliver(settings: Settings) -> Deliver:
    """Delivers a drop: a file of the rows, and the manifest that it deserves except for the given facts."""

    def deliver(name: str, day: date, rows: Sequence[Mapping[str, Any]] | pa.Table, **facts: Any) -> Path:
        contract = DROPS[name]
        folder = settings.landing.folder / drop_name(contract, day)
        folder.mkdir(parents=True, exist_ok=True)
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), contract.schema)
        file = folder / "part-0.parquet"
        pq.write_table(table, file)
        content = file.read_bytes()
        entry = DeliveredFile(
            name=file.name,
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
