"""Whether business dates as a whole are plausible, by themselves and against their weekday's history."""

from dataclasses import replace
from datetime import date, timedelta

import duckdb

from pipelines import lake, tables, warehouse
from pipelines.checks import Check, log_rows, require
from pipelines.contracts import CORE_TRANSACTIONS
from pipelines.history import HISTORY_DAYS, history_checks
from pipelines.pages import DATA_DOCS, page_path
from pipelines.settings import Settings
from pipelines.storage import sql_list
from pipelines.transactions import Delivery

DayChecks = dict[date, list[Check]]
_DAYS = """
SELECT business_date::VARCHAR AS business_date, count(source_file) AS lines,
    count(row_id) FILTER (rule_id <> $late) AS quarantined_lines, lines - count(row_id) AS kept_lines,
    quarantined_lines / lines AS quarantined_share, avg(is_orphan::INT) AS orphan_share,
    avg(is_uncategorised::INT) AS uncategorised_share, avg((sales_value = 0)::INT) AS zero_sales_share
FROM (SELECT rowid AS line_id, * FROM delivered WHERE is_judged) FULL JOIN open_days USING (business_date)
LEFT JOIN failures ON row_id = line_id GROUP BY ALL ORDER BY business_date"""
_BROKEN = """
SELECT rule_id, count(*), arg_min(source_file, row_id), arg_min(source_line, row_id)
FROM failures JOIN delivered ON failures.row_id = delivered.rowid GROUP BY rule_id ORDER BY count(*) DESC, rule_id"""


def require_sound_days(
    connection: duckdb.DuckDBPyConnection, settings: Settings, delivery: Delivery, run_id: str
) -> None:
    """Write every verdict on the days down, then let them decide; reads what `sort_out` left on the connection.

    Raises:
        ChecksFailed: a day has too many bad or odd lines, or is unlike its weekday's history.
        EngineFailure: a rule could not be evaluated.
    """
    checks = _day_checks(connection, settings, delivery)
    with warehouse.open_warehouse(settings) as opened:
        for day, verdicts in checks.items():
            rows = log_rows(verdicts, table=CORE_TRANSACTIONS.name, day=day, run_id=run_id)
            warehouse.append_rows(opened, tables.CHECK_LOG, rows)
    require(
        [replace(check, observed=f"{check.observed} on {day}") for day, found in checks.items() for check in found],
        where=str(delivery),
        remedy=f"look at the files (lines that break a rule: {_broken_rules(connection)}) and have them delivered "
        "again; or correct the limits in expectations/transactions.py if the business has changed",
    )


def _day_checks(connection: duckdb.DuckDBPyConnection, settings: Settings, delivery: Delivery) -> DayChecks:
    """The verdicts on each open day as a whole, by itself and against its weekday's history, once `sort_out` is done.

    Raises:
        EngineFailure: a rule could not be evaluated.
    """
    from expectations.transactions import LATE, day_expectations
    from pipelines.validation import validate

    days = connection.sql(_DAYS, params={"late": LATE}).to_arrow_table().to_pandas()
    days = days.set_index("business_date").rename_axis(None)
    docs = page_path(settings.home, DATA_DOCS, "transactions_days", delivery.first, delivery.last)
    validation = validate(days, day_expectations(), where=str(delivery), docs=docs)
    checks: DayChecks = {}
    for day in days.index:
        found = {name: f"{days.at[day, name]:.4g}" for name in validation.failing_rows}
        checks[date.fromisoformat(day)] = [
            replace(check, success=day not in validation.failing_rows[check.name], observed=found[check.name])
            for check in validation.checks
        ]
    before = delivery.first - timedelta(days=1)
    old = lake.files_of(
        settings.lake, CORE_TRANSACTIONS.name, first=delivery.first - timedelta(days=HISTORY_DAYS), last=before
    )
    stored = f"read_parquet({sql_list(old)}, hive_partitioning = true, hive_types = {{'business_date': DATE}})"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW history AS FROM {stored if old else 'kept WHERE false'}")
    connection.execute(
        "CREATE OR REPLACE TEMP VIEW products_known AS "
        "SELECT product_id, department, product_category FROM known_products"
    )
    for day, verdicts in history_checks(connection, sorted(checks)).items():
        checks[day] += verdicts
    return checks


def _broken_rules(connection: duckdb.DuckDBPyConnection) -> str:
    """Which rules were broken by how many of the lines that `sort_out` has judged, each with an example."""
    broken = connection.sql(_BROKEN).fetchall()
    return "; ".join(f"{rule} {rows}, such as {file}, row {row}" for rule, rows, file, row in broken) or "none"
