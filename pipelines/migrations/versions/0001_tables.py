"""The tables that there were when migrations began; those that exist already stay."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from pipelines.append_only import protect, unprotect
from pipelines.schema import tables_named

revision, down_revision = "0001", None

# `name type`; * is part of the primary key, ? may be null; a number is the length of a text.
_TABLES = {
    "kpi__daily": "use_case* 64, kpi_date* date, kpi* 64, value? float, unit 16, meaning text",
    "kpi__weekly": "use_case* 64, kpi_date* date, kpi* 64, value? float, unit 16, meaning text",
    "monitor__metrics": "use_case* 64, score_date* date, metric* 64, slice* 128, model_version* 32, value? float, "
    "reference? float, threshold? float, status 16",
    "ops__ingest_log": "ingest_id* serial, run_id 250, recorded_at recorded, table_name 64, business_date date, "
    "attempt integer, status 16, source_file? 512, source_sha256? 64, rows_delivered integer, rows_in integer, "
    "rows_kept integer, rows_quarantined integer, rows_duplicate integer, rows_erased integer, rows_late integer, "
    "rows_dropped integer, table_version 64, key_id 8",
    "ops__tombstones": "household_id* bigint, run_id 250, recorded_at recorded",
    "ops__check_log": "check_id* serial, run_id 250, recorded_at recorded, table_name 64, business_date date, "
    "check_name 128, observed text, expected text, is_blocking boolean, is_success boolean",
    "ops__quarantine_drops": "source_sha256* 64, source_line* bigint, source_file 512, business_date date, "
    "rule_id 64, reason text, run_id 250, recorded_at recorded",
    "ops__snapshot_log": "snapshot_id* serial, run_id 250, recorded_at recorded, use_case 64, kind 16, as_of date, "
    "version 64, made text",
    "ops__access_log": "access_id* serial, run_id 250, recorded_at recorded, who 128, what 16, subject? bigint, "
    "ids integer, reason text",
    "ops__publish_log": "publish_id* serial, run_id 250, recorded_at recorded, use_case 64, score_date date, "
    "rows integer, content_hash 64, model_version 32, feature_version 64",
    "ops__promotion_log": "promotion_id* serial, run_id 250, recorded_at time, use_case 64, action 16, "
    "from_version? 32, to_version 32, is_promoted boolean, actor 250, trainer? 250, reason text, evidence text, "
    "previous_hash 64, entry_hash 64",
    "ops__incidents": "incident_id* serial, run_id 250, recorded_at recorded, use_case 64, kind 32, subject 128, "
    "first_date date, last_date date, cause text, meaning text, remedy text, resolved_date? date",
    "ops__retrain_decisions": "use_case* 64, decision_date* date, run_id 250, is_requested boolean, reason text, "
    "evidence text",
    "ops__run_costs": "cost_id* serial, run_id 250, recorded_at recorded, step 64, partition_key 64, rows? integer, "
    "wall_s float, cpu_s float, peak_memory_mib float",
}
_TYPES: dict[str, Any] = {
    "serial": sa.Integer(),
    "integer": sa.Integer(),
    "bigint": sa.BigInteger(),
    "float": sa.Float(),
    "text": sa.Text(),
    "date": sa.Date(),
    "boolean": sa.Boolean(),
    "time": sa.DateTime(timezone=True),
    "recorded": sa.DateTime(timezone=True),
}


def upgrade() -> None:
    """Create what is missing."""
    known = set(sa.inspect(op.get_bind()).get_table_names())
    for name, told in _TABLES.items():
        if name not in known:
            unique = [sa.UniqueConstraint("use_case", "previous_hash")] if name == "ops__promotion_log" else []
            op.create_table(name, *map(_column, told.split(", ")), *unique)
    if "ops__promotion_log" not in known:
        protect(op.get_bind(), "ops__promotion_log")
    if "ops__incidents" not in known:
        is_open = sa.text("resolved_date IS NULL")
        columns = ["use_case", "kind", "subject"]
        where: dict[str, Any] = {"sqlite_where": is_open, "postgresql_where": is_open}
        op.create_index("ops__incidents_open", "ops__incidents", columns, unique=True, **where)


def downgrade() -> None:
    """Drop everything."""
    unprotect(op.get_bind(), "ops__promotion_log")
    for name in [*_TABLES, *tables_named(op.get_bind(), "scores__"), *tables_named(op.get_bind(), "outcomes__")]:
        op.drop_table(name)


def _column(told: str) -> "sa.Column[Any]":
    name, kind = told.split()
    return sa.Column(
        name.rstrip("*?"),
        _TYPES[kind] if kind in _TYPES else sa.String(int(kind)),
        primary_key=name.endswith("*"),
        autoincrement=kind == "serial",
        nullable=name.endswith("?"),
        server_default=sa.func.now() if kind == "recorded" else None,
    )
