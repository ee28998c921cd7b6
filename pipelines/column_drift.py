"""Drift of a night: its features, its scores and its lists, beside the training data and beside the weeks before."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
import pyarrow.parquet as pq
import sqlalchemy as sa

from pipelines import lake, registry, tables, warehouse
from pipelines.audit import FORCED, PUBLISHED, Figures, mix_change
from pipelines.control import discoveries, is_persistent
from pipelines.drift import (
    BLOCKS,
    SMALLEST_THRESHOLD,
    Counts,
    Far,
    Reference,
    count_rows,
    far_from_past,
    far_from_training,
    limit_of,
)
from pipelines.engine import open_engine
from pipelines.errors import ArtifactRefused, MissingPartition
from pipelines.measurements import ALERT, DATA, OK, PREDICTION, WARN, Measurement
from pipelines.quality_rows import scores_sql
from pipelines.scoring import candidates_query
from pipelines.settings import Settings
from pipelines.use_case import UseCase

TRAINING, SEASON, DETECTABLE, SHARE, LISTS = (
    "drift_ks",
    "drift_season_ks",
    "drift_detectable",
    "drift_share",
    "list_mix_change",
)
METRICS, SCORE = (TRAINING, SEASON, DETECTABLE, SHARE, LISTS), "score"
_SAMPLED_ROWS = 50_000  # of whole entities
_WEEK, _PAST_WEEKS, _HISTORY_WEEKS = timedelta(days=7), 4, 8
_NEAR = timedelta(days=3)


@dataclass(frozen=True)
class Before:
    """What nights before measured: by metric and slice, each date's value and whether it was beyond its limit."""

    known: Mapping[tuple[str, str], Mapping[date, tuple[float, bool]]]
    as_of: date

    def values(self, metric: str, slice_: str) -> list[float]:
        """The values of the same weekday in the weeks before."""
        found = self.known.get((metric, slice_), {})
        return [found[day][0] for day in _weeks_before(self.as_of, _HISTORY_WEEKS) if day in found]

    def status(self, metric: str, slice_: str, *, is_beyond: bool, is_kept: bool) -> str:
        """An alert takes two of three windows, the newest among them; the nights nearest to them stand for them."""
        found = self.known.get((metric, slice_), {})
        flags = [
            self._was_beyond(found, self.as_of - 2 * _WEEK),
            self._was_beyond(found, self.as_of - _WEEK),
            is_beyond,
        ]
        return ALERT if is_kept and is_persistent(flags) else WARN if is_beyond else OK

    def _was_beyond(self, found: Mapping[date, tuple[float, bool]], day: date) -> bool:
        near = [other for other in found if abs(other - day) <= _NEAR]
        return bool(near) and found[min(near, key=lambda other: (abs(other - day), other))][1]


def column_drift(
    settings: Settings, use_case: UseCase, as_of: date, version: registry.ModelVersion
) -> list[Measurement]:
    """How far features and scores are from the training data and from the same weekday of the last four weeks.

    Last comes the share of the model's gain that features have which are far from both. A feature that is far from
    the training data alone follows the season or a slow trend; far from the last weeks alone it is back where the
    model knows it.
    """
    reference = registry.load_reference(settings, use_case, version)
    days = [as_of, *_weeks_before(as_of, _PAST_WEEKS)]
    counted = {day: found for day in days if (found := _count(settings, use_case, day, version.version, reference))}
    if as_of not in counted or set(reference) - set(counted[as_of]):
        _count_features(settings, use_case, as_of, reference)  # raises: says what is missing
        scores_sql(settings, use_case, as_of, version.version)
    before = read_before(settings, use_case, as_of, version.version)
    far: dict[tuple[str, str], Far] = {}
    for name, expected in reference.items():
        now = counted[as_of][name]
        far[TRAINING, name] = far_from_training(expected, now)
        past = [counted[day][name] for day in days[1:] if name in counted.get(day, {})]
        if lately := far_from_past(now, past, before.values(SEASON, name)):
            far[SEASON, name] = lately
    return judge_columns(use_case, version.version, far, before, importance(settings, use_case, version))


def judge_columns(
    use_case: UseCase,
    model_version: str,
    far: Mapping[tuple[str, str], Far],
    before: Before,
    weights: Mapping[str, float],
) -> list[Measurement]:
    """The measurements of distances by metric and column; the last is the weight of the features that drifted."""
    found = []
    for metric in (TRAINING, SEASON):
        columns = {name: one for (kind, name), one in far.items() if kind == metric}
        kept = discoveries([one.p_value for one in columns.values()], use_case.monitor.false_share)
        for (name, one), is_kept in zip(columns.items(), kept, strict=True):
            status = before.status(metric, name, is_beyond=one.value > one.threshold, is_kept=is_kept)
            row = Measurement(metric, model_version, one.value, name, one.usual, one.threshold, status, DATA)
            told = Measurement(DETECTABLE, model_version, one.detectable, f"{metric} {name}", clock=DATA)
            found += [replace(each, clock=PREDICTION if name == SCORE else DATA) for each in (row, told)]
    features = list(dict.fromkeys(name for _, name in far if name != SCORE))
    drifted = set(drifted_columns(found)) - {SCORE}
    total = sum(weights.get(name, 0.0) for name in features)
    share = sum(weights.get(name, 0.0) for name in drifted) / total if total else 0.0
    limit = use_case.retraining.drifted_feature_share
    status = ALERT if share > limit else OK
    return [*found, Measurement(SHARE, model_version, share, threshold=limit, status=status, clock=DATA)]


def drifted_columns(found: Sequence[Measurement]) -> list[str]:
    """The columns that alert in every way in which they were compared."""
    compared = [one for one in found if one.metric in (TRAINING, SEASON)]
    calm = {one.slice for one in compared if one.status != ALERT}
    return [name for name in dict.fromkeys(one.slice for one in compared) if name not in calm]


def list_drift(settings: Settings, use_case: UseCase, as_of: date, model_version: str) -> list[Measurement]:
    """How many of the published rows went to other items since the last four weeks; none with fewer than two known.

    Only nights of the same model count: another one makes other lists.
    """
    days = [as_of, *_weeks_before(as_of, _PAST_WEEKS)]
    with warehouse.open_warehouse(settings, only_reads=True) as connection:
        mixes = _mixes(connection, use_case, days, model_version)
    past = [mixes[day] for day in days[1:] if day in mixes]
    if as_of not in mixes or len(past) < 2:
        return []
    before = read_before(settings, use_case, as_of, model_version)
    usual = [mix_change(_mean([other for other in past if other is not one]), one) for one in past]
    usual += before.values(LISTS, "all")
    value, limit = mix_change(_mean(past), mixes[as_of]), limit_of(usual)
    status = before.status(LISTS, "all", is_beyond=value > limit, is_kept=True)
    return [
        Measurement(
            LISTS,
            model_version,
            value,
            reference=float(np.median(usual)),
            threshold=limit,
            status=status,
            clock=PREDICTION,
        ),
        Measurement(DETECTABLE, model_version, max(limit, SMALLEST_THRESHOLD), slice=f"{LISTS} all", clock=PREDICTION),
    ]


def read_before(settings: Settings, use_case: UseCase, as_of: date, model_version: str) -> Before:
    """What the nights of the last eight weeks measured; distances from training, of this model alone."""
    table, first = tables.METRICS, as_of - _HISTORY_WEEKS * _WEEK - _NEAR
    query = sa.select(table).where(
        table.c.use_case == use_case.name,
        table.c.metric.in_((TRAINING, SEASON, LISTS)),
        table.c.score_date >= first,
        table.c.score_date < as_of,
    )
    known: dict[tuple[str, str], dict[date, tuple[float, bool]]] = {}
    with warehouse.open_warehouse(settings, only_reads=True) as connection:
        for row in warehouse.read_rows(connection, query):
            if row["metric"] != TRAINING or row["model_version"] == model_version:
                told = known.setdefault((row["metric"], row["slice"]), {})
                told[row["score_date"]] = (row["value"], row["value"] > row["threshold"])
    return Before(known, as_of)


def importance(settings: Settings, use_case: UseCase, version: registry.ModelVersion) -> dict[str, float]:
    """The share of the trees' gain that each feature has; equal shares where the trees cannot be read."""
    try:
        model, _ = registry.load(settings, use_case, version)
    except ArtifactRefused:
        return dict.fromkeys(use_case.features, 1 / len(use_case.features))
    gains = np.zeros(len(model.features))
    for part in model.components:
        gain = np.asarray(part.booster.feature_importance("gain"), dtype=float)
        gains += part.weight * gain / max(gain.sum(), 1e-12)
    return dict(zip(model.features, (gains / max(gains.sum(), 1e-12)).tolist(), strict=True))


def _count(
    settings: Settings, use_case: UseCase, day: date, model_version: str, reference: Reference
) -> dict[str, Counts]:
    """The rows of a date by column, block and place; without what the date lacks."""
    found: dict[str, Counts] = {}
    for part in (_count_features, _count_scores):
        try:
            found |= part(settings, use_case, day, reference, model_version)
        except MissingPartition:
            continue
    return found


def _count_features(
    settings: Settings, use_case: UseCase, day: date, reference: Reference, _: str = ""
) -> dict[str, Counts]:
    names = [name for name in reference if name != SCORE]
    path, _version = lake.require_snapshot(settings.lake, use_case.feature_tables[0].name, day)
    every = max(1, round(pq.read_metadata(path).num_rows / _SAMPLED_ROWS))
    query = f"""
        SELECT hash({use_case.entity}) % {BLOCKS} AS block, {", ".join(names)}
        FROM ({candidates_query(settings, use_case, day)}) WHERE hash({use_case.entity}) // {BLOCKS} % {every} = 0
    """
    return _counted(settings, query, {name: reference[name] for name in names})


def _count_scores(
    settings: Settings, use_case: UseCase, day: date, reference: Reference, model_version: str
) -> dict[str, Counts]:
    scores = scores_sql(settings, use_case, day, model_version)
    query = f"SELECT hash({use_case.entity}) % {BLOCKS} AS block, score FROM ({scores})"
    return _counted(settings, query, {SCORE: reference[SCORE]})


def _counted(settings: Settings, query: str, reference: Reference) -> dict[str, Counts]:
    with open_engine(settings) as connection:
        rows = connection.sql(query).to_arrow_table()
    blocks = rows.column("block").to_numpy()
    return {name: count_rows(one, rows.column(name).to_numpy(), blocks) for name, one in reference.items()}


def _mixes(
    connection: sa.Connection, use_case: UseCase, days: Sequence[date], model_version: str
) -> dict[date, dict[str, float]]:
    """The share of the published rows that each item had on these dates, as the audit measured it."""
    log = tables.PUBLISH_LOG.c
    query = (
        sa.select(log.score_date, log.audit)
        .where(log.use_case == use_case.name, log.score_date.in_(days), log.model_version == model_version)
        .where(log.status.in_((PUBLISHED, FORCED)), log.audit != "")
        .order_by(log.publish_id)
    )
    found = {row.score_date: row.audit for row in connection.execute(query)}
    return {day: Figures.model_validate(json.loads(told)["figures"]).items for day, told in found.items()}


def _mean(mixes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {
        item: sum(mix.get(item, 0.0) for mix in mixes) / len(mixes) for item in {one for mix in mixes for one in mix}
    }


def _weeks_before(as_of: date, weeks: int) -> list[date]:
    return [as_of - back * _WEEK for back in range(1, weeks + 1)]
