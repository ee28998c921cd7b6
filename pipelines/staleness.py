"""Staleness: how well a model of each week does in every later week, on the same rows as the models after it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from pipelines.avoidable import avoidable_log_loss
from pipelines.control import ratio
from pipelines.coverage import ingested_dates
from pipelines.cross_validation import fit_components
from pipelines.labels import looked_at
from pipelines.lineage import current_snapshot
from pipelines.metrics import expected_calibration_error, lists_of
from pipelines.model import BINARY, Calibration, Component, Model, Reliability, within_and_level
from pipelines.scoring import candidate_features
from pipelines.settings import Settings
from pipelines.steps import Progress
from pipelines.storage import replacing
from pipelines.training_set import (
    Snapshot,
    labelled_candidates,
    missed_positives,
    scored_table,
    snapshot_dates,
    to_matrix,
)
from pipelines.use_case import UseCase

_RUN, _WEEK = "staleness", timedelta(days=7)
_PAST = timedelta(days=28)  # that the oldest training snapshot must see
_SHARE = 4  # every fourth entity is scored, the same ones each week: models are compared on the same rows
_TINY = 1e-9


@dataclass(frozen=True)
class Cell:
    """A model, by its training date, on a later score date; losses are means over candidates, in nats.

    `residual` is the log loss less what the model itself expected of it (0: calibrated), with its error by entity;
    `avoidable` is what right rates would have saved.
    `value_captured` is a share, `value_usd` what all positives of the scored entities were worth.
    """

    train_date: date
    score_date: date
    log_loss: float
    residual: float
    residual_error: float
    avoidable: float
    ece: float
    ndcg: float
    value_captured: float
    value_usd: float


@dataclass(frozen=True)
class _Day:
    """A date's labelled candidates: what training samples, and all of the scored entities."""

    sampled: Snapshot
    judged: Snapshot
    missed: pa.Table


def loss_matrix(
    settings: Settings, use_case: UseCase, dates: Sequence[date], progress: Progress = lambda *_: None
) -> list[Cell]:
    """Train at each date with what the lake then held, and score all later dates; the figures are kept on disk.

    It is the use case's recipe with two savings: the classifier alone, and half the trees at twice the rate. The
    calibration comes from the models of the weeks before, as validation folds give it.

    Raises:
        MissingPartition, LabelsImmature: a date's features or labels cannot be built from what was ingested.
    """
    earliest = min(ingested_dates(settings)) + _PAST
    learnt = {day: [one for one in snapshot_dates(use_case, day) if one >= earliest] for day in dates}
    needed = sorted({one for days in learnt.values() for one in days} | set(dates[1:]))
    made = [current_snapshot(settings, use_case, day, _RUN) for day in needed]
    told = "\n".join([use_case.training.model_dump_json(), *map(str, dates), *(one.model_dump_json() for one in made)])
    kept = settings.home / "backtests" / f"{use_case.name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"
    if kept.exists():
        return TypeAdapter(list[Cell]).validate_json(kept.read_bytes())
    days = {day: _load(settings, use_case, day) for day in needed}
    cells, models = list[Cell](), dict[date, Model]()
    for number, day in enumerate(dates, start=1):
        models[day] = _fit(settings, use_case, models, day, learnt[day], days)
        for later in dates[number:]:
            cells.append(_judge(settings, use_case, models[day], day, days[later]))
        progress(number, len(dates))
    _keep(kept, cells)
    return cells


def _load(settings: Settings, use_case: UseCase, day: date) -> _Day:
    features = candidate_features(settings, use_case, day, looked_at(settings, use_case, day))
    matrix = to_matrix(features, use_case.features)
    whole = Snapshot(day, labelled_candidates(settings, use_case, day), matrix, use_case.entity)
    is_judged = whole.entities % _SHARE == 0
    judged = Snapshot(day, whole.rows.filter(pa.array(is_judged)), matrix[is_judged], use_case.entity)
    missed = missed_positives(settings, use_case, day)
    missed = missed.filter(pa.array(missed.column(use_case.entity).to_numpy() % _SHARE == 0))
    return _Day(whole.sampled(), judged, missed)


def _fit(
    settings: Settings,
    use_case: UseCase,
    models: Mapping[date, Model],
    day: date,
    learnt: Sequence[date],
    days: Mapping[date, _Day],
) -> Model:
    """The model of a date, calibrated on its newest snapshots by models that did not know them."""
    parts = _components(settings, use_case, [days[one].sampled for one in learnt])
    folds = []
    for back, fold in enumerate(reversed(learnt[-use_case.training.folds :]), start=1):
        older = models.get(day - back * _WEEK)
        if older is None and back == 1:
            older_parts = _components(settings, use_case, [days[one].sampled for one in learnt[:-1]])
        elif older is not None:
            older_parts = older.components
        else:
            break
        rows = days[fold].judged
        raw = {part.name: part.raw(rows.matrix, settings.threads) for part in older_parts}
        folds.append((within_and_level(raw, {BINARY: 1.0}, rows.entities), rows.positive))
    calibration = Calibration.fit(*(np.concatenate(parts) for parts in zip(*folds, strict=True)))
    return Model(parts, calibration, Reliability(()), use_case.features, use_case.entity)


def _components(settings: Settings, use_case: UseCase, snapshots: Sequence[Snapshot]) -> tuple[Component, ...]:
    plan = use_case.training
    savings = {
        "boosting_rounds": max(plan.boosting_rounds // 2, 1),
        "learning_rate": min(2 * plan.learning_rate, 1.0),
    }
    quick = use_case.model_copy(update={"training": plan.model_copy(update=savings)})
    return fit_components(quick, {BINARY: 1.0}, snapshots, settings.threads)


def _judge(settings: Settings, use_case: UseCase, model: Model, trained: date, day: _Day) -> Cell:
    rows = day.judged
    score = np.clip(model.predict_matrix(rows.matrix, rows.entities, settings.threads), _TINY, 1 - _TINY)
    lists = lists_of(use_case, scored_table(use_case, rows.rows, score, day.missed))
    losses = -np.where(rows.positive, np.log(score), np.log1p(-score))
    expected = -(score * np.log(score) + (1 - score) * np.log1p(-score))
    _, places = np.unique(rows.entities, return_inverse=True)
    rows_each = np.bincount(places).astype(np.float64)
    residual = ratio(np.bincount(places, losses - expected).astype(np.float64), rows_each)
    value = float(lists["value_usd"].sum())
    return Cell(
        train_date=trained,
        score_date=rows.as_of,
        log_loss=float(losses.mean()),
        residual=residual.value,
        residual_error=residual.error,
        avoidable=avoidable_log_loss(rows.positive, score),
        ece=expected_calibration_error(rows.positive, score),
        ndcg=float(lists["ndcg_at_n"].mean()),
        value_captured=float(lists["value_captured_usd"].sum()) / value if value else 0.0,
        value_usd=value,
    )


def _keep(path: Path, cells: list[Cell]) -> None:
    with replacing(path) as unfinished:
        unfinished.write_bytes(TypeAdapter(list[Cell]).dump_json(cells, indent=1))
