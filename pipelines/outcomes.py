"""Outcomes: what became of each published row, once its labels are final: label window and late window are over."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from pipelines import lake, ledger, tables, warehouse
from pipelines.crash_points import crash_point
from pipelines.engine import open_engine
from pipelines.errors import LabelsImmature, MissingPartition
from pipelines.labels import build_labels, candidates_sql, compute_labels, inputs_of, mature_on, newest_mature
from pipelines.measurements import LABEL
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.storage import sql_list
from pipelines.use_case import UseCase

CORRECTED_DAYS = 31  # so long after it was final is a label corrected: what came to light later is history


@dataclass(frozen=True)
class OutcomesReport:
    """The score dates whose outcomes were written, and why others that are due were not; empty: all were.

    `corrected` are those among them that had outcomes before, of labels that have changed since.
    """

    as_of: date
    score_dates: tuple[date, ...]
    rows: int
    positives: int
    reason: str
    corrected: tuple[date, ...] = ()


def record_outcomes(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> OutcomesReport:
    """Write labels and outcomes of the score date that matures with `as_of`, and of older ones without.

    So it does, anew, for a date that matured in the 31 days before if a day of its label window has come in since and
    changed its labels; its realised figures are taken away, to be measured anew. A date whose label window has a hole
    is left for a later run, with the reason in the report.

    Raises:
        MissingPartition: a published date has no feature snapshot.
    """
    with measured(settings, use_case.outcomes_table, str(as_of), run_id) as cost:
        corrected = _withdraw_corrected(settings, use_case, as_of)
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
            cost.rows += rows.num_rows
            positives += pc.sum(rows.column("is_positive")).as_py() or 0
    newest = newest_mature(use_case, as_of)
    reason = "; ".join(left) if done or left else f"nothing was published up to {newest} that lacks outcomes"
    return OutcomesReport(as_of, tuple(done), cost.rows, positives, reason, tuple(corrected))


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
            f"{use_case.horizon_days + use_case.late_window_days} days later",
        )
    dates = ", ".join(f"'{day}'" for day in score_dates)
    files = lake.files_where(settings.lake, use_case.labels_table, f"as_of IN ({dates})")
    return f"SELECT * FROM read_parquet({sql_list(files)}, hive_partitioning = true, hive_types = {{'as_of': DATE}})"


def _due(settings: Settings, use_case: UseCase, as_of: date) -> list[date]:
    """The published date that matures with `as_of`, and older ones without outcomes."""
    newest = newest_mature(use_case, as_of)
    published, recorded = tables.scores_table(use_case), tables.outcomes_table(use_case)
    known = sa.select(recorded.c.score_date).where(recorded.c.score_date != newest).distinct()
    query = sa.select(published.c.score_date).where(published.c.score_date <= newest).distinct()
    with warehouse.open_warehouse(settings) as connection:
        return sorted(set(connection.scalars(query)) - set(connection.scalars(known)))


def _withdraw_corrected(settings: Settings, use_case: UseCase, as_of: date) -> list[date]:
    """Lately matured dates whose labels would be others now; their outcomes and figures are taken away.

    So they are due again, also where the run is killed before it has written them anew.
    """
    found = []
    for score_date in _touched(settings, use_case, newest_mature(use_case, as_of) - timedelta(days=1)):
        made = ledger.newest(settings, use_case, ledger.LABELS, score_date)
        try:
            now = inputs_of(settings, use_case, score_date)
            candidates = candidates_sql(settings, use_case, score_date)
            if made and made.inputs.files == now.files:
                continue
            rows = compute_labels(settings, use_case, score_date, candidates, now.core_versions)
        except MissingPartition:  # the snapshot was removed: what is known stays
            continue
        if made is None or made.version != lake.content_hash(rows):
            found.append(score_date)
    with warehouse.open_warehouse(settings) as connection:
        for score_date in found:
            place = {"use_case": use_case.name, "score_date": score_date, "clock": LABEL}
            warehouse.replace_rows(connection, tables.METRICS, [], **place)
            warehouse.replace_rows(connection, tables.outcomes_table(use_case), [], score_date=score_date)
    return found


def _touched(settings: Settings, use_case: UseCase, newest: date) -> list[date]:
    """Dates up to the newest with outcomes in whose label window a day came in after their labels were made."""
    oldest, window = newest - timedelta(days=CORRECTED_DAYS - 1), timedelta(days=use_case.horizon_days)
    recorded, made, log = tables.outcomes_table(use_case), tables.SNAPSHOT_LOG, tables.INGEST_LOG
    published = sa.select(tables.scores_table(use_case).c.score_date)
    dates = sa.select(recorded.c.score_date).where(
        recorded.c.score_date.between(oldest, newest), recorded.c.score_date.in_(published)
    )
    labelled = sa.select(made.c.as_of, sa.func.max(made.c.recorded_at).label("at")).where(
        made.c.use_case == use_case.name, made.c.kind == ledger.LABELS, made.c.as_of.between(oldest, newest)
    )
    ingested = sa.select(log.c.business_date, sa.func.max(log.c.recorded_at).label("at")).where(
        log.c.business_date.between(oldest, newest + window)
    )
    with warehouse.open_warehouse(settings) as connection:
        known = {row["as_of"]: row["at"] for row in warehouse.read_rows(connection, labelled.group_by(made.c.as_of))}
        came = warehouse.read_rows(connection, ingested.group_by(log.c.business_date))
        return [
            day
            for day in sorted(connection.scalars(dates.distinct()))
            if any(
                day < one["business_date"] <= day + window and (day not in known or one["at"] >= known[day])
                for one in came
            )
        ]


def _write_outcomes(settings: Settings, use_case: UseCase, score_date: date) -> pa.Table:
    published, recorded = tables.scores_table(use_case), tables.outcomes_table(use_case)
    entity, item = use_case.entity, use_case.item
    columns = ["score_date", entity, "rank", item, "score", "model_version"]
    query = sa.select(*(published.c[name] for name in columns)).where(published.c.score_date == score_date)
    outcomes = f"""
        SELECT published.*, positives.value_usd IS NOT NULL AS is_positive,
               coalesce(positives.value_usd, 0)::DOUBLE AS value_usd, $matured AS matured_date
        FROM published LEFT JOIN (
            SELECT {entity}::BIGINT AS {entity}, {item}::VARCHAR AS {item}, value_usd
            FROM ({labels_sql(settings, use_case, [score_date])}) WHERE is_positive
        ) positives USING ({entity}, {item}) ORDER BY {entity}, rank
    """
    with warehouse.open_warehouse(settings) as connection, open_engine(settings) as engine:
        engine.register("published", warehouse.read_table(connection, query))
        rows = engine.sql(outcomes, params={"matured": mature_on(use_case, score_date)}).to_arrow_table()
        warehouse.replace_rows(connection, recorded, rows, score_date=score_date)
    return rows
