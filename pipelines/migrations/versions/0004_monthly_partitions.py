"""On PostgreSQL the scores are kept by month: a month is dropped at once, and made when its first night is published.

Only the owner of a table may attach or drop its parts, so two functions do it for the steps, and nothing else.
"""

import sqlalchemy as sa
from alembic import op

from pipelines.schema import tables_named

revision, down_revision = "0004", "0003"

_AS_OWNER = "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
_FUNCTIONS = f"""
CREATE FUNCTION make_partition(parent text, day date) RETURNS void {_AS_OWNER} AS $$
DECLARE
    month date := date_trunc('month', day);
    part text := parent || '__' || to_char(month, 'YYYY_MM');
BEGIN
    IF to_regclass(format('partitions.%I', part)) IS NOT NULL OR NOT EXISTS (
        SELECT FROM pg_class WHERE oid = to_regclass(format('public.%I', parent)) AND relkind = 'p'
    ) THEN RETURN; END IF;
    PERFORM pg_advisory_xact_lock(hashtext('nightjar partitions'));
    -- a query sees what others committed meanwhile; to_regclass would still answer from its cache
    IF EXISTS (SELECT FROM pg_class WHERE relname = part AND relnamespace = 'partitions'::regnamespace)
        THEN RETURN; END IF;
    -- ATTACH, unlike CREATE … PARTITION OF, lets everybody read and write the other months meanwhile
    EXECUTE format('CREATE TABLE partitions.%I (LIKE public.%I INCLUDING ALL)', part, parent);
    EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION partitions.%I FOR VALUES FROM (%L) TO (%L)',
        parent, part, month, month + interval '1 month');
END $$;
CREATE FUNCTION drop_partitions(parent text, first_kept date) RETURNS bigint {_AS_OWNER} AS $$
DECLARE
    part text;
    found bigint;
    removed bigint := 0;
BEGIN
    FOR part IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = to_regclass(format('public.%I', parent))
        AND to_date(right(relname, 7), 'YYYY_MM') + interval '1 month' <= first_kept ORDER BY relname
    LOOP
        EXECUTE format('SELECT count(*) FROM partitions.%I', part) INTO found;
        EXECUTE format('DROP TABLE partitions.%I', part);
        removed := removed + found;
    END LOOP;
    RETURN removed;
END $$;
CREATE SCHEMA partitions;
REVOKE ALL ON FUNCTION make_partition(text, date), drop_partitions(text, date) FROM PUBLIC
"""


def upgrade() -> None:
    """Divide the tables of scores that there are; SQLite has no partitions."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(sa.text(_FUNCTIONS))
        months = "SELECT DISTINCT date_trunc('month', score_date)::date AS month FROM former"
        _rewrite("PARTITION BY RANGE (score_date)", f"SELECT make_partition('{{0}}', month) FROM ({months}) AS found")


def downgrade() -> None:
    """Put the months together again."""
    if op.get_bind().dialect.name == "postgresql":
        _rewrite("", "SELECT 1")
        op.execute("DROP FUNCTION make_partition, drop_partitions")
        op.execute("DROP SCHEMA partitions")


def _rewrite(form: str, prepare: str) -> None:
    for name in tables_named(op.get_bind(), "scores__"):
        for statement in (
            f"ALTER TABLE {name} RENAME TO former",
            f"CREATE TABLE {name} (LIKE former INCLUDING ALL) {form}",
            prepare.format(name),
            f"INSERT INTO {name} SELECT * FROM former",
            "DROP TABLE former",
        ):
            op.get_bind().execute(sa.text(statement))
