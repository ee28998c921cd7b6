"""The warehouse that analysts read: how it is reached, and the one way to replace a slice of a table."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from pyarrow import csv
from sqlalchemy import Column, Table
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from pipelines.crash_points import crash_point
from pipelines.errors import EngineFailure, OutdatedSchema, WarehouseDown
from pipelines.settings import Settings
from pipelines.use_case import UseCase

Row = Mapping[str, Any]
_CHUNK, _AT_ONCE = 50_000, 100  # rows that a bulk load holds in another form, and that SQLite gets with a statement
# What PostgreSQL and SQLite say where a column or a table is missing.
_MISSING, _LACKS = ("42703", "42P01"), re.compile("no such (column|table)|table .* has no column")


@contextmanager
def open_warehouse(settings: Settings, *, only_reads: bool = False, is_kept: bool = False) -> Iterator[sa.Connection]:
    """A connection inside one transaction: committed at the end, rolled back on any error.

    One that only reads sees everything as of its first statement, and keeps no writer waiting. One that is kept stays
    open for the next caller: for servers, where connecting takes longer than asking.

    Raises:
        OutdatedSchema: a table or column is missing that an upgrade brings.
        WarehouseDown: the database cannot be reached.
        EngineFailure: it refuses a statement.
    """
    engine = _engine(
        settings.warehouse, settings.warehouse_lock_timeout_s, settings.warehouse_statement_timeout_s, is_kept
    )
    if only_reads:
        level = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
        engine = engine.execution_options(only_reads=True, postgresql_readonly=True, **level)
    try:
        with _connect(engine, settings.warehouse_patience_s) as connection, connection.begin():
            yield connection
            crash_point("warehouse.before_commit")
        crash_point("warehouse.after_commit")
    except (sa.exc.DBAPIError, engine.dialect.loaded_dbapi.Error) as error:
        said, refused = getattr(error, "statement", None), getattr(error, "orig", None) or error
        if getattr(refused, "sqlstate", "") in _MISSING or _LACKS.match(str(refused)):
            raise OutdatedSchema(
                "the warehouse lacks a table or column: its schema is older than the code",
                where=engine.url.render_as_string(hide_password=True),
                found=refused,
                remedy="nightjar warehouse upgrade",
            ) from error
        raise (WarehouseDown if _is_down(refused, engine) else EngineFailure)(
            "the warehouse refused or lost a statement; nothing of the transaction remains",
            where=engine.url.render_as_string(hide_password=True)
            + (f": {' '.join(said.split())[:120]}" if said else ""),
            found=refused,
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


def replace_rows(connection: sa.Connection, table: Table, rows: Sequence[Row] | pa.Table, **slice_: object) -> int:
    """Put `rows` in place of those whose columns equal `slice_`; the caller's transaction makes it atomic."""
    connection.execute(sa.delete(table).where(*(table.c[name] == value for name, value in slice_.items())))
    return append_rows(connection, table, rows)


def append_rows(connection: sa.Connection, table: Table, rows: Sequence[Row] | pa.Table) -> int:
    """Add the rows; gives their number."""
    if not isinstance(rows, Sequence):
        return load_rows(connection, table, rows)
    if rows:
        make_room(connection, table, *{row["score_date"] for row in rows if "score_date" in row})
        connection.execute(sa.insert(table), list(rows))
    return len(rows)


def load_rows(connection: sa.Connection, table: Table, rows: pa.Table) -> int:
    """Add many rows at once, in the caller's transaction; gives their number.

    Their columns are named as the table's; a column that is not among them gets what the database gives it.
    """
    if "score_date" in rows.column_names:
        make_room(connection, table, *rows.column("score_date").unique().to_pylist())
    driver: Any = connection.connection.driver_connection
    columns = ", ".join(map(connection.dialect.identifier_preparer.quote, rows.column_names))
    if connection.dialect.name == "postgresql":
        statement = f"COPY {table.name} ({columns}) FROM STDIN (FORMAT csv)"
        try:
            with driver.cursor().copy(statement) as copy:
                for batch in rows.to_batches(_CHUNK):
                    copy.write(_as_csv(batch))
        except connection.dialect.loaded_dbapi.Error as error:
            raise sa.exc.DBAPIError(statement, None, error) from error
    else:
        _insert(driver, f"INSERT INTO {table.name} ({columns}) VALUES ", rows)
    return int(rows.num_rows)


def make_room(connection: sa.Connection, table: Table, *days: date) -> None:
    """Create the months of these days where the table is kept by month and has them not yet."""
    if table.dialect_options["postgresql"]["partition_by"] and connection.dialect.name == "postgresql":
        for month in sorted({day.replace(day=1) for day in days}):
            connection.execute(sa.select(sa.func.make_partition(table.name, month)))


def arrow_schema(rows: Table | sa.Select[Any]) -> pa.Schema:
    """The columns of a table or of a query as Arrow has them."""
    columns = rows.columns if isinstance(rows, Table) else rows.selected_columns
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
        for column in columns
    )


def read_batches(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[pa.RecordBatch]:
    """The query's rows by column, so many at a time that memory does not grow with them."""
    schema = arrow_schema(query)
    for part in connection.execute(query.execution_options(yield_per=_CHUNK)).partitions():
        columns = zip(*part, strict=True)
        yield pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def read_table(connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
    """All of the query's rows by column."""
    return pa.Table.from_batches(read_batches(connection, query), arrow_schema(query))


def read_rows(connection: sa.Connection, query: sa.Select[Any]) -> list[dict[str, Any]]:
    """The query's rows as dictionaries."""
    return [dict(row) for row in connection.execute(query).mappings()]


def tables_with(connection: sa.Connection, column: Column[Any]) -> Iterator[sa.TableClause]:
    """Every table, of present and former use cases, that has a column of that name; those of logs are left out."""
    inspector = sa.inspect(connection)
    for name in inspector.get_table_names():
        if not name.startswith("ops__") and column.name in {known["name"] for known in inspector.get_columns(name)}:
            yield sa.table(name, sa.column(column.name, column.type))


def _as_csv(batch: pa.RecordBatch) -> bytes:
    """Nulls are empty, texts are in quotation marks: the empty text is not a null."""
    sink = pa.BufferOutputStream()
    csv.write_csv(batch, sink, csv.WriteOptions(include_header=False))
    return bytes(sink.getvalue())


def _insert(driver: Any, statement: str, rows: pa.Table) -> None:
    """Add the rows to SQLite, many with each statement; dates become texts."""
    dates = (pa.types.is_date, pa.types.is_timestamp)
    told = pa.schema(
        pa.field(one.name, pa.string() if any(is_kind(one.type) for is_kind in dates) else one.type)
        for one in rows.schema
    )
    one_row = f"({', '.join('?' * rows.num_columns)})"
    for batch in rows.cast(told).to_batches(_CHUNK):
        found = np.empty((batch.num_rows, batch.num_columns), dtype=object)
        for number, column in enumerate(batch.columns):
            found[:, number] = column.to_pylist()
        whole = len(found) - len(found) % _AT_ONCE
        groups = found[:whole].reshape(whole // _AT_ONCE, _AT_ONCE * rows.num_columns)
        driver.executemany(statement + ", ".join([one_row] * _AT_ONCE), groups.tolist())
        driver.executemany(statement + one_row, found[whole:].tolist())


def _connect(engine: sa.Engine, patience_s: float) -> sa.Connection:
    """A connection; a server that is away or starting is asked again, at growing and uneven intervals."""
    tried = Retrying(
        retry=retry_if_exception(_may_come_back),
        stop=stop_after_delay(patience_s),
        wait=wait_exponential_jitter(initial=0.2, max=5),
        reraise=True,
    )
    return tried(engine.connect)


def _is_down(refused: Any, engine: sa.Engine) -> bool:
    """Whether the database is not there, rather than there and unwilling."""
    errors = engine.dialect.loaded_dbapi
    state = getattr(refused, "sqlstate", None) or "08"  # 08: of the connection; 57P: the server stops or starts
    return isinstance(refused, errors.OperationalError | errors.InterfaceError) and state.startswith(("08", "57P"))


def _may_come_back(error: BaseException) -> bool:
    """Whether no server answered, or one that starts or stops; not where it knows no such user or database."""
    is_of_server = isinstance(error, sa.exc.OperationalError) and hasattr(error.orig, "sqlstate")
    return is_of_server and ("FATAL" not in str(error) or "the database system is" in str(error))


@cache
def _engine(url: str, lock_timeout_s: float, statement_timeout_s: float, is_kept: bool) -> sa.Engine:
    place = sa.make_url(url)
    kept: dict[str, Any] = {"poolclass": sa.QueuePool, "pool_size": 8, "max_overflow": -1, "pool_pre_ping": True}
    pool = kept if is_kept else {"poolclass": sa.NullPool}
    if place.get_backend_name() == "postgresql":
        limits = {"lock_timeout": lock_timeout_s, "statement_timeout": statement_timeout_s}
        told = " ".join(f"-c {name}={int(1000 * seconds)}" for name, seconds in limits.items())
        return sa.create_engine(place, connect_args={"options": told, "connect_timeout": 10}, **pool)
    engine = sa.create_engine(place, connect_args={"timeout": lock_timeout_s}, **pool)
    if place.database:
        Path(place.database).parent.mkdir(parents=True, exist_ok=True)
        sa.event.listen(engine, "checkout", partial(_require_same_file, place.database))
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _require_same_file(path: str, _connection: object, record: Any, _proxy: object) -> None:
    """Nothing, unless another file has come into the place of the one that was opened, or none: then open it anew."""
    try:
        now = Path(path).stat().st_ino
    except FileNotFoundError:
        now = 0
    if record.info.setdefault("file", now) != now:
        raise sa.exc.DisconnectionError


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's documented recipe: we say BEGIN ourselves
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA cache_size = -65536")  # KiB: a night's rows and indexes


def _begin_sqlite(connection: sa.Connection) -> None:
    only_reads = connection.get_execution_options().get("only_reads")
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")
