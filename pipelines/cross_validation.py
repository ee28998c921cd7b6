"""Time-ordered cross-validation of all candidates: an expanding window, with a gap of at least the label horizon."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa

from pipelines.labels import last_mature
from pipelines.metrics import Interval, Quality, paired_interval, quality
from pipelines.model import (
    BINARY,
    RANKER,
    Calibration,
    Component,
    Fit,
    Flags,
    Matrix64,
    Reliability,
    fit_booster,
    within_and_level,
)
from pipelines.training_set import Snapshot, Vector, scored_table
from pipelines.use_case import TrainingPlan, UseCase

BLEND = "blend"
Weights = Mapping[str, float]
Raw = Mapping[str, Vector]


@dataclass(frozen=True)
class Validation:
    """What cross-validation found.

    `per_fold` and `overall` give the quality of each model and of each simple rule on the same rows, by name;
    `chosen` is the model that ranks best, a sum of components with `weights`. `gain` is its paired gain in NDCG over
    `best_rule`, the strongest rule. `probabilities`, by fold, and `positive` are out of fold, over all validation rows;
    `calibration` and `reliability` are fitted on them and serve the final model.
    """

    per_fold: Sequence[Mapping[str, Quality]]
    overall: Mapping[str, Quality]
    chosen: str
    weights: Weights
    best_rule: str
    gain: Interval
    calibration: Calibration
    reliability: Reliability
    probabilities: Sequence[Vector] = field(repr=False)
    positive: Flags = field(repr=False)

    @property
    def beats_best_rule(self) -> bool:
        """Whether the whole 95 % interval of the gain lies above zero."""
        return self.gain.low > 0


def models_of(plan: TrainingPlan) -> dict[str, Weights]:
    """The models that compete: the weights of their components, by name."""
    return {BINARY: {BINARY: 1.0}, RANKER: {RANKER: 1.0}, BLEND: {BINARY: 1.0, RANKER: plan.ranker_weight}}


def cross_validate(
    use_case: UseCase,
    snapshots: Sequence[Snapshot],
    missed: Sequence[pa.Table],
    threads: int,
    on_fold: Callable[[int], None] = lambda _: None,
    fit: Fit | None = None,
) -> Validation:
    """Validate on each of the newest `folds` snapshots models that were trained on older ones only.

    `missed` holds, for each validation snapshot, the positives that were no candidates. Each fold is calibrated on
    the other folds, so that no row's probability has seen its own label.
    """
    folds = snapshots[-len(missed) :]
    raw = []
    for number, fold in enumerate(folds, start=1):
        raw.append(raw_scores(use_case, snapshots, fold, threads, fit))
        on_fold(number)
    positive = [fold.positive for fold in folds]
    models = models_of(use_case.training)
    sums = {
        name: [within_and_level(one, weights, fold.entities) for one, fold in zip(raw, folds, strict=True)]
        for name, weights in models.items()
    }
    probabilities = {name: _out_of_fold(one, positive) for name, one in sums.items()}
    scored = [
        _scored_by_all(use_case, fold, {name: one[place] for name, one in probabilities.items()}, missed[place])
        for place, fold in enumerate(folds)
    ]
    together = {name: pa.concat_tables([fold[name] for fold in scored]) for name in scored[0]}
    overall = _qualities(use_case, together, models)
    best_rule = max((rule.name for rule in use_case.rules), key=lambda name: overall[name].ndcg_at_n)
    chosen = max(models, key=lambda name: overall[name].ndcg_at_n)
    labels = np.concatenate(positive)
    return Validation(
        per_fold=[_qualities(use_case, fold, models) for fold in scored],
        overall=overall,
        chosen=chosen,
        weights=models[chosen],
        best_rule=best_rule,
        gain=paired_interval(use_case, together[chosen], together[best_rule]),
        calibration=Calibration.fit(np.concatenate(sums[chosen]), labels),
        reliability=Reliability.fit(np.concatenate(probabilities[chosen]), labels),
        probabilities=probabilities[chosen],
        positive=labels,
    )


def raw_scores(
    use_case: UseCase, snapshots: Sequence[Snapshot], fold: Snapshot, threads: int, fit: Fit | None = None
) -> Raw:
    """Raw scores of a fold's rows by components that were trained on the snapshots whose labels it may know."""
    older = [one.sampled() for one in snapshots if one.as_of <= last_mature(use_case, fold.as_of)]
    components = fit_components(use_case, (BINARY, RANKER), older, threads, fit)
    return {part.name: part.raw(fold.matrix, threads) for part in components}


def fit_components(
    use_case: UseCase,
    weights: Weights | Sequence[str],
    snapshots: Sequence[Snapshot],
    threads: int,
    fit: Fit | None = None,
) -> tuple[Component, ...]:
    """Components of these names, with their weights where they are given, trained on sampled snapshots.

    Their trees come from `fit`, else from so many threads of this process.
    """
    grow = fit or partial(fit_booster, threads=threads)
    plan, features = use_case.training, use_case.features
    known = weights if isinstance(weights, Mapping) else dict.fromkeys(weights, 1.0)
    return tuple(Component(name, grow(plan, name, features, snapshots), weight) for name, weight in known.items())


def _out_of_fold(sums: Sequence[Matrix64], positive: Sequence[Flags]) -> list[Vector]:
    found = []
    for place, one in enumerate(sums):
        others = [other for other in range(len(sums)) if other != place] or [place]
        calibration = Calibration.fit(
            np.concatenate([sums[other] for other in others]), np.concatenate([positive[other] for other in others])
        )
        found.append(calibration.apply(one))
    return found


def _scored_by_all(
    use_case: UseCase, fold: Snapshot, probabilities: Mapping[str, Vector], missed: pa.Table
) -> dict[str, pa.Table]:
    rules = {rule.name: fold.rows.column(rule.name).to_numpy() for rule in use_case.rules}
    return {
        name: scored_table(use_case, fold.rows, score, missed) for name, score in {**probabilities, **rules}.items()
    }


def _qualities(use_case: UseCase, scored: Mapping[str, pa.Table], models: Mapping[str, Weights]) -> dict[str, Quality]:
    return {name: quality(use_case, rows, is_probability=name in models) for name, rows in scored.items()}
