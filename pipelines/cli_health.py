"""`nightjar health` and `drift-report`: pages to look at, of a night and of its features."""

from datetime import datetime
from typing import Annotated

import typer

from pipelines.cli_output import console, print_report
from pipelines.settings import load_settings
from pipelines.steps import CLI_RUN
from pipelines.use_cases import get_use_case

_ISO = ["%Y-%m-%d"]
_Day = Annotated[datetime, typer.Option("--date", formats=_ISO, help="Business date")]
_Name = Annotated[str, typer.Option("--use-case", help="Which prediction task")]
_DEFAULT = "category_propensity"


def health(day: _Day, name: _Name = _DEFAULT) -> None:
    """Write the page on a model's health as of a date: status, quality, findings, KPIs, decisions.

    Example: nightjar health --date 2017-11-19
    """
    from pipelines.health_report import write_report

    settings = load_settings()
    print_report(write_report(settings, get_use_case(name, settings), day.date(), CLI_RUN))


def drift_report(
    day: _Day,
    name: _Name = _DEFAULT,
    against: Annotated[
        datetime | None, typer.Option(formats=_ISO, help="Earlier snapshot, such as a training date; else a month ago")
    ] = None,
) -> None:
    """Write Evidently's report on each feature table of a date, drawn from a sample.

    Example: nightjar drift-report --date 2017-11-19 --against 2017-11-12
    """
    from pipelines.profile import profile

    settings = load_settings()
    for table in get_use_case(name, settings).feature_tables:
        with console.status(f"report on {table.name}"):
            report = profile(settings, table.name, day.date(), against.date() if against else None)
        print_report(report)
