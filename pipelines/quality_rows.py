"""What was scored beside what came true: the rows that realised quality and the shadow's trial rest on."""

from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import lake
from pipelines.champion import RULE_PREFIX
from pipelines.engine import open_engine
from pipelines.errors import MissingPartition
from pipelines.fallback import COLD_START
from pipelines.labels import looked_at
from pipelines.outcomes import labels_sql
from pipelines.residuals import NO_SLICES, Slices
from pipelines.scoring import candidate_features
from pipelines.settings import Settings
from pipelines.slices import slices_of
from pipelines.storage import sql_list
from pipelines.training_set import with_rules
from pipelines.use_case import UseCase


@dataclass(frozen=True)
class ScoredRows:
    """One date's rows: what `metrics` measures by who scored, and which candidates each slice flags, in their order."""

    by: dict[str, pa.Table]
    slices: Slices


def scored_by_all(settings: Settings, use_case: UseCase, score_date: date, model_version: str) -> dict[str, pa.Table]:
    """What `metrics` measures, once for the model version and once for each simple rule, on the same rows.

    Of a rule that was published it is the probabilities.

    Raises:
        MissingPartition: the scores do not cover every candidate of the labels.
    """
    return _by_all(use_case, _labelled(settings, use_case, score_date, model_version)[0], model_version)


def score_rows(settings: Settings, use_case: UseCase, score_date: date, model_version: str) -> ScoredRows:
    """The same with the slices of the use case.

    Raises:
        MissingPartition: the scores do not cover every candidate of the labels.
    """
    rows, features = _labelled(settings, use_case, score_date, model_version)
    places = rows.filter(rows.column("is_candidate")).column("place").to_numpy()
    slices = slices_of(settings, use_case, score_date, features)
    return ScoredRows(
        _by_all(use_case, rows, model_version), {name: flags[places] for name, flags in slices.items()} or NO_SLICES
    )


def _labelled(settings: Settings, use_case: UseCase, score_date: date, model_version: str) -> tuple[pa.Table, pa.Table]:
    """Labels with the score of the version and of every rule, and the candidate's place among the features; and these.

    Of more candidates than trainings look at, those of the same sample of entities.
    """
    condition = looked_at(settings, use_case, score_date)
    features = candidate_features(settings, use_case, score_date, condition)
    names, keys = [rule.name for rule in use_case.rules], ", ".join(use_case.keys)
    rules = with_rules(settings, use_case, features).select([*use_case.keys, *names])
    query = f"""
        SELECT labels.*, scores.score AS model_score, {", ".join(names)}, place
        FROM (SELECT * FROM ({labels_sql(settings, use_case, [score_date])}) WHERE {condition}) labels
        LEFT JOIN (
            SELECT * FROM ({scores_sql(settings, use_case, score_date, model_version)}) WHERE {condition}
        ) scores USING ({keys})
        LEFT JOIN rules USING ({keys}) ORDER BY {keys}
    """
    with open_engine(settings) as connection:
        connection.register("rules", rules.append_column("place", pa.array(range(rules.num_rows), pa.int64())))
        rows = connection.sql(query).to_arrow_table()
    _require_covered(use_case, rows, score_date, model_version)
    return rows, features


def _by_all(use_case: UseCase, rows: pa.Table, model_version: str) -> dict[str, pa.Table]:
    scored = {f"{RULE_PREFIX}{rule.name}": rule.name for rule in use_case.rules} | {model_version: "model_score"}
    columns = ["as_of", *use_case.keys, "is_candidate", "is_positive", "value_usd"]
    return {name: rows.select(columns).append_column("score", rows.column(column)) for name, column in scored.items()}


def scores_sql(settings: Settings, use_case: UseCase, score_date: date, model_version: str) -> str:
    """SQL for the scores, by key, that a model version gave to the candidates of a date.

    Raises:
        MissingPartition: there are none.
    """
    files = lake.files_where(settings.lake, use_case.scores_table, lake.scored_by(score_date, model_version))
    if not files:
        raise MissingPartition(
            "the published scores are not in the lake",
            where=f"{use_case.scores_table}, as_of={score_date}, model_version={model_version}",
            remedy=f"nightjar score --use-case {use_case.name} --date {score_date}",
        )
    keys = ", ".join(use_case.keys)
    return f"SELECT {keys}, score FROM read_parquet({sql_list(files)}) WHERE score_source <> '{COLD_START}'"


def _require_covered(use_case: UseCase, rows: pa.Table, score_date: date, model_version: str) -> None:
    candidates = rows.filter(rows.column("is_candidate"))
    unscored = candidates.filter(pc.is_null(candidates.column("model_score"))).num_rows
    if unscored:
        raise MissingPartition(
            "candidates have no score: the features were built again after scoring",
            where=f"{use_case.scores_table}, as_of={score_date}, model_version={model_version}",
            expected=f"{candidates.num_rows} scored candidates",
            found=f"{unscored} without a score",
            remedy=f"nightjar score --use-case {use_case.name} --date {score_date}",
        )
