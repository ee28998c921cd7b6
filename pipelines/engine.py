"""DuckDB over the lake, bounded in memory, showing no row later than a given date."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from types import MappingProxyType

import duckdb
import pyarrow as pa

from pipelines import lake
from pipelines.contracts import CORE_TABLES, TableContract
from pipelines.errors import EngineFailure, MissingPartition
from pipelines.settings import PREFIX, Settings
from pipelines.storage import sql_list

Versions = Mapping[str, int | None]
Only = tuple[str, str]  # a column, and a condition on it
NEWEST: Versions = MappingProxyType({})
_SQL_TYPES = {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.date32(): "DATE"}


@contextmanager
def open_engine(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB that keeps to the settings' memory and threads and reads instants as UTC.

    Raises:
        EngineFailure: a statement needs more than that memory, though it spills to disk.
    """
    scratch = settings.home / "scratch"
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{settings.duckdb_memory_limit_mib}MiB",
        "threads": settings.threads,
        "temp_directory": str(scratch),
        "TimeZone": "UTC",
        "autoinstall_known_extensions": False,
    }
    with duckdb.connect(config=config) as connection:
        try:
            yield connection
        except duckdb.OutOfMemoryException as error:
            raise EngineFailure(
                "DuckDB needs more memory than it may use",
                where=f"{PREFIX}DUCKDB_MEMORY_LIMIT_MIB={settings.duckdb_memory_limit_mib}",
                found=str(error).partition("\n")[0],
                remedy="raise that limit; what cannot be spilled to disk grows with the entities",
            ) from error


@contextmanager
def open_core(
    settings: Settings, *, up_to: date, versions: Versions = NEWEST, only: Only | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The core tables as views that hold what was known at the end of `up_to`, and nothing later.

    A table in `versions` is read as of that Delta version; none stands for the time before its first write. `only`
    names a column, and a condition on it that the rows of all tables fulfil that have the column.

    Raises:
        MissingPartition: core__transactions has no partition up to that date.
    """
    with open_engine(settings) as connection:
        show_core(settings, connection, up_to=up_to, versions=versions, only=only)
        yield connection


def show_core(
    settings: Settings,
    connection: duckdb.DuckDBPyConnection,
    *,
    up_to: date,
    versions: Versions = NEWEST,
    only: Only | None = None,
) -> None:
    """Put the core tables as `open_core` shows them into a connection.

    Raises:
        MissingPartition: core__transactions has no partition up to that date.
    """
    for table in CORE_TABLES.values():
        is_written = versions.get(table.name, 0) is not None
        version = versions.get(table.name)
        files = lake.files_of(settings.lake, table.name, last=up_to, version=version) if is_written else []
        column, condition = only or ("", "")
        chosen = condition if column in table.schema.names else "true"
        _create_view(connection, table, files, up_to, chosen)


def parameters(query: str, as_of: date) -> dict[str, date] | None:
    """`$as_of`, for the SQL of a use case that names it; DuckDB takes no parameter that is not named."""
    return {"as_of": as_of} if "$as_of" in query else None


def _create_view(
    connection: duckdb.DuckDBPyConnection, table: TableContract, files: Sequence[str], up_to: date, chosen: str
) -> None:
    if not files:
        if table.name == "core__transactions":
            raise MissingPartition(
                "there are no transactions up to the date",
                where=f"core__transactions, business_date <= {up_to}",
                remedy="nightjar ingest --from … --to …",
            )
        columns = ", ".join(f"NULL::{_SQL_TYPES[c.type]} AS {c.name}" for c in table.columns)
        connection.execute(f"CREATE VIEW {table.name} AS SELECT {columns} WHERE false")
        return
    rows = f"read_parquet({sql_list(files)}, hive_partitioning = true, hive_types = {{'business_date': DATE}})"
    newest = f"business_date = (SELECT max(business_date) FROM {rows})" if table.is_snapshot else "true"
    connection.execute(f"CREATE VIEW {table.name} AS SELECT * FROM {rows} WHERE {newest} AND ({chosen})")
