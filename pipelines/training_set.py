"""Training sets: labelled candidates of weekly snapshots, joined to their features by Feast."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.engine import open_engine
from pipelines.feature_store import join_features
from pipelines.features import end_of_day, feature_version
from pipelines.labels import last_mature, looked_at, read_labels
from pipelines.settings import Settings
from pipelines.use_case import UseCase

if TYPE_CHECKING:
    from feast import FeatureStore

Matrix = NDArray[np.float32]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Snapshot:
    """Candidates of one date, features and labels.

    `rows` has as_of, keys, is_candidate, is_positive, value_usd, weight, is_sampled and one column per simple rule,
    in the order of `matrix` (rows × features). `weight` undoes the sampling of negatives.
    """

    as_of: date
    rows: pa.Table
    matrix: Matrix
    entity: str

    def sampled(self) -> "Snapshot":
        """The rows that training uses: every positive and the sampled negatives."""
        keep = self.rows.column("is_sampled")
        if pc.all(keep).as_py():
            return self
        return Snapshot(self.as_of, self.rows.filter(keep), self.matrix[keep.to_numpy()], self.entity)

    @cached_property
    def positive(self) -> NDArray[np.bool_]:
        """Labels, one per row."""
        return np.asarray(self.rows.column("is_positive").to_numpy())

    @cached_property
    def entities(self) -> NDArray[Any]:
        """Whose list each row is on."""
        return np.asarray(self.rows.column(self.entity).to_numpy())

    @cached_property
    def weight(self) -> Vector:
        """Weights, one per row."""
        return np.asarray(self.rows.column("weight").to_numpy())


def snapshot_dates(use_case: UseCase, as_of: date) -> list[date]:
    """Dates of the training snapshots, ascending: all but the `holdout` newest whose labels are known at `as_of`."""
    newest, plan = last_mature(use_case, as_of), use_case.training
    steps = reversed(range(plan.holdout, plan.holdout + plan.snapshots))
    return [newest - timedelta(days=plan.snapshot_every_days * back) for back in steps]


def load_snapshot(
    settings: Settings, use_case: UseCase, store: "FeatureStore", as_of: date, *, only_sampled: bool
) -> Snapshot:
    """One date's labelled candidates with the features that were known at its end.

    Raises:
        MissingPartition: the date has no labels or no features.
    """
    feature_version(settings, use_case, as_of)  # Feast reads files: another machine's snapshots become files here
    labelled = labelled_candidates(settings, use_case, as_of)
    if only_sampled:
        labelled = labelled.filter(labelled.column("is_sampled"))
    stamp = pa.array([end_of_day(settings, as_of)] * labelled.num_rows, pa.timestamp("us", tz="UTC"))
    entities = labelled.select(list(use_case.keys)).append_column("event_timestamp", stamp)
    joined = join_features(settings, use_case, store, entities)
    with open_engine(settings) as connection:
        connection.register("labelled", labelled)
        connection.register("joined", joined.drop_columns("event_timestamp"))
        keys = ", ".join(use_case.keys)
        both = connection.sql(f"SELECT * FROM labelled JOIN joined USING ({keys}) ORDER BY {keys}").to_arrow_table()
    scored = with_rules(settings, use_case, both)
    return Snapshot(
        as_of, scored.drop_columns(list(use_case.features)), to_matrix(both, use_case.features), use_case.entity
    )


def labelled_candidates(settings: Settings, use_case: UseCase, as_of: date) -> pa.Table:
    """Candidates of a date that are looked at, with labels, weights and whether training's sample holds them.

    The sample depends on nothing but the key, the date and the plan's seed.
    """
    plan = use_case.training
    draw = f"md5_number_lower(concat_ws('|', {', '.join(use_case.keys)}, as_of, {plan.seed})) % 1000000"
    query = f"""
        SELECT *, CASE WHEN is_positive THEN 1 ELSE $weight END AS weight,
               is_positive OR {draw} < $kept AS is_sampled
        FROM labels WHERE is_candidate ORDER BY {", ".join(use_case.keys)}
    """
    share = plan.negative_keep_share
    with open_engine(settings) as connection:
        connection.register("labels", read_labels(settings, use_case, as_of, looked_at(settings, use_case, as_of)))
        return connection.sql(query, params={"weight": 1 / share, "kept": round(share * 1_000_000)}).to_arrow_table()


def with_rules(settings: Settings, use_case: UseCase, rows: pa.Table) -> pa.Table:
    """The rows with each simple rule's score in a column named after the rule."""
    rules = ", ".join(f"({rule.expression})::DOUBLE AS {rule.name}" for rule in use_case.rules)
    with open_engine(settings) as connection:
        connection.register("featured", rows)
        return connection.sql(f"SELECT *, {rules} FROM featured").to_arrow_table()


def missed_positives(settings: Settings, use_case: UseCase, as_of: date) -> pa.Table:
    """Positives of the same entities that were no candidates: as_of, keys, is_candidate, is_positive, value_usd."""
    labels = read_labels(settings, use_case, as_of, looked_at(settings, use_case, as_of))
    return labels.filter(pc.invert(labels.column("is_candidate")))


def scored_table(use_case: UseCase, rows: pa.Table, score: Vector, missed: pa.Table) -> pa.Table:
    """What `metrics` measures: scored candidates and the positives that were no candidates."""
    columns = ["as_of", *use_case.keys, "is_candidate", "is_positive", "value_usd"]
    candidates = rows.select(columns).append_column("score", pa.array(score, pa.float64()))
    others = missed.select(columns).append_column("score", pa.nulls(missed.num_rows, pa.float64()))
    return pa.concat_tables([candidates, others.cast(candidates.schema)])


def to_matrix(rows: pa.Table, features: Sequence[str]) -> Matrix:
    """The named columns, in that order, as 32-bit floats; null becomes NaN."""
    matrix = np.empty((rows.num_rows, len(features)), np.float32)
    for position, feature in enumerate(features):
        matrix[:, position] = pc.cast(rows.column(feature), pa.float32()).to_numpy()
    return matrix
