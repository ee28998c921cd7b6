"""The delivered transactions of some business dates: the good lines, and the bad ones with their reasons."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import sqlalchemy as sa

from pipelines import tables, warehouse
from pipelines.contracts import TRANSACTIONS_DROP, DropContract
from pipelines.drop_files import as_parquet
from pipelines.drops import DeliveredFile, Drop, days_between
from pipelines.pages import DATA_DOCS, page_path
from pipelines.pseudonyms import register_pseudonyms
from pipelines.settings import Settings
from pipelines.storage import sql_list

if TYPE_CHECKING:
    import pandas as pd

_BATCH_ROWS = 250_000  # rows that Great Expectations judges at once
_NAMES = TRANSACTIONS_DROP.schema.names
_COLUMNS = ", ".join(_NAMES)
_FUEL = "product_type = 'GASOLINE-REG UNLEADED' OR department = 'FUEL' OR product_category = 'FUEL'"
# A line counts for the date of its purchase when it was delivered within the late window, else for its drop's.
_READ = f"""
CREATE OR REPLACE TEMP TABLE read AS
WITH stored AS (
    {{stored}}
), lines AS (
    SELECT drop_date, source_file, file_row_number AS source_line, {_COLUMNS}, unreadable,
        (sha256, file_row_number) IN (FROM ops__quarantine_drops) AS is_dropped,
        coalesce(household_id::VARCHAR, unreadable ->> 'household_id') AS raw_id,
        timezone($zone, timezone('UTC', transaction_timestamp))::DATE AS local_date,
        local_date BETWEEN drop_date - $late_days::INT AND drop_date AS is_timely
    FROM stored JOIN files ON files.path = stored.filename
)
SELECT CASE WHEN is_timely THEN local_date ELSE drop_date END AS business_date, *, row_number() OVER (
        PARTITION BY {_COLUMNS}, unreadable, business_date ORDER BY drop_date, source_file, source_line) > 1 AS is_copy
FROM lines WHERE business_date BETWEEN $first AND $last"""
_DELIVERED = f"""
CREATE OR REPLACE TEMP TABLE delivered AS
WITH products AS (
    SELECT known_date, product_id, bool_or(coalesce({_FUEL}, false)) AS is_fuel,
        bool_and(product_category IS NULL) AS is_uncategorised
    FROM known_products GROUP BY ALL
), snapshots AS (SELECT DISTINCT known_date FROM products), named AS (
    SELECT * REPLACE (pseudonyms.household_id AS household_id), read.household_id IS NULL AS is_id_unreadable,
        ops__tombstones.household_id IS NOT NULL AS is_erased
    FROM read LEFT JOIN pseudonyms USING (raw_id)
    LEFT JOIN ops__tombstones ON ops__tombstones.household_id = pseudonyms.household_id
), judged AS (
    SELECT business_date, source_file, source_line, unreadable IS NULL AS is_readable,
        basket_id IS NULL OR product_id IS NULL OR (count(*) OVER key_of_drop = 1
            AND min(drop_date) OVER key_ = drop_date) AS is_line_unique,
        coalesce(local_date >= drop_date - $late_days::INT, true) AS is_in_late_window,
        basket_id IS NULL OR NOT coalesce(min(household_id) OVER basket < max(household_id) OVER basket
            OR min(store_id) OVER basket < max(store_id) OVER basket
            OR min(transaction_timestamp) OVER basket < max(transaction_timestamp) OVER basket, false)
            AS is_basket_consistent
    FROM named WHERE NOT is_copy AND NOT is_erased AND NOT is_dropped
    WINDOW key_ AS (PARTITION BY business_date, basket_id, product_id),
        basket AS (PARTITION BY business_date, drop_date, basket_id),
        key_of_drop AS (PARTITION BY business_date, basket_id, product_id, drop_date)
)
SELECT named.* EXCLUDE (raw_id), judged.* EXCLUDE (business_date, source_file, source_line),
    judged.source_file IS NOT NULL AS is_judged, products.product_id IS NULL AS is_orphan,
    coalesce(is_fuel, false) AS is_fuel, coalesce(is_uncategorised, false) AS is_uncategorised
FROM named LEFT JOIN judged USING (business_date, source_file, source_line)
ASOF LEFT JOIN snapshots ON named.business_date >= snapshots.known_date
LEFT JOIN products ON products.known_date = snapshots.known_date AND products.product_id = named.product_id
ORDER BY business_date, source_file, source_line"""
_JUDGED = f"""
SELECT rowid AS row_id, business_date, local_date, {_COLUMNS}, is_readable, is_fuel, is_in_late_window, is_line_unique,
    is_basket_consistent
FROM delivered WHERE is_judged AND rowid >= $start AND rowid < $stop ORDER BY rowid"""
KEPT = """
CREATE OR REPLACE TEMP TABLE kept AS
SELECT business_date, household_id, store_id, basket_id, product_id, quantity AS item_qty,
    sales_value::DECIMAL(12, 2) AS sales_usd, retail_disc::DECIMAL(12, 2) AS retail_discount_usd,
    coupon_disc::DECIMAL(12, 2) AS coupon_discount_usd,
    coupon_match_disc::DECIMAL(12, 2) AS coupon_match_discount_usd,
    timezone('UTC', transaction_timestamp) AS transacted_at
FROM (FROM delivered ANTI JOIN failures ON failures.row_id = delivered.rowid) WHERE is_judged
ORDER BY business_date, basket_id, product_id"""
_IS_FLOAT = {name for name, type_ in TRANSACTIONS_DROP.columns if pa.types.is_floating(type_)}
_JSON = ", ".join(
    # JSON has no NaN and no infinity: they go in as text
    f"'{name}': CASE WHEN isfinite({name}) THEN to_json({name}) ELSE to_json({name}::VARCHAR) END"
    if name in _IS_FLOAT
    else f"'{name}': to_json({name})"
    for name in _NAMES
)
_QUARANTINED = f"""
CREATE OR REPLACE TEMP TABLE quarantined AS
SELECT business_date, household_id, rule_id, reason, source_file, source_line, CASE WHEN is_readable
    THEN to_json({{{_JSON}}}) ELSE json_merge_patch(unreadable, {{'household_id': CASE WHEN is_id_unreadable
    THEN 'pseudonym of text: ' ELSE '' END || household_id}}::JSON) END::VARCHAR AS row_json
FROM delivered JOIN failures ON failures.row_id = delivered.rowid
ORDER BY business_date, source_file, source_line"""
_COUNTS = """
SELECT business_date, source_file, count(*) AS rows_in,
    count(*) FILTER (is_judged AND row_id IS NULL) AS rows_kept, count(row_id) AS rows_quarantined,
    count(*) FILTER (is_copy AND NOT is_erased) AS rows_duplicate, count(*) FILTER (is_erased) AS rows_erased,
    count(*) FILTER (is_dropped AND NOT is_copy AND NOT is_erased) AS rows_dropped
FROM delivered LEFT JOIN failures ON failures.row_id = delivered.rowid GROUP BY ALL ORDER BY ALL"""


@dataclass(frozen=True)
class Delivery:
    """What is read for the business dates from `first` to `last`: files of their drops and of the late ones after.

    `products` holds the snapshot known on each of the dates; the `closed` ones may be without lines.
    """

    first: date
    last: date
    files: Sequence[tuple[Drop, DeliveredFile]]
    products: Sequence[Drop]
    closed: Collection[date]
    late_days: int

    @property
    def days(self) -> list[date]:
        """Every date that is read."""
        return days_between(self.first, self.last)

    def __str__(self) -> str:
        return f"transactions, business_date {self.first} to {self.last}"


def sort_out(connection: duckdb.DuckDBPyConnection, settings: Settings, delivery: Delivery) -> list[dict[str, object]]:
    """Rows per business date and file: in, kept, quarantined, duplicate, erased.

    The lines are left on the connection, each in exactly one of the tables `kept` and `quarantined`, which have the
    columns of their contracts; copies, dropped lines and those of erased households are in neither. Expects what
    `register_withdrawn` leaves there.

    Raises:
        EngineFailure: a rule could not be evaluated.
    """
    scratch = settings.home / "scratch"
    parameters = {"first": delivery.first, "last": delivery.last, "late_days": delivery.late_days}
    stored = register_files(connection, TRANSACTIONS_DROP, delivery.files, scratch)
    connection.execute(_READ.format(stored=stored), {**parameters, "zone": settings.business_timezone})
    _register_products(connection, delivery.products, scratch)
    register_pseudonyms(connection, settings, "read", "raw_id")
    docs = page_path(settings.home, DATA_DOCS, "transactions", delivery.first, delivery.last)
    judge(connection, delivery.late_days, where=str(delivery), docs=docs)
    open_days = pa.array([day for day in delivery.days if day not in delivery.closed], pa.date32())
    connection.register("open_days", pa.table({"business_date": open_days}))
    connection.execute(KEPT)
    connection.execute(_QUARANTINED)
    counts: list[dict[str, object]] = connection.sql(_COUNTS).to_arrow_table().to_pylist()
    return counts


def judge(connection: duckdb.DuckDBPyConnection, late_days: int, *, where: str, docs: Path | None = None) -> None:
    """Turn the table `read` into `delivered` and, by row id of that, `failures` with rule and reason.

    Raises:
        EngineFailure: a rule could not be evaluated.
    """
    connection.execute(_DELIVERED, {"late_days": late_days})
    connection.execute("DROP TABLE read")
    connection.register("failures", _find_failures(connection, where, docs))


def register_withdrawn(connection: duckdb.DuckDBPyConnection, settings: Settings) -> None:
    """Register `ops__tombstones` (erased households) and `ops__quarantine_drops` (sha256 and line of rows)."""
    drops = tables.QUARANTINE_DROPS.c
    with warehouse.open_warehouse(settings) as opened:
        erased = list(opened.scalars(sa.select(tables.TOMBSTONES.c.household_id)))
        dropped = opened.execute(sa.select(drops.source_sha256, drops.source_line)).all()
    connection.register("ops__tombstones", pa.table({"household_id": pa.array(erased, pa.int64())}))
    files, lines = pa.array([row[0] for row in dropped], pa.string()), pa.array([row[1] for row in dropped], pa.int64())
    connection.register("ops__quarantine_drops", pa.table({"source_sha256": files, "source_line": lines}))


def register_files(
    connection: duckdb.DuckDBPyConnection,
    contract: DropContract,
    files: Sequence[tuple[Drop, DeliveredFile]],
    scratch: Path,
) -> str:
    """SQL for the rows of the files, with `filename`, `file_row_number` and, for a row that cannot be read, its text.

    Registers `files`: path as Parquet, name below landing, hash, and date of the drop.
    """
    paths = [str(as_parquet(connection, drop, file, scratch)) for drop, file in files]
    columns = {
        "path": pa.array(paths, pa.string()),
        "source_file": pa.array([drop.name_of(file) for drop, file in files], pa.string()),
        "sha256": pa.array([file.sha256 for _, file in files], pa.string()),
        "drop_date": pa.array([drop.business_date for drop, _ in files], pa.date32()),
    }
    connection.register("files", pa.table(columns))
    connection.register("no_rows", contract.schema.empty_table())
    none = "SELECT *, '' AS filename, 0 AS file_row_number, NULL::VARCHAR AS unreadable FROM no_rows"
    if not paths:
        return none
    how = "filename = true, file_row_number = true, union_by_name = true, hive_partitioning = false"
    return f"FROM read_parquet({sql_list(paths)}, {how}) UNION ALL BY NAME {none}"


def _register_products(connection: duckdb.DuckDBPyConnection, products: Sequence[Drop], scratch: Path) -> None:
    known = [
        f"SELECT DATE '{drop.business_date}' AS known_date, product_id, product_type, department, product_category "
        f"FROM read_parquet({sql_list([as_parquet(connection, drop, file, scratch)])}, hive_partitioning = false)"
        for drop in products
        for file in drop.manifest.files
    ]
    connection.execute(f"CREATE OR REPLACE TEMP VIEW known_products AS {' UNION ALL '.join(known)}")


def _find_failures(connection: duckdb.DuckDBPyConnection, where: str, docs: Path | None) -> pa.Table:
    """Each row that broke a rule, with the first such rule and, in words, all of them."""
    from expectations.transactions import row_expectations
    from pipelines.validation import validate

    rows = connection.sql("SELECT coalesce(max(rowid) + 1, 0) FROM delivered").fetchall()[0][0]
    rules: dict[int, list[tuple[str, str]]] = {}
    for start in range(0, rows, _BATCH_ROWS):
        frame = _judged_frame(connection, start)
        validation = validate(frame, row_expectations(), where=where, docs=None if start else docs)
        for check in validation.checks:
            for row in validation.failing_rows[check.name]:
                rules.setdefault(int(str(row)), []).append((check.name, str(check.expected)))
    return pa.table(
        {
            "row_id": pa.array(rules, pa.int64()),
            "rule_id": pa.array([broken[0][0] for broken in rules.values()], pa.string()),
            "reason": pa.array(
                ["violates: " + "; ".join(expected for _, expected in broken) for broken in rules.values()],
                pa.string(),
            ),
        }
    )


def _judged_frame(connection: duckdb.DuckDBPyConnection, start: int) -> "pd.DataFrame":
    import pandas as pd

    integers = {pa.int64(): pd.Int64Dtype()}  # a null must not turn the other ids into floats
    rows = connection.sql(_JUDGED, params={"start": start, "stop": start + _BATCH_ROWS}).to_arrow_table()
    frame: pd.DataFrame = rows.to_pandas(types_mapper=integers.get, date_as_object=False)
    return frame.set_index("row_id").rename_axis(None)  # named, the failing rows would come as dictionaries
