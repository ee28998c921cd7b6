"""Labels: which entities bought which items in the days after a snapshot, and for how much."""

from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import lake, ledger
from pipelines.coverage import require_ingested
from pipelines.crash_points import crash_point
from pipelines.engine import NEWEST, Versions, open_core, open_engine
from pipelines.errors import LabelsImmature, MissingPartition
from pipelines.ledger import LABELS, Inputs, Made
from pipelines.partitions import WHOLE
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.storage import sql_list, sql_text
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
        inputs = inputs_of(settings, use_case, as_of)
        candidates = candidates_sql(settings, use_case, as_of)
        rows = compute_labels(settings, use_case, as_of, candidates, inputs.core_versions)
        written = replace_labels(settings, use_case, as_of, rows)
        content = lake.content_hash(rows)
        made = Made(
            as_of=as_of,
            version=content,
            content={use_case.labels_table: content},
            inputs=inputs,
            table_version=written.version,
        )
        crash_point("labels.before_log")
        ledger.record(settings, use_case, LABELS, made, run_id)
        cost.rows = rows.num_rows
    return LabelReport(as_of, rows.num_rows, pc.sum(rows.column("is_positive")).as_py() or 0)


def inputs_of(settings: Settings, use_case: UseCase, as_of: date) -> Inputs:
    """What the labels of a date would be made from now.

    Raises:
        MissingPartition: there is no feature snapshot of that date.
    """
    candidates = lake.require_snapshot(settings.lake, use_case.feature_tables[0].name, as_of)[1]
    last = as_of + timedelta(days=use_case.horizon_days)
    return ledger.inputs_up_to(settings, last, definition_of(use_case), candidates)


def definition_of(use_case: UseCase) -> str:
    """What says what a label is."""
    return use_case.model_dump_json(include={"entity", "item", "horizon_days", "excluded_items", "positives_sql"})


def replace_labels(settings: Settings, use_case: UseCase, as_of: date, rows: pa.Table) -> lake.Written:
    """Put the rows in place of a date's labels."""
    return lake.replace_dates(settings.lake, use_case.labels_table, rows, first=as_of, last=as_of, partition="as_of")


def read_labels(settings: Settings, use_case: UseCase, as_of: date, condition: str = WHOLE) -> pa.Table:
    """A date's labels, of the entities that fulfil a condition, as `compute_labels` gave them.

    Raises:
        MissingPartition: the date has none.
    """
    files = lake.files_of(settings.lake, use_case.labels_table, first=as_of, last=as_of, partition="as_of")
    if not files:
        raise MissingPartition(
            "the snapshot has no labels",
            where=f"{use_case.labels_table}, as_of={as_of}",
            remedy=f"nightjar train builds them; or nightjar labels --date {as_of}",
        )
    keys = ", ".join(use_case.keys)
    columns = f"$as_of AS as_of, {keys}, is_candidate, is_positive, value_usd"
    rows = f"read_parquet({sql_list(files)}, hive_partitioning = false)"
    query = f"SELECT {columns} FROM {rows} WHERE {condition} ORDER BY {keys}"
    with open_engine(settings) as connection:
        return connection.sql(query, params={"as_of": as_of}).to_arrow_table()


def candidates_sql(settings: Settings, use_case: UseCase, as_of: date) -> str:
    """SQL for the candidates of a snapshot with the features of their table; excluded items are not among them."""
    path, _ = lake.require_snapshot(settings.lake, use_case.feature_tables[0].name, as_of)
    return (
        f"SELECT * FROM read_parquet({sql_text(path)}, hive_partitioning = false) "
        f"WHERE {use_case.item}::VARCHAR NOT IN (SELECT unnest({sql_list(use_case.excluded_items)}::VARCHAR[]))"
    )


def looked_at(settings: Settings, use_case: UseCase, as_of: date) -> str:
    """SQL condition on the entity for those whose candidates of a date trainings and realised quality look at.

    Where the date has more candidates than the plan's `most_rows`, it holds for a sample of the entities, which is
    larger or smaller with nothing but their number; else for all.

    Raises:
        MissingPartition: there is no feature snapshot of that date.
    """
    path, _ = lake.require_snapshot(settings.lake, use_case.feature_tables[0].name, as_of)
    rows, plan = pq.read_metadata(path).num_rows, use_case.training
    if rows <= plan.most_rows:
        return WHOLE
    draw = f"md5_number_lower(concat_ws('|', {use_case.entity}, {plan.seed})) % 1000000"
    return f"{draw} < {plan.most_rows * 1_000_000 // rows}"


def compute_labels(
    settings: Settings, use_case: UseCase, as_of: date, candidates: str, versions: Versions = NEWEST
) -> pa.Table:
    """The rows that `build_labels` writes, ordered by key, for the candidates that the SQL gives."""
    last = as_of + timedelta(days=use_case.horizon_days)
    window = {"first_date": as_of + timedelta(days=1), "last_date": last, "as_of": as_of}
    keys = ", ".join(use_case.keys)
    excluded = f"{sql_list(use_case.excluded_items)}::VARCHAR[]"
    query = f"""
        SELECT $as_of AS as_of, {keys}, c.is_candidate IS NOT NULL AS is_candidate,
               p.value_usd IS NOT NULL AS is_positive, coalesce(p.value_usd, 0)::DECIMAL(12, 2) AS value_usd
        FROM (SELECT {keys}, true AS is_candidate FROM ({candidates})) c
        FULL JOIN (
            SELECT * FROM ({use_case.positives_sql})
            WHERE {use_case.item}::VARCHAR NOT IN (SELECT unnest({excluded}))
        ) p USING ({keys})
        ORDER BY {keys}
    """
    with open_core(settings, up_to=last, versions=versions) as connection:
        return connection.sql(query, params=window).to_arrow_table()


def last_mature(use_case: UseCase, known_until: date) -> date:
    """The newest snapshot date whose label window is over at the end of `known_until`."""
    return known_until - timedelta(days=use_case.horizon_days)


def mature_on(use_case: UseCase, score_date: date) -> date:
    """The business date at whose end the labels of a score date are final: its window and the late window are over."""
    return score_date + timedelta(days=use_case.horizon_days + use_case.late_window_days)


def newest_mature(use_case: UseCase, as_of: date) -> date:
    """The newest score date whose labels are final at the end of `as_of`; a younger one's are immature."""
    return as_of - timedelta(days=use_case.horizon_days + use_case.late_window_days)


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
