"""The lake: Delta tables and Parquet snapshots, each replaced one partition at a time."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import deltalake
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from pipelines.contracts import TableContract
from pipelines.crash_points import crash_point
from pipelines.errors import EngineFailure, MissingPartition, SnapshotRefused
from pipelines.scratch import Rows, ScratchRows
from pipelines.storage import Location, sql_list, sql_text

_BATCH_ROWS = 250_000  # the Delta writer does not keep the order of several batches; nothing rests on it
_HASH_KEY = b"nightjar.content_hash"
_CONFIGURATION = {
    "delta.dataSkippingNumIndexedCols": "0",  # the log keeps them for ever, and the least household_id names somebody
    "delta.deletedFileRetentionDuration": "interval 1100 days",  # the janitor alone decides
    "delta.logRetentionDuration": "interval 1100 days",
}


@dataclass(frozen=True)
class Written:
    """What a write left: the table's version (Delta number or content hash) and its rows."""

    table: str
    version: str
    rows: int


def content_hash(rows: Rows) -> str:
    """SHA-256 of the rows, in their order; equal content has an equal hash, whatever its chunks and its engine."""
    digest = hashlib.sha256()
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        # What a buffer holds under a null, or behind the last bit, is anything: hash neither.
        for part in (column.drop_null(), column.is_valid()) if column.null_count else (column,):
            values = pa.table({name: part.cast(pa.uint8()) if part.type == pa.bool_() else part}).combine_chunks()
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, values.schema) as writer:
                writer.write_table(values)
            digest.update(sink.getvalue())
    return digest.hexdigest()


def replace_dates(
    lake: Location, table: str, rows: pa.Table, *, first: date, last: date, partition: str = "business_date"
) -> Written:
    """Put `rows` in place of every partition of a Delta table from `first` to `last`, in one commit."""
    replace_where(lake, table, rows, predicate=between(partition, first, last), partition_by=[partition])
    return Written(table, version_of(lake, table), rows.num_rows)


def replace_where(
    lake: Location, table: str, rows: Rows | pa.RecordBatchReader, *, predicate: str, partition_by: Sequence[str]
) -> None:
    """Put `rows` in place of those that the predicate on partition columns selects, in one commit."""
    with _committing(lake, table):
        if not lake.is_remote:
            Path(lake.uri_of(table)).mkdir(parents=True, exist_ok=True)
        deltalake.write_deltalake(
            lake.uri_of(table),
            rows.to_reader() if isinstance(rows, ScratchRows) else rows,
            mode="overwrite",
            predicate=predicate,
            partition_by=list(partition_by),
            storage_options=lake.storage_options,
            configuration=_CONFIGURATION,
        )
        crash_point("lake.after_commit")


def replace_changed(
    connection: duckdb.DuckDBPyConnection,
    lake: Location,
    table: TableContract,
    relation: str,
    dates: tuple[date, date],
) -> set[date]:
    """Put a relation's rows of these dates in place of the partitions that differ; gives the dates that did.

    The rows are compared as a multiset, by their hashes, and streamed where they are many.
    """
    columns, day = ", ".join(table.schema.names), table.partition
    digest = f"SELECT {day}, count(*), sum(hash({columns})) FROM {{}} WHERE {between(day, *dates)} GROUP BY ALL"
    found = set(connection.sql(digest.format(relation)).fetchall())
    old = files_of(lake, table.name, first=dates[0], last=dates[1], partition=day)
    if old:
        stored = f"read_parquet({sql_list(old)}, hive_partitioning = true, hive_types = {{'{day}': DATE}})"
        found ^= set(connection.sql(digest.format(stored)).fetchall())
    changed = {row[0] for row in found}
    if changed or open_table(lake, table.name) is None:
        listed = ", ".join(f"'{value}'" for value in sorted(changed))
        chosen = f"{day} IN ({listed or 'NULL'})"
        rows = connection.sql(
            f"SELECT {columns} FROM {relation} WHERE {chosen} ORDER BY {day}, {', '.join(table.key)}"
        ).to_arrow_reader(_BATCH_ROWS)
        replace_where(lake, table.name, rows.cast(table.schema), predicate=chosen, partition_by=[day])
    return changed


def open_table(lake: Location, table: str, version: int | None = None) -> deltalake.DeltaTable | None:
    """A Delta table, at an earlier version where one is asked for; none before its first write."""
    with _committing(lake, table):
        try:
            return deltalake.DeltaTable(lake.uri_of(table), version=version, storage_options=lake.storage_options)
        except TableNotFoundError:
            return None


def version_of(lake: Location, table: str) -> str:
    """The Delta version of a table; `none` before its first write."""
    delta = open_table(lake, table)
    return "none" if delta is None else str(delta.version())


def between(partition: str, first: date, last: date) -> str:
    """Predicate on a partition column: its dates from `first` to `last`, both included."""
    return f"{partition} >= '{first}' AND {partition} <= '{last}'"


def files_of(
    lake: Location,
    table: str,
    *,
    first: date | None = None,
    last: date | None = None,
    partition: str = "business_date",
    version: int | None = None,
) -> list[str]:
    """Paths of a Delta table's files whose partition lies between the dates; empty when it has none."""
    return files_where(lake, table, between(partition, first or date.min, last or date.max), version)


def files_where(lake: Location, table: str, predicate: str, version: int | None = None) -> list[str]:
    """Paths of a Delta table's files that a predicate on partition columns selects; empty when there are none."""
    names = state_of(lake, table, predicate, version)[1]
    return [str(lake.fetch(f"{table}/{name}", is_immutable=True)) for name in names]


def scored_by(as_of: date, model_version: str) -> str:
    """The predicate that selects what a model version (or rule) scored as of a date."""
    return f"as_of = '{as_of}' AND model_version = {sql_text(model_version)}"


def state_of(lake: Location, table: str, predicate: str, version: int | None = None) -> tuple[int | None, list[str]]:
    """Version of a Delta table, and names within it of the files that a predicate on partition columns selects.

    Before its first write, none and no files. No write ever uses a name again.
    """
    delta = open_table(lake, table, version)
    if delta is None:
        return None, []
    # A URI has the table's folder percent-encoded, the rest as it is called on disk.
    inside = (uri.rsplit(f"/{table}/", 1)[1] for uri in delta.file_uris(file_pruning_predicate=predicate))
    return int(delta.version()), sorted(inside)


def dates_of(lake: Location, table: str, partition: str = "business_date") -> list[date]:
    """The dates of a Delta table's partitions, ascending."""
    delta = open_table(lake, table)
    if delta is None:
        return []
    return sorted({date.fromisoformat(values[partition]) for values in delta.partitions()})


def tables(lake: Location) -> list[str]:
    """Names of the Delta tables, sorted."""
    return sorted({name.partition("/")[0] for name in lake.names() if "/_delta_log/" in name})


def drop_before(lake: Location, table: str, partition: str, first_kept: date) -> int:
    """Take the partitions of dates before `first_kept` out of a Delta table; gives the number of their rows."""
    if not any(day < first_kept for day in dates_of(lake, table, partition)):
        return 0
    delta = open_table(lake, table)
    with _committing(lake, table):
        return int(delta.delete(f"{partition} < '{first_kept}'")["num_deleted_rows"]) if delta else 0


def vacuum(lake: Location, table: str, hours: int, *, only_orphans: bool = False) -> int:
    """Delete the files that left a Delta table so many hours ago, and as old ones that it never had; their number.

    Versions that need the former cannot be read any more; the latter are orphans, of writers that were killed. The
    hours are those of the storage's own clock.
    """
    delta = open_table(lake, table)
    if delta is None:
        return 0
    look = partial(delta.vacuum, enforce_retention_duration=False)
    with _committing(lake, table):
        found = set(look(hours, dry_run=True, full=True))
        if found and not only_orphans:
            look(hours, dry_run=False, full=True)
        elif found:
            found -= set(look(0, dry_run=True, full=False))  # what left the table
            for name in found:
                lake.delete(f"{table}/{name}")
    return len(found)


def snapshot_name(table: str, as_of: date) -> str:
    """Name of one Parquet snapshot within the lake."""
    return f"{table}/as_of={as_of}/part-0.parquet"


def replace_snapshot(lake: Location, table: str, rows: Rows, as_of: date) -> Written:
    """Put `rows` in place of the Parquet snapshot of `as_of`; readers see the old file or the new one, whole."""
    version = content_hash(rows)
    schema = rows.schema.with_metadata({_HASH_KEY: version.encode()})
    with TemporaryDirectory(dir=None if isinstance(rows, pa.Table) else rows.folder) as scratch:
        file = Path(scratch) / "part-0.parquet"
        if isinstance(rows, pa.Table):
            pq.write_table(rows.replace_schema_metadata(schema.metadata), file)
        else:
            with pq.ParquetWriter(file, schema) as writer:
                for batch in rows.to_batches():
                    writer.write_batch(batch)
        lake.upload(file, snapshot_name(table, as_of))
        crash_point("lake.after_snapshot")
    return Written(table, version, rows.num_rows)


def require_snapshot(lake: Location, table: str, as_of: date) -> tuple[Path, str]:
    """File and content hash of a Parquet snapshot.

    Raises:
        MissingPartition: it was never written.
        SnapshotRefused: it was not written here.
    """
    name = snapshot_name(table, as_of)
    try:
        path = lake.fetch(name)
    except FileNotFoundError as error:
        raise MissingPartition(
            "the feature snapshot does not exist",
            where=f"{table}, as_of={as_of}",
            expected=lake.uri_of(name),
            found="no file",
            remedy=f"nightjar features --date {as_of}",
        ) from error
    metadata = pq.read_schema(path).metadata or {}
    if _HASH_KEY not in metadata:
        raise SnapshotRefused(
            "the file in the snapshot's place has no mark of its content",
            where=f"{table}, as_of={as_of}",
            expected="a file that the feature step wrote",
            found=path,
            remedy=f"find out who put it there, remove it, then nightjar features --date {as_of}",
        )
    return path, metadata[_HASH_KEY].decode()


@contextmanager
def _committing(lake: Location, table: str) -> Iterator[None]:
    try:
        yield
    except CommitFailedError as error:
        raise EngineFailure(
            "another run changed the same rows meanwhile; the table holds what it wrote",
            where=lake.uri_of(table),
            found=str(error).splitlines()[0],
            remedy="run the step again",
        ) from error
    except (DeltaError, OSError) as error:
        if lake.is_remote and isinstance(error, OSError):
            raise lake.failure(table, error) from error
        raise EngineFailure(
            "the table cannot be read or written; its last version stands",
            where=lake.uri_of(table),
            found=str(error).splitlines()[0],
            remedy="free space or restore the storage if that is what failed; then run the step again",
        ) from error
