"""Scoring: every candidate of a night, with a probability and a rank, in the lake."""

from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from pipelines import lake, registry
from pipelines.engine import open_core, open_engine
from pipelines.errors import SnapshotRefused
from pipelines.features import end_of_day, feature_version
from pipelines.labels import candidates_sql
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.storage import sql_list
from pipelines.training_set import Vector
from pipelines.use_case import UseCase

CHAMPION_SOURCE, COLD_START_SOURCE = "champion", "cold_start"


@dataclass(frozen=True)
class ScoreReport:
    """Which model scored which features, and how many candidates."""

    as_of: date
    model_version: str
    feature_version: str
    rows: int


def score(
    settings: Settings, use_case: UseCase, as_of: date, run_id: str, model_version: str | None = None
) -> ScoreReport:
    """Score every candidate of `as_of` with that version, else the champion, resolved once; keep all in the lake.

    Active entities without any candidate get the most popular items, with `score_source` cold_start.

    Raises:
        NoChampion: there is none yet.
        MissingPartition: there is no feature snapshot of that date.
        ArtifactRefused: the champion's files are not the registered ones, or its features are not in the snapshot.
    """
    with measured(settings, use_case.scores_table, str(as_of), run_id) as cost:
        version = (
            registry.get_version(settings, use_case, model_version)
            if model_version
            else registry.champion(settings, use_case)
        )
        model, _ = registry.load(settings, use_case, version)
        features = candidate_features(settings, use_case, as_of)
        probability = model.predict(features, settings.threads)
        snapshot_version = feature_version(settings, use_case, as_of)
        rows = rank_candidates(
            settings,
            use_case,
            pa.concat_tables(
                [
                    _with_score(use_case, features, probability),
                    cold_start_rows(settings, use_case, as_of, features.select([use_case.entity])),
                ]
            ),
        )
        stamped = _stamp(rows, as_of, version.version, snapshot_version)
        lake.replace_where(
            settings.lake,
            use_case.scores_table,
            stamped,
            predicate=f"as_of = '{as_of}' AND model_version = '{version.version}'",
            partition_by=["as_of", "model_version"],
        )
        cost.rows = stamped.num_rows
    return ScoreReport(as_of, version.version, snapshot_version, stamped.num_rows)


def candidate_features(settings: Settings, use_case: UseCase, as_of: date) -> pa.Table:
    """Every candidate of a date with all features as columns, ordered by key.

    Raises:
        MissingPartition: the date has no snapshot.
        SnapshotRefused: a snapshot in the date's place is that of another date.
    """
    for table in use_case.feature_tables:
        _require_fresh(settings, table.name, as_of)
    joins = "".join(
        f" LEFT JOIN (SELECT * EXCLUDE (event_timestamp, created_timestamp) FROM read_parquet("
        f"'{lake.require_snapshot(settings.lake, table.name, as_of)[0]}', hive_partitioning = false))"
        f" USING ({', '.join(table.keys)})"
        for table in use_case.feature_tables[1:]
    )
    columns = ", ".join((*use_case.keys, *use_case.features))
    query = (
        f"SELECT {columns} FROM ({candidates_sql(settings, use_case, as_of)}){joins} "
        f"ORDER BY {', '.join(use_case.keys)}"
    )
    with open_engine(settings) as connection:
        return connection.sql(query).to_arrow_table()


def _require_fresh(settings: Settings, table: str, as_of: date) -> None:
    path, _ = lake.require_snapshot(settings.lake, table, as_of)
    known_at = end_of_day(settings, as_of)
    with open_engine(settings) as connection:
        rows = connection.sql(f"SELECT DISTINCT event_timestamp FROM read_parquet({sql_list([path])})").fetchall()
    found = {instant for (instant,) in rows}
    if found - {known_at}:
        raise SnapshotRefused(
            "the features are not those of the date",
            where=f"{table}, as_of={as_of}",
            expected=f"what was known at {known_at}",
            found=", ".join(map(str, sorted(found))),
            remedy=f"nightjar features --date {as_of}",
        )


def cold_start_rows(settings: Settings, use_case: UseCase, as_of: date, known: pa.Table) -> pa.Table:
    """The most popular items, scored by how common they are, for active entities that are not in `known`."""
    query = f"""
        SELECT {use_case.entity}, {use_case.item}, probability::DOUBLE AS score, '{COLD_START_SOURCE}' AS score_source
        FROM ({use_case.active_sql}) ANTI JOIN known USING ({use_case.entity})
        CROSS JOIN (
            SELECT * FROM ({use_case.popular_sql})
            WHERE {use_case.item}::VARCHAR NOT IN (SELECT unnest({list(use_case.excluded_items)}::VARCHAR[]))
            ORDER BY probability DESC, {use_case.item} LIMIT {use_case.top_n}
        )
    """
    with open_core(settings, up_to=as_of) as connection:
        connection.register("known", known)
        return connection.sql(query, params={"as_of": as_of}).to_arrow_table()


def rank_candidates(settings: Settings, use_case: UseCase, rows: pa.Table) -> pa.Table:
    """The rows with their rank within the entity; equal scores are ordered by item, so that ranks never waver."""
    query = f"""
        SELECT *, row_number() OVER (
            PARTITION BY {use_case.entity} ORDER BY score DESC, {use_case.item})::INTEGER AS rank
        FROM scored ORDER BY {use_case.entity}, rank
    """
    with open_engine(settings) as connection:
        connection.register("scored", rows)
        return connection.sql(query).to_arrow_table()


def _with_score(use_case: UseCase, features: pa.Table, probability: Vector) -> pa.Table:
    source = pa.array([CHAMPION_SOURCE] * len(probability), pa.string())
    return (
        features.select(list(use_case.keys))
        .append_column("score", pa.array(probability, pa.float64()))
        .append_column("score_source", source)
    )


def _stamp(rows: pa.Table, as_of: date, model_version: str, snapshot_version: str) -> pa.Table:
    """The rows with what they were made of, one value each for all."""
    for name, value, kind in (
        ("as_of", as_of, pa.date32()),
        ("model_version", model_version, pa.string()),
        ("feature_version", snapshot_version, pa.string()),
    ):
        rows = rows.append_column(name, pa.array([value] * rows.num_rows, kind))
    return rows
