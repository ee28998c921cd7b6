"""Time-ordered cross-validation: an expanding window, with a gap of at least the label horizon."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.labels import last_mature
from pipelines.metrics import Interval, Quality, paired_interval, quality
from pipelines.model import Calibration, fit_booster, log_odds_of
from pipelines.training_set import Snapshot, Vector, scored_table
from pipelines.use_case import UseCase

MODEL = "model"


@dataclass(frozen=True)
class Validation:
    """What cross-validation found.

    `per_fold` and `overall` give the quality of the model and of each simple rule on the same rows; `gain` is the
    model's paired gain in NDCG over `best_rule`, the strongest of them. `probabilities` and `positive` are out of
    fold, over all validation rows; `calibration` is fitted on them and serves the final model.
    """

    per_fold: Sequence[Mapping[str, Quality]]
    overall: Mapping[str, Quality]
    best_rule: str
    gain: Interval
    calibration: Calibration
    probabilities: Vector = field(repr=False)
    positive: Vector = field(repr=False)

    @property
    def beats_best_rule(self) -> bool:
        """Whether the whole 95 % interval of the gain lies above zero."""
        return self.gain.low > 0


def cross_validate(
    use_case: UseCase,
    snapshots: Sequence[Snapshot],
    missed: Sequence[pa.Table],
    threads: int,
    on_fold: Callable[[int], None] = lambda _: None,
) -> Validation:
    """Validate on each of the newest `folds` snapshots a model that was trained on older ones only.

    `missed` holds, for each validation snapshot, the positives that were no candidates. Each fold is calibrated on
    the other folds, so that no row's probability has seen its own label.
    """
    validated = snapshots[-len(missed) :]
    log_odds = []
    for number, fold in enumerate(validated, start=1):
        older = [s.sampled() for s in snapshots if s.as_of <= last_mature(use_case, fold.as_of)]
        booster = fit_booster(use_case.training, use_case.features, older, threads)
        log_odds.append(log_odds_of(booster, fold.matrix, threads))
        on_fold(number)
    positive = [fold.positive for fold in validated]
    probabilities = [
        _calibration_without(position, log_odds, positive).apply(log_odds[position])
        for position in range(len(validated))
    ]
    scored = [
        _scored_by_all(use_case, fold, probability, unreachable)
        for fold, probability, unreachable in zip(validated, probabilities, missed, strict=True)
    ]
    together = {name: pa.concat_tables([fold[name] for fold in scored]) for name in scored[0]}
    overall = _qualities(use_case, together)
    best_rule = max((rule.name for rule in use_case.rules), key=lambda name: overall[name].ndcg_at_n)
    return Validation(
        per_fold=[_qualities(use_case, fold) for fold in scored],
        overall=overall,
        best_rule=best_rule,
        gain=paired_interval(use_case, together[MODEL], together[best_rule]),
        calibration=Calibration.fit(np.concatenate(log_odds), np.concatenate(positive)),
        probabilities=np.concatenate(probabilities),
        positive=np.concatenate(positive).astype(np.float64),
    )


def _calibration_without(
    position: int, log_odds: Sequence[Vector], positive: Sequence[NDArray[np.bool_]]
) -> Calibration:
    others = [p for p in range(len(log_odds)) if p != position] or [position]
    return Calibration.fit(np.concatenate([log_odds[p] for p in others]), np.concatenate([positive[p] for p in others]))


def _scored_by_all(use_case: UseCase, fold: Snapshot, probability: Vector, missed: pa.Table) -> dict[str, pa.Table]:
    scores = {MODEL: probability}
    scores |= {rule.name: fold.rows.column(rule.name).to_numpy() for rule in use_case.rules}
    return {name: scored_table(use_case, fold.rows, score, missed) for name, score in scores.items()}


def _qualities(use_case: UseCase, scored: Mapping[str, pa.Table]) -> dict[str, Quality]:
    return {name: quality(use_case, rows, is_probability=name == MODEL) for name, rows in scored.items()}
