"""The way back from quarantine: rows are looked at, judged again after a fix, or dropped for good."""

from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb
import pyarrow as pa

from pipelines import lake, tables, warehouse
from pipelines.contracts import CORE_TRANSACTIONS, QUARANTINE_TRANSACTIONS, TRANSACTIONS_DROP
from pipelines.crash_points import crash_point
from pipelines.drop_files import typed_columns
from pipelines.engine import open_core, open_engine
from pipelines.errors import NothingQuarantined
from pipelines.ingest import affected_dates
from pipelines.ingest_log import COUNTS, append_log, counts_by_file, current_log
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.storage import sql_list
from pipelines.transactions import KEPT, judge, register_withdrawn
from pipelines.use_cases import late_window_days

_COLUMNS, _IS_LOST = typed_columns(TRANSACTIONS_DROP)
_CORE = ", ".join(CORE_TRANSACTIONS.schema.names)
_CHOSEN = "FROM stored WHERE $rule IS NULL OR rule_id = $rule"
# The rows as ingest reads them from their files, but that the household is its pseudonym already.
_READ = f"""
CREATE TEMP TABLE read AS SELECT {_COLUMNS}, CASE WHEN {_IS_LOST} THEN row_json END AS unreadable, business_date,
    regexp_extract(source_file, 'date=([0-9-]+)/', 1)::DATE AS drop_date, source_file, source_line, raw_id,
    timezone($zone, timezone('UTC', TRY_CAST(transaction_timestamp AS TIMESTAMP)))::DATE AS local_date,
    false AS is_copy, is_dropped
FROM (SELECT * EXCLUDE (household_id), household_id::VARCHAR AS raw_id,
    {", ".join(f"row_json ->> '{name}' AS {name}" for name in TRANSACTIONS_DROP.schema.names)} FROM stored)"""
_KNOWN = {
    "pseudonyms": "SELECT DISTINCT household_id, household_id::VARCHAR AS raw_id FROM stored",
    "known_products": "SELECT DATE '{day}' AS known_date, * FROM core__products",
    "core": f"SELECT {_CORE} FROM core__transactions WHERE business_date = '{{day}}'",
}
_NEW = "FROM kept ANTI JOIN core USING (basket_id, product_id)"
_MOVED = f"""
CREATE TEMP TABLE moved AS SELECT source_file, source_line
FROM (FROM delivered ANTI JOIN failures ON failures.row_id = delivered.rowid) WHERE is_judged
AND (basket_id, product_id) IN (SELECT (basket_id, product_id) FROM ({_NEW} UNION ALL (FROM kept INTERSECT FROM core)))
"""
_STATUS = {"rows_kept": "replayed", "rows_dropped": "dropped"}
_QUARANTINED = COUNTS.index("rows_quarantined")


@dataclass(frozen=True)
class ReplayReport:
    """What became of the quarantined rows of a date; `affected` are the dates whose scores must be made anew."""

    business_date: date
    rows_judged: int
    rows_kept: int
    rows_left: int
    affected: tuple[date, ...]
    table_version: str


@dataclass(frozen=True)
class DropReport:
    """How many rows left the quarantine of a date for good."""

    business_date: date
    rule_id: str
    rows_dropped: int


def count_rows(settings: Settings, first: date, last: date, rule: str | None = None) -> list[tuple[Any, ...]]:
    """Date, delivered file, rule and number of rows in quarantine.

    Raises:
        NothingQuarantined: no row of these dates and that rule is there.
    """
    columns = "business_date, source_file, rule_id"
    return _read(settings, (first, last), rule, f"SELECT {columns}, count(*) {_CHOSEN} GROUP BY ALL ORDER BY ALL")


def read_rows(settings: Settings, first: date, last: date, rule: str | None = None) -> list[tuple[Any, ...]]:
    """Date, file, line, rule, reason, and the whole row as JSON, of each row in quarantine.

    Raises:
        NothingQuarantined: no row of these dates and that rule is there.
    """
    columns = "business_date, source_file, source_line, rule_id, reason, row_json"
    return _read(settings, (first, last), rule, f"SELECT {columns} {_CHOSEN} ORDER BY ALL")


def replay(settings: Settings, day: date, rule: str | None, run_id: str) -> ReplayReport:
    """Judge quarantined rows of a date by the rules of now, and move those that pass into the core table.

    Nothing else of the date is touched, and landing is not read. The rows are in core before they leave quarantine,
    and one that is in core already is not doubled. One whose key core holds with other values stays where it is.

    Raises:
        NothingQuarantined: no row of that date and rule is there.
    """
    with measured(settings, "replay", str(day), run_id) as cost, open_core(settings, up_to=day) as connection:
        judged = _choose(connection, settings, day, rule)
        connection.execute(_READ, {"zone": settings.business_timezone})
        for view, query in _KNOWN.items():
            connection.execute(f"CREATE TEMP VIEW {view} AS {query.format(day=day)}")
        judge(connection, late_window_days(settings), where=f"quarantine of business_date {day}")
        connection.execute("DELETE FROM delivered WHERE (source_file, source_line) NOT IN (FROM chosen)")
        connection.execute(KEPT)
        connection.execute(_MOVED)
        connection.execute(f"CREATE TEMP VIEW wanted AS FROM core UNION ALL {_NEW}")
        lake.replace_changed(connection, settings.lake, CORE_TRANSACTIONS, "wanted", (day, day))
        crash_point("quarantine.after_core")
        kept = cost.rows = _take_out(connection, settings, day, run_id, "rows_kept")
    moved = {day} if kept else set()
    version = lake.version_of(settings.lake, CORE_TRANSACTIONS.name)
    return ReplayReport(day, judged, kept, judged - kept, affected_dates(settings, moved, moved), version)


def drop(settings: Settings, day: date, rule: str, reason: str, run_id: str) -> DropReport:
    """Take the rows of a date and rule out of quarantine for good; the reason is kept in ops__quarantine_drops.

    A later ingest of the same file leaves them out; a corrected file is judged anew.

    Raises:
        NothingQuarantined: no row of that date and rule is there.
    """
    with measured(settings, "drop", f"{day} {rule}", run_id) as cost, open_engine(settings) as connection:
        _choose(connection, settings, day, rule)
        rows = connection.sql(
            "SELECT source_sha256, source_line, source_file, business_date, rule_id "
            "FROM stored SEMI JOIN chosen USING (source_file, source_line) WHERE NOT is_dropped"
        )
        decided = [{**row, "reason": reason, "run_id": run_id} for row in rows.to_arrow_table().to_pylist()]
        with warehouse.open_warehouse(settings) as opened:
            warehouse.append_rows(opened, tables.QUARANTINE_DROPS, decided)
        crash_point("quarantine.after_decision")
        connection.execute("CREATE TEMP VIEW moved AS FROM chosen")
        dropped = cost.rows = _take_out(connection, settings, day, run_id, "rows_dropped")
    return DropReport(day, rule, dropped)


def _read(settings: Settings, dates: tuple[date, date], rule: str | None, query: str) -> list[tuple[Any, ...]]:
    with open_engine(settings) as connection:
        _create_quarantine(connection, settings, *dates)
        rows = connection.execute(query.replace("FROM stored", "FROM quarantine"), {"rule": rule}).fetchall()
    if not rows:
        raise _nothing(f"{dates[0]} to {dates[1]}", rule)
    return rows


def _choose(connection: duckdb.DuckDBPyConnection, settings: Settings, day: date, rule: str | None) -> int:
    """The number of rows that are meant: `stored` are all of the date, `chosen` file and line of those."""
    warehouse.create_tables(settings, [])
    register_withdrawn(connection, settings)
    _create_quarantine(connection, settings, day, day)
    hashes = {row["source_file"]: row["source_sha256"] for row in current_log(settings, day, day)}
    columns = {"source_file": pa.array(hashes, pa.string()), "source_sha256": pa.array(hashes.values(), pa.string())}
    connection.register("hashes", pa.table(columns))
    connection.execute(
        "CREATE TEMP TABLE stored AS SELECT *, (source_sha256, source_line) IN (FROM ops__quarantine_drops) "
        "AS is_dropped FROM quarantine JOIN hashes USING (source_file)"
    )
    connection.execute(f"CREATE TEMP TABLE chosen AS SELECT source_file, source_line {_CHOSEN}", {"rule": rule})
    rows = int(connection.sql("SELECT count(*) FROM chosen").fetchall()[0][0])
    if not rows:
        raise _nothing(str(day), rule)
    return rows


def _create_quarantine(connection: duckdb.DuckDBPyConnection, settings: Settings, first: date, last: date) -> None:
    files = lake.files_of(settings.lake, QUARANTINE_TRANSACTIONS.name, first=first, last=last)
    connection.register("none", QUARANTINE_TRANSACTIONS.schema.empty_table())
    rows = f"read_parquet({sql_list(files)}, hive_partitioning = true, hive_types = {{'business_date': DATE}})"
    connection.execute(f"CREATE TEMP VIEW quarantine AS FROM {rows if files else 'none'}")


def _take_out(connection: duckdb.DuckDBPyConnection, settings: Settings, day: date, run_id: str, became: str) -> int:
    """Let the rows of `moved` leave quarantine; the log is told first, and only what it does not say already."""
    connection.execute("CREATE TEMP VIEW remaining AS FROM stored ANTI JOIN moved USING (source_file, source_line)")
    left = dict(connection.sql("SELECT source_file, count(*) FROM remaining GROUP BY ALL").fetchall())
    log = [row for row in current_log(settings, day, day) if row["status"] != "late"]
    files = {row["source_file"]: row for row in log}
    version = lake.version_of(settings.lake, CORE_TRANSACTIONS.name)
    news = []
    for (_, file, sha256), counts in counts_by_file(log).items():
        gone = counts[_QUARANTINED] - left.get(file, 0)
        if gone:
            same = {"table_name": CORE_TRANSACTIONS.name, "business_date": day, "table_version": version}
            same |= {"source_file": file, "source_sha256": sha256, "rows_delivered": files[file]["rows_delivered"]}
            news.append({**same, "status": _STATUS[became], became: gone, "rows_quarantined": -gone})
    append_log(settings, news, run_id)
    crash_point("quarantine.after_log")
    lake.replace_changed(connection, settings.lake, QUARANTINE_TRANSACTIONS, "remaining", (day, day))
    return int(connection.sql("SELECT count(*) FROM moved").fetchall()[0][0])


def _nothing(dates: str, rule: str | None) -> NothingQuarantined:
    return NothingQuarantined(
        "no row in quarantine matches",
        where=f"{QUARANTINE_TRANSACTIONS.name}, business_date {dates}, rule {rule or 'any'}",
        expected="one row or more",
        found="none",
        remedy="nightjar quarantine list shows what there is",
    )
