"""Who may do what in a warehouse on PostgreSQL: one role for each kind of step, and one for those who only read."""

from collections.abc import Iterator
from fnmatch import fnmatch

import sqlalchemy as sa

from pipelines.tables import METADATA

STEPS = ("ingest", "train", "score", "monitor", "erase")
ROLES = (*STEPS, "analyst")
VERBS = {"S": "SELECT", "I": "INSERT", "U": "UPDATE", "D": "DELETE"}
_EVERY_STEP = " ".join(f"{step}:SI" for step in STEPS)

# Table → role: verbs. Nobody may change a row of a log, and scores are replaced, never updated.
GRANTS = {
    "alembic_version": " ".join(f"{step}:S" for step in STEPS),
    "scores__*": "train:S score:SID monitor:S erase:SD analyst:S",
    "outcomes__*": "train:S score:S monitor:SID erase:SD analyst:S",
    "staging__*": "score:SID erase:SD",
    "kpi__*": "train:S score:S monitor:SID analyst:S",
    "monitor__*": "train:S score:S monitor:SID analyst:S",
    "ops__ingest_log": "ingest:SI train:S score:S monitor:S erase:SI analyst:S",
    "ops__reconciliation": "ingest:S analyst:S",
    "ops__check_log": f"{_EVERY_STEP} analyst:S",
    "ops__run_costs": f"{_EVERY_STEP} analyst:S",
    "ops__quarantine_drops": "ingest:SI train:S score:S monitor:S erase:SID",
    "ops__tombstones": "ingest:S train:S score:S monitor:S erase:SID",
    "ops__access_log": "erase:SI",
    "ops__snapshot_log": "train:SI score:SI monitor:SI erase:SI analyst:S",
    "ops__publish_log": "train:S score:SI monitor:S erase:SI analyst:S",
    "ops__publish_fences": "score:SIU erase:S",
    "ops__promotion_log": "train:SI score:S monitor:S analyst:S",
    "ops__incidents": "score:SIU monitor:SIU analyst:S",
    "ops__retrain_decisions": "train:SID monitor:SID analyst:S",
}
_FUNCTIONS = {"make_partition(text, date)": "score", "drop_partitions(text, date)": "erase"}
# A reader writes nothing at all; only the owner of the database can see to it, and it may be somebody else's.
_NO_TEMPORARY_TABLES = """
DO $$ BEGIN
    IF (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()) THEN
        EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    END IF;
END $$"""


def make_roles(connection: sa.Connection) -> None:
    """Create the roles that are missing, without login, and give each what it needs and no more."""
    for role in ROLES:
        if not _exists(connection, role):
            connection.execute(sa.text(f"CREATE ROLE {name_of(role)} NOLOGIN"))
    grant(connection)


def grant(connection: sa.Connection) -> None:
    """Give the roles their rights on all tables that there are now; nothing where there are no roles."""
    if connection.dialect.name != "postgresql" or not _exists(connection, ROLES[-1]):
        return
    for statement in _statements(connection):
        connection.execute(sa.text(statement))


def name_of(role: str) -> str:
    """The role's name in the database."""
    return f"nightjar_{role}"


def rights(table: str) -> dict[str, str]:
    """The verbs of each role on a table or view, by their first letters; none where the table is nobody's."""
    told = next((told for pattern, told in GRANTS.items() if fnmatch(table, pattern)), "")
    return {role: verbs for role, _, verbs in (pair.partition(":") for pair in told.split())}


def _statements(connection: sa.Connection) -> Iterator[str]:
    everybody = ", ".join(map(name_of, ROLES))
    yield f"GRANT USAGE ON SCHEMA public TO {everybody}"
    yield "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    yield _NO_TEMPORARY_TABLES
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        yield f"REVOKE ALL ON ALL {kind} IN SCHEMA public FROM PUBLIC, {everybody}"
    inspector = sa.inspect(connection)
    for table in (*inspector.get_table_names(), *inspector.get_view_names()):
        for role, verbs in rights(table).items():
            yield f"GRANT {', '.join(VERBS[verb] for verb in verbs)} ON {table} TO {name_of(role)}"
            key = METADATA.tables[table].autoincrement_column if table in METADATA.tables else None
            if key is not None and "I" in verbs:
                yield f"GRANT USAGE ON SEQUENCE {table}_{key.name}_seq TO {name_of(role)}"
    for function, role in _FUNCTIONS.items():
        yield f"GRANT EXECUTE ON FUNCTION {function} TO {name_of(role)}"


def _exists(connection: sa.Connection, role: str) -> bool:
    query = sa.text("SELECT count(*) FROM pg_roles WHERE rolname = :name")
    return bool(connection.scalar(query, {"name": name_of(role)}))
