"""`nightjar quarantine`: the rows that broke a rule, and what can be done about them."""

from datetime import date, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipelines.settings import load_settings
from pipelines.steps import CLI_RUN

app = typer.Typer(no_args_is_help=True, help=__doc__)
console = Console(highlight=False)
_ISO = ["%Y-%m-%d"]
Day = Annotated[datetime, typer.Option("--date", formats=_ISO, help="Business date")]
First = Annotated[datetime | None, typer.Option("--from", formats=_ISO, help="First business date")]
Last = Annotated[datetime | None, typer.Option("--to", formats=_ISO, help="Last business date")]
Rule = Annotated[str | None, typer.Option("--rule", help="Only rows whose first broken rule is this one")]


@app.command("list")
def list_(first: First = None, last: Last = None, rule: Rule = None) -> None:
    """Count the rows in quarantine by date, file and rule.

    Example: nightjar quarantine list --from 2017-11-01
    """
    from pipelines.quarantine import count_rows

    table = Table("date", "file", "rule", "rows")
    dates = first.date() if first else date.min, last.date() if last else date.max
    for row in count_rows(load_settings(), *dates, rule):
        table.add_row(*map(str, row))
    console.print(table)


@app.command()
def show(day: Day, rule: Rule = None) -> None:
    """Show rows whole: where each came from, what is wrong with it, and what was delivered.

    Example: nightjar quarantine show --date 2017-11-19 --rule quantity_not_negative
    """
    from pipelines.quarantine import read_rows

    for _, file, line, rule_id, reason, row in read_rows(load_settings(), day.date(), day.date(), rule):
        console.print(f"{file}, row {line}: {rule_id}; {reason}\n  {row}", markup=False, soft_wrap=True)


@app.command()
def replay(day: Day, rule: Rule = None) -> None:
    """Judge rows again, after the rules or limits were mended, and move those that pass into the core table.

    Example: nightjar quarantine replay --date 2017-11-19 --rule quantity_not_above_limit
    """
    from pipelines.quarantine import replay

    with console.status(f"judging the quarantined rows of {day:%Y-%m-%d}"):
        report = replay(load_settings(), day.date(), rule, CLI_RUN)
    console.print(f"{report.rows_judged} rows judged, {report.rows_kept} now in core, {report.rows_left} left")
    for affected in report.affected:
        console.print(f"score anew: nightjar score --date {affected}")


@app.command()
def drop(
    day: Day,
    rule: Annotated[str, typer.Option("--rule", help="Rows whose first broken rule is this one")],
    reason: Annotated[str, typer.Option("--reason", help="Why they are not worth keeping; it is kept")],
) -> None:
    """Take rows out of quarantine for good.

    Example: nightjar quarantine drop --date 2017-11-19 --rule line_unique --reason "till tests"
    """
    from pipelines.quarantine import drop

    report = drop(load_settings(), day.date(), rule, reason, CLI_RUN)
    console.print(f"{report.rows_dropped} rows dropped")
