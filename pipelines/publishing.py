"""Publishing: the best rows of each entity, audited, then put before readers in one transaction."""

import importlib
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import sqlalchemy as sa

from pipelines import lake, registry, tables, warehouse
from pipelines.checks import require
from pipelines.engine import open_core, open_engine
from pipelines.errors import MissingPartition
from pipelines.pages import DATA_DOCS, page_path
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.use_case import UseCase
from pipelines.validation import validate


@dataclass(frozen=True)
class PublishReport:
    """What readers now see of a date; `is_changed` is false where it was published already, row for row."""

    score_date: date
    model_version: str
    rows: int
    entities: int
    is_changed: bool
    content_hash: str


def publish(
    settings: Settings, use_case: UseCase, as_of: date, run_id: str, model_version: str | None = None
) -> PublishReport:
    """Put the top N rows of every entity in place of what is published for `as_of`.

    Without `model_version` the champion's scores are taken. Publishing equal rows again changes nothing.

    Raises:
        MissingPartition: that model has not scored that date.
        ChecksFailed: the audit found a fault; readers keep seeing what they saw.
    """
    version = model_version or registry.champion(settings, use_case).version
    warehouse.create_tables(settings, [use_case])
    with measured(settings, f"publish__{use_case.name}", str(as_of), run_id) as cost:
        cost.model_version = version
        rows = published_rows(settings, use_case, as_of, version)
        audit(settings, use_case, as_of, rows)
        content = lake.content_hash(rows)
        is_changed = _replace(settings, use_case, as_of, rows, content, run_id)
        cost.rows = rows.num_rows
    entities = len(rows.column(use_case.entity).unique())
    return PublishReport(as_of, version, rows.num_rows, entities, is_changed, content)


def published_rows(settings: Settings, use_case: UseCase, as_of: date, model_version: str) -> pa.Table:
    """The rows to publish, ordered by entity and rank: the warehouse's columns without `run_id`."""
    files = lake.files_where(
        settings.lake, use_case.scores_table, f"as_of = '{as_of}' AND model_version = '{model_version}'"
    )
    if not files:
        raise MissingPartition(
            "there are no scores to publish",
            where=f"{use_case.scores_table}, as_of={as_of}, model_version={model_version}",
            remedy=f"nightjar score --use-case {use_case.name} --date {as_of}",
        )
    columns = [column.name for column in tables.scores_table(use_case).columns if column.name != "run_id"]
    selected = ", ".join("$as_of AS score_date" if name == "score_date" else name for name in columns)
    with open_engine(settings) as connection:
        return connection.sql(
            f"SELECT {selected} FROM read_parquet({files}, hive_partitioning = true, "
            "hive_types = {'as_of': DATE, 'model_version': VARCHAR}) "
            f"WHERE rank <= {use_case.top_n} ORDER BY {use_case.entity}, rank",
            params={"as_of": as_of},
        ).to_arrow_table()


def audit(settings: Settings, use_case: UseCase, as_of: date, rows: pa.Table) -> None:
    """Nothing, when the rows hold what the use case's expectations of published scores ask for.

    The suite sees the rows with `previous_score` (that of the rank above) and `missing_rows` (how many more the list
    could have, if only with popular items); an active entity that is missing appears with nulls.

    Raises:
        ChecksFailed: names what was expected and found.
    """
    where, excluded = f"{use_case.scores_table}, score_date={as_of}", f"{list(use_case.excluded_items)}::VARCHAR[]"
    query = f"""
        SELECT published.* EXCLUDE ({use_case.entity}), {use_case.entity},
               lag(score, 1, 1.0) OVER listed AS previous_score, lag(rank, 1, 0) OVER listed + 1 AS expected_rank,
               greatest((SELECT least(count(DISTINCT {use_case.item}), {use_case.top_n}) FROM ({use_case.popular_sql})
                         WHERE {use_case.item}::VARCHAR NOT IN (SELECT unnest({excluded})))
                        - count(rank) OVER (PARTITION BY {use_case.entity}), 0) AS missing_rows
        FROM published FULL JOIN ({use_case.active_sql}) USING ({use_case.entity})
        WINDOW listed AS (PARTITION BY {use_case.entity} ORDER BY rank)
    """
    with open_core(settings, up_to=as_of) as connection:
        connection.register("published", rows)
        frame = connection.sql(query, params={"as_of": as_of}).df()
    suite = importlib.import_module(use_case.expectations_module).published_scores()
    docs = page_path(settings.home, DATA_DOCS, use_case.scores_table, as_of)
    found = validate(frame, suite, where=where, docs=docs)
    require(found.checks, where=where, remedy="readers keep the last good publication; see the run's log")


def _replace(settings: Settings, use_case: UseCase, as_of: date, rows: pa.Table, content: str, run_id: str) -> bool:
    table = tables.scores_table(use_case)
    records = rows.to_pylist()
    compared = [table.c[name] for name in rows.column_names]
    query = sa.select(*compared).where(table.c.score_date == as_of)
    with warehouse.open_warehouse(settings) as connection:
        published = warehouse.read_rows(connection, query.order_by(table.c[use_case.entity], table.c.rank))
        if published == records:
            return False
        stamped = [record | {"run_id": run_id} for record in records]
        warehouse.replace_rows(connection, table, stamped, score_date=as_of)
        log = {
            "run_id": run_id,
            "use_case": use_case.name,
            "score_date": as_of,
            "rows": rows.num_rows,
            "content_hash": content,
            "model_version": records[0]["model_version"],
            "feature_version": records[0]["feature_version"],
        }
        warehouse.append_rows(connection, tables.PUBLISH_LOG, [log])
    return True
