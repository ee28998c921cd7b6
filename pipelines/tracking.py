"""What a training run leaves in MLflow: parameters, metrics, plots, the model's files and its registration."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipelines import registry
from pipelines.cross_validation import MODEL, Validation
from pipelines.drift import Reference, build_reference
from pipelines.lineage import Lineage
from pipelines.metrics import Quality
from pipelines.model import Model, file_sha256, save_contract
from pipelines.plots import plot_calibration, plot_importance
from pipelines.settings import PROJECT, Settings
from pipelines.training_set import Snapshot
from pipelines.use_case import UseCase


@dataclass(frozen=True)
class Trained:
    """The final model with the snapshots it saw, the validation of its recipe, and what they were made from."""

    model: Model
    snapshots: Sequence[Snapshot]
    validation: Validation
    lineage: Lineage


def register(settings: Settings, use_case: UseCase, as_of: date, trained: Trained) -> str:
    """Number of the new model version; it was read back and found whole."""
    client = registry.open_registry(settings)
    import mlflow

    experiment = registry.experiment_id(settings, use_case, client)
    with TemporaryDirectory() as folder, mlflow.start_run(experiment_id=experiment, run_name=str(as_of)):
        mlflow.log_params(_parameters(use_case, trained))
        _log_metrics(use_case, trained.validation)
        _write_files(settings, trained, Path(folder))
        mlflow.log_artifacts(folder)
        logged = mlflow.lightgbm.log_model(
            trained.model.booster, name="model", pip_requirements=["lightgbm"], metadata={"use_case": use_case.name}
        )
        contract = file_sha256(Path(folder) / registry.CONTRACT_FILE)
        made = mlflow.register_model(logged.model_uri, use_case.name, tags={registry.CONTRACT_TAG: contract})
    version = registry.get_version(settings, use_case, str(made.version))
    registry.load(settings, use_case, version)
    return version.version


def _parameters(use_case: UseCase, trained: Trained) -> dict[str, object]:
    lineage = trained.lineage
    return {
        "as_of": lineage.as_of,
        "snapshot_dates": ",".join(str(one.features.as_of) for one in lineage.snapshots),
        "feature_versions": ",".join(one.features.version for one in lineage.snapshots),
        "training_set_sha256": lineage.training_set_sha256,
        "rows": sum(len(snapshot.matrix) for snapshot in trained.snapshots),
        "feature_count": len(use_case.features),
        "best_rule": trained.validation.best_rule,
        "code_version": lineage.code_version,
        "requirements_sha256": _lock_sha256(),
        **use_case.training.model_dump(),
    }


def _log_metrics(use_case: UseCase, validation: Validation) -> None:
    import mlflow

    for fold, qualities in enumerate(validation.per_fold, start=1):
        mlflow.log_metrics(_flat(use_case, qualities, "fold."), step=fold)
    gain = {f"ndcg_gain.{name}": value for name, value in asdict(validation.gain).items()}
    mlflow.log_metrics(_flat(use_case, validation.overall) | gain)


def _flat(use_case: UseCase, qualities: Mapping[str, Quality], prefix: str = "") -> dict[str, float]:
    return {
        f"{prefix}{'' if name == MODEL else f'rule.{name}.'}{figure}": value
        for name, quality in qualities.items()
        for figure, value in quality.named(use_case.top_n).items()
    }


def _write_files(settings: Settings, trained: Trained, folder: Path) -> None:
    model_file = folder / registry.MODEL_FILE
    trained.model.booster.save_model(str(model_file))
    contract = save_contract(trained.model, model_file)
    model_file.unlink()  # MLflow writes its own; the contract holds the hash that it must have
    (folder / registry.CONTRACT_FILE).write_text(json.dumps(contract, indent=1))
    (folder / registry.LINEAGE_FILE).write_text(trained.lineage.model_dump_json(indent=1))
    reference = {name: column.model_dump() for name, column in _reference(settings, trained).items()}
    (folder / registry.REFERENCE_FILE).write_text(json.dumps(reference))
    plot_calibration(trained.validation, folder / "calibration.png")
    plot_importance(trained.model, folder / "importance.png")


def _reference(settings: Settings, trained: Trained) -> Reference:
    """Training distributions of the features and of the model's own score."""
    matrices = [snapshot.matrix for snapshot in trained.snapshots]
    weights = [snapshot.weight for snapshot in trained.snapshots]
    scores = [trained.model.predict_matrix(matrix, settings.threads)[:, np.newaxis] for matrix in matrices]
    return build_reference(trained.model.features, matrices, weights) | build_reference(["score"], scores, weights)


def _lock_sha256() -> str:
    return hashlib.sha256((PROJECT / "requirements.txt").read_bytes()).hexdigest()
