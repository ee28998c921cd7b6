"""Training: from labelled snapshots to a registered model version with all that explains it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from pipelines import feature_store, lake
from pipelines.cluster_training import open_fit
from pipelines.crash_points import crash_point
from pipelines.cross_validation import cross_validate, fit_components
from pipelines.lineage import Lineage, TrainedOn, code_version, current_snapshot, training_rows
from pipelines.model import Model
from pipelines.search import Progress, search
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.tracking import Trained, is_whole, kept_folder, register, write_run
from pipelines.training_set import load_snapshot, missed_positives, snapshot_dates
from pipelines.use_case import UseCase


@dataclass(frozen=True)
class TrainReport:
    """A registered version and what cross-validation found of it; `rows` were trained on, `model` is its kind."""

    as_of: date
    model_version: str
    model: str
    rows: int
    best_rule: str
    beats_best_rule: bool
    gain: Mapping[str, float]
    quality: Mapping[str, Mapping[str, float]]


def train(
    settings: Settings,
    use_case: UseCase,
    as_of: date,
    run_id: str,
    *,
    search_minutes: float = 0,
    progress: Progress = lambda *_: None,
) -> TrainReport:
    """Train on what was known at the end of `as_of` and register the result; nothing is promoted.

    `search_minutes` is the time for a search of hyper-parameters. A result that could not be registered is kept,
    and registered by the next call that finds the same inputs.

    Raises:
        MissingPartition: a business date that the snapshots need was not ingested.
        LabelsImmature: likewise, for their labels.
        EngineFailure: the registry is down, and the result is kept; or the Dask cluster of the settings is.
    """
    with measured(settings, f"train__{use_case.name}", str(as_of), run_id) as cost:
        store = feature_store.open_store(settings, use_case)
        trained_on = [current_snapshot(settings, use_case, day, run_id) for day in snapshot_dates(use_case, as_of)]
        folder = kept_folder(settings, use_case, as_of, trained_on, search_minutes)
        if not is_whole(folder):
            started = time.process_time()
            trained = fit(settings, use_case, as_of, trained_on, search_minutes=search_minutes, progress=progress)
            write_run(settings, trained, time.process_time() - started, folder)
        crash_point("training.after_fit")
        version, report = register(settings, use_case, folder)
        crash_point("training.before_service")
        feature_store.freeze_service(store, use_case, version)
        cost.rows, cost.model_version = int(report["rows"]), version
    return TrainReport(as_of=as_of, model_version=version, **report)


def fit(
    settings: Settings,
    use_case: UseCase,
    as_of: date,
    trained_on: Sequence[TrainedOn],
    *,
    search_minutes: float = 0,
    progress: Progress = lambda *_: None,
) -> Trained:
    """Search if there is time for it, cross-validate all candidates and fit the best one; registers nothing."""
    folds, dates = use_case.training.folds, [one.features.as_of for one in trained_on]
    store = feature_store.open_store(settings, use_case)
    snapshots = []
    for number, day in enumerate(dates, start=1):
        only_sampled = number <= len(dates) - folds
        snapshots.append(load_snapshot(settings, use_case, store, day, only_sampled=only_sampled))
        progress("snapshots", number, len(dates))
    missed = [missed_positives(settings, use_case, day) for day in dates[-folds:]]
    if search_minutes:
        plan = search(use_case, snapshots, missed, settings.threads, search_minutes, progress)
        use_case = use_case.model_copy(update={"training": plan})
    sampled = [snapshot.sampled() for snapshot in snapshots]
    with open_fit(settings) as fit_trees:
        validation = cross_validate(
            use_case, snapshots, missed, settings.threads, lambda done: progress("folds", done, folds), fit_trees
        )
        components = fit_components(use_case, validation.weights, sampled, settings.threads, fit_trees)
    hashes = [lake.content_hash(training_rows(use_case, snapshot)) for snapshot in sampled]
    lineage = Lineage(
        use_case=use_case.name,
        as_of=as_of,
        plan=use_case.training,
        code_version=code_version(),
        snapshots=tuple(
            one.model_copy(update={"rows_sha256": hashed}) for one, hashed in zip(trained_on, hashes, strict=True)
        ),
    )
    model = Model(components, validation.calibration, validation.reliability, use_case.features, use_case.entity)
    return Trained(use_case, model, sampled, validation, lineage)
