"""Scoring: every candidate of a night, with a probability and a rank, in the lake."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import lake, registry
from pipelines.champion import BASELINE, CACHED, CHAMPION, Chosen, choose_model
from pipelines.cluster import open_engine_of_parts
from pipelines.crash_points import crash_point
from pipelines.engine import open_engine
from pipelines.errors import ArtifactRefused, BadInput, EngineFailure, NightjarError, NoChampion, SnapshotRefused
from pipelines.fallback import as_probability, popular_lists
from pipelines.features import end_of_day, feature_version
from pipelines.incidents import Incident, open_incident, resolve
from pipelines.labels import candidates_sql, last_mature, looked_at
from pipelines.lineage import current_snapshot
from pipelines.model import Model
from pipelines.partitions import WHOLE, entity_ranges, gathered
from pipelines.reasons import REASONS, add_reasons
from pipelines.scratch import Rows
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.storage import sql_list, sql_text
from pipelines.training_set import Vector, labelled_candidates
from pipelines.use_case import FeatureTable, UseCase

_Rank = Callable[[Settings, str], pa.Table]  # the ranked candidates of the entities that fulfil a condition
_Fitted = Callable[[Vector], Vector]
INCIDENTS: dict[type[NightjarError], str] = {
    NoChampion: "no champion",
    EngineFailure: "registry down",
    ArtifactRefused: "champion refused",
}
_READERS_SEE = {
    CHAMPION: "the champion's scores, from a verified local copy",
    CACHED: "scores of an earlier champion, from a verified local copy",
    BASELINE: "the ranking of the simple rule, as probabilities; is_low_confidence is set",
}


@dataclass(frozen=True)
class ScoreReport:
    """Which model or rule scored which features, how many rows, and why it was not the registry's champion."""

    as_of: date
    model_version: str
    feature_version: str
    rows: int
    score_source: str
    problem: str


def score(
    settings: Settings, use_case: UseCase, as_of: date, run_id: str, model_version: str | None = None
) -> ScoreReport:
    """Score every candidate of `as_of` and keep all in the lake, with reasons for the rows that are to be published.

    The champion scores, resolved once; where it cannot, its last verified copy; else the baseline rule, and an
    incident says so. Popular items fill the lists of active entities. A given `model_version` is not replaced.

    Raises:
        MissingPartition: there is no feature snapshot of that date.
        SnapshotRefused: it is not what it should be.
        ArtifactRefused: the given version's files are not the registered ones.
    """
    with measured(settings, use_case.scores_table, str(as_of), run_id) as cost:
        chosen = (
            choose_model(settings, use_case) if model_version is None else _given(settings, use_case, model_version)
        )
        _require_features(settings, use_case, as_of)
        snapshot_version = feature_version(settings, use_case, as_of)
        rank, problem = _ranking(settings, use_case, as_of, chosen, run_id)
        cost.model_version = chosen.version
        with _scored(settings, use_case, as_of, rank, (chosen.version, snapshot_version)) as rows:
            _require_same(settings, use_case, as_of, snapshot_version)
            lake.replace_where(
                settings.lake,
                use_case.scores_table,
                rows,
                predicate=lake.scored_by(as_of, chosen.version),
                partition_by=["as_of", "model_version"],
            )
            cost.rows = rows.num_rows
        crash_point("score.after_rows")
        if model_version is None:
            problem = _note(settings, use_case, as_of, chosen, run_id, problem)
    return ScoreReport(as_of, chosen.version, snapshot_version, cost.rows, chosen.source, problem)


@contextmanager
def _scored(
    settings: Settings, use_case: UseCase, as_of: date, rank: _Rank, versions: tuple[str, str]
) -> Iterator[Rows]:
    """The ranked candidates of all entities, and popular items behind them; `versions` of model and features."""
    candidates = f"({candidates_sql(settings, use_case, as_of)})"
    with open_engine_of_parts(settings) as engine, popular_lists(settings, use_case, as_of) as fill:
        with open_engine(settings) as connection:
            ranges = entity_ranges(connection, candidates, use_case.entity, least=engine.least)
        parts = (
            _stamp(pa.concat_tables([ranked, fill(ranked, condition)], promote_options="default"), as_of, *versions)
            for condition, ranked in zip(ranges, engine.map(rank, ranges), strict=True)
        )
        with gathered(settings, len(ranges), parts) as rows:
            yield rows


def candidate_features(settings: Settings, use_case: UseCase, as_of: date, condition: str = WHOLE) -> pa.Table:
    """Every candidate of a date, of the entities that fulfil a condition, with all features as columns, by key.

    Raises:
        MissingPartition: the date has no snapshot.
        SnapshotRefused: a snapshot in the date's place is that of another date.
    """
    _require_features(settings, use_case, as_of)
    return _read(settings, use_case, as_of, ", ".join((*use_case.keys, *use_case.features)), condition)


def _read(settings: Settings, use_case: UseCase, as_of: date, columns: str, condition: str = WHOLE) -> pa.Table:
    """Columns of the candidates whose entities fulfil a condition, ordered by key."""
    query = f"SELECT {columns} FROM ({candidates_query(settings, use_case, as_of)}) WHERE {condition}"
    with open_engine(settings) as connection:
        return connection.sql(f"{query} ORDER BY {', '.join(use_case.keys)}").to_arrow_table()


def candidates_query(settings: Settings, use_case: UseCase, as_of: date) -> str:
    """SQL for every candidate of a date with all features as columns.

    Raises:
        MissingPartition: the date has no snapshot.
    """
    joins = "".join(
        f" LEFT JOIN (SELECT * EXCLUDE (event_timestamp, created_timestamp) FROM read_parquet("
        f"{sql_text(lake.require_snapshot(settings.lake, table.name, as_of)[0])}, hive_partitioning = false))"
        f" USING ({', '.join(table.keys)})"
        for table in use_case.feature_tables[1:]
    )
    columns = ", ".join((*use_case.keys, *use_case.features))
    return f"SELECT {columns} FROM ({candidates_sql(settings, use_case, as_of)}){joins}"


def _require_features(settings: Settings, use_case: UseCase, as_of: date) -> None:
    """Nothing, where all feature tables have what was known at the end of the date."""
    for table in use_case.feature_tables:
        _require_fresh(settings, use_case, table, as_of)


def _require_same(settings: Settings, use_case: UseCase, as_of: date, version: str) -> None:
    """Nothing, unless the features were made anew while they were read."""
    found = feature_version(settings, use_case, as_of)
    if found != version:
        raise SnapshotRefused(
            "the features were made anew while they were scored",
            where=f"{use_case.scores_table}, as_of={as_of}",
            expected=version,
            found=found,
            remedy=f"nightjar score --use-case {use_case.name} --date {as_of}",
        )


def _require_fresh(settings: Settings, use_case: UseCase, table: FeatureTable, as_of: date) -> None:
    path, _ = lake.require_snapshot(settings.lake, table.name, as_of)
    known_at = end_of_day(settings, as_of)
    schema = pq.read_schema(path)
    kinds = {name: str(schema.field(name).type) if name in schema.names else "missing" for name in table.features}
    wrong = {name: kind for name, kind in kinds.items() if kind != "float"}
    with open_engine(settings) as connection:
        rows = connection.sql(f"SELECT DISTINCT event_timestamp FROM read_parquet({sql_list([path])})").fetchall()
    found = {instant for (instant,) in rows}
    if wrong or found - {known_at}:
        raise SnapshotRefused(
            "the features are not those of the date and of the use case",
            where=f"{table.name}, as_of={as_of}",
            expected=f"what was known at {known_at}, each feature a 32-bit float",
            found=", ".join([*map(str, sorted(found)), *(f"{name}: {kind}" for name, kind in wrong.items())]),
            remedy=f"nightjar features --use-case {use_case.name} --date {as_of}",
        )


def rank_candidates(settings: Settings, use_case: UseCase, rows: pa.Table, by: str = "score") -> pa.Table:
    """The rows with their rank within the entity; equal ones are ordered by item, so that ranks never waver."""
    query = f"""
        SELECT *, row_number() OVER (
            PARTITION BY {use_case.entity} ORDER BY {by} DESC, {use_case.item})::INTEGER AS rank
        FROM scored ORDER BY {use_case.entity}, rank
    """
    with open_engine(settings) as connection:
        connection.register("scored", rows)
        return connection.sql(query).to_arrow_table()


def scored_versions(settings: Settings, use_case: UseCase) -> set[tuple[date, str]]:
    """The dates and model versions (or rules) of which the lake holds scores."""
    delta = lake.open_table(settings.lake, use_case.scores_table)
    partitions = delta.partitions() if delta else []
    return {(date.fromisoformat(one["as_of"]), one["model_version"]) for one in partitions}


def _given(settings: Settings, use_case: UseCase, model_version: str) -> Chosen:
    model, _ = registry.load(settings, use_case, registry.get_version(settings, use_case, model_version))
    return Chosen(model, model_version, CHAMPION)


def _ranking(settings: Settings, use_case: UseCase, as_of: date, chosen: Chosen, run_id: str) -> tuple[_Rank, str]:
    """What ranks the candidates of some entities, and what keeps the rule from it where there is no model."""
    if chosen.model is not None:
        return partial(_by_model, use_case, as_of, chosen.model, chosen.source), ""
    probability, problem = _fitted_rule(settings, use_case, as_of, run_id)
    return partial(_by_rule, use_case, as_of, probability), problem


def _by_model(
    use_case: UseCase, as_of: date, model: Model, source: str, settings: Settings, condition: str
) -> pa.Table:
    """The candidates ranked by the model, with reasons for the first of each list."""
    keys = ", ".join(use_case.keys)
    features = _read(settings, use_case, as_of, ", ".join((*use_case.keys, *use_case.features)), condition)
    seen = model.look_at(features, settings.threads)
    probability = model.probabilities(seen)
    scored = features.select(list(use_case.keys)).append_column("score", pa.array(probability, pa.float64()))
    scored = scored.append_column("is_low_confidence", pa.array(model.reliability.doubts(probability)))
    ranked = rank_candidates(settings, use_case, scored.append_column("row", pa.array(np.arange(len(probability)))))
    picked = np.sort(ranked.filter(pc.field("rank") <= use_case.top_n).column("row").to_numpy())
    found = model.contributions(seen, picked, settings.threads)
    reasons = add_reasons(settings, use_case, features.take(pa.array(picked)), found)
    with open_engine(settings) as connection:
        connection.register("ranked", ranked.drop_columns("row"))
        connection.register("reasons", reasons)
        return connection.sql(
            f"SELECT ranked.*, '{source}' AS score_source, {', '.join(REASONS)} "
            f"FROM ranked LEFT JOIN reasons USING ({keys}) ORDER BY {use_case.entity}, rank"
        ).to_arrow_table()


def _fitted_rule(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> tuple[_Fitted | None, str]:
    """The baseline rule's values as probabilities; none, and the reason, where its past cannot be had."""
    day = last_mature(use_case, as_of)
    try:
        current_snapshot(settings, use_case, day, run_id)
        _require_features(settings, use_case, day)
        past = _values(_with_rule(settings, use_case, day, looked_at(settings, use_case, day)))
        positive = labelled_candidates(settings, use_case, day).column("is_positive").to_numpy()
    except BadInput as error:
        return None, f"{error.what}: {error.where}"
    return partial(as_probability, past, positive), ""


def _by_rule(
    use_case: UseCase, as_of: date, probability: _Fitted | None, settings: Settings, condition: str
) -> pa.Table:
    """The candidates ranked by the baseline rule; none where it has no past."""
    now = _with_rule(settings, use_case, as_of, condition if probability else "false")
    score = probability(_values(now)) if probability else np.zeros(0)
    scored = now.append_column("score", pa.array(score, pa.float64()))
    ranked = rank_candidates(settings, use_case, scored, by="rule").drop_columns("rule")
    shown = f"first by the simple rule {use_case.baseline_rule}, in place of a model"
    texts = dict.fromkeys(REASONS) | {REASONS[0]: shown, "score_source": BASELINE}
    for name, text in texts.items():
        ranked = ranked.append_column(name, pa.array([text] * ranked.num_rows, pa.string()))
    return ranked.append_column("is_low_confidence", pa.repeat(True, ranked.num_rows))


def _with_rule(settings: Settings, use_case: UseCase, as_of: date, condition: str = WHOLE) -> pa.Table:
    """Keys and `rule`, the value of the baseline rule; unknown is lowest."""
    expression = next(rule.expression for rule in use_case.rules if rule.name == use_case.baseline_rule)
    chosen = f"{', '.join(use_case.keys)}, ({expression})::DOUBLE AS rule"
    rows = _read(settings, use_case, as_of, chosen, condition)
    known = np.nan_to_num(_values(rows), nan=np.finfo(np.float64).min)
    return rows.drop_columns("rule").append_column("rule", pa.array(known, pa.float64()))


def _values(rows: pa.Table) -> Vector:
    return np.asarray(rows.column("rule").to_numpy())


def _note(settings: Settings, use_case: UseCase, as_of: date, chosen: Chosen, run_id: str, unruled: str) -> str:
    """Open, prolong or resolve the incident that the night's problem is, and give the problem in one line."""
    error, found = chosen.problem, None
    if error is not None:
        cause = f"{error.what}: {error.found}" if error.found else error.what
        sees = _READERS_SEE[chosen.source]
        if unruled:
            cause, sees = f"{cause}; the rule cannot score: {unruled}", "popular items on every list"
        found = Incident(
            kind=INCIDENTS[type(error)],
            subject=f"model {use_case.name}, alias {CHAMPION}, version {chosen.champion or 'unknown'}",
            cause=" ".join(cause.split()),
            meaning=f"{use_case.scores_table} shows {sees}",
            remedy=error.remedy,
        )
        open_incident(settings, use_case, as_of, found, run_id)
    resolve(settings, use_case, as_of, tuple(INCIDENTS.values()), but=found)
    return found.cause if found else ""


def _stamp(rows: pa.Table, as_of: date, model_version: str, snapshot_version: str) -> pa.Table:
    """The rows with what they were made of, one value each for all."""
    for name, value, kind in (
        ("as_of", as_of, pa.date32()),
        ("model_version", model_version, pa.string()),
        ("feature_version", snapshot_version, pa.string()),
    ):
        rows = rows.append_column(name, pa.repeat(pa.scalar(value, kind), rows.num_rows))
    return rows
