"""`nightjar`: every step without Airflow, for one use case and one date."""

import sys
from datetime import datetime
from getpass import getuser
from pathlib import Path
from typing import Annotated

import typer
from pydantic_core import to_json

from pipelines import (
    cli_analyst,
    cli_evaluate,
    cli_health,
    cli_metrics,
    cli_model,
    cli_quarantine,
    cli_serve,
    cli_warehouse,
    cli_watch,
)
from pipelines.cli_output import console, print_quality, print_report, progress_bar, progress_bars
from pipelines.errors import BadInput, NightjarError
from pipelines.settings import Settings, load_settings
from pipelines.steps import CLI_RUN
from pipelines.use_case import UseCase
from pipelines.use_cases import get_use_case, load_use_cases

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, rich_markup_mode="rich")
rebuild = typer.Typer(no_args_is_help=True, help="Make again what was made before, bit for bit.")
app.add_typer(rebuild, name="rebuild")
app.add_typer(cli_quarantine.app, name="quarantine")
app.add_typer(cli_model.app, name="model")
app.add_typer(cli_warehouse.app, name="warehouse")
for command in (
    cli_model.rollback,
    cli_analyst.export,
    cli_analyst.verify,
    cli_analyst.kpis,
    cli_analyst.contract,
    cli_health.health,
    cli_health.drift_report,
    cli_metrics.metrics,
    cli_watch.watch,
    cli_serve.serve,
    cli_evaluate.evaluate_policy,
    cli_evaluate.evaluate_monitor,
):
    app.command()(command)
_ISO = ["%Y-%m-%d"]

Day = Annotated[datetime, typer.Option("--date", formats=_ISO, help="Business date")]
First = Annotated[datetime, typer.Option("--from", formats=_ISO, help="First business date")]
Last = Annotated[datetime, typer.Option("--to", formats=_ISO, help="Last business date")]
Name = Annotated[str, typer.Option("--use-case", help="Which prediction task")]
Entity = Annotated[int, typer.Option("--entity", "--household", help="Who, as in the scores table")]
Item = Annotated[str, typer.Option("--item", "--category", help="What, as in the scores table")]
DEFAULT = "category_propensity"


@app.command()
def land(first: First, last: Last) -> None:
    """Play the upstream system: drop its files of each day into landing.

    Example: nightjar land --from 2017-01-01 --to 2017-11-18
    """
    from pipelines.landing import land

    settings = load_settings()
    with progress_bar("landing, days") as progress:
        print_report(land(settings, first.date(), last.date(), progress))


@app.command()
def ingest(first: First, last: Last) -> None:
    """Check the drops of each day and replace that day in the core tables.

    Example: nightjar ingest --from 2017-11-19 --to 2017-11-20
    """
    from pipelines.ingest import ingest

    print_report(ingest(load_settings(), first.date(), last.date(), CLI_RUN))


@app.command()
def features(day: Day, name: Name = DEFAULT) -> None:
    """Build the feature snapshot as of the end of a date.

    Example: nightjar features --date 2017-11-19
    """
    from pipelines.features import build_features

    settings, use_case = _ready(name)
    print_report(build_features(settings, use_case, day.date(), CLI_RUN))


@app.command()
def train(
    day: Day,
    name: Name = DEFAULT,
    search_minutes: Annotated[float, typer.Option(min=0, help="Time for a search of hyper-parameters")] = 0,
) -> None:
    """Train on what was known at the end of a date, register the model, and promote it if it deserves it.

    Example: nightjar train --date 2017-11-12
    """
    from pipelines.gate import judge
    from pipelines.promotion import promote
    from pipelines.training import train

    settings, use_case = _ready(name)
    with progress_bars() as progress:
        report = train(settings, use_case, day.date(), CLI_RUN, search_minutes=search_minutes, progress=progress)
    print_quality(use_case, report.quality)
    judged = judge(settings, use_case, report.model_version, day.date(), CLI_RUN)
    if judged.is_passed and settings.promotion == "approval":
        console.print(f"version {judged.model_version} waits for somebody else: nightjar model promote")
    else:
        print_report(promote(settings, use_case, report.model_version, CLI_RUN))


@app.command()
def score(day: Day, name: Name = DEFAULT) -> None:
    """Build the features of a date, score every candidate, and publish the best of each list.

    Example: nightjar score --date 2017-11-19
    """
    from pipelines.features import build_features
    from pipelines.publishing import publish
    from pipelines.scoring import score
    from pipelines.shadow import score_challenger

    settings, use_case = _ready(name)
    print_report(build_features(settings, use_case, day.date(), CLI_RUN))
    scored = score(settings, use_case, day.date(), CLI_RUN)
    print_report(scored)
    print_report(publish(settings, use_case, day.date(), CLI_RUN, scored.model_version))
    print_report(score_challenger(settings, use_case, day.date(), CLI_RUN, scored.model_version, scored.problem))


@app.command()
def publish(
    day: Day,
    name: Name = DEFAULT,
    model: Annotated[str, typer.Option(help="Model version or rule:<name>; else the champion's scores")] = "",
    force: Annotated[bool, typer.Option("--force", help="Publish against the audit; it is logged")] = False,
    reason: Annotated[str, typer.Option(help="Why it is forced")] = "",
) -> None:
    """Audit the stored scores of a date again and put them before readers.

    Example: nightjar publish --date 2017-11-19 --force --reason "the new region doubles the households"
    """
    from pipelines.publishing import Force, publish

    if force != bool(reason.strip()):
        raise typer.BadParameter("--force needs a --reason, and a reason is of use with it only")
    settings, use_case = _ready(name)
    decided = Force(getuser(), reason.strip()) if force else None
    print_report(publish(settings, use_case, day.date(), CLI_RUN, model or None, decided))


@app.command()
def monitor(day: Day, name: Name = DEFAULT) -> None:
    """Record outcomes, measure quality and drift, compute KPIs, find causes, decide on retraining, and draw the page.

    Example: nightjar monitor --date 2017-11-19
    """
    from pipelines import health_report, monitoring

    settings, use_case = _ready(name)
    for step in (
        monitoring.record_outcomes,
        monitoring.measure_quality,
        monitoring.measure_drift,
        monitoring.compute_kpis,
        monitoring.record_findings,
        monitoring.decide_retraining,
        health_report.write_report,
    ):
        print_report(step(settings, use_case, day.date(), CLI_RUN))


@app.command()
def backtest(
    train_date: Annotated[datetime, typer.Option(formats=_ISO, help="Last date known to training")],
    first: First,
    last: Last,
    name: Name = DEFAULT,
    retrain_weeks: Annotated[int, typer.Option(min=0, help="Train again every so many weeks; 0: never")] = 0,
) -> None:
    """Train at one date, score later ones a week apart, and compare with the simple rules; nothing is published.

    Example: nightjar backtest --train-date 2017-11-12 --from 2017-11-19 --to 2017-12-24

    Walk forward, a new champion every 4 weeks:
    nightjar backtest --train-date 2017-07-16 --from 2017-07-16 --to 2017-12-24 --retrain-weeks 4
    """
    from pipelines import backtest

    settings, use_case = _ready(name)
    dates = backtest.weekly(first.date(), last.date())
    with progress_bars() as progress:
        if retrain_weeks:
            champions = backtest.served(train_date.date(), dates, retrain_weeks)
            typer.echo(backtest.as_markdown(use_case, backtest.walk_forward(settings, use_case, champions, progress)))
            return
        report = backtest.backtest(settings, use_case, train_date.date(), dates, progress)
    print_quality(use_case, {model: found.named(use_case.top_n) for model, found in report.quality.items()})
    gain = report.gain
    console.print(
        f"{report.rows:,} rows; NDCG over {report.best_rule}: {gain.difference:+.4f}, "
        f"95 % interval by household \\[{gain.low:+.4f}, {gain.high:+.4f}]"
    )


@app.command()
def profile(
    day: Day, table: Annotated[str, typer.Option(help="Core table of the lake")] = "core__transactions"
) -> None:
    """Write an HTML page about a table at a date: distributions, missing values, drift against the month before.

    Example: nightjar profile --table core__transactions --date 2017-11-19
    """
    with console.status(f"profile of {table}"):
        from pipelines.profile import profile

        report = profile(load_settings(), table, day.date())
    print_report(report)


@rebuild.command("training-set")
def rebuild_training_set(
    model: Annotated[str, typer.Option(help="Model version")],
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="Parquet file for its rows")] = None,
    name: Name = DEFAULT,
) -> None:
    """Give the training set of a model back, bit for bit, also where days were corrected since.

    Example: nightjar rebuild training-set --model 1 --out training_set.parquet
    """
    from pipelines.lineage import rebuild_training_set

    print_report(rebuild_training_set(*_ready(name), model, out))


@app.command()
def lineage(
    day: Day,
    entity: Entity,
    item: Item,
    name: Name = DEFAULT,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every file")] = False,
) -> None:
    """Tell what a published row was made from: model, training set, features, core versions, files.

    Example: nightjar lineage --date 2017-11-19 --household 1 --category "FLUID MILK PRODUCTS"
    """
    from pipelines.trace import as_tree, trace

    found = trace(*_ready(name), day.date(), entity, item)
    if as_json:
        typer.echo(to_json(found, indent=1))
    else:
        console.print(as_tree(found))


@app.command()
def explain(
    day: Day,
    entity: Entity,
    item: Item,
    name: Name = DEFAULT,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON")] = False,
) -> None:
    """Account for a published score: what each feature added, and what happened in the 12 weeks before.

    Example: nightjar explain --date 2017-11-19 --household 1 --category "FLUID MILK PRODUCTS"
    """
    from pipelines.explain import as_tables, explain

    settings, use_case = _ready(name)
    found = explain(settings, use_case, day.date(), entity, item)
    if as_json:
        typer.echo(to_json(found, indent=1))
    else:
        console.print(*as_tables(use_case, found), sep="\n")


@app.command()
def erase(household: Annotated[str, typer.Option(help="Raw id, as the upstream system knows it")], day: Day) -> None:
    """Remove a household from every layer and keep it out; run it while nothing else runs.

    Example: nightjar erase --household 2070 --date 2017-11-20
    """
    from pipelines.erasure import erase

    report = erase(load_settings(), household, day.date(), CLI_RUN)
    print_report(report)
    if not report.is_complete:
        console.print("[red]unread files must be looked at by hand; they may hold the household[/]")
        sys.exit(1)


@app.command()
def reidentify(
    source: Annotated[Path, typer.Option("--input", exists=True, dir_okay=False, help="CSV with household_id")],
    target: Annotated[Path, typer.Option("--output", help="CSV to write, for its owner's eyes only")],
    reason: Annotated[str, typer.Option(help="Why, for the access log")],
) -> None:
    """Translate a list of pseudonyms back to raw ids, for activation; it is written down who did so, and why.

    Example: nightjar reidentify --input offers.csv --output activate.csv --reason "November mailing"
    """
    from pipelines.access import reidentify

    print_report(reidentify(load_settings(), source, target, reason, CLI_RUN))


@app.command()
def janitor(day: Day) -> None:
    """Remove what is kept long enough at a date, and what killed steps left behind.

    Example: nightjar janitor --date 2017-11-20
    """
    from pipelines.retention import clean

    print_report(clean(load_settings(), day.date(), CLI_RUN))


def main() -> None:
    """Run the command; a named error is printed whole and ends with exit code 2 (bad input) or 1."""
    try:
        app()
    except NightjarError as error:
        print(error, file=sys.stderr)  # noqa: T201  # the terminal is where this error belongs
        sys.exit(2 if isinstance(error, BadInput) else 1)


def _ready(name: str) -> tuple[Settings, UseCase]:
    from pipelines.warehouse import create_tables

    settings = load_settings()
    use_case = get_use_case(name, settings)
    create_tables(settings, list(load_use_cases(settings).values()))
    return settings, use_case


if __name__ == "__main__":
    main()
