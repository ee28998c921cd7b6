"""What stands in for a model: a simple rule as a probability, and popular items where candidates are missing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date

import numpy as np
import pyarrow as pa
from sklearn.isotonic import IsotonicRegression

from pipelines.engine import open_core, parameters
from pipelines.model import Flags
from pipelines.partitions import WHOLE
from pipelines.settings import Settings
from pipelines.storage import sql_list
from pipelines.training_set import Vector
from pipelines.use_case import UseCase

COLD_START = "cold_start"
_ROWS_OF_A_RATE = 200


def as_probability(past: Vector, positive: Flags, values: Vector) -> Vector:
    """Probabilities that rise with a rule's values as the observed rate did in the past.

    Rates of 200 rows each, made monotone (isotonic regression: Zadrozny and Elkan 2002), with lines between them.
    """
    order = np.argsort(past, kind="stable")
    groups = np.array_split(order, max(len(order) // _ROWS_OF_A_RATE, 1))
    fitted = IsotonicRegression().fit(
        [past[group].mean() for group in groups],
        [positive[group].mean() for group in groups],
        sample_weight=[len(group) for group in groups],
    )
    return np.asarray(np.interp(values, fitted.X_thresholds_, fitted.y_thresholds_))


@contextmanager
def popular_lists(settings: Settings, use_case: UseCase, as_of: date) -> Iterator[Callable[[pa.Table, str], pa.Table]]:
    """A function that gives the popular items for the lists of some entities, by their ranked rows and a condition.

    It fills the lists of those of its active and scored entities that are shorter than `top_n`. The items follow the
    candidates, score no more than the last of these, and are none of them. Items of the entity's segment come first.
    Columns: keys, score, rank, score_source, is_low_confidence and reason_1, which says with whom they are popular.
    """
    entity, item = use_case.entity, use_case.item
    excluded = f"{sql_list(use_case.excluded_items)}::VARCHAR[]"
    with open_core(settings, up_to=as_of) as connection:
        segments, named = f"SELECT NULL::BIGINT AS {entity}, NULL::VARCHAR AS segment WHERE false", "NULL"
        if use_case.segments_sql:
            given = parameters(use_case.segments_sql, as_of)
            columns = connection.sql(use_case.segments_sql, params=given).columns
            dimension = next(name for name in columns if name != entity)
            segments = f"SELECT {entity}, {dimension}::VARCHAR AS segment FROM ({use_case.segments_sql})"
            named = f"'popular in the segment {dimension} ' || popular.segment"
        popular = f"""
            SELECT {item}, probability::DOUBLE AS probability, segment FROM (
                ({use_case.popular_sql}) UNION ALL BY NAME (SELECT NULL::VARCHAR AS segment WHERE false))
            WHERE {item}::VARCHAR NOT IN (SELECT unnest({excluded}))
        """
        for name, query in (("popular", popular), ("active", use_case.active_sql), ("segments", segments)):
            connection.execute(f"CREATE TEMP TABLE {name} AS {query}", parameters(query, as_of))

        def fill(ranked: pa.Table, condition: str = WHOLE) -> pa.Table:
            connection.register("ranked", ranked)
            try:
                return connection.sql(_offered(use_case, named, condition)).to_arrow_table()
            finally:
                connection.unregister("ranked")

        yield fill


def _offered(use_case: UseCase, named: str, condition: str) -> str:
    entity, item, n = use_case.entity, use_case.item, use_case.top_n
    return f"""
        WITH short AS (
            SELECT {entity}, any_value(segment) AS segment, count(rank) AS filled, min(score) AS lowest
            FROM ((SELECT {entity} FROM active WHERE {condition}) UNION (SELECT {entity} FROM ranked))
            LEFT JOIN ranked USING ({entity}) LEFT JOIN segments USING ({entity})
            GROUP BY {entity} HAVING count(rank) < {n}
        ), offered AS (
            SELECT short.*, {item}, probability, popular.segment AS of_segment,
                   coalesce({named}, 'popular with all') AS reason_1,
                   row_number() OVER (PARTITION BY {entity}, {item} ORDER BY of_segment IS NULL) AS choice
            FROM short JOIN popular ON popular.segment IS NULL OR popular.segment = short.segment
            ANTI JOIN ranked USING ({entity}, {item})
        )
        SELECT {entity}, {item}, least(lowest, min(probability) OVER listed) AS score,
               (filled + row_number() OVER listed)::INTEGER AS rank, '{COLD_START}' AS score_source,
               true AS is_low_confidence, reason_1
        FROM offered WHERE choice = 1
        WINDOW listed AS (PARTITION BY {entity} ORDER BY of_segment IS NULL, probability DESC, {item}
                          ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
        QUALIFY filled + row_number() OVER listed <= {n} ORDER BY {entity}, rank
    """
