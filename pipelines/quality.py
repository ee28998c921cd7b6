"""Realised quality: how well the scores of a matured date foretold what happened, beside the simple rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from pipelines import registry, tables, warehouse
from pipelines.avoidable import AVOIDABLE, avoidable_log_loss
from pipelines.champion import RULE_PREFIX
from pipelines.control import Estimate
from pipelines.errors import MissingPartition
from pipelines.estimates import ERROR, ESTIMATED_FIGURES, estimate_errors, estimate_quality
from pipelines.labels import newest_mature
from pipelines.measurements import ALERT, EVERYTHING, LABEL, OK, WARN, Measurement, replace_measurements
from pipelines.metrics import Quality
from pipelines.outcomes import published_version
from pipelines.quality_bands import CUSUM, Past, estimate_between, judge_all, was_flagged
from pipelines.quality_rows import ScoredRows, score_rows, scored_by_all
from pipelines.realised import realised
from pipelines.residuals import (
    CALIBRATION_SLOPE,
    FIGURES,
    NDCG_GAIN,
    RATE_RATIO,
    RESIDUAL_LOG_LOSS,
    estimates,
    residual_sums,
)
from pipelines.scoring import scored_versions
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.use_case import UseCase

_EXPECTED = {RESIDUAL_LOG_LOSS: 0.0, RATE_RATIO: 1.0, CALIBRATION_SLOPE: 1.0, NDCG_GAIN: 0.0}


@dataclass(frozen=True)
class QualityReport:
    """The score dates that were measured, and the figures of the newest; `reason` says why others were not."""

    as_of: date
    score_dates: tuple[date, ...]
    rows: int
    newest: Mapping[str, float]
    alerts: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Validated:
    """What is known of the published version from before it was used; nothing of a rule."""

    best_rule: str
    floors: Mapping[str, float]
    folds: Mapping[str, Sequence[float]]


def measure_quality(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> QualityReport:
    """Measure the score date that matures with `as_of`, and older ones with outcomes but no figures.

    All candidates that trainings look at count, not only the published rows; every simple rule is measured on the same
    rows. Of the scores published for `as_of` itself it writes down what quality is to be expected. An older date whose
    rows are there no more is left, with the reason in the report.

    Raises:
        MissingPartition: the newest date has no scores, labels or features for all its candidates.
    """
    with measured(settings, f"quality__{use_case.name}", str(as_of), run_id) as cost:
        cost.rows = _estimate(settings, use_case, as_of)
        done, left, found = [], [], list[Measurement]()
        for score_date in _due(settings, use_case, as_of):
            try:
                found = _measure(settings, use_case, score_date)
            except MissingPartition as missing:
                if score_date == newest_mature(use_case, as_of):
                    raise
                left.append(f"{score_date}: {missing.what}")
                continue
            done.append(score_date)
            cost.rows += replace_measurements(settings, use_case, score_date, quality_names(use_case), found)
    version = published_version(settings, use_case, done[-1]) if done else ""
    ours = [one for one in found if one.model_version == version and one.slice == EVERYTHING]
    nothing = f"no score date up to {newest_mature(use_case, as_of)} has outcomes without figures"
    return QualityReport(
        as_of,
        tuple(done),
        cost.rows,
        {one.metric: one.value for one in ours},
        tuple(one.metric for one in ours if one.status == ALERT),
        "; ".join(left) if done or left else nothing,
    )


def quality_names(use_case: UseCase) -> list[str]:
    """Names of all figures that wait for labels, such as `auc`, `ndcg_at_10` and `rate_ratio`."""
    plain = [field.name.replace("_at_n", f"_at_{use_case.top_n}") for field in fields(Quality)]
    return [*plain, AVOIDABLE, *FIGURES, CUSUM, *(f"{ERROR}{name}" for name in ESTIMATED_FIGURES)]


def measure_model(use_case: UseCase, version: str, rows: ScoredRows, best_rule: str) -> list[Measurement]:
    """Every figure of a model over all rows and by slice, with the best rule's on the same rows as reference.

    The reference of a residual figure is what calibrated probabilities give.
    """
    ours = realised(use_case, rows.by[version], slices=rows.slices, is_probability=True)
    rule = rows.by.get(best_rule)
    theirs = realised(use_case, rule, slices=rows.slices, is_probability=False) if rule is not None else {}
    sums = residual_sums(
        use_case,
        rows.by[version],
        rule=rule,
        slices=rows.slices,
        min_item_positives=use_case.monitor.min_item_positives,
    )
    found = [_measurement(version, key, one, theirs[key].value if key in theirs else None) for key, one in ours.items()]
    found += [
        _measurement(version, key, one, _EXPECTED[key[0]])
        for key, one in estimates(sums).items()
        if np.isfinite(one.error)
    ]
    candidates = rows.by[version].filter(rows.by[version].column("is_candidate"))
    positive = candidates.column("is_positive").to_numpy().astype(np.bool_)
    probability = candidates.column("score").to_numpy().astype(np.float64)
    found.append(Measurement(AVOIDABLE, version, avoidable_log_loss(positive, probability)))
    overall = {one.metric: one.value for one in found if one.slice == EVERYTHING}
    return found + estimate_errors(probability, overall, version)


def hold_floors(found: Sequence[Measurement], floors: Mapping[str, float], *, is_season: bool) -> list[Measurement]:
    """The measurements, those in alert whose whole interval lies below the floor of their figure."""
    held = []
    for one in found:
        floor = floors.get(one.metric) if one.slice == EVERYTHING else None
        if floor is not None and one.high is not None and one.high < floor:
            held.append(replace(one, threshold=floor, status=WARN if is_season else ALERT))
        elif floor is not None and one.threshold is None:
            held.append(replace(one, threshold=floor, status=OK))
        else:
            held.append(one)
    return held


def _measure(settings: Settings, use_case: UseCase, score_date: date) -> list[Measurement]:
    """Figures of what was published and of the simple rules, then those of versions that scored in its shadow."""
    published = published_version(settings, use_case, score_date)
    is_rule = published.startswith(RULE_PREFIX)
    try:
        rows = score_rows(settings, use_case, score_date, published)
    except MissingPartition:
        if is_rule:  # there was no past to learn its rates from: every list held popular items
            return []
        raise
    rules = [name for name in rows.by if name.startswith(RULE_PREFIX)]
    found = [one for name in rules for one in _plain(use_case, name, rows.by[name], is_probability=name == published)]
    if is_rule:
        return found
    validated, is_season = _validated(settings, use_case, published), _is_season(use_case, score_date)
    ours = measure_model(use_case, published, rows, validated.best_rule)
    pasts = _pasts(settings, use_case, score_date)
    judged = judge_all(use_case.monitor, ours, pasts, validated.folds, is_season=is_season)
    found = [*hold_floors(judged, validated.floors, is_season=is_season), *found]
    for other in sorted(name for day, name in scored_versions(settings, use_case) if day == score_date):
        if other != published and not other.startswith(RULE_PREFIX):
            found += _in_shadow(settings, use_case, score_date, other)
    return found


def _plain(use_case: UseCase, name: str, rows: pa.Table, *, is_probability: bool) -> list[Measurement]:
    """Figures over all rows, with nothing to compare them with."""
    figures = realised(use_case, rows, is_probability=is_probability)
    return [_measurement(name, key, one, None) for key, one in figures.items()]


def _in_shadow(settings: Settings, use_case: UseCase, score_date: date, version: str) -> list[Measurement]:
    """Figures of a version that readers did not see, without limits; none where it has not scored all candidates."""
    try:
        rows = scored_by_all(settings, use_case, score_date, version)[version]
    except MissingPartition:
        return []
    return _plain(use_case, version, rows, is_probability=True)


def _measurement(version: str, key: tuple[str, str], one: Estimate, reference: float | None) -> Measurement:
    low, high = one.interval
    return Measurement(key[0], version, one.value, slice=key[1], reference=reference, low=low, high=high)


def _validated(settings: Settings, use_case: UseCase, published: str) -> Validated:
    version = registry.get_version(settings, use_case, published)
    auc = registry.validation_metrics(settings, version)["auc"]
    names = [field.name.replace("_at_n", f"_at_{use_case.top_n}") for field in fields(Quality)]
    return Validated(
        RULE_PREFIX + registry.validation_parameters(settings, version)["best_rule"],
        {"auc": auc - use_case.retraining.min_auc_drop, NDCG_GAIN: 0.0},
        registry.fold_metrics(settings, version, names),
    )


def _pasts(settings: Settings, use_case: UseCase, score_date: date) -> dict[tuple[str, str], list[Past]]:
    """The same figures of the models published a whole number of weeks before, oldest first.

    Their label windows do not overlap with the date's. Only a published model has residual figures.
    """
    apart = 7 * -(-use_case.horizon_days // 7)
    days = [score_date - timedelta(days=apart * back) for back in range(1, use_case.monitor.history_windows + 1)]
    table = tables.METRICS
    query = sa.select(table).where(
        table.c.use_case == use_case.name,
        table.c.score_date.in_(days),
        table.c.clock == LABEL,
        table.c.model_version.not_like(f"{RULE_PREFIX}%"),
    )
    with warehouse.open_warehouse(settings, only_reads=True) as connection:
        rows = warehouse.read_rows(connection, query.order_by(table.c.score_date))
    published = {(row["score_date"], row["model_version"]) for row in rows if row["metric"] == RATE_RATIO}
    found: dict[tuple[str, str], list[Past]] = {}
    for row in rows:
        if (row["score_date"], row["model_version"]) in published and row["value"] is not None:
            low, high = (row[end] if row[end] is not None else row["value"] for end in ("low", "high"))
            past = Past(
                estimate_between(row["value"], low, high),
                row["model_version"],
                was_flagged(row["status"]),
                _is_season(use_case, row["score_date"]),
            )
            found.setdefault((row["metric"], row["slice"]), []).append(past)
    return found


def _is_season(use_case: UseCase, score_date: date) -> bool:
    """Whether the label window holds a day of a known season."""
    first, last = score_date + timedelta(days=1), score_date + timedelta(days=use_case.horizon_days)
    return any(season.first_date <= last and season.last_date >= first for season in use_case.calendar)


def _estimate(settings: Settings, use_case: UseCase, as_of: date) -> int:
    """Estimate the quality of what is published for the date; rows written, 0 where no model has scored it."""
    try:
        published = published_version(settings, use_case, as_of)
        return 0 if published.startswith(RULE_PREFIX) else estimate_quality(settings, use_case, as_of, published)
    except MissingPartition:
        return 0


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
