"""Ingest: checks the drops of some business dates and replaces those partitions of the core tables."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import drops, lake, transactions, warehouse
from pipelines.checks import Check, require
from pipelines.contracts import (
    CORE_TRANSACTIONS,
    DROPS,
    QUARANTINE_TRANSACTIONS,
    REFERENCE_DROPS,
    TRANSACTIONS_DROP,
    DropContract,
    TableContract,
)
from pipelines.drops import Drop
from pipelines.engine import open_engine
from pipelines.errors import EngineFailure
from pipelines.settings import Settings
from pipelines.steps import measured

Deliveries = Mapping[str, Sequence[Drop]]


@dataclass(frozen=True)
class IngestReport:
    """What became of the transactions of the dates; `table_version` is that of core__transactions."""

    first: date
    last: date
    days: int
    rows_in: int
    rows_kept: int
    rows_quarantined: int
    table_version: str


@dataclass(frozen=True)
class _Load:
    """The checked rows of one table and range of dates, and the drops that they come from."""

    contract: TableContract
    delivered: Sequence[Drop]
    rows: pa.Table
    quarantined: pa.Table = field(default_factory=QUARANTINE_TRANSACTIONS.schema.empty_table)


def ingest(settings: Settings, first: date, last: date, run_id: str) -> IngestReport:
    """Replace the partitions from `first` to `last` by what was delivered for them.

    All files of the range are checked before anything is written, the rows of a chunk of days before that is.

    Raises:
        DateOutsideData: `first` is later than `last`.
        MissingDrop, MissingManifest, WrongManifest, EmptyDay: a delivery is not as agreed.
        UnreadableFile, MissingColumn, WrongType: a delivered file is not.
        ChecksFailed: the rows of a day, or the keys of a reference table, are not plausible.
    """
    days = drops.days_between(first, last)
    warehouse.create_tables(settings, [])
    with measured(settings, "ingest", f"{first}..{last}" if first != last else f"{first}", run_id) as cost:
        deliveries = _check_deliveries(settings, first, last)
        lines = []
        for start in range(0, len(days), settings.ingest_chunk_days):
            chunk = days[start : start + settings.ingest_chunk_days]
            loads = _load_chunk(settings, deliveries, chunk[0], chunk[-1])
            _write_chunk(settings, loads, chunk[0], chunk[-1], run_id)
            lines.append((loads[-1].rows.num_rows, loads[-1].quarantined.num_rows))
        kept, quarantined = (sum(counts) for counts in zip(*lines, strict=True))
        cost.rows = kept
    version = lake.version_of(settings.lake, CORE_TRANSACTIONS.name)
    return IngestReport(first, last, len(days), kept + quarantined, kept, quarantined, version)


def _check_deliveries(settings: Settings, first: date, last: date) -> Deliveries:
    """The drops of each contract from `first` to `last`, all files checked."""
    found = {name: drops.find_drops(settings.landing, contract, first, last) for name, contract in DROPS.items()}
    for contract_drops in found.values():
        for drop in contract_drops:
            drops.check_files(drop)
    return found


def _load_chunk(settings: Settings, deliveries: Deliveries, first: date, last: date) -> list[_Load]:
    """The checked rows of a range, the transactions last: what they refer to is written before them."""
    chosen = {
        name: [drop for drop in found if first <= drop.business_date <= last] for name, found in deliveries.items()
    }
    products = drops.newest_drop(settings.landing, DROPS["products"], first)
    drops.check_files(products)
    known = [products, *(drop for drop in chosen["products"] if drop.business_date > first)]
    read = [drop for found in chosen.values() for drop in found]
    with open_engine(settings) as connection, _reading(read + known):
        loads = [_load_reference(connection, contract, chosen[contract.name]) for contract in REFERENCE_DROPS]
        delivered = chosen[TRANSACTIONS_DROP.name]
        lines = transactions.sort_out(connection, settings, delivered, known)
    loads.append(_Load(CORE_TRANSACTIONS, delivered, lines.kept, lines.quarantined))
    return loads


@contextmanager
def _reading(delivered: Sequence[Drop]) -> Iterator[None]:
    """Tells a damaged file, whose hash its sender took after the damage, from a failure of the engine."""
    try:
        yield
    except duckdb.Error as error:
        drops.check_content(delivered)
        raise EngineFailure(
            "DuckDB failed on files that can be read",
            where=f"{len(delivered)} drops",
            found=str(error).splitlines()[0],
            remedy="run again; if memory is short, raise NIGHTJAR_DUCKDB_MEMORY_LIMIT_MIB "
            "or lower NIGHTJAR_INGEST_CHUNK_DAYS",
        ) from error


def _load_reference(connection: duckdb.DuckDBPyConnection, contract: DropContract, delivered: Sequence[Drop]) -> _Load:
    table = contract.core_table
    paths = [str(path) for drop in delivered for path in drop.paths]
    if not paths:
        return _Load(table, delivered, table.schema.empty_table())
    columns = ", ".join(f'"{name}"' for name in contract.schema.names)
    rows = connection.sql(
        f"SELECT DISTINCT date AS business_date, {columns} FROM read_parquet($paths, union_by_name = true, "
        "hive_partitioning = true, hive_types = {'date': DATE}) "
        f"ORDER BY business_date, {', '.join(table.key)}",
        params={"paths": paths},
    ).to_arrow_table()
    rows = rows.select(table.schema.names).cast(table.schema)
    days = f"business_date {delivered[0].business_date} to {delivered[-1].business_date}"
    require(_check_key(table, rows), where=f"{table.name}, {days}", remedy="have the files delivered again")
    return _Load(table, delivered, rows)


def _check_key(table: TableContract, rows: pa.Table) -> list[Check]:
    """Whether the key of rows that are sorted by it is given and unique within each partition."""
    key = (table.partition, *table.key)
    nulls = sum(rows[name].null_count for name in key)
    repeated = pa.chunked_array([pa.repeat(True, max(rows.num_rows - 1, 0))])
    for name in key:
        column = rows[name].combine_chunks()
        repeated = pc.and_kleene(repeated, pc.equal(column[1:], column[:-1]))
    count = pc.sum(repeated).as_py() or 0
    named = f"({', '.join(table.key)})"
    return [
        Check("key_given", nulls == 0, f"{nulls} nulls", f"no null in {named}"),
        Check("key_unique", count == 0, f"{count} repeated", f"{named} once in each partition"),
    ]


def _write_chunk(settings: Settings, loads: Sequence[_Load], first: date, last: date, run_id: str) -> None:
    log = []
    for load in loads:
        if load.contract == CORE_TRANSACTIONS:
            _replace(settings, QUARANTINE_TRANSACTIONS, load.quarantined, first, last)
        version = _replace(settings, load.contract, load.rows, first, last)
        log += _log_rows(load, version, run_id)
    with warehouse.open_warehouse(settings) as connection:
        warehouse.append_rows(connection, warehouse.INGEST_LOG, log)


def _replace(settings: Settings, table: TableContract, rows: pa.Table, first: date, last: date) -> str:
    """Version of the table with the rows in place; it stays as it is where there was and is nothing."""
    version = lake.version_of(settings.lake, table.name)
    if (
        rows.num_rows == 0
        and version != "none"
        and not lake.files_of(settings.lake, table.name, first=first, last=last)
    ):
        return version
    # One chunk, because the Delta writer does not keep the order of several.
    return lake.replace_dates(
        settings.lake, table.name, rows.combine_chunks(), first=first, last=last, partition=table.partition
    ).version


def _log_rows(load: _Load, version: str, run_id: str) -> list[dict[str, object]]:
    kept, quarantined = _rows_by_date(load.rows), _rows_by_date(load.quarantined)
    return [
        {
            "run_id": run_id,
            "table_name": load.contract.name,
            "business_date": drop.business_date,
            "rows_in": drop.rows,
            "rows_kept": kept[drop.business_date],
            "rows_quarantined": quarantined[drop.business_date],
            "rows_duplicate": drop.rows - kept[drop.business_date] - quarantined[drop.business_date],
            "table_version": version,
            "source_sha256": drop.sha256,
        }
        for drop in load.delivered
    ]


def _rows_by_date(rows: pa.Table) -> Counter[date]:
    counts = rows["business_date"].value_counts().to_pylist()
    return Counter({count["values"]: count["counts"] for count in counts})
