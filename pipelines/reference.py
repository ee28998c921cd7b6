"""The reference tables: what was delivered of products, households, campaigns, coupons, promotions, redemptions."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import duckdb

from pipelines import lake
from pipelines.checks import Check, require
from pipelines.contracts import DropContract
from pipelines.drops import Drop
from pipelines.ingest_log import entry
from pipelines.pseudonyms import register_pseudonyms
from pipelines.settings import Settings
from pipelines.transactions import register_files


def read(
    connection: duckdb.DuckDBPyConnection, settings: Settings, contract: DropContract, delivered: Sequence[Drop]
) -> None:
    """Leave the rows of the drops on the connection, as `read__<drop>`.

    Raises:
        ChecksFailed: a value cannot be read, or a key is not given or not unique.
    """
    table = contract.core_table
    where = f"{table.name}, business_date {delivered[0].business_date} to {delivered[-1].business_date}"
    _read(connection, settings, contract, delivered)
    require(_check_rows(connection, contract), where=where, remedy="have the files delivered again")


def replace(
    connection: duckdb.DuckDBPyConnection, settings: Settings, contract: DropContract, delivered: Sequence[Drop]
) -> list[dict[str, Any]]:
    """Put what was read in place of those dates of the core table; gives a row of the log per date and file."""
    table = contract.core_table
    chosen = f"SELECT {', '.join(table.schema.names)} FROM read__{contract.name} WHERE status = 'kept'"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW wanted AS {chosen}")
    changed: set[date] = set()
    for drop in delivered:
        day = drop.business_date
        changed |= lake.replace_changed(connection, settings.lake, table, "wanted", (day, day))
    version = lake.version_of(settings.lake, table.name)
    counts = connection.sql(
        "SELECT source_file, count(*) AS rows_in, count(*) FILTER (status = 'kept') AS rows_kept, "
        "count(*) FILTER (status = 'copy') AS rows_duplicate, count(*) FILTER (status = 'erased') AS rows_erased "
        f"FROM read__{contract.name} GROUP BY ALL"
    )
    by_file = {row["source_file"]: row for row in counts.to_arrow_table().to_pylist()}
    return [
        entry(drop, file, "replaced" if drop.business_date in changed else "unchanged")
        | {"table_version": version, **(by_file.get(drop.name_of(file), {}) if file else {})}
        for drop in delivered
        for file in drop.manifest.files or (None,)
    ]


def _read(
    connection: duckdb.DuckDBPyConnection, settings: Settings, contract: DropContract, delivered: Sequence[Drop]
) -> None:
    """Business_date, the columns, source_file, and a status for each row."""
    names = contract.schema.names
    files = [(drop, file) for drop in delivered for file in drop.manifest.files]
    stored = register_files(connection, contract, files, settings.home / "scratch")
    raw = (
        f"SELECT drop_date AS business_date, source_file, {', '.join(names)}, unreadable "
        f"FROM ({stored}) stored JOIN files ON files.path = stored.filename"
    )
    is_personal = "household_id" in names
    connection.execute(f"CREATE OR REPLACE TEMP VIEW raw_rows AS {raw}")
    if is_personal:
        register_pseudonyms(connection, settings, "raw_rows", "household_id")
        raw = (
            "SELECT raw_rows.* REPLACE (pseudonyms.household_id AS household_id) "
            "FROM raw_rows LEFT JOIN pseudonyms ON pseudonyms.raw_id = raw_rows.household_id::VARCHAR"
        )
    erased = "household_id IN (SELECT household_id FROM ops__tombstones)" if is_personal else "false"
    copy = f"row_number() OVER (PARTITION BY business_date, {', '.join(names)} ORDER BY source_file) > 1"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE read__{contract.name} AS SELECT *, "
        f"CASE WHEN {erased} THEN 'erased' WHEN {copy} THEN 'copy' ELSE 'kept' END AS status FROM ({raw})"
    )


def _check_rows(connection: duckdb.DuckDBPyConnection, contract: DropContract) -> list[Check]:
    """Whether every value can be read, and the key is given and unique within each partition."""
    table = contract.core_table
    key = ", ".join(table.key)
    is_null = " OR ".join(f"{name} IS NULL" for name in table.key)
    unreadable, nulls, rows, keys = connection.sql(
        f"SELECT count(unreadable), count(*) FILTER ({is_null}), count(*), count(DISTINCT ({table.partition}, {key})) "
        f"FROM read__{contract.name} WHERE status = 'kept'"
    ).fetchall()[0]
    return [
        Check("values_readable", unreadable == 0, f"{unreadable} rows", "every value of its column's type"),
        Check("key_given", nulls == 0, f"{nulls} nulls", f"no null in ({key})"),
        Check("key_unique", rows == keys, f"{rows - keys} repeated", f"({key}) once in each partition"),
    ]
