"""MLflow: where runs are tracked, models registered, and the champion found by its alias."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipelines.drift import ColumnReference
from pipelines.errors import ArtifactRefused, EngineFailure, NoChampion
from pipelines.model import Model, load_model
from pipelines.settings import Settings
from pipelines.use_case import UseCase

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
MODEL_FILE, CONTRACT_FILE, REFERENCE_FILE = "model.lgb", "contract.json", "reference.json"
LINEAGE_FILE = "lineage.json"
CONTRACT_TAG = "contract_sha256"


@dataclass(frozen=True)
class ModelVersion:
    """One registered version: its number, the MLflow run that made it, and its tags."""

    version: str
    mlflow_run_id: str
    tags: Mapping[str, str]


def open_registry(settings: Settings) -> "MlflowClient":
    """A client of the tracking store, which is created on first use (12 s)."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    settings.home.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(settings.mlflow_store)
    mlflow.set_registry_uri(settings.mlflow_store)
    return mlflow.MlflowClient()


def experiment_id(settings: Settings, use_case: UseCase, client: "MlflowClient") -> str:
    """The use case's experiment, created where it is missing."""
    found = client.get_experiment_by_name(use_case.name)
    if found is not None:
        return str(found.experiment_id)
    location = None if settings.mlflow_tracking_uri else (settings.mlflow_artifacts / use_case.name).as_uri()
    return str(client.create_experiment(use_case.name, artifact_location=location))


def champion(settings: Settings, use_case: UseCase) -> ModelVersion:
    """The version that carries the alias `champion` now; resolve it once and keep to the number.

    Raises:
        NoChampion: none carries it.
    """
    found = find_champion(settings, use_case)
    if found is None:
        raise NoChampion(
            "no model version is champion",
            where=f"registered model {use_case.name}, alias {CHAMPION}",
            remedy=f"nightjar train --use-case {use_case.name} --date YYYY-MM-DD",
        )
    return found


def find_champion(settings: Settings, use_case: UseCase) -> ModelVersion | None:
    """The champion, or none."""
    client = open_registry(settings)
    with _reaching(settings):
        model = next(iter(client.search_registered_models(f"name = '{use_case.name}'")), None)
        if model is None or CHAMPION not in model.aliases:
            return None
    return get_version(settings, use_case, str(model.aliases[CHAMPION]))


def get_version(settings: Settings, use_case: UseCase, version: str) -> ModelVersion:
    """A registered version by its number."""
    with _reaching(settings):
        found = open_registry(settings).get_model_version(use_case.name, version)
    return ModelVersion(str(found.version), found.run_id, dict(found.tags))


def make_champion(settings: Settings, use_case: UseCase, version: str) -> None:
    """Move the alias `champion` to the version."""
    with _reaching(settings):
        open_registry(settings).set_registered_model_alias(use_case.name, CHAMPION, version)


def validation_metrics(settings: Settings, version: ModelVersion) -> dict[str, float]:
    """Metrics that the version's training run logged, by name."""
    with _reaching(settings):
        return dict(open_registry(settings).get_run(version.mlflow_run_id).data.metrics)


def validation_parameters(settings: Settings, version: ModelVersion) -> dict[str, str]:
    """Parameters that the version's training run logged, by name."""
    with _reaching(settings):
        return dict(open_registry(settings).get_run(version.mlflow_run_id).data.params)


def load(settings: Settings, use_case: UseCase, version: ModelVersion) -> Model:
    """The version's model, once its files are seen to be the registered ones.

    Raises:
        ArtifactRefused: a file is missing or differs from what was registered.
    """
    where = f"model {use_case.name}, version {version.version}"
    with _reaching(settings):
        stored = open_registry(settings).get_model_version_download_uri(use_case.name, version.version)
    with TemporaryDirectory() as folder:
        model_file = _fetch(settings, f"{stored}/{MODEL_FILE}", Path(folder), where)
        contract = _fetch(settings, f"runs:/{version.mlflow_run_id}/{CONTRACT_FILE}", Path(folder), where)
        return load_model(model_file, contract, contract_sha256=version.tags[CONTRACT_TAG], where=where)


def load_reference(settings: Settings, use_case: UseCase, version: ModelVersion) -> dict[str, ColumnReference]:
    """The training distribution of each feature, and of the score under the name `score`."""
    import json

    columns = json.loads(read_file(settings, use_case, version, REFERENCE_FILE))
    return {name: ColumnReference.model_validate(column) for name, column in columns.items()}


def read_file(settings: Settings, use_case: UseCase, version: ModelVersion, name: str) -> str:
    """Text of a file that the version's training run left.

    Raises:
        ArtifactRefused: it is missing or cannot be read.
    """
    where = f"model {use_case.name}, version {version.version}"
    with TemporaryDirectory() as folder:
        return _fetch(settings, f"runs:/{version.mlflow_run_id}/{name}", Path(folder), where).read_text()


def _fetch(settings: Settings, uri: str, folder: Path, where: str) -> Path:
    open_registry(settings)
    import mlflow

    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except (OSError, mlflow.exceptions.MlflowException) as error:
        raise ArtifactRefused(
            "a file of the model cannot be read",
            where=where,
            expected=uri,
            found=error,
            remedy="restore the artefact store, or promote another version",
        ) from error


@contextmanager
def _reaching(settings: Settings) -> Iterator[None]:
    import mlflow

    try:
        yield
    except mlflow.exceptions.MlflowException as error:
        raise EngineFailure(
            "the model registry did not answer as it should",
            where=settings.mlflow_store,
            found=error,
            remedy="check that the registry is reachable and holds the model; then run the step again",
        ) from error
