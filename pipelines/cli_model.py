"""`nightjar model`: who promoted what and why, what two versions differ in, and a promotion by hand."""

import getpass
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipelines.settings import Settings, load_settings
from pipelines.steps import CLI_RUN
from pipelines.use_case import UseCase
from pipelines.use_cases import get_use_case

app = typer.Typer(no_args_is_help=True, help=__doc__)
console = Console(highlight=False)
_ISO = ["%Y-%m-%d"]
Version = Annotated[str, typer.Argument(help="Model version")]
Name = Annotated[str, typer.Option("--use-case", help="Which prediction task")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept")]
DEFAULT = "category_propensity"


@app.command()
def history(name: Name = DEFAULT) -> None:
    """Show every promotion, refusal and rollback, and whether the log of them is as it was written.

    Example: nightjar model history
    """
    from pipelines import promotion_log

    settings, use_case = _ready(name)
    table = Table("version", "when, UTC", "from → to", "action", "who", "trainer", "why")
    for row in promotion_log.history(settings, use_case):
        moved = (
            f"{row['from_version'] or '–'} → {row['to_version'] if row['is_promoted'] else row['from_version'] or '–'}"
        )
        told = (row["to_version"], f"{row['recorded_at']:%Y-%m-%d %H:%M:%S}", moved)
        table.add_row(*told, row["action"], row["actor"], row["trainer"] or "–", row["reason"])
    console.print(table)
    console.print(f"{promotion_log.verify(settings, use_case)} entries, all as they were written")


@app.command()
def diff(old: Version, new: Version, name: Name = DEFAULT) -> None:
    """Show what two versions differ in: data, code, parameters, features, metrics, gate, approver.

    Example: nightjar model diff 11 12
    """
    from pipelines.model_diff import model_diff

    table = Table("", "", f"version {old}", f"version {new}")
    for row in model_diff(*_ready(name), old, new):
        table.add_row(*row)
    console.print(table)


@app.command()
def promote(
    version: Version,
    day: Annotated[datetime, typer.Option("--date", formats=_ISO, help="Business date by which it is judged")],
    reason: Reason,
    name: Name = DEFAULT,
) -> None:
    """Judge a version and, if the gate lets it pass, make it champion in your name.

    Example: nightjar model promote 12 --date 2017-11-19 --reason "looks right to me"
    """
    from pipelines import gate, promotion

    settings, use_case = _ready(name)
    gate.judge(settings, use_case, version, day.date(), CLI_RUN)
    answer = promotion.Answer(getpass.getuser(), is_approved=True, reason=reason)
    report = promotion.promote(settings, use_case, version, CLI_RUN, answer)
    console.print(f"version {version} is {'' if report.is_promoted else 'not '}champion: {report.reason}", markup=False)


@app.command()
def card(
    version: Version,
    day: Annotated[datetime, typer.Option("--date", formats=_ISO, help="Business date up to which all is known")],
    name: Name = DEFAULT,
) -> None:
    """Write a version's model card; its ablation, made once, takes minutes.

    Example: nightjar model card 12 --date 2017-11-19
    """
    settings, use_case = _ready(name)
    with console.status("model card: ablation by feature group, figures, pictures"):
        from pipelines.model_card import write_card

        report = write_card(settings, use_case, version, day.date(), CLI_RUN)
    console.print(f"version {version} can be trusted: {report.trust}; {settings.home / report.page}", markup=False)


@app.command()
def key() -> None:
    """Print the public key that verifies models, for NIGHTJAR_VERIFY_KEY where they are only read.

    Example: nightjar model key
    """
    from pipelines.signing import public_key

    typer.echo(public_key(load_settings()))


def rollback(
    model: Annotated[str, typer.Option(help="Model version that is to be champion again")],
    reason: Reason,
    first: Annotated[datetime | None, typer.Option("--from", formats=_ISO, help="First score date to publish")] = None,
    last: Annotated[datetime | None, typer.Option("--to", formats=_ISO, help="Last score date to publish")] = None,
    name: Name = DEFAULT,
) -> None:
    """Make an earlier version champion again, and publish its scores for the dates that a bad one has spoilt.

    Example: nightjar rollback --model 11 --from 2017-11-19 --to 2017-11-25 --reason "12 ranks fuel first"
    """
    from pipelines.rollback import RollbackOrder, roll_back

    dates = [day.date() if day else None for day in (first, last)]
    order = RollbackOrder(model, getpass.getuser(), reason, *dates)
    report = roll_back(*_ready(name), order, CLI_RUN)
    console.print(f"version {model} is champion instead of {report.from_version or 'none'}")
    for day, how in report.republished.items():
        console.print(f"{day} published again: {how}")


def _ready(name: str) -> tuple[Settings, UseCase]:
    settings = load_settings()
    return settings, get_use_case(name, settings)
