"""The dates that were measured are found without reading all their figures."""

from alembic import op

revision, down_revision = "0006", "0005"
_INDEX, _TABLE = "monitor__metrics_by_clock", "monitor__metrics"


def upgrade() -> None:
    """Add the index."""
    op.create_index(_INDEX, _TABLE, ["use_case", "clock", "score_date", "known_date"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index(_INDEX, _TABLE)
