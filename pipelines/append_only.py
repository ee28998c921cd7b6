"""Tables to which rows are added and of which none is changed or removed: the database itself refuses it."""

import sqlalchemy as sa


def protect(connection: sa.Connection, name: str) -> None:
    """Let triggers refuse everything but INSERT."""
    refusal = f"{name} is append-only"
    if connection.dialect.name == "postgresql":
        body = f"BEGIN RAISE EXCEPTION '{refusal}'; END"
        statements = [
            f"CREATE OR REPLACE FUNCTION {name}_refuse() RETURNS trigger LANGUAGE plpgsql AS $${body}$$",
            f"CREATE TRIGGER {name}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {name} "
            f"EXECUTE FUNCTION {name}_refuse()",
        ]
    else:
        statements = [
            f"CREATE TRIGGER {name}_no_{verb} BEFORE {verb} ON {name} BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
            for verb in ("UPDATE", "DELETE")
        ]
    for statement in statements:
        connection.execute(sa.text(statement))


def unprotect(connection: sa.Connection, name: str) -> None:
    """Take the triggers away: for a migration that changes or drops the table."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"DROP FUNCTION {name}_refuse() CASCADE"))
    else:
        for verb in ("UPDATE", "DELETE"):
            connection.execute(sa.text(f"DROP TRIGGER {name}_no_{verb}"))
