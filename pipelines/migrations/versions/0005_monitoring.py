"""Monitoring keeps its clocks apart, has intervals, bands and findings; what was measured before has none of these."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0005", "0004"

_Columns = dict[str, tuple[sa.types.TypeEngine[Any], str | None]]
_KPIS: _Columns = {
    **dict.fromkeys(("low", "high", "reference", "band_low", "band_high"), (sa.Float(), None)),
    "status": (sa.String(16), "'info'"),
    "owner": (sa.String(64), "''"),
}
_METRICS: _Columns = {
    "clock": (sa.String(16), "'label'"),
    "known_date": (sa.Date(), "'1970-01-01'"),
    "low": (sa.Float(), None),
    "high": (sa.Float(), None),
}
_DECISIONS: _Columns = {
    "action": (sa.String(16), "'none'"),
    "model_version": (sa.String(32), "''"),
    "gain_usd": (sa.Float(), None),
    "cost_usd": (sa.Float(), None),
    "evidence_hash": (sa.String(64), "''"),
}
_ADDED = {
    "kpi__daily": _KPIS,
    "kpi__weekly": _KPIS,
    "monitor__metrics": _METRICS,
    "ops__retrain_decisions": _DECISIONS,
}


def upgrade() -> None:
    """Add the columns, and create the findings; the old figures are of the label clock, known on their score date."""
    for table, columns in _ADDED.items():
        with op.batch_alter_table(table) as altered:
            for name, (kind, before) in columns.items():
                default = None if before is None else sa.text(before)
                altered.add_column(sa.Column(name, kind, nullable=before is None, server_default=default))
        with op.batch_alter_table(table) as altered:
            for name, (_, before) in columns.items():
                if before is not None:
                    altered.alter_column(name, server_default=None)
    op.execute(sa.text("UPDATE monitor__metrics SET known_date = score_date"))
    op.execute(sa.text("UPDATE monitor__metrics SET clock = 'data' WHERE metric LIKE 'drift%'"))
    op.execute(sa.text("UPDATE ops__retrain_decisions SET action = 'request' WHERE is_requested"))
    op.create_table(
        "monitor__findings",
        sa.Column("use_case", sa.String(64), primary_key=True),
        sa.Column("finding_date", sa.Date(), primary_key=True),
        sa.Column("metric", sa.String(64), primary_key=True),
        sa.Column("slice", sa.String(128), primary_key=True),
        sa.Column("cause", sa.String(32), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("clock", sa.String(16), nullable=False),
        sa.Column("first_date", sa.Date(), nullable=False),
        *(sa.Column(name, sa.Float()) for name in ("value", "reference", "threshold")),
        sa.Column("told", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
    )


def downgrade() -> None:
    """Findings, intervals and bands are lost."""
    op.drop_table("monitor__findings")
    for table, columns in _ADDED.items():
        with op.batch_alter_table(table) as altered:
            for name in columns:
                altered.drop_column(name)
