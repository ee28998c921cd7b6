"""What a run left, as tables for the terminal: a list, the model, the KPIs, the drift, and where it is."""

import shlex
import sys
from datetime import date
from typing import Any

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from pipelines import registry, tables, warehouse
from pipelines.settings import Settings
from pipelines.use_case import UseCase

_DRIFT, _DRIFT_SHARE, _EVERYTHING = "drift_ks", "drift_share", "all"
_FIGURES = ("auc", "log_loss", "ece", "precision_at_{n}", "recall_at_{n}", "ndcg_at_{n}", "hit_at_{n}")


def show_summary(console: Console, settings: Settings, use_case: UseCase, score_date: date) -> None:
    """Print what the use case predicts for one entity, how good the model is, and what was measured."""
    for table in (
        top_list(settings, use_case, score_date),
        model_against_rules(settings, use_case),
        kpis(settings, use_case, score_date),
        drift(settings, use_case, score_date),
    ):
        console.print(table)


def top_list(settings: Settings, use_case: UseCase, score_date: date) -> Table:
    """The published list of the entity whose first score is the highest of the date."""
    scores = tables.scores_table(use_case)
    of_date = sa.select(scores).where(scores.c.score_date == score_date)
    best = sa.select(scores.c[use_case.entity]).where(scores.c.score_date == score_date, scores.c.rank == 1)
    entity = best.order_by(scores.c.score.desc(), scores.c[use_case.entity]).limit(1).scalar_subquery()
    rows = _read(settings, of_date.where(scores.c[use_case.entity] == entity).order_by(scores.c.rank))
    who = f"{use_case.entity} {rows[0][use_case.entity]}"
    table = _table(f"{use_case.title}: {who}, as of the end of {score_date}", "rank", "item", "score", "source")
    for row in rows:
        table.add_row(str(row["rank"]), row[use_case.item], f"{row['score']:.3f}", row["score_source"])
    return table


def model_against_rules(settings: Settings, use_case: UseCase) -> Table:
    """Cross-validated figures of the champion and of every simple rule, on the same rows."""
    champion = registry.champion(settings, use_case)
    found = registry.validation_metrics(settings, champion)
    trained = registry.validation_parameters(settings, champion)["as_of"]
    figures = [figure.format(n=use_case.top_n) for figure in _FIGURES]
    low, high = (found[f"ndcg_gain.{end}"] for end in ("low", "high"))
    title = (
        f"Champion version {champion.version}, trained with data up to {trained}, cross-validated in time "
        f"order; its NDCG is above the best rule's by {low:.4f} to {high:.4f} (95 %)"
    )
    table = _table(title, "model", *figures)
    prefixes = {"champion": ""} | {rule.name: f"rule.{rule.name}." for rule in use_case.rules}
    for name, prefix in prefixes.items():
        table.add_row(name, *(_number(found.get(prefix + figure)) for figure in figures))
    return table


def kpis(settings: Settings, use_case: UseCase, kpi_date: date) -> Table:
    """The KPIs of the date, and of the newest week that had ended by then."""
    table = _table(f"KPIs of {kpi_date}, and of the newest whole week", "KPI", "period", "value", "unit")
    for stored, period in ((tables.KPI_DAILY, "day"), (tables.KPI_WEEKLY, "week to")):
        place = (stored.c.use_case == use_case.name, stored.c.kpi_date <= kpi_date)
        newest = sa.select(sa.func.max(stored.c.kpi_date)).where(*place).scalar_subquery()
        query = sa.select(stored).where(stored.c.use_case == use_case.name, stored.c.kpi_date == newest)
        for row in _read(settings, query.order_by(stored.c.kpi)):
            when = f"{period} {row['kpi_date']}"
            table.add_row(row["kpi"], when, _number(row["value"], 3), row["unit"])
    return table


def drift(settings: Settings, use_case: UseCase, score_date: date, limit: int = 5) -> Table:
    """The columns that lie furthest from the training data, against their thresholds."""
    metrics = tables.METRICS
    place = (metrics.c.use_case == use_case.name, metrics.c.score_date == score_date)
    share = _read(settings, sa.select(metrics).where(*place, metrics.c.metric == _DRIFT_SHARE))
    furthest = (metrics.c.value / sa.func.nullif(metrics.c.threshold, 0)).desc()
    query = sa.select(metrics).where(*place, metrics.c.metric == _DRIFT).order_by(furthest).limit(limit)
    title = f"Drift of {score_date}: not measured"
    if share:
        title = f"Drift of {score_date}: {_number(share[0]['value'], 3)} of the model's gain is of drifted features"
    table = _table(title, "column", "KS", "limit", "status")
    for row in _read(settings, query):
        table.add_row(row["slice"], _number(row["value"]), _number(row["threshold"]), row["status"])
    return table


def show_places(console: Console, settings: Settings, use_case: UseCase) -> None:
    """Print where tables, logs and pages are, and how to ask them."""
    database = sa.make_url(settings.warehouse)
    snapshots = f"{settings.lake.folder}/{use_case.feature_tables[0].name}/*/*.parquet"
    lake_query = f"import duckdb; print(duckdb.sql(\"SELECT * FROM '{snapshots}' LIMIT 10\"))"
    latest = f"SELECT * FROM {use_case.scores_table}_latest LIMIT 10"
    ask = shlex.join(["sqlite3", "-box", str(database.database), latest])
    is_file = database.get_backend_name() == "sqlite"
    places = {
        "warehouse": database.render_as_string(hide_password=True),
        "  ask it with": ask if is_file else "any SQL client",
        "lake": f"{settings.lake.uri} (Delta tables; features__* are Parquet)",
        "  ask it by": shlex.join([sys.executable, "-c", lake_query]),
        "MLflow's store": settings.mlflow_store,
        "logs of tasks": str(settings.home / "airflow" / "logs"),
        "logs of servers": str(settings.home / "logs"),
        "Airflow and MLflow": "make up prints their addresses; make down stops them",
    }
    for what, where in places.items():
        console.print(f"{what:20} {where}", soft_wrap=True, markup=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="left" if column in _WORDS else "right", overflow="fold")
    return table


_WORDS = frozenset({"item", "source", "model", "KPI", "period", "unit", "column", "status"})


def _read(settings: Settings, query: sa.Select[Any]) -> list[dict[str, Any]]:
    with warehouse.open_warehouse(settings) as connection:
        return warehouse.read_rows(connection, query)


def _number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.{digits}f}"
