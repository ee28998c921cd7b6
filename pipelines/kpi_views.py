"""What the SQL of a KPI sees of a period: the core tables, what was published, what came of it, and what it cost."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import sqlalchemy as sa

from pipelines import tables, warehouse
from pipelines.coverage import require_ingested
from pipelines.engine import show_core
from pipelines.errors import MissingPartition
from pipelines.outcomes import labels_sql
from pipelines.retrain_ledger import past_requests
from pipelines.scoring import candidates_query
from pipelines.settings import Settings
from pipelines.storage import replacing
from pipelines.use_case import UseCase

NIGHTLY = ("features", "materialise", "scores", "publish")  # steps that make a night's lists
_LABELS = "as_of, {entity}::BIGINT AS {entity}, {item}::VARCHAR AS {item}, is_candidate, is_positive, value_usd"
VIEWS = {
    "period": "its `first_date` and `last_date`, both included",
    "outcomes": "the published rows whose labels became final in the period",
    "labels": "what the entities of their score dates did, by `as_of`",
    "lists": "the published lists of these score dates: `as_of`, entity, item, `rank`",
    "rule_lists": "the lists that the simple rule would have given to the same entities",
    "published": "the published rows of the last date and of the day before the period",
    "run_costs": "the first successful run of each nightly step: `score_date`, `step`, `rows`, `euros`",
    "retrainings": "trainings asked for up to the last date: `asked_date`, `verdict` (null: none yet)",
}


def show_period(
    settings: Settings,
    use_case: UseCase,
    connection: duckdb.DuckDBPyConnection,
    first: date,
    last: date,
    *,
    with_rule: bool = True,
) -> None:
    """Put all that is named in `VIEWS` in place for the days from `first` to `last`; the core tables are there.

    `rule_lists` stays empty without `with_rule`, and for score dates whose features were removed.
    """
    connection.execute(
        f"CREATE OR REPLACE TABLE period AS SELECT DATE '{first}' AS first_date, DATE '{last}' AS last_date"
    )
    outcomes = _outcomes(settings, use_case, first, last)
    dates = sorted(set(outcomes.column("score_date").to_pylist()))
    _put(connection, "outcomes", outcomes, "* REPLACE (value_usd::DECIMAL(12, 2) AS value_usd)")
    _show_labels(settings, use_case, connection, dates)
    keys = ", ".join(use_case.keys)
    connection.execute(f"CREATE OR REPLACE VIEW lists AS SELECT score_date AS as_of, {keys}, rank FROM outcomes")
    connection.execute("CREATE OR REPLACE TABLE rule_lists AS SELECT * FROM lists WHERE false")
    for day in dates if with_rule else ():
        _add_rule_lists(settings, use_case, connection, day)
    _put(connection, "published", _published(settings, use_case, [first - timedelta(days=1), last]))
    _put(connection, "run_costs", _run_costs(settings, use_case, dates, first, last))
    _put(connection, "retrainings", _retrainings(settings, use_case, last))


def write_database(settings: Settings, use_case: UseCase, first: date, last: date, path: Path) -> None:
    """Put the same into a new DuckDB file, for whoever wants to run the SQL of a KPI: the core tables as views.

    Raises:
        MissingPartition: a business date of the period was not ingested.
    """
    require_ingested(settings, first=first, last=last)
    with replacing(path) as unfinished, duckdb.connect(unfinished) as connection:
        show_core(settings, connection, up_to=last)
        show_period(settings, use_case, connection, first, last)


def _put(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table, columns: str = "*") -> None:
    connection.register("arrived", rows)
    connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT {columns} FROM arrived")
    connection.unregister("arrived")


def _show_labels(
    settings: Settings, use_case: UseCase, connection: duckdb.DuckDBPyConnection, dates: Sequence[date]
) -> None:
    nothing = f"""
        SELECT NULL::DATE AS as_of, 0 AS {use_case.entity}, '' AS {use_case.item}, false AS is_candidate,
               false AS is_positive, 0::DECIMAL(12, 2) AS value_usd WHERE false
    """
    rows = labels_sql(settings, use_case, dates) if dates else nothing
    columns = _LABELS.format(entity=use_case.entity, item=use_case.item)
    connection.execute(f"CREATE OR REPLACE VIEW labels AS SELECT {columns} FROM ({rows})")


def _add_rule_lists(settings: Settings, use_case: UseCase, connection: duckdb.DuckDBPyConnection, day: date) -> None:
    """The rule's lists of one score date: its best candidates, then what filled the published list."""
    entity, item, n = use_case.entity, use_case.item, use_case.top_n
    rule = next(rule for rule in use_case.rules if rule.name == use_case.baseline_rule)
    try:
        candidates = candidates_query(settings, use_case, day)
    except MissingPartition:
        return
    connection.execute(f"""
        INSERT INTO rule_lists
        WITH candidates AS (
            SELECT {entity}::BIGINT AS {entity}, {item}::VARCHAR AS {item},
                   row_number() OVER (PARTITION BY {entity} ORDER BY rule DESC, {item})::INTEGER AS rank
            FROM (SELECT {entity}, {item}, ({rule.expression})::DOUBLE AS rule FROM ({candidates}))
        ), ours AS (SELECT * FROM lists WHERE as_of = DATE '{day}')
        SELECT DATE '{day}', {entity}, {item}, rank FROM candidates SEMI JOIN ours USING ({entity}) WHERE rank <= {n}
        UNION ALL
        SELECT as_of, {entity}, {item}, rank FROM ours ANTI JOIN candidates USING ({entity}, {item})
    """)


def _outcomes(settings: Settings, use_case: UseCase, first: date, last: date) -> pa.Table:
    table = tables.outcomes_table(use_case)
    names = ("score_date", use_case.entity, "rank", use_case.item, "score", "is_positive", "value_usd")
    return _read(
        settings, sa.select(*(table.c[name] for name in names)).where(table.c.matured_date.between(first, last))
    )


def _published(settings: Settings, use_case: UseCase, dates: Sequence[date]) -> pa.Table:
    table = tables.scores_table(use_case)
    names = ("score_date", use_case.entity, "rank", use_case.item, "score", "score_source")
    return _read(settings, sa.select(*(table.c[name] for name in names)).where(table.c.score_date.in_(dates)))


def _run_costs(settings: Settings, use_case: UseCase, matured: Sequence[date], first: date, last: date) -> pa.Table:
    table = tables.RUN_COSTS
    days = {*matured, *(first + timedelta(days=day) for day in range((last - first).days + 1))}
    steps = [f"{step}__{use_case.name}" for step in NIGHTLY]
    firsts = (
        sa.select(sa.func.min(table.c.cost_id))
        .where(table.c.is_success, table.c.step.in_(steps), table.c.partition_key.in_(sorted(map(str, days))))
        .group_by(table.c.step, table.c.partition_key)
    )
    columns = (table.c.partition_key.label("score_date"), table.c.step, table.c.rows, table.c.euros)
    found = _read(settings, sa.select(*columns).where(table.c.cost_id.in_(firsts)).order_by(table.c.cost_id))
    return found.set_column(0, "score_date", found.column("score_date").cast(pa.date32()))


def _retrainings(settings: Settings, use_case: UseCase, last: date) -> pa.Table:
    with warehouse.open_warehouse(settings, only_reads=True) as connection:
        asked = [one for one in past_requests(connection, use_case, date.max) if one.asked <= last]
    rows = [{"asked_date": one.asked, "verdict": one.verdict or None} for one in asked]
    return pa.Table.from_pylist(rows, schema=pa.schema([("asked_date", pa.date32()), ("verdict", pa.string())]))


def _read(settings: Settings, query: sa.Select[Any]) -> pa.Table:
    with warehouse.open_warehouse(settings, only_reads=True) as connection:
        return warehouse.read_table(connection, query)
