"""The warehouse that analysts read: how it is reached, and the one way to replace a slice of a table."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import Column, Table

from pipelines.crash_points import crash_point
from pipelines.errors import EngineFailure
from pipelines.settings import Settings
from pipelines.use_case import UseCase

Row = Mapping[str, Any]


@contextmanager
def open_warehouse(settings: Settings, *, only_reads: bool = False) -> Iterator[sa.Connection]:
    """A connection inside one transaction: committed at the end, rolled back on any error.

    One that only reads sees everything as of its first statement, and keeps no writer waiting.

    Raises:
        EngineFailure: the database cannot be reached or refuses a statement.
    """
    engine = _engine(settings.warehouse)
    if only_reads:
        level = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
        engine = engine.execution_options(only_reads=True, **level)
    try:
        with engine.begin() as connection:
            yield connection
            crash_point("warehouse.before_commit")
        crash_point("warehouse.after_commit")
    except sa.exc.DBAPIError as error:
        raise EngineFailure(
            "the warehouse refused or lost a statement; nothing of the transaction remains",
            where=engine.url.render_as_string(hide_password=True),
            found=error.orig,
            remedy="check that the database is reachable, not locked and not full; then run the step again",
        ) from error


def create_tables(settings: Settings, use_cases: Sequence[UseCase]) -> None:
    """Bring the schema to its newest form, and create the tables of these use cases where they are missing.

    Raises:
        UnknownRevision: the database is newer than the code.
    """
    from pipelines.schema import bring_to_head

    with open_warehouse(settings) as connection:
        bring_to_head(connection, use_cases)


def replace_rows(connection: sa.Connection, table: Table, rows: Sequence[Row], **slice_: object) -> int:
    """Put `rows` in place of those whose columns equal `slice_`; the caller's transaction makes it atomic."""
    connection.execute(sa.delete(table).where(*(table.c[name] == value for name, value in slice_.items())))
    return append_rows(connection, table, rows)


def append_rows(connection: sa.Connection, table: Table, rows: Sequence[Row]) -> int:
    """Add the rows; gives their number."""
    if rows:
        connection.execute(sa.insert(table), list(rows))
    return len(rows)


def load_rows(connection: sa.Connection, table: Table, rows: pa.Table) -> int:
    """Add many rows, whose columns are named as the table's; gives their number."""
    return append_rows(connection, table, rows.to_pylist())


def arrow_schema(table: Table) -> pa.Schema:
    """The table's columns as Arrow has them."""
    kinds: Mapping[type[Any], pa.DataType] = {
        sa.Date: pa.date32(),
        sa.DateTime: pa.timestamp("us", "UTC"),
        sa.BigInteger: pa.int64(),
        sa.Integer: pa.int32(),
        sa.Float: pa.float64(),
        sa.Boolean: pa.bool_(),
        sa.String: pa.string(),
    }
    return pa.schema(
        (column.name, next(kind for known, kind in kinds.items() if isinstance(column.type, known)))
        for column in table.columns
    )


def read_rows(connection: sa.Connection, query: sa.Select[Any]) -> list[dict[str, Any]]:
    """The query's rows as dictionaries."""
    return [dict(row) for row in connection.execute(query).mappings()]


def tables_with(connection: sa.Connection, column: Column[Any]) -> Iterator[sa.TableClause]:
    """Every table, of present and former use cases, that has a column of that name; those of logs are left out."""
    inspector = sa.inspect(connection)
    for name in inspector.get_table_names():
        if not name.startswith("ops__") and column.name in {known["name"] for known in inspector.get_columns(name)}:
            yield sa.table(name, sa.column(column.name, column.type))


@cache
def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    if engine.dialect.name == "sqlite":
        if engine.url.database:
            Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's documented recipe: we say BEGIN ourselves
    connection.execute("PRAGMA busy_timeout = 60000")
    connection.execute("PRAGMA journal_mode = WAL")


def _begin_sqlite(connection: sa.Connection) -> None:
    only_reads = connection.get_execution_options().get("only_reads")
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")
