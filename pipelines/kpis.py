"""Business figures of a date, and of the week that ends on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import duckdb
import pyarrow as pa
import sqlalchemy as sa

from pipelines import tables, warehouse
from pipelines.coverage import ingested_dates, require_ingested
from pipelines.engine import open_core
from pipelines.errors import InvalidUseCase
from pipelines.measurements import INFO
from pipelines.outcomes import labels_sql
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.tables import KPI_DAILY, KPI_WEEKLY
from pipelines.use_case import Kpi, UseCase

SUNDAY = 7
_LABELS = "as_of, {entity}::BIGINT AS {entity}, {item}::VARCHAR AS {item}, is_candidate, is_positive, value_usd"


@dataclass(frozen=True)
class KpiReport:
    """The figures by name; `reason` says why there are none of the week."""

    as_of: date
    daily: Mapping[str, float | None]
    weekly: Mapping[str, float | None]
    reason: str


def compute_kpis(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> KpiReport:
    """Write the KPIs of `as_of` and, when it is a Sunday, of the seven days that end on it.

    Raises:
        MissingPartition: a business date of the period was not ingested.
        InvalidUseCase: a KPI's SQL does not give exactly one value.
    """
    with measured(settings, f"kpis__{use_case.name}", str(as_of), run_id) as cost:
        reason = _no_week(settings, as_of)
        week_begins = as_of if reason else as_of - timedelta(days=6)
        require_ingested(settings, first=week_begins, last=as_of)
        with open_core(settings, up_to=as_of) as connection:
            daily_kpis = [kpi for kpi in use_case.kpis if kpi.is_daily]
            show_outcomes(settings, use_case, connection, as_of, as_of)
            daily = evaluate(connection, daily_kpis, as_of, as_of)
            show_outcomes(settings, use_case, connection, week_begins, as_of)
            weekly = {} if reason else evaluate(connection, use_case.kpis, week_begins, as_of)
        cost.rows = _write(settings, use_case, as_of, daily, weekly)
    return KpiReport(as_of, daily, weekly, reason)


def show_outcomes(
    settings: Settings, use_case: UseCase, connection: duckdb.DuckDBPyConnection, first: date, last: date
) -> None:
    """Show the connection `outcomes` and `labels` of the score dates that matured from `first` to `last`."""
    outcomes = _matured(settings, use_case, first, last)
    dates = sorted(set(outcomes.column("score_date").to_pylist()))
    connection.register("matured", outcomes)
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE outcomes AS "
        "SELECT * REPLACE (value_usd::DECIMAL(12, 2) AS value_usd) FROM matured"
    )
    nothing = f"""
        SELECT NULL::DATE AS as_of, 0 AS {use_case.entity}, '' AS {use_case.item}, false AS is_candidate,
               false AS is_positive, 0::DECIMAL(12, 2) AS value_usd WHERE false
    """
    rows = labels_sql(settings, use_case, dates) if dates else nothing
    columns = _LABELS.format(entity=use_case.entity, item=use_case.item)
    connection.execute(f"CREATE OR REPLACE TEMP VIEW labels AS SELECT {columns} FROM ({rows})")


def evaluate(
    connection: duckdb.DuckDBPyConnection, kpis: Sequence[Kpi], first: date, last: date
) -> dict[str, float | None]:
    """The value of each KPI for the days from `first` to `last`; none where there was nothing to measure."""
    return {kpi.name: _value(connection, kpi, first, last) for kpi in kpis}


def _value(connection: duckdb.DuckDBPyConnection, kpi: Kpi, first: date, last: date) -> float | None:
    bounds = {"first_date": first, "last_date": last}
    rows = connection.execute(kpi.sql, {name: day for name, day in bounds.items() if f"${name}" in kpi.sql}).fetchall()
    if len(rows) != 1 or len(rows[0]) != 1:
        raise InvalidUseCase(
            "the KPI's SQL must give one value",
            where=f"KPI {kpi.name}",
            expected="one row with one column",
            found=f"{len(rows)} rows",
            remedy="aggregate in the KPI's SQL",
        )
    return None if rows[0][0] is None else float(rows[0][0])


def _no_week(settings: Settings, as_of: date) -> str:
    """Why no week is computed for the date; empty where one is."""
    if as_of.isoweekday() != SUNDAY:
        return f"{as_of} does not end a week (Monday to Sunday)"
    begins, history_begins = as_of - timedelta(days=6), min(ingested_dates(settings), default=as_of)
    if begins < history_begins:
        return f"the week from {begins} is not whole: history begins on {history_begins}"
    return ""


def _matured(settings: Settings, use_case: UseCase, first: date, last: date) -> pa.Table:
    table = tables.outcomes_table(use_case)
    schema = pa.schema(
        [
            ("score_date", pa.date32()),
            (use_case.entity, pa.int64()),
            ("rank", pa.int32()),
            (use_case.item, pa.string()),
            ("score", pa.float64()),
            ("is_positive", pa.bool_()),
            ("value_usd", pa.float64()),
        ]
    )
    query = sa.select(*(table.c[name] for name in schema.names)).where(table.c.matured_date.between(first, last))
    with warehouse.open_warehouse(settings) as connection:
        return pa.Table.from_pylist(warehouse.read_rows(connection, query), schema=schema)


def _write(
    settings: Settings,
    use_case: UseCase,
    as_of: date,
    daily: Mapping[str, float | None],
    weekly: Mapping[str, float | None],
) -> int:
    defined = {kpi.name: kpi for kpi in use_case.kpis}
    place = {"use_case": use_case.name, "kpi_date": as_of}
    written = 0
    with warehouse.open_warehouse(settings) as connection:
        for table, values in ((KPI_DAILY, daily), (KPI_WEEKLY, weekly)):
            rows = [
                {
                    **place,
                    "kpi": name,
                    "value": value,
                    "status": INFO,
                    "unit": defined[name].unit,
                    "owner": defined[name].owner or use_case.owner,
                    "meaning": defined[name].meaning,
                }
                for name, value in values.items()
            ]
            written += warehouse.replace_rows(connection, table, rows, **place)
    return written
