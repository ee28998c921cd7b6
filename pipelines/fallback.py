"""What stands in for a model: a simple rule as a probability, and popular items where candidates are missing."""

from datetime import date

import numpy as np
import pyarrow as pa
from sklearn.isotonic import IsotonicRegression

from pipelines.engine import open_core
from pipelines.model import Flags
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


def popular_items(settings: Settings, use_case: UseCase, as_of: date, ranked: pa.Table) -> pa.Table:
    """Popular items for the lists of active and scored entities that are shorter than `top_n`.

    They follow the candidates, score no more than the last of these, and are none of them. Items of the entity's
    segment come first. Columns: keys, score, rank, score_source, is_low_confidence and reason_1, which says
    with whom they are popular.
    """
    entity, item, n = use_case.entity, use_case.item, use_case.top_n
    excluded = f"{sql_list(use_case.excluded_items)}::VARCHAR[]"
    with open_core(settings, up_to=as_of) as connection:
        connection.register("ranked", ranked)
        segments, named = f"SELECT NULL::BIGINT AS {entity}, NULL::VARCHAR AS segment WHERE false", "NULL"
        if use_case.segments_sql:
            given = {"as_of": as_of} if "$as_of" in use_case.segments_sql else None
            columns = connection.sql(use_case.segments_sql, params=given).columns
            dimension = next(name for name in columns if name != entity)
            segments = f"SELECT {entity}, {dimension}::VARCHAR AS segment FROM ({use_case.segments_sql})"
            named = f"'popular in the segment {dimension} ' || popular.segment"
        query = f"""
            WITH popular AS MATERIALIZED (
                SELECT {item}, probability::DOUBLE AS probability, segment FROM (
                    ({use_case.popular_sql}) UNION ALL BY NAME (SELECT NULL::VARCHAR AS segment WHERE false))
                WHERE {item}::VARCHAR NOT IN (SELECT unnest({excluded}))
            ), short AS (
                SELECT {entity}, any_value(segment) AS segment, count(rank) AS filled, min(score) AS lowest
                FROM (({use_case.active_sql}) UNION (SELECT {entity} FROM ranked))
                LEFT JOIN ranked USING ({entity}) LEFT JOIN ({segments}) USING ({entity})
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
        return connection.sql(query, params={"as_of": as_of}).to_arrow_table()
