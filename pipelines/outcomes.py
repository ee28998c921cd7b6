"""Outcomes: what became of each published row, once its label window is over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa

from pipelines import lake, tables, warehouse
from pipelines.crash_points import crash_point
from pipelines.engine import open_engine
from pipelines.errors import LabelsImmature, MissingPartition
from pipelines.labels import build_labels, last_mature
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.storage import sql_list
from pipelines.use_case import UseCase


@dataclass(frozen=True)
class OutcomesReport:
    """The score dates whose outcomes were written, and why others that are due were not; empty: all were."""

    as_of: date
    score_dates: tuple[date, ...]
    rows: int
    positives: int
    reason: str


def record_outcomes(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> OutcomesReport:
    """Write labels and outcomes of the score date that matures with `as_of`, and of older ones without.

    A date whose label window has a hole is left for a later run, with the reason in the report.

    Raises:
        MissingPartition: a published date has no feature snapshot.
    """
    with measured(settings, use_case.outcomes_table, str(as_of), run_id) as cost:
        done, left, cost.rows, positives = [], [], 0, 0
        for score_date in _due(settings, use_case, as_of):
            try:
                build_labels(settings, use_case, score_date, run_id)
            except LabelsImmature as immature:
                left.append(f"{score_date}: {immature.what}: {immature.found}")
                continue
            crash_point("outcomes.after_labels")
            rows = _write_outcomes(settings, use_case, score_date)
            done.append(score_date)
            cost.rows += len(rows)
            positives += sum(row["is_positive"] for row in rows)
    newest = last_mature(use_case, as_of)
    reason = "; ".join(left) if done or left else f"nothing was published up to {newest} that lacks outcomes"
    return OutcomesReport(as_of, tuple(done), cost.rows, positives, reason)


def published_version(settings: Settings, use_case: UseCase, score_date: date) -> str:
    """The model version whose rows readers see for a date.

    Raises:
        MissingPartition: nothing is published for it.
    """
    table = tables.scores_table(use_case)
    with warehouse.open_warehouse(settings) as connection:
        found = connection.scalar(sa.select(table.c.model_version).where(table.c.score_date == score_date).limit(1))
    if found is None:
        raise MissingPartition(
            "no scores are published for the date",
            where=f"{table.name}, score_date={score_date}",
            remedy=f"nightjar score --use-case {use_case.name} --date {score_date}",
        )
    return str(found)


def labels_sql(settings: Settings, use_case: UseCase, score_dates: Sequence[date]) -> str:
    """SQL for the labels of these dates.

    Raises:
        MissingPartition: a date has none.
    """
    missing = sorted(set(score_dates) - set(lake.dates_of(settings.lake, use_case.labels_table, "as_of")))
    if missing:
        raise MissingPartition(
            "score dates have no labels",
            where=use_case.labels_table,
            found=f"missing: {', '.join(map(str, missing))}",
            remedy=f"nightjar monitor --use-case {use_case.name} --date {missing[-1]}, "
            f"{use_case.horizon_days} days later",
        )
    dates = ", ".join(f"'{day}'" for day in score_dates)
    files = lake.files_where(settings.lake, use_case.labels_table, f"as_of IN ({dates})")
    return f"SELECT * FROM read_parquet({sql_list(files)}, hive_partitioning = true, hive_types = {{'as_of': DATE}})"


def _due(settings: Settings, use_case: UseCase, as_of: date) -> list[date]:
    """The published date that matures with `as_of`, and older ones without outcomes."""
    newest = last_mature(use_case, as_of)
    published, recorded = tables.scores_table(use_case), tables.outcomes_table(use_case)
    known = sa.select(recorded.c.score_date).where(recorded.c.score_date != newest).distinct()
    query = sa.select(published.c.score_date).where(published.c.score_date <= newest).distinct()
    with warehouse.open_warehouse(settings) as connection:
        return sorted(set(connection.scalars(query)) - set(connection.scalars(known)))


def _write_outcomes(settings: Settings, use_case: UseCase, score_date: date) -> list[dict[str, Any]]:
    worth = _worth(settings, use_case, score_date)
    matured = score_date + timedelta(days=use_case.horizon_days)
    published, recorded = tables.scores_table(use_case), tables.outcomes_table(use_case)
    columns = ["score_date", use_case.entity, "rank", use_case.item, "score", "model_version"]
    query = sa.select(*(published.c[name] for name in columns)).where(published.c.score_date == score_date)
    with warehouse.open_warehouse(settings) as connection:
        rows = warehouse.read_rows(connection, query.order_by(published.c[use_case.entity], published.c.rank))
        outcomes = [
            row
            | {
                "is_positive": (key := (row[use_case.entity], row[use_case.item])) in worth,
                "value_usd": worth.get(key, 0.0),
                "matured_date": matured,
            }
            for row in rows
        ]
        warehouse.replace_rows(connection, recorded, outcomes, score_date=score_date)
    return outcomes


def _worth(settings: Settings, use_case: UseCase, score_date: date) -> Mapping[tuple[int, str], float]:
    """What each positive of a date was worth, US$, by its key."""
    keys = f"{use_case.entity}::BIGINT, {use_case.item}::VARCHAR"
    labels = labels_sql(settings, use_case, [score_date])
    with open_engine(settings) as connection:
        positives = connection.sql(f"SELECT {keys}, value_usd::DOUBLE FROM ({labels}) WHERE is_positive").fetchall()
    return {(entity, item): value for entity, item, value in positives}
