"""Publications are staged, audited and fenced; what was published before passed the checks of its time."""

import sqlalchemy as sa
from alembic import op

from pipelines.schema import tables_named

revision, down_revision = "0002", "0001"

_LOG = {"status": "published", "actor": "nightjar", "reason": "", "audit": ""}


def upgrade() -> None:
    """Add to the log of publications, and create the fences."""
    with op.batch_alter_table("ops__publish_log") as log:
        for name, before in _LOG.items():
            kind = {"status": sa.String(16), "actor": sa.String(250)}.get(name, sa.Text())
            log.add_column(sa.Column(name, kind, nullable=False, server_default=before))
    with op.batch_alter_table("ops__publish_log") as log:
        for name in _LOG:
            log.alter_column(name, server_default=None)
    op.create_table(
        "ops__publish_fences",
        sa.Column("use_case", sa.String(64), primary_key=True),
        sa.Column("score_date", sa.Date(), primary_key=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(250), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )


def downgrade() -> None:
    """Refusals vanish with what tells them from publications."""
    op.execute("DELETE FROM ops__publish_log WHERE status = 'refused'")
    for name in ["ops__publish_fences", *tables_named(op.get_bind(), "staging__")]:
        op.drop_table(name)
    with op.batch_alter_table("ops__publish_log") as log:
        for name in _LOG:
            log.drop_column(name)
