"""Realised quality: how well the scores of a matured date foretold what happened, beside the simple rules."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from pipelines import lake, registry, tables, warehouse
from pipelines.champion import RULE_PREFIX
from pipelines.engine import open_engine
from pipelines.errors import MissingPartition
from pipelines.fallback import COLD_START
from pipelines.labels import newest_mature
from pipelines.measurements import ALERT, INFO, OK, Measurement, replace_measurements
from pipelines.metrics import Quality, quality
from pipelines.outcomes import labels_sql, published_version
from pipelines.scoring import candidate_features, scored_versions
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.storage import sql_list
from pipelines.training_set import with_rules
from pipelines.use_case import UseCase


@dataclass(frozen=True)
class QualityReport:
    """The score dates that were measured, and the figures of the newest; `reason` says why there is none."""

    as_of: date
    score_dates: tuple[date, ...]
    rows: int
    newest: Mapping[str, float]
    alerts: tuple[str, ...]
    reason: str


def measure_quality(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> QualityReport:
    """Measure the score date that matures with `as_of`, and older ones with outcomes but no figures.

    All candidates count, not only the published rows; every simple rule is measured on the same rows.

    Raises:
        MissingPartition: a date has no scores, labels or features for all its candidates.
    """
    with measured(settings, f"quality__{use_case.name}", str(as_of), run_id) as cost:
        cost.rows = 0
        dates, found = _due(settings, use_case, as_of), list[Measurement]()
        for score_date in dates:
            found = _measure(settings, use_case, score_date)
            cost.rows += replace_measurements(settings, use_case, score_date, quality_names(use_case), found)
    version = published_version(settings, use_case, dates[-1]) if dates else ""
    ours = [one for one in found if one.model_version == version]
    return QualityReport(
        as_of,
        tuple(dates),
        cost.rows,
        {one.metric: one.value for one in ours},
        tuple(one.metric for one in ours if one.status == ALERT),
        "" if dates else f"no score date up to {newest_mature(use_case, as_of)} has outcomes without figures",
    )


def quality_names(use_case: UseCase) -> list[str]:
    """Names of the figures of quality, such as `auc` and `ndcg_at_10`."""
    return [field.name.replace("_at_n", f"_at_{use_case.top_n}") for field in fields(Quality)]


def compare(
    use_case: UseCase, qualities: Mapping[str, Quality], best_rule: str, validation_auc: float
) -> list[Measurement]:
    """The model's figures with the best simple rule's as reference, then those of every rule.

    An alert is an AUC that fell below validation's by more than the use case allows, or an NDCG below that of
    the best simple rule on the same rows.
    """
    reference = qualities[best_rule].named(use_case.top_n) if best_rule in qualities else {}
    ndcg = f"ndcg_at_{use_case.top_n}"
    limits = {"auc": validation_auc - use_case.retraining.min_auc_drop, ndcg: reference.get(ndcg)}
    found = []
    for name, measured_quality in qualities.items():
        is_rule = name.startswith(RULE_PREFIX)
        for metric, value in measured_quality.named(use_case.top_n).items():
            limit = None if is_rule else limits.get(metric)
            status = INFO if limit is None else OK if value >= limit else ALERT
            compared = None if is_rule else reference.get(metric)
            found.append(Measurement(metric, name, value, reference=compared, threshold=limit, status=status))
    return found


def scored_by_all(settings: Settings, use_case: UseCase, score_date: date, model_version: str) -> dict[str, pa.Table]:
    """What `metrics` measures, once for the model version and once for each simple rule, on the same rows.

    Of a rule that was published it is the probabilities.

    Raises:
        MissingPartition: the scores do not cover every candidate of the labels.
    """
    names = [rule.name for rule in use_case.rules]
    rules = with_rules(settings, use_case, candidate_features(settings, use_case, score_date))
    keys = ", ".join(use_case.keys)
    query = f"""
        SELECT labels.*, scores.score AS model_score, {", ".join(names)}
        FROM ({labels_sql(settings, use_case, [score_date])}) labels
        LEFT JOIN ({scores_sql(settings, use_case, score_date, model_version)}) scores USING ({keys})
        LEFT JOIN rules USING ({keys}) ORDER BY {keys}
    """
    with open_engine(settings) as connection:
        connection.register("rules", rules.select([*use_case.keys, *names]))
        rows = connection.sql(query).to_arrow_table()
    _require_covered(use_case, rows, score_date, model_version)
    scored = {f"{RULE_PREFIX}{name}": name for name in names} | {model_version: "model_score"}
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


def _measure(settings: Settings, use_case: UseCase, score_date: date) -> list[Measurement]:
    """Figures of what was published and of the simple rules, then those of versions that scored in its shadow."""
    published = published_version(settings, use_case, score_date)
    is_rule = published.startswith(RULE_PREFIX)
    try:
        scored = scored_by_all(settings, use_case, score_date, published)
    except MissingPartition:
        if is_rule:  # there was no past to learn its rates from: every list held popular items
            return []
        raise
    qualities = {name: quality(use_case, rows, is_probability=name == published) for name, rows in scored.items()}
    if is_rule:
        return compare(use_case, qualities, published, 0)
    version = registry.get_version(settings, use_case, published)
    best_rule = RULE_PREFIX + registry.validation_parameters(settings, version)["best_rule"]
    found = compare(use_case, qualities, best_rule, registry.validation_metrics(settings, version)["auc"])
    for other in sorted(name for day, name in scored_versions(settings, use_case) if day == score_date):
        if other != published and not other.startswith(RULE_PREFIX):
            found += _in_shadow(settings, use_case, score_date, other)
    return found


def _in_shadow(settings: Settings, use_case: UseCase, score_date: date, version: str) -> list[Measurement]:
    """Figures of a version that readers did not see, without limits; none where it has not scored all candidates."""
    try:
        rows = scored_by_all(settings, use_case, score_date, version)[version]
    except MissingPartition:
        return []
    figures = quality(use_case, rows, is_probability=True).named(use_case.top_n)
    return [Measurement(metric, version, value) for metric, value in figures.items()]


def _due(settings: Settings, use_case: UseCase, as_of: date) -> list[date]:
    newest = newest_mature(use_case, as_of)
    recorded, metrics = tables.outcomes_table(use_case), tables.METRICS
    known = sa.select(metrics.c.score_date).where(
        metrics.c.use_case == use_case.name,
        metrics.c.metric.in_(quality_names(use_case)),
        metrics.c.score_date != newest,
    )
    query = sa.select(recorded.c.score_date).where(recorded.c.score_date <= newest).distinct()
    with warehouse.open_warehouse(settings) as connection:
        return sorted(set(connection.scalars(query)) - set(connection.scalars(known.distinct())))


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
