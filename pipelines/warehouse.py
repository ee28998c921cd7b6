"""The warehouse that analysts read: its tables, and the one way to replace a slice of them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Date, DateTime, Float, Integer, MetaData, String, Table, Text

from pipelines.append_only import append_only
from pipelines.errors import EngineFailure
from pipelines.settings import Settings
from pipelines.use_case import UseCase

Row = Mapping[str, Any]
_REASONS = {1: "the strongest", 2: "the second", 3: "the third"}
METADATA = MetaData()

KPI_DAILY, KPI_WEEKLY = (
    Table(
        name,
        METADATA,
        Column("use_case", String(64), primary_key=True, comment="Use case whose definition this is"),
        Column("kpi_date", Date, primary_key=True, comment=f"Business date, {what}"),
        Column("kpi", String(64), primary_key=True, comment="Name of the figure"),
        Column("value", Float, comment="The figure; null where there was nothing to measure"),
        Column("unit", String(16), nullable=False, comment="Unit of the figure"),
        Column("meaning", Text, nullable=False, comment="Definition in words"),
    )
    for name, what in (("kpi__daily", "one day"), ("kpi__weekly", "last of the seven days"))
)
METRICS = Table(
    "monitor__metrics",
    METADATA,
    Column("use_case", String(64), primary_key=True, comment="Use case"),
    Column("score_date", Date, primary_key=True, comment="Date whose scores or features were measured"),
    Column("metric", String(64), primary_key=True, comment="Name of the metric, such as auc or drift_ks"),
    Column("slice", String(128), primary_key=True, comment="Part of the rows, or the feature; all: everything"),
    Column("model_version", String(32), primary_key=True, comment="Model version, or rule, that was measured"),
    Column("value", Float, comment="Measured value"),
    Column("reference", Float, comment="What it is compared with: the simple rule or the training data"),
    Column("threshold", Float, comment="Limit beyond which it counts"),
    Column("status", String(16), nullable=False, comment="ok, alert or info (nothing to compare with)"),
)
INGEST_LOG = Table(
    "ops__ingest_log",
    METADATA,
    Column("ingest_id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String(250), nullable=False, comment="Run that did it"),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    Column("table_name", String(64), nullable=False, comment="Lake table"),
    Column("business_date", Date, nullable=False, comment="Partition"),
    Column("attempt", Integer, nullable=False, comment="Counts the times that the date was settled"),
    Column(
        "status",
        String(16),
        nullable=False,
        comment="replaced, unchanged, duplicate, late, replayed, dropped, erased",
    ),
    Column("source_file", String(512), comment="Delivered file, below landing; null for a closed day"),
    Column("source_sha256", String(64), comment="SHA-256 of that file"),
    Column("rows_delivered", Integer, nullable=False, default=0, comment="Rows of the whole file, by its manifest"),
    Column("rows_in", Integer, nullable=False, comment="Rows of the file for this date = the sum of those below"),
    Column("rows_kept", Integer, nullable=False),
    Column("rows_quarantined", Integer, nullable=False),
    Column("rows_duplicate", Integer, nullable=False, comment="Exact copies of a row delivered before"),
    Column("rows_erased", Integer, nullable=False, comment="Rows of households that were erased"),
    Column("rows_late", Integer, nullable=False, comment="Rows of a file that came after the late window"),
    Column("rows_dropped", Integer, nullable=False, comment="Rows that somebody dropped from quarantine"),
    Column("table_version", String(64), nullable=False, comment="Version of the lake table that holds the rows"),
    Column("key_id", String(8), nullable=False, comment="Which pseudonym key was used"),
)
TOMBSTONES = Table(
    "ops__tombstones",
    METADATA,
    Column("household_id", sa.BigInteger, primary_key=True, autoincrement=False, comment="Pseudonym"),
    Column("run_id", String(250), nullable=False, comment="Run that erased the household"),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)
CHECK_LOG = Table(
    "ops__check_log",
    METADATA,
    Column("check_id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String(250), nullable=False, comment="Run that did it"),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    Column("table_name", String(64), nullable=False, comment="Table whose rows were checked"),
    Column("business_date", Date, nullable=False, comment="Partition; the last one where a check covers several"),
    Column("check_name", String(128), nullable=False),
    Column("observed", Text, nullable=False, comment="What was seen, in words"),
    Column("expected", Text, nullable=False, comment="What had to be seen, in words"),
    Column("is_blocking", Boolean, nullable=False, comment="Whether a failure stops the run; else it is a warning"),
    Column("is_success", Boolean, nullable=False),
)
QUARANTINE_DROPS = Table(
    "ops__quarantine_drops",
    METADATA,
    Column("source_sha256", String(64), primary_key=True, comment="SHA-256 of the delivered file"),
    Column("source_line", sa.BigInteger, primary_key=True, autoincrement=False, comment="Row number in it, from 0"),
    Column("source_file", String(512), nullable=False, comment="Its name below landing"),
    Column("business_date", Date, nullable=False, comment="Date in whose quarantine the row was"),
    Column("rule_id", String(64), nullable=False, comment="Rule that it broke"),
    Column("reason", Text, nullable=False, comment="Why somebody dropped it for good"),
    Column("run_id", String(250), nullable=False, comment="Run that did it"),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)
SNAPSHOT_LOG = Table(
    "ops__snapshot_log",
    METADATA,
    Column("snapshot_id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String(250), nullable=False, comment="Run that did it"),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    Column("use_case", String(64), nullable=False),
    Column("kind", String(16), nullable=False, comment="features or labels"),
    Column("as_of", Date, nullable=False, comment="Partition"),
    Column("version", String(64), nullable=False, comment="Feature version, or content hash of the labels"),
    Column("made", Text, nullable=False, comment="Content hashes, and the core versions that it was made from: JSON"),
)
ACCESS_LOG = Table(
    "ops__access_log",
    METADATA,
    Column("access_id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String(250), nullable=False, comment="Run that did it"),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    Column("who", String(128), nullable=False, comment="Account on the machine"),
    Column("what", String(16), nullable=False, comment="erase or reidentify"),
    Column("subject", sa.BigInteger, comment="Pseudonym of the erased household; null where ids were translated"),
    Column("ids", Integer, nullable=False, comment="Number of ids concerned"),
    Column("reason", Text, nullable=False),
)
PUBLISH_LOG = Table(
    "ops__publish_log",
    METADATA,
    Column("publish_id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String(250), nullable=False, comment="Run that did it"),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    Column("use_case", String(64), nullable=False),
    Column("score_date", Date, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("content_hash", String(64), nullable=False, comment="SHA-256 of the rows without run_id"),
    Column("model_version", String(32), nullable=False),
    Column("feature_version", String(64), nullable=False),
)
PROMOTION_LOG = append_only(
    Table(
        "ops__promotion_log",
        METADATA,
        Column("promotion_id", Integer, primary_key=True, autoincrement=True),
        Column("run_id", String(250), nullable=False, comment="Run that did it"),
        Column("recorded_at", DateTime(timezone=True), nullable=False, comment="By the database's clock"),
        Column("use_case", String(64), nullable=False),
        Column("action", String(16), nullable=False, comment="promote, refuse or rollback"),
        Column("from_version", String(32), comment="Champion before; null: none"),
        Column("to_version", String(32), nullable=False, comment="Version that was judged, or restored"),
        Column("is_promoted", Boolean, nullable=False, comment="Whether to_version is champion from then on"),
        Column("actor", String(250), nullable=False, comment="Who decided; nightjar: the checks alone"),
        Column("trainer", String(250), comment="Who asked for the training; nightjar: the monitor"),
        Column("reason", Text, nullable=False, comment="Why, in words"),
        Column(
            "evidence", Text, nullable=False, comment="The checks and what they saw, or the dates rolled back: JSON"
        ),
        Column("previous_hash", String(64), nullable=False, comment="entry_hash of the use case's entry before"),
        Column("entry_hash", String(64), nullable=False, comment="SHA-256 of all columns but promotion_id and itself"),
        sa.UniqueConstraint("use_case", "previous_hash"),
    )
)
RETRAIN_DECISIONS = Table(
    "ops__retrain_decisions",
    METADATA,
    Column("use_case", String(64), primary_key=True),
    Column("decision_date", Date, primary_key=True, comment="Business date on whose evidence it rests"),
    Column("run_id", String(250), nullable=False, comment="Run that did it"),
    Column("is_requested", Boolean, nullable=False, comment="Whether a new model is asked for"),
    Column("reason", Text, nullable=False, comment="Why, in words"),
    Column("evidence", Text, nullable=False, comment="The checks and what they saw, as JSON"),
)
RUN_COSTS = Table(
    "ops__run_costs",
    METADATA,
    Column("cost_id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String(250), nullable=False, comment="Run that did it"),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    Column("step", String(64), nullable=False),
    Column("partition_key", String(64), nullable=False, comment="Business date or range"),
    Column("rows", Integer, comment="Rows that the step wrote"),
    Column("wall_s", Float, nullable=False, comment="Elapsed seconds"),
    Column("cpu_s", Float, nullable=False, comment="Processor seconds of the process"),
    Column("peak_memory_mib", Float, nullable=False, comment="Highest resident memory of the process so far"),
)


# One row per delivered file; a date's last attempt counts. Rows of a date that was not yet ingested are nowhere.
RECONCILIATION = """
SELECT table_name, source_file, source_sha256, max(rows_delivered) AS rows_delivered,
    sum(rows_kept) AS rows_kept, sum(rows_quarantined) AS rows_quarantined, sum(rows_duplicate) AS rows_duplicate,
    sum(rows_erased) AS rows_erased, sum(rows_late) AS rows_late, sum(rows_dropped) AS rows_dropped,
    max(rows_delivered) = sum(rows_kept + rows_quarantined + rows_duplicate + rows_erased + rows_late + rows_dropped)
        AS is_balanced
FROM ops__ingest_log NATURAL JOIN (
    SELECT table_name, business_date, max(attempt) AS attempt FROM ops__ingest_log GROUP BY table_name, business_date
) AS newest WHERE source_file IS NOT NULL GROUP BY table_name, source_file, source_sha256"""


def scores_table(use_case: UseCase) -> Table:
    """Published scores: one row per `score_date`, entity and `rank`."""
    return Table(
        use_case.scores_table,
        MetaData(),
        Column("score_date", Date, primary_key=True, comment="The score is as of the end of this business date"),
        Column(use_case.entity, sa.BigInteger, primary_key=True, autoincrement=False, comment="Who"),
        Column("rank", Integer, primary_key=True, autoincrement=False, comment="1 is the likeliest"),
        Column(use_case.item, Text, nullable=False, comment="What"),
        Column("score", Float, nullable=False, comment=f"Calibrated probability. {use_case.question}"),
        Column("score_source", String(16), nullable=False, comment="champion, cached, baseline or cold_start"),
        *(Column(f"reason_{n}", Text, comment=f"Why, in words: {what} reason") for n, what in _REASONS.items()),
        Column("is_low_confidence", Boolean, nullable=False, comment="Whether validation does not vouch for the score"),
        Column("model_version", String(32), nullable=False, comment="Registry version of the model, or rule:<name>"),
        Column("feature_version", String(64), nullable=False, comment="Version of the feature snapshot"),
        Column("run_id", String(250), nullable=False, comment="Run that published the row"),
        sa.UniqueConstraint("score_date", use_case.entity, use_case.item),
    )


def outcomes_table(use_case: UseCase) -> Table:
    """What became of each published row: one row per published row whose label has matured."""
    return Table(
        use_case.outcomes_table,
        MetaData(),
        Column("score_date", Date, primary_key=True, comment="As in the scores"),
        Column(use_case.entity, sa.BigInteger, primary_key=True, autoincrement=False, comment="Who"),
        Column("rank", Integer, primary_key=True, autoincrement=False, comment="As published"),
        Column(use_case.item, Text, nullable=False, comment="What"),
        Column("score", Float, nullable=False, comment="As published"),
        Column("model_version", String(32), nullable=False, comment="As published"),
        Column("is_positive", Boolean, nullable=False, comment="Whether the event happened"),
        Column("value_usd", Float, nullable=False, comment="What it was worth; 0 where it did not happen"),
        Column("matured_date", Date, nullable=False, comment="Last business date of the label window"),
    )


@contextmanager
def open_warehouse(settings: Settings) -> Iterator[sa.Connection]:
    """A connection inside one transaction: committed at the end, rolled back on any error.

    Raises:
        EngineFailure: the database cannot be reached or refuses a statement.
    """
    engine = _engine(settings.warehouse)
    try:
        with engine.begin() as connection:
            yield connection
    except sa.exc.DBAPIError as error:
        raise EngineFailure(
            "the warehouse refused or lost a statement; nothing of the transaction remains",
            where=engine.url.render_as_string(hide_password=True),
            found=error.orig,
            remedy="check that the database is reachable, not locked and not full; then run the step again",
        ) from error


def create_tables(settings: Settings, use_cases: Sequence[UseCase]) -> None:
    """Create every table and view that is missing; existing ones stay as they are."""
    from pipelines import incidents  # noqa: F401  # its table joins METADATA

    with open_warehouse(settings) as connection:
        METADATA.create_all(connection)
        _create_view(connection, "ops__reconciliation", RECONCILIATION)
        for use_case in use_cases:
            _create_use_case_tables(connection, use_case)


def replace_rows(connection: sa.Connection, table: Table, rows: Sequence[Row], **slice_: object) -> int:
    """Put `rows` in place of those whose columns equal `slice_`; the caller's transaction makes it atomic."""
    connection.execute(sa.delete(table).where(*(table.c[name] == value for name, value in slice_.items())))
    return append_rows(connection, table, rows)


def append_rows(connection: sa.Connection, table: Table, rows: Sequence[Row]) -> int:
    """Add the rows; gives their number."""
    if rows:
        connection.execute(sa.insert(table), list(rows))
    return len(rows)


def read_rows(connection: sa.Connection, query: sa.Select[Any]) -> list[dict[str, Any]]:
    """The query's rows as dictionaries."""
    return [dict(row) for row in connection.execute(query).mappings()]


def tables_with(connection: sa.Connection, column: Column[Any]) -> Iterator[sa.TableClause]:
    """Every table, of present and former use cases, that has a column of that name; those of logs are left out."""
    inspector = sa.inspect(connection)
    for name in inspector.get_table_names():
        if not name.startswith("ops__") and column.name in {known["name"] for known in inspector.get_columns(name)}:
            yield sa.table(name, sa.column(column.name, column.type))


def _create_use_case_tables(connection: sa.Connection, use_case: UseCase) -> None:
    scores = scores_table(use_case)
    scores.metadata.create_all(connection)
    outcomes_table(use_case).metadata.create_all(connection)
    newest = f"WHERE score_date = (SELECT max(score_date) FROM {scores.name})"
    _create_view(connection, f"{scores.name}_latest", f"SELECT * FROM {scores.name} {newest}")


def _create_view(connection: sa.Connection, view: str, query: str) -> None:
    if view not in sa.inspect(connection).get_view_names():
        connection.execute(sa.text(f"CREATE VIEW {view} AS {query}"))


@cache
def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    if engine.dialect.name == "sqlite":
        if engine.url.database:
            Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's documented recipe: we say BEGIN ourselves
    connection.execute("PRAGMA busy_timeout = 60000")
    connection.execute("PRAGMA journal_mode = WAL")
