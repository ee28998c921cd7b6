"""The warehouse's tables: their columns, with what each means to a reader."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Date, DateTime, Float, Integer, MetaData, String, Table, Text

from pipelines.meanings import COLUMNS, TABLES
from pipelines.use_case import UseCase

_REASONS = {1: "the strongest", 2: "the second", 3: "the third"}
_SETTLED = "replaced, unchanged, duplicate, late, replayed, dropped, erased"
METADATA = MetaData()

KPI_DAILY, KPI_WEEKLY = (
    Table(
        name,
        METADATA,
        Column("use_case", String(64), primary_key=True, comment="Use case whose definition this is"),
        Column("kpi_date", Date, primary_key=True, comment=f"Business date, {what}"),
        Column("kpi", String(64), primary_key=True, comment="Name of the figure"),
        Column("value", Float, comment="The figure; null where there was nothing to measure"),
        Column("low", Float, comment="Lower end of its 95 % interval, by entity; null: it is a count of everything"),
        Column("high", Float, comment="Upper end of it"),
        Column("reference", Float, comment="What the best simple rule would have had; null: no rule can"),
        Column("band_low", Float, comment="Lower end of what is usual; null: too short a past"),
        Column("band_high", Float, comment="Upper end of it"),
        Column("status", String(16), nullable=False, comment="ok, alert or info (nothing to compare with)"),
        Column("unit", String(16), nullable=False, comment="Unit of the figure"),
        Column("owner", String(64), nullable=False, comment="Who answers for the figure"),
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
    Column("clock", String(16), nullable=False, comment="data, prediction or label: what the value had to wait for"),
    Column("known_date", Date, nullable=False, comment="Business date at whose end the value could be known"),
    Column("value", Float, comment="Measured value"),
    Column("low", Float, comment="Lower end of its 95 % interval, by entity"),
    Column("high", Float, comment="Upper end of it"),
    Column("reference", Float, comment="What it is compared with: the simple rule or an earlier time"),
    Column("threshold", Float, comment="Limit beyond which it counts"),
    Column("status", String(16), nullable=False, comment="ok, warn (in this window alone), alert or info"),
)
sa.Index("monitor__metrics_by_clock", *(METRICS.c[name] for name in ("use_case", "clock", "score_date", "known_date")))
FINDINGS = Table(
    "monitor__findings",
    METADATA,
    Column("use_case", String(64), primary_key=True, comment="Use case"),
    Column("finding_date", Date, primary_key=True, comment="Business date by which it was found"),
    Column("metric", String(64), primary_key=True, comment="What has moved, as in monitor__metrics"),
    Column("slice", String(128), primary_key=True, comment="Where, as in monitor__metrics"),
    Column("cause", String(32), nullable=False, comment="What kind of change it is"),
    Column("action", String(16), nullable=False, comment="What follows from it"),
    Column("clock", String(16), nullable=False, comment="data, prediction or label: what it had to wait for"),
    Column("first_date", Date, nullable=False, comment="First business date on which it was seen without a break"),
    Column("value", Float, comment="Measured value"),
    Column("reference", Float, comment="What it is compared with"),
    Column("threshold", Float, comment="Limit beyond which it counts"),
    Column("told", Text, nullable=False, comment="The finding in words"),
    Column("source", Text, nullable=False, comment="Where to look: the drop, the feature or the version; may be empty"),
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
    Column("status", String(16), nullable=False, comment=_SETTLED),
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
    Column("status", String(16), nullable=False, comment="published, forced (against the audit), refused or erased"),
    Column("rows", Integer, nullable=False),
    Column("content_hash", String(64), nullable=False, comment="SHA-256 of the rows without run_id"),
    Column("model_version", String(32), nullable=False),
    Column("feature_version", String(64), nullable=False),
    Column("actor", String(250), nullable=False, comment="Who forced it; nightjar: the audit alone"),
    Column("reason", Text, nullable=False, comment="Why it was refused or forced; empty: all checks passed"),
    Column("audit", Text, nullable=False, comment="What the audit measured, with which later nights compare: JSON"),
)
PUBLISH_FENCES = Table(
    "ops__publish_fences",
    METADATA,
    Column("use_case", String(64), primary_key=True),
    Column("score_date", Date, primary_key=True),
    Column("fence", Integer, nullable=False, comment="Rises with every attempt; only the newest may publish"),
    Column("run_id", String(250), nullable=False, comment="Run of that attempt"),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)
PROMOTION_LOG = Table(
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
    Column("evidence", Text, nullable=False, comment="The checks and what they saw, or the dates rolled back: JSON"),
    Column("previous_hash", String(64), nullable=False, comment="entry_hash of the use case's entry before"),
    Column("entry_hash", String(64), nullable=False, comment="SHA-256 of all columns but promotion_id and itself"),
    sa.UniqueConstraint("use_case", "previous_hash"),
)
INCIDENTS = Table(
    "ops__incidents",
    METADATA,
    Column("incident_id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String(250), nullable=False, comment="Run that saw it last"),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    Column("use_case", String(64), nullable=False),
    Column("kind", String(32), nullable=False, comment="What is wrong, such as registry down"),
    Column("subject", String(128), nullable=False, comment="With what"),
    Column("first_date", Date, nullable=False, comment="First business date that it concerns"),
    Column("last_date", Date, nullable=False, comment="Last one so far"),
    Column("cause", Text, nullable=False, comment="Why, in one line"),
    Column("meaning", Text, nullable=False, comment="What readers see meanwhile"),
    Column("remedy", Text, nullable=False, comment="What to do"),
    Column("resolved_date", Date, comment="Business date with which it ended; null: open"),
)
_OPEN_INCIDENT = INCIDENTS.c.resolved_date.is_(None)
sa.Index(
    "ops__incidents_open",
    *(INCIDENTS.c[name] for name in ("use_case", "kind", "subject")),
    unique=True,
    sqlite_where=_OPEN_INCIDENT,
    postgresql_where=_OPEN_INCIDENT,
)
RETRAIN_DECISIONS = Table(
    "ops__retrain_decisions",
    METADATA,
    Column("use_case", String(64), primary_key=True),
    Column("decision_date", Date, primary_key=True, comment="Business date on whose evidence it rests"),
    Column("run_id", String(250), nullable=False, comment="Run that did it"),
    Column("is_requested", Boolean, nullable=False, comment="Whether a new model is asked for"),
    Column("action", String(16), nullable=False, comment="What was decided"),
    Column("model_version", String(32), nullable=False, comment="Model, or rule, that scored the date"),
    Column("reason", Text, nullable=False, comment="Why, in words"),
    Column("gain_usd", Float, comment="What a new model is expected to bring over the horizon; null: unknown"),
    Column("cost_usd", Float, comment="What a training costs, its risk included"),
    Column("evidence", Text, nullable=False, comment="The checks and what they saw, as JSON"),
    Column("evidence_hash", String(64), nullable=False, comment="SHA-256 of what gave cause; the same is used once"),
)
RUN_COSTS = Table(
    "ops__run_costs",
    METADATA,
    Column("cost_id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String(250), nullable=False, comment="Run that did it"),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    Column("step", String(64), nullable=False),
    Column("partition_key", String(64), nullable=False, comment="Business date or range"),
    Column("is_success", Boolean, nullable=False, comment="Whether the step ended well; a failure costs too"),
    Column("model_version", String(32), comment="Model that the step used or made; null: none"),
    Column("rows", Integer, comment="Rows that the step wrote"),
    Column("wall_s", Float, nullable=False, comment="Elapsed seconds"),
    Column("cpu_s", Float, nullable=False, comment="Processor seconds of the process"),
    Column("peak_memory_mib", Float, nullable=False, comment="Highest resident memory while the step ran"),
    Column("euros", Float, nullable=False, comment="Processor and memory by the price table of the settings"),
)


for _name, _meaning in TABLES.items():
    METADATA.tables[_name].comment = _meaning
for _column in (column for table in METADATA.tables.values() for column in table.columns if not column.comment):
    _column.comment = "Number of the entry" if _column.autoincrement is True else COLUMNS.get(_column.name)


def scores_table(use_case: UseCase) -> Table:
    """Published scores: one row per `score_date`, entity and `rank`."""
    unique = sa.UniqueConstraint("score_date", use_case.entity, use_case.item)
    told = f"{use_case.title}: what was published of each night, best first"
    by_month = "RANGE (score_date)"  # months are made by warehouse.make_room and dropped by the janitor
    columns = _score_columns(use_case)
    return Table(use_case.scores_table, MetaData(), *columns, unique, comment=told, postgresql_partition_by=by_month)


def staging_table(use_case: UseCase) -> Table:
    """Scores that await their audit, with the fence of the attempt; what stays there is of a killed one."""
    return Table(
        use_case.staging_table,
        MetaData(),
        Column("fence", Integer, primary_key=True, autoincrement=False, comment="Attempt"),
        *_score_columns(use_case),
        comment="Scores that await their audit; not for readers",
    )


def _score_columns(use_case: UseCase) -> list[Column[Any]]:
    return [
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
    ]


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
        Column(
            "matured_date",
            Date,
            nullable=False,
            comment="Business date at whose end it was final: label window and late window",
        ),
        comment=f"{use_case.title}: what became of each published row",
    )
