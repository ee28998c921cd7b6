"""`nightjar warehouse`: the schema of the warehouse, forward and back."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipelines.settings import load_settings
from pipelines.use_cases import load_use_cases

app = typer.Typer(no_args_is_help=True, help=__doc__)
console = Console(highlight=False)


@app.command()
def history() -> None:
    """Show the revisions of the schema, and which one the warehouse has.

    Example: nightjar warehouse history
    """
    from pipelines import schema, warehouse

    with warehouse.open_warehouse(load_settings()) as connection:
        found = schema.revision(connection)
    table = Table("revision", "what it brought", "")
    for name, what in schema.history().items():
        table.add_row(name, what, "◂ the warehouse" if name == found else "")
    console.print(table)


@app.command()
def upgrade() -> None:
    """Bring the warehouse to the newest revision, with the tables of every use case; every step does it by itself.

    Example: nightjar warehouse upgrade
    """
    from pipelines import schema, warehouse

    settings = load_settings()
    warehouse.create_tables(settings, list(load_use_cases(settings).values()))
    console.print(f"the warehouse has revision {schema.HEAD}")


@app.command()
def roles() -> None:
    """On PostgreSQL, make the roles for steps and analysts, and give each its rights; run it as the tables' owner.

    Example: nightjar warehouse roles
    """
    from pipelines import roles, schema, warehouse

    settings = load_settings()
    warehouse.create_tables(settings, list(load_use_cases(settings).values()))
    with warehouse.open_warehouse(settings) as connection:
        schema.wait_for_schema(connection)
        roles.make_roles(connection)
    console.print(f"made or renewed {', '.join(map(roles.name_of, roles.ROLES))}; grant them to logins")


@app.command()
def downgrade(
    target: Annotated[str, typer.Argument(help="Revision, or base: an empty database")],
    is_sure: Annotated[bool, typer.Option("--yes", help="What only later revisions hold may be lost")] = False,
) -> None:
    """Take the warehouse back to an earlier revision, before an earlier Nightjar is installed.

    Example: nightjar warehouse downgrade 0001 --yes
    """
    from pipelines import schema, warehouse

    if not is_sure:
        typer.confirm(f"go back to {target}? What only later revisions hold is lost", abort=True)
    with warehouse.open_warehouse(load_settings()) as connection:
        schema.downgrade(connection, target)
    console.print(f"the warehouse has revision {target}")
