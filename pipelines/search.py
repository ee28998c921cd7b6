"""A search for hyper-parameters: Optuna, on the folds of cross-validation, within a time budget."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipelines.cross_validation import BLEND, models_of, raw_scores
from pipelines.metrics import lists_of
from pipelines.model import weighted
from pipelines.training_set import Snapshot, scored_table
from pipelines.use_case import TrainingPlan, UseCase

if TYPE_CHECKING:
    from optuna import Trial

Progress = Callable[[str, int, int], None]


def search(
    use_case: UseCase,
    snapshots: Sequence[Snapshot],
    missed: Sequence[pa.Table],
    threads: int,
    minutes: float,
    progress: Progress = lambda *_: None,
) -> TrainingPlan:
    """The plan with the highest mean NDCG of the blend over the folds, among those tried within the minutes.

    The present plan is tried first. A trial that is below the median of earlier ones after a fold is pruned.
    """
    import optuna

    logging.getLogger("optuna").setLevel(logging.WARNING)
    folds = snapshots[-len(missed) :]

    def objective(trial: "Trial") -> float:
        plan = _suggest(trial, use_case.training)
        tried, found = use_case.model_copy(update={"training": plan}), list[float]()
        for number, fold in enumerate(folds):
            raw = raw_scores(tried, snapshots, fold, threads)
            rows = scored_table(tried, fold.rows, weighted(raw, models_of(plan)[BLEND]), missed[number])
            found.append(float(lists_of(tried, rows)["ndcg_at_n"].mean()))
            trial.report(float(np.mean(found)), number)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(found))

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=use_case.training.seed % 2**31),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    study.enqueue_trial({name: getattr(use_case.training, name) for name in _SPACE})
    seconds = minutes * 60
    study.optimize(objective, timeout=seconds, callbacks=[lambda *_: progress("search, trials", len(study.trials), 0)])
    return _planned(use_case.training, study.best_params)


_SPACE = ("leaves", "learning_rate", "boosting_rounds", "min_rows_in_leaf", "feature_share", "l2", "ranker_weight")


def _suggest(trial: "Trial", plan: TrainingPlan) -> TrainingPlan:
    return _planned(
        plan,
        {
            "leaves": trial.suggest_int("leaves", 7, 127, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
            "boosting_rounds": trial.suggest_int("boosting_rounds", 20, 400, log=True),
            "min_rows_in_leaf": trial.suggest_int("min_rows_in_leaf", 20, 3000, log=True),
            "feature_share": trial.suggest_float("feature_share", 0.2, 1.0),
            "l2": trial.suggest_float("l2", 0.1, 100.0, log=True),
            "ranker_weight": trial.suggest_float("ranker_weight", 0.1, 10.0, log=True),
        },
    )


def _planned(plan: TrainingPlan, chosen: dict[str, object]) -> TrainingPlan:
    return TrainingPlan.model_validate(plan.model_dump() | chosen)
