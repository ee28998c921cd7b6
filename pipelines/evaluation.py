"""Evidence for the gate: challenger, champion and simple rules on the same rows, later than any has learnt from."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from pipelines import feature_store, registry
from pipelines.bundle import ModelFacts
from pipelines.errors import ArtifactRefused
from pipelines.labels import last_mature
from pipelines.lineage import current_snapshot
from pipelines.model import Flags, Model
from pipelines.registry import ModelVersion
from pipelines.settings import Settings
from pipelines.slices import slices_of
from pipelines.training_set import Snapshot, Vector, load_snapshot, missed_positives, scored_table
from pipelines.use_case import UseCase

CHALLENGER, CHAMPION = registry.CHALLENGER, registry.CHAMPION


@dataclass(frozen=True)
class Evidence:
    """What the gate judges; all scores are of the same rows, in the same order.

    `scored` holds what `metrics` measures, by the name of who scored: challenger, champion if it could be compared,
    each simple rule. `probabilities` are those of the models, for candidates only, like `positive` and `slices`.
    `learnt_until` is the newest date of a label that any of the models has seen.
    `figures` are those of the training runs, by name of the model. `problem` says why the champion is not compared;
    `can_champion_score` is false where it cannot even be read, or was made for other features.
    """

    dates: tuple[date, ...]
    learnt_until: date
    best_rule: str
    champion_version: str | None
    problem: str
    can_champion_score: bool
    scored: Mapping[str, pa.Table]
    probabilities: Mapping[str, Vector]
    positive: Flags
    slices: Mapping[str, Flags]
    figures: Mapping[str, Mapping[str, float]]
    scoring_cpu_s: Mapping[str, float]


@dataclass(frozen=True)
class _Judged:
    """A model that is judged, and the version that it is."""

    version: ModelVersion
    model: Model
    facts: ModelFacts


def gather(settings: Settings, use_case: UseCase, challenger: ModelVersion, as_of: date, run_id: str) -> Evidence:
    """Score the newest `holdout` snapshots that are later than the training data and labels of both models.

    A champion that cannot be read, or whose labels leave no such snapshot, is not compared; `problem` says so.

    Raises:
        MissingPartition, LabelsImmature: a snapshot cannot be built.
        ArtifactRefused: the challenger is not the registered one.
    """
    models = {CHALLENGER: _Judged(challenger, *registry.load(settings, use_case, challenger))}
    current, problem, can_score = registry.find_alias(settings, use_case, registry.CHAMPION), "", True
    if current is not None and current.version != challenger.version:
        try:
            models[CHAMPION] = _Judged(current, *registry.load(settings, use_case, current))
        except ArtifactRefused as error:
            problem, can_score = f"{error.what}: expected {error.expected}, found {error.found}", False
    learnt_until = max(one.facts.last_label_date for one in models.values())
    dates = holdout_dates(use_case, as_of, [one.facts for one in models.values()])
    if not dates and CHAMPION in models:
        problem = f"it has learnt from labels up to {models.pop(CHAMPION).facts.last_label_date}"
        dates = holdout_dates(use_case, as_of, [models[CHALLENGER].facts])
    store = feature_store.open_store(settings, use_case)
    snapshots = []
    for day in dates:
        current_snapshot(settings, use_case, day, run_id)
        snapshots.append(load_snapshot(settings, use_case, store, day, only_sampled=False))
    probabilities, cost = {}, {}
    for name, one in models.items():
        started = time.process_time()
        parts = [one.model.predict_matrix(each.matrix, each.entities, settings.threads) for each in snapshots]
        probabilities[name], cost[name] = _together(parts), time.process_time() - started
    return Evidence(
        dates=tuple(dates),
        learnt_until=learnt_until,
        best_rule=json.loads(registry.read_file(settings, use_case, challenger, registry.VALIDATION_FILE))["best_rule"],
        champion_version=current.version if current and current.version != challenger.version else None,
        problem=problem,
        can_champion_score=can_score,
        scored=_scored(settings, use_case, snapshots, probabilities),
        probabilities=probabilities,
        positive=_together([snapshot.positive for snapshot in snapshots]).astype(np.bool_),
        slices=_slices(settings, use_case, snapshots),
        figures={name: registry.validation_metrics(settings, one.version) for name, one in models.items()},
        scoring_cpu_s=cost,
    )


def holdout_dates(use_case: UseCase, as_of: date, learnt: Sequence[ModelFacts]) -> list[date]:
    """The newest snapshot dates with known labels from whose day on none of the models has seen a label."""
    newest, plan = last_mature(use_case, as_of), use_case.training
    earliest = max(facts.last_label_date for facts in learnt)
    days = [newest - timedelta(days=plan.snapshot_every_days * back) for back in reversed(range(plan.holdout))]
    return [day for day in days if day >= earliest]


def _scored(
    settings: Settings, use_case: UseCase, snapshots: Sequence[Snapshot], probabilities: Mapping[str, Vector]
) -> dict[str, pa.Table]:
    if not snapshots:
        return {}
    rows = pa.concat_tables([snapshot.rows for snapshot in snapshots])
    missed = pa.concat_tables([missed_positives(settings, use_case, snapshot.as_of) for snapshot in snapshots])
    rules = {rule.name: rows.column(rule.name).to_numpy() for rule in use_case.rules}
    return {name: scored_table(use_case, rows, score, missed) for name, score in {**probabilities, **rules}.items()}


def _slices(settings: Settings, use_case: UseCase, snapshots: Sequence[Snapshot]) -> dict[str, Flags]:
    """Which candidates belong to each named slice: conditions over features, and values of each dimension."""
    parts = [_slices_of(settings, use_case, snapshot) for snapshot in snapshots]
    names = dict.fromkeys(name for part in parts for name in part)
    none = [np.zeros(len(snapshot.matrix), np.bool_) for snapshot in snapshots]
    return {name: np.concatenate([part.get(name, none[place]) for place, part in enumerate(parts)]) for name in names}


def _slices_of(settings: Settings, use_case: UseCase, snapshot: Snapshot) -> dict[str, Flags]:
    columns = {
        name: pa.array(snapshot.matrix[:, place], from_pandas=True) for place, name in enumerate(use_case.features)
    }
    featured = pa.table({**columns, use_case.entity: pa.array(snapshot.entities)})
    return slices_of(settings, use_case, snapshot.as_of, featured)


def _together(parts: Sequence[Vector] | Sequence[Flags]) -> Vector:
    return np.concatenate([np.asarray(part, np.float64) for part in parts]) if parts else np.zeros(0)
