"""`nightjar export`, `verify`, `kpis` and `contract`: what analysts take away, can trust, and can rely on."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipelines.settings import load_settings
from pipelines.use_cases import get_use_case

console = Console(highlight=False, soft_wrap=True)
_ISO = ["%Y-%m-%d"]
_Name = Annotated[str, typer.Option("--use-case", help="Which prediction task")]
_DEFAULT = "category_propensity"


def export(
    target: Annotated[Path, typer.Option("--to", dir_okay=False, help="File to write, .csv or .parquet")],
    name: _Name = _DEFAULT,
    table: Annotated[str, typer.Option(help="Table or view; without it the published scores")] = "",
    day: Annotated[datetime | None, typer.Option("--date", formats=_ISO, help="Only the rows of a date")] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there")] = False,
    bom: Annotated[bool, typer.Option("--bom", help="Begin a CSV file as Excel wants it for UTF-8")] = False,
) -> None:
    """Write a table that analysts read to a file; no text of a CSV is a formula to a spreadsheet.

    Example: nightjar export --date 2017-11-19 --to scores.csv
    """
    from pipelines.export import export

    settings = load_settings()
    chosen = table or get_use_case(name, settings).scores_table
    report = export(settings, chosen, target, day=day.date() if day else None, force=force, bom=bom)
    console.print(f"{report.rows:,} rows of {report.table} in {report.file}", markup=False)


def verify(
    day: Annotated[datetime, typer.Option("--date", formats=_ISO, help="Score date")], name: _Name = _DEFAULT
) -> None:
    """Prove that the published rows of a date are, bit for bit, those that were audited and published.

    Example: nightjar verify --date 2017-11-19
    """
    from pipelines.export import verify

    settings = load_settings()
    found = verify(settings, get_use_case(name, settings), day.date())
    console.print(f"{found.rows:,} rows, as run {found.run_id} published them: {found.content_hash}", markup=False)


def kpis(
    first: Annotated[datetime, typer.Option("--from", formats=_ISO, help="First business date")],
    last: Annotated[datetime, typer.Option("--to", formats=_ISO, help="Last business date")],
    database: Annotated[Path, typer.Option(dir_okay=False, help="DuckDB file to write")],
    name: _Name = _DEFAULT,
) -> None:
    """Put a period into a DuckDB file in which the SQL of docs/kpis.md runs.

    Example: nightjar kpis --from 2017-11-13 --to 2017-11-19 --database kpis.duckdb
    """
    from pipelines.kpi_views import write_database

    settings = load_settings()
    write_database(settings, get_use_case(name, settings), first.date(), last.date(), database)
    console.print(f"{first.date()} to {last.date()} in {database}", markup=False)


def contract(
    *, is_major: Annotated[bool, typer.Option("--major", help="Raise the major version: readers will break")] = False
) -> None:
    """Write contracts/warehouse.json, docs/kpis.md and the tables of docs/analysts.md from the code; for developers.

    Example: nightjar contract
    """
    from pipelines.analyst_contract import write_contract

    console.print(f"version {write_contract(load_settings(), is_major=is_major).version}")
