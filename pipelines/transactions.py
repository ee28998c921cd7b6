"""The delivered transactions of some days: the good lines, and the bad ones with their reasons."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from pipelines.checks import Check, require
from pipelines.contracts import CORE_TRANSACTIONS, QUARANTINE_TRANSACTIONS, TRANSACTIONS_DROP
from pipelines.drops import Drop
from pipelines.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ", ".join(TRANSACTIONS_DROP.schema.names)
_FUEL = "product_type = 'GASOLINE-REG UNLEADED' OR department = 'FUEL' OR product_category = 'FUEL'"
_READ = "union_by_name = true, hive_partitioning = true, hive_types = {'date': DATE}"
_DELIVERED = f"""
CREATE OR REPLACE TEMP TABLE delivered AS
WITH lines AS (
    SELECT date AS business_date, {_COLUMNS}, substr(filename, length($landing) + 2) AS source_file,
        file_row_number AS source_line,
        timezone($zone, timezone('UTC', transaction_timestamp))::DATE AS local_date
    FROM read_parquet($lines, filename = true, file_row_number = true, {_READ})
), products AS (
    SELECT date AS known_date, product_id, bool_or(coalesce({_FUEL}, false)) AS is_fuel,
        bool_and(product_category IS NULL) AS is_uncategorised
    FROM read_parquet($products, {_READ}) GROUP BY ALL
), snapshots AS (SELECT DISTINCT known_date FROM products)
SELECT lines.*, products.product_id IS NULL AS is_orphan, coalesce(is_fuel, false) AS is_fuel,
    coalesce(is_uncategorised, false) AS is_uncategorised,
    basket_id IS NULL OR NOT coalesce(min(household_id) OVER basket < max(household_id) OVER basket
        OR min(store_id) OVER basket < max(store_id) OVER basket
        OR min(transaction_timestamp) OVER basket < max(transaction_timestamp) OVER basket, false)
        AS is_basket_consistent
FROM lines ASOF JOIN snapshots ON lines.business_date >= snapshots.known_date
LEFT JOIN products ON products.known_date = snapshots.known_date AND products.product_id = lines.product_id
WINDOW basket AS (PARTITION BY lines.business_date, basket_id)
ORDER BY business_date, source_file, source_line"""
_JUDGED = f"""
SELECT business_date, local_date, {_COLUMNS}, is_fuel, is_basket_consistent FROM delivered ORDER BY rowid"""
_DAYS = """
SELECT business_date::VARCHAR AS business_date, count(*) AS lines, count(row_id) AS quarantined_lines,
    count(*) - count(row_id) AS kept_lines, count(row_id) / count(*) AS quarantined_share,
    avg(is_orphan::INT) AS orphan_share, avg(is_uncategorised::INT) AS uncategorised_share,
    avg((sales_value = 0)::INT) AS zero_sales_share
FROM delivered LEFT JOIN failures ON failures.row_id = delivered.rowid GROUP BY ALL ORDER BY business_date"""
_KEPT = """
SELECT business_date, household_id, store_id, basket_id, product_id, quantity AS item_qty,
    sales_value::DECIMAL(12, 2) AS sales_usd, retail_disc::DECIMAL(12, 2) AS retail_discount_usd,
    coupon_disc::DECIMAL(12, 2) AS coupon_discount_usd,
    coupon_match_disc::DECIMAL(12, 2) AS coupon_match_discount_usd,
    timezone('UTC', transaction_timestamp) AS transacted_at
FROM (FROM delivered ANTI JOIN failures ON failures.row_id = delivered.rowid)
ORDER BY business_date, basket_id, product_id"""
_IS_FLOAT = {name for name, type_ in TRANSACTIONS_DROP.columns if pa.types.is_floating(type_)}
_JSON = ", ".join(
    # JSON has no NaN and no infinity: they go in as text
    f"'{name}': CASE WHEN isfinite({name}) THEN to_json({name}) ELSE to_json({name}::VARCHAR) END"
    if name in _IS_FLOAT
    else f"'{name}': to_json({name})"
    for name in TRANSACTIONS_DROP.schema.names
)
_QUARANTINED = f"""
SELECT business_date, rule_id, reason, source_file, source_line, to_json({{{_JSON}}})::VARCHAR AS row_json
FROM delivered JOIN failures ON failures.row_id = delivered.rowid
ORDER BY business_date, source_file, source_line"""


@dataclass(frozen=True)
class Lines:
    """Delivered lines, each in exactly one of the two tables, which have the columns of their contracts."""

    kept: pa.Table
    quarantined: pa.Table


def sort_out(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    delivered: Sequence[Drop],
    products: Sequence[Drop],
) -> Lines:
    """The good and the bad lines of the drops; `products` holds the snapshot known on each of their dates.

    Raises:
        ChecksFailed: a day has too many bad or odd lines.
        EngineFailure: a rule could not be evaluated.
    """
    lines = [str(path) for drop in delivered for path in drop.paths]
    if not lines:
        return Lines(CORE_TRANSACTIONS.schema.empty_table(), QUARANTINE_TRANSACTIONS.schema.empty_table())
    parameters = {
        "landing": str(settings.landing),
        "zone": settings.business_timezone,
        "lines": lines,
        "products": [str(path) for drop in products for path in drop.paths],
    }
    connection.execute(_DELIVERED, parameters)
    connection.register("failures", _find_failures(connection, where=_where(delivered)))
    _require_sound_days(connection, where=_where(delivered))
    kept = connection.sql(_KEPT).to_arrow_table().cast(CORE_TRANSACTIONS.schema)
    quarantined = connection.sql(_QUARANTINED).to_arrow_table().cast(QUARANTINE_TRANSACTIONS.schema)
    connection.unregister("failures")
    rows_in, rows_out = sum(drop.rows for drop in delivered), kept.num_rows + quarantined.num_rows
    accounted = Check("lines_accounted_for", rows_in == rows_out, rows_out, rows_in)
    require([accounted], where=_where(delivered), remedy="report it: a line was lost or doubled by the query")
    return Lines(kept, quarantined)


def _find_failures(connection: duckdb.DuckDBPyConnection, *, where: str) -> pa.Table:
    """Each row that broke a rule, with the first such rule and, in words, all of them."""
    from expectations.transactions import row_expectations
    from pipelines.validation import validate

    validation = validate(_judged_frame(connection), row_expectations(), where=where)
    broken: dict[int, list[Check]] = defaultdict(list)
    for check in validation.checks:
        for row in validation.failing_rows[check.name]:
            broken[int(str(row))].append(check)
    return pa.table(
        {
            "row_id": pa.array(broken, pa.int64()),
            "rule_id": pa.array([checks[0].name for checks in broken.values()], pa.string()),
            "reason": pa.array(
                ["violates: " + "; ".join(str(check.expected) for check in checks) for checks in broken.values()],
                pa.string(),
            ),
        }
    )


def _judged_frame(connection: duckdb.DuckDBPyConnection) -> "pd.DataFrame":
    import pandas as pd

    integers = {pa.int64(): pd.Int64Dtype()}  # a null must not turn the other ids into floats
    rows = connection.sql(_JUDGED).to_arrow_table()
    frame: pd.DataFrame = rows.to_pandas(types_mapper=integers.get, date_as_object=False)
    return frame


def _require_sound_days(connection: duckdb.DuckDBPyConnection, *, where: str) -> None:
    from expectations.transactions import day_expectations
    from pipelines.validation import validate

    days = connection.sql(_DAYS).to_arrow_table().to_pandas().set_index("business_date")
    checks = validate(days, day_expectations(), where=where).checks
    require(
        checks,
        where=where,
        remedy="look at the delivered files; have them delivered again, or correct the limits in "
        "expectations/transactions.py if the business has changed",
    )


def _where(delivered: Sequence[Drop]) -> str:
    return f"transactions, business_date {delivered[0].business_date} to {delivered[-1].business_date}"
