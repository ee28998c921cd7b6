"""Training: from labelled snapshots to a registered model version with all that explains it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date

from pipelines import feature_store, lake
from pipelines.cross_validation import cross_validate
from pipelines.lineage import Lineage, code_version, current_snapshot, training_rows
from pipelines.model import Model, fit_booster
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.tracking import Trained, register
from pipelines.training_set import load_snapshot, missed_positives, snapshot_dates
from pipelines.use_case import UseCase

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TrainReport:
    """A registered version and what cross-validation found of it; `rows` were trained on."""

    as_of: date
    model_version: str
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
    progress: Progress = lambda *_: None,
) -> TrainReport:
    """Train on what was known at the end of `as_of` and register the result; nothing is promoted.

    Raises:
        MissingPartition: a business date that the snapshots need was not ingested.
        LabelsImmature: likewise, for their labels.
    """
    with measured(settings, f"train__{use_case.name}", str(as_of), run_id) as cost:
        store = feature_store.open_store(settings, use_case)
        trained = fit(settings, use_case, as_of, run_id, progress)
        cost.rows = sum(snapshot.matrix.shape[0] for snapshot in trained.snapshots)
        version = register(settings, use_case, as_of, trained)
        feature_store.freeze_service(store, use_case, version)
    validation = trained.validation
    return TrainReport(
        as_of,
        version,
        cost.rows,
        validation.best_rule,
        validation.beats_best_rule,
        asdict(validation.gain),
        {name: quality.named(use_case.top_n) for name, quality in validation.overall.items()},
    )


def fit(
    settings: Settings, use_case: UseCase, as_of: date, run_id: str, progress: Progress = lambda *_: None
) -> Trained:
    """Build the snapshots that are missing or stale, cross-validate and fit the final model; registers nothing."""
    dates = snapshot_dates(use_case, as_of)
    folds = use_case.training.folds
    store = feature_store.open_store(settings, use_case)
    snapshots, trained_on = [], []
    for number, day in enumerate(dates, start=1):
        trained_on.append(current_snapshot(settings, use_case, day, run_id))
        only_sampled = number <= len(dates) - folds
        snapshots.append(load_snapshot(settings, use_case, store, day, only_sampled=only_sampled))
        progress("snapshots", number, len(dates))
    missed = [missed_positives(settings, use_case, day) for day in dates[-folds:]]
    validation = cross_validate(
        use_case, snapshots, missed, settings.threads, lambda done: progress("folds", done, folds)
    )
    sampled = [snapshot.sampled() for snapshot in snapshots]
    booster = fit_booster(use_case.training, use_case.features, sampled, settings.threads)
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
    return Trained(Model(booster, validation.calibration, use_case.features), sampled, validation, lineage)
