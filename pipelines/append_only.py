"""Tables to which rows are added and of which none is changed or removed: the database itself refuses it."""

import sqlalchemy as sa


def append_only(table: sa.Table) -> sa.Table:
    """The table, with triggers that refuse everything but INSERT, made when it is made."""
    name, refusal = table.name, f"{table.name} is append-only"
    statements = [
        (
            "sqlite",
            f"CREATE TRIGGER {name}_no_{verb} BEFORE {verb} ON {name} BEGIN SELECT RAISE(ABORT, '{refusal}'); END",
        )
        for verb in ("UPDATE", "DELETE")
    ]
    body = f"BEGIN RAISE EXCEPTION '{refusal}'; END"
    statements += [
        ("postgresql", f"CREATE FUNCTION {name}_refuse() RETURNS trigger LANGUAGE plpgsql AS $${body}$$"),
        (
            "postgresql",
            f"CREATE TRIGGER {name}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {name} "
            f"EXECUTE FUNCTION {name}_refuse()",
        ),
    ]
    for dialect, statement in statements:
        ddl = sa.DDL(statement).execute_if(dialect=dialect)  # type: ignore[no-untyped-call]
        sa.event.listen(table, "after_create", ddl)
    return table
