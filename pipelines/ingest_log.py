"""What ops__ingest_log says became of each delivered file, and the one way to add to it."""

from datetime import date
from typing import Any

import sqlalchemy as sa

from pipelines import pseudonyms, tables, warehouse
from pipelines.contracts import CORE_TRANSACTIONS
from pipelines.drops import DeliveredFile, Drop
from pipelines.settings import Settings

COUNTS = ("rows_in", "rows_kept", "rows_quarantined", "rows_duplicate", "rows_erased", "rows_late", "rows_dropped")
Log = list[dict[str, Any]]
_AFTERTHOUGHTS = ("late", "replayed", "dropped", "erased")  # they add to what the date's last attempt says
_LASTING = ("late", "erased")  # they hold whatever the next attempt says


def current_log(settings: Settings, first: date, last: date, table: str = CORE_TRANSACTIONS.name) -> Log:
    """What the log says now of the files of these dates: the rows of each date's last attempt, and the lasting ones."""
    log = tables.INGEST_LOG
    newest = sa.func.max(log.c.attempt).over(partition_by=log.c.business_date).label("newest")
    between = sa.and_(log.c.table_name == table, log.c.business_date.between(first, last))
    rows = sa.select(log, newest).where(between).subquery()
    query = sa.select(rows).where(sa.or_(rows.c.attempt == rows.c.newest, rows.c.status.in_(_LASTING)))
    with warehouse.open_warehouse(settings) as connection:
        return warehouse.read_rows(connection, query)


def append_log(settings: Settings, rows: Log, run_id: str) -> Log:
    """Append to ops__ingest_log; a date's rows get the number of its next attempt, an afterthought that of its last."""
    log = tables.INGEST_LOG
    filled = []
    with warehouse.open_warehouse(settings) as connection:
        newest = sa.select(log.c.table_name, log.c.business_date, sa.func.max(log.c.attempt)).group_by(
            log.c.table_name, log.c.business_date
        )
        attempts = {(table, day): attempt for table, day, attempt in connection.execute(newest)}
        for row in rows:
            last = attempts.get((row["table_name"], row["business_date"]), 0)
            attempt = last if row["status"] in _AFTERTHOUGHTS else last + 1
            stamp = {"run_id": run_id, "attempt": attempt, "key_id": pseudonyms.key_id(settings)}
            filled.append({**dict.fromkeys(COUNTS, 0), "table_version": "none", **row, **stamp})
        warehouse.append_rows(connection, log, filled)
    return filled


def entry(drop: Drop, file: DeliveredFile | None, status: str) -> dict[str, Any]:
    """A row of the log for a file, or for a drop without files, that counts nothing yet."""
    return {
        "table_name": drop.contract.core_table.name,
        "business_date": drop.business_date,
        "status": status,
        "source_file": drop.name_of(file) if file else None,
        "source_sha256": file.sha256 if file else None,
        "rows_delivered": file.rows if file else 0,
        **dict.fromkeys(COUNTS, 0),
    }


def counts_by_file(log: Log) -> dict[tuple[date, str | None, str | None], tuple[int, ...]]:
    """Sums of COUNTS per date, file and its hash; lasting rows count for nothing."""
    sums: dict[tuple[date, str | None, str | None], tuple[int, ...]] = {}
    for row in log:
        if row["status"] not in _LASTING:
            key = (row["business_date"], row["source_file"], row["source_sha256"])
            before = sums.get(key, (0,) * len(COUNTS))
            sums[key] = tuple(old + row[name] for old, name in zip(before, COUNTS, strict=True))
    return sums
