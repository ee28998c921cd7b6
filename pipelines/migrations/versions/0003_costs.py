"""A step's costs have a price, its model, and whether it ended well; those of before did, and were not priced."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"

_ADDED = (("is_success", sa.Boolean(), sa.true()), ("euros", sa.Float(), "0"))


def upgrade() -> None:
    """Add the columns; the price of what ran before is taken as nothing."""
    with op.batch_alter_table("ops__run_costs") as costs:
        costs.add_column(sa.Column("model_version", sa.String(32)))
        for name, kind, before in _ADDED:
            costs.add_column(sa.Column(name, kind, nullable=False, server_default=before))
    with op.batch_alter_table("ops__run_costs") as costs:
        for name, _, _ in _ADDED:
            costs.alter_column(name, server_default=None)


def downgrade() -> None:
    """Failures vanish with what tells them from steps that ended well."""
    op.execute(sa.text("DELETE FROM ops__run_costs WHERE NOT is_success"))
    with op.batch_alter_table("ops__run_costs") as costs:
        for name in ("is_success", "model_version", "euros"):
            costs.drop_column(name)
