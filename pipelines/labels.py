"""Labels: which entities bought which items in the days after a snapshot, and for how much."""

from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa

from pipelines import lake
from pipelines.coverage import require_ingested
from pipelines.engine import open_core
from pipelines.errors import LabelsImmature, MissingPartition
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.use_case import UseCase


@dataclass(frozen=True)
class LabelReport:
    """Rows of one partition of the labels, and how many of them are positive."""

    as_of: date
    rows: int
    positives: int


def build_labels(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> LabelReport:
    """Write the labels of every candidate of `as_of`, and of every positive that was no candidate.

    Raises:
        LabelsImmature: the lake does not hold the last day of the label window yet.
        MissingPartition: there is no feature snapshot of that date.
    """
    with measured(settings, use_case.labels_table, str(as_of), run_id) as cost:
        last = as_of + timedelta(days=use_case.horizon_days)
        _require_mature(settings, use_case, as_of, last)
        rows = compute_labels(settings, use_case, as_of)
        lake.replace_dates(settings.lake, use_case.labels_table, rows, first=as_of, last=as_of, partition="as_of")
        cost.rows = rows.num_rows
    return LabelReport(as_of, rows.num_rows, rows.column("is_positive").to_pylist().count(True))


def candidates_sql(settings: Settings, use_case: UseCase, as_of: date) -> str:
    """SQL for the candidates of a snapshot with the features of their table; excluded items are not among them."""
    path, _ = lake.require_snapshot(settings.lake, use_case.feature_tables[0].name, as_of)
    return (
        f"SELECT * FROM read_parquet('{path}', hive_partitioning = false) "
        f"WHERE {use_case.item}::VARCHAR NOT IN (SELECT unnest({list(use_case.excluded_items)}::VARCHAR[]))"
    )


def compute_labels(settings: Settings, use_case: UseCase, as_of: date) -> pa.Table:
    """The rows that `build_labels` writes, ordered by key."""
    last = as_of + timedelta(days=use_case.horizon_days)
    window = {"first_date": as_of + timedelta(days=1), "last_date": last, "as_of": as_of}
    keys = ", ".join(use_case.keys)
    excluded = f"{list(use_case.excluded_items)}::VARCHAR[]"
    query = f"""
        SELECT $as_of AS as_of, {keys}, c.is_candidate IS NOT NULL AS is_candidate,
               p.value_usd IS NOT NULL AS is_positive, coalesce(p.value_usd, 0)::DECIMAL(12, 2) AS value_usd
        FROM (SELECT {keys}, true AS is_candidate FROM ({candidates_sql(settings, use_case, as_of)})) c
        FULL JOIN (
            SELECT * FROM ({use_case.positives_sql})
            WHERE {use_case.item}::VARCHAR NOT IN (SELECT unnest({excluded}))
        ) p USING ({keys})
        ORDER BY {keys}
    """
    with open_core(settings, up_to=last) as connection:
        return connection.sql(query, params=window).to_arrow_table()


def last_mature(use_case: UseCase, known_until: date) -> date:
    """The newest snapshot date whose label window is over at the end of `known_until`."""
    return known_until - timedelta(days=use_case.horizon_days)


def _require_mature(settings: Settings, use_case: UseCase, as_of: date, last: date) -> None:
    try:
        require_ingested(settings, first=as_of + timedelta(days=1), last=last)
    except MissingPartition as error:
        raise LabelsImmature(
            "the label window is not over, or has a hole",
            where=f"{use_case.labels_table}, as_of={as_of}",
            expected=f"core__transactions of every day from {as_of + timedelta(days=1)} to {last}",
            found=error.found,
            remedy=error.remedy,
        ) from error
