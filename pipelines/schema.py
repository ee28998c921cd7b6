"""The warehouse's schema: brought to its newest form by Alembic's migrations, or back to an earlier one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.schema import SetColumnComment, SetTableComment

from pipelines import roles
from pipelines.errors import UnknownRevision
from pipelines.reconciliation import RECONCILIATION
from pipelines.tables import METADATA, outcomes_table, scores_table, staging_table
from pipelines.use_case import UseCase

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS = Path(__file__).with_name("migrations")
REVISIONS = sorted(file.name[:4] for file in (_MIGRATIONS / "versions").glob("[0-9]*.py"))
HEAD = REVISIONS[-1]
_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtext('nightjar schema'))")


def bring_to_head(connection: sa.Connection, use_cases: Sequence[UseCase]) -> None:
    """Migrate to the newest revision, and create the tables that these use cases lack; in the caller's transaction.

    Raises:
        UnknownRevision: the database is newer than the code.
    """
    wanted = [make(use_case) for use_case in use_cases for make in (scores_table, staging_table, outcomes_table)]
    if revision(connection) == HEAD and {table.name for table in wanted} <= set(
        sa.inspect(connection).get_table_names()
    ):
        return
    wait_for_schema(connection)
    if revision(connection) != HEAD:
        upgrade(connection)
    for table in wanted:
        table.metadata.create_all(connection)
        _comment(connection, table)
    _create_views(connection)
    roles.grant(connection)


def revision(connection: sa.Connection) -> str | None:
    """The schema's revision; none for an empty database and for one from before there were migrations.

    Raises:
        UnknownRevision: the database is newer than the code.
    """
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    if found is not None and found not in REVISIONS:
        raise UnknownRevision(
            "the warehouse is newer than this code",
            where=connection.engine.url.render_as_string(hide_password=True),
            expected=f"one of the revisions {', '.join(REVISIONS)}",
            found=found,
            remedy="install the Nightjar that migrated it, or take it back with that one: nightjar warehouse downgrade",
        )
    return found


def upgrade(connection: sa.Connection, target: str = "head") -> None:
    """Migrate forward to a revision."""
    from alembic import command

    wait_for_schema(connection)
    revision(connection)
    _drop_views(connection)
    command.upgrade(_config(connection), target)
    if revision(connection) == HEAD:
        for table in METADATA.sorted_tables:
            _comment(connection, table)
        _create_views(connection)
        roles.grant(connection)


def downgrade(connection: sa.Connection, target: str) -> None:
    """Migrate back to an earlier revision, or to `base`: an empty database; what only the later one holds is lost."""
    from alembic import command

    wait_for_schema(connection)
    revision(connection)
    _drop_views(connection)
    command.downgrade(_config(connection), target)


def history() -> dict[str, str]:
    """What each revision brought, oldest first."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(_MIGRATIONS))
    return {name: str(scripts.get_revision(name).doc) for name in REVISIONS}


def tables_named(connection: sa.Connection, prefix: str) -> list[str]:
    """The tables of all use cases, present and former, whose names begin so: for migrations that alter them."""
    return [name for name in sa.inspect(connection).get_table_names() if name.startswith(prefix)]


def wait_for_schema(connection: sa.Connection) -> None:
    """Wait for whoever else changes the schema or its rights; SQLite's transactions have one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK)


def _config(connection: sa.Connection) -> "Config":
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def _comment(connection: sa.Connection, table: sa.Table) -> None:
    """Tell the database what table and columns mean."""
    if connection.dialect.supports_comments:
        connection.execute(SetTableComment(table))
        for column in table.columns:
            connection.execute(SetColumnComment(column))


def _views(connection: sa.Connection) -> dict[str, str]:
    """Our views and their queries."""
    views = {"ops__reconciliation": RECONCILIATION}
    for name in tables_named(connection, "scores__"):
        newest = f"WHERE score_date = (SELECT max(score_date) FROM {name})"
        views[f"{name}_latest"] = f"SELECT * FROM {name} {newest}"
    return views


def _create_views(connection: sa.Connection) -> None:
    views = _views(connection)
    for view in views.keys() - set(sa.inspect(connection).get_view_names()):
        connection.execute(sa.text(f"CREATE VIEW {view} AS {views[view]}"))


def _drop_views(connection: sa.Connection) -> None:
    """Our views keep tables from being altered; they are made anew."""
    for view in _views(connection).keys() & set(sa.inspect(connection).get_view_names()):
        connection.execute(sa.text(f"DROP VIEW {view}"))
