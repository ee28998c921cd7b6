"""The lake: Delta tables and Parquet snapshots, each replaced one partition at a time."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import TableNotFoundError

from pipelines.errors import MissingPartition

_HASH_KEY = b"nightjar.content_hash"


@dataclass(frozen=True)
class Written:
    """What a write left: the table's version (Delta number or content hash) and its rows."""

    table: str
    version: str
    rows: int


def content_hash(rows: pa.Table) -> str:
    """SHA-256 of the rows, in their order; equal content has an equal hash, whatever its chunks."""
    digest = hashlib.sha256()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema.remove_metadata()) as writer:
        writer.write_table(rows.replace_schema_metadata(None).combine_chunks())
    digest.update(sink.getvalue())
    return digest.hexdigest()


def replace_dates(
    lake: Path, table: str, rows: pa.Table, *, first: date, last: date, partition: str = "business_date"
) -> Written:
    """Put `rows` in place of every partition of a Delta table from `first` to `last`, in one commit."""
    return replace_where(lake, table, rows, predicate=between(partition, first, last), partition_by=[partition])


def replace_where(lake: Path, table: str, rows: pa.Table, *, predicate: str, partition_by: Sequence[str]) -> Written:
    """Put `rows` in place of those that the predicate on partition columns selects, in one commit."""
    uri = lake / table
    if deltalake.DeltaTable.is_deltatable(str(uri)):
        deltalake.write_deltalake(str(uri), rows, mode="overwrite", predicate=predicate)
    else:
        uri.parent.mkdir(parents=True, exist_ok=True)
        deltalake.write_deltalake(str(uri), rows, mode="overwrite", partition_by=list(partition_by))
    return Written(table, version_of(lake, table), rows.num_rows)


def version_of(lake: Path, table: str) -> str:
    """The Delta version of a table; `none` before its first write."""
    try:
        return str(deltalake.DeltaTable(str(lake / table)).version())
    except TableNotFoundError:
        return "none"


def between(partition: str, first: date, last: date) -> str:
    """Predicate on a partition column: its dates from `first` to `last`, both included."""
    return f"{partition} >= '{first}' AND {partition} <= '{last}'"


def files_of(
    lake: Path,
    table: str,
    *,
    first: date | None = None,
    last: date | None = None,
    partition: str = "business_date",
) -> list[str]:
    """Paths of a Delta table's files whose partition lies between the dates; empty when it has none."""
    return files_where(lake, table, between(partition, first or date.min, last or date.max))


def files_where(lake: Path, table: str, predicate: str) -> list[str]:
    """Paths of a Delta table's files that a predicate on partition columns selects; empty when there are none."""
    try:
        delta = deltalake.DeltaTable(str(lake / table))
    except TableNotFoundError:
        return []
    # A URI has the table's folder percent-encoded, the rest as it is called on disk.
    inside = (uri.rsplit(f"/{table}/", 1)[1] for uri in delta.file_uris(file_pruning_predicate=predicate))
    return sorted(str(lake / table / path) for path in inside)


def dates_of(lake: Path, table: str, partition: str = "business_date") -> list[date]:
    """The dates of a Delta table's partitions, ascending."""
    try:
        delta = deltalake.DeltaTable(str(lake / table))
    except TableNotFoundError:
        return []
    return sorted({date.fromisoformat(values[partition]) for values in delta.partitions()})


def snapshot_path(lake: Path, table: str, as_of: date) -> Path:
    """File of one Parquet snapshot."""
    return lake / table / f"as_of={as_of}" / "part-0.parquet"


def replace_snapshot(lake: Path, table: str, rows: pa.Table, as_of: date) -> Written:
    """Put `rows` in place of the Parquet snapshot of `as_of`; readers see the old file or the new one, whole."""
    path = snapshot_path(lake, table, as_of)
    path.parent.mkdir(parents=True, exist_ok=True)
    version = content_hash(rows)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(rows.replace_schema_metadata({_HASH_KEY: version.encode()}), unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return Written(table, version, rows.num_rows)


def require_snapshot(lake: Path, table: str, as_of: date) -> tuple[Path, str]:
    """File and content hash of a Parquet snapshot.

    Raises:
        MissingPartition: it was never written.
    """
    path = snapshot_path(lake, table, as_of)
    if not path.exists():
        raise MissingPartition(
            "the feature snapshot does not exist",
            where=f"{table}, as_of={as_of}",
            expected=path,
            found="no file",
            remedy=f"nightjar features --date {as_of}",
        )
    metadata = pq.read_schema(path).metadata or {}
    return path, metadata[_HASH_KEY].decode()
