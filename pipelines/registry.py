"""MLflow: where runs are tracked, models registered, and the champion found by its alias."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipelines.bundle import FOLDER, ModelFacts, read_bundle
from pipelines.drift import ColumnReference
from pipelines.errors import ArtifactRefused, EngineFailure, NoChampion, UnknownVersion
from pipelines.model import Model
from pipelines.settings import Settings
from pipelines.use_case import UseCase

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as RegisteredVersion

CHAMPION, CHALLENGER = "champion", "challenger"
REFERENCE_FILE, LINEAGE_FILE = "reference.json", "lineage.json"
VALIDATION_FILE, GATE_FILE = "validation.json", "gate.json"
BUNDLE_TAG, TRAINER_TAG = "bundle_sha256", "trainer"


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
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # its own 7 wait for four minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    import mlflow

    settings.home.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(settings.mlflow_store)
    mlflow.set_registry_uri(settings.mlflow_store)
    with reaching(settings):
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
        NoChampion: none carries it, or the version that does is gone.
    """
    found = find_alias(settings, use_case, CHAMPION)
    if found is None:
        raise NoChampion(
            "no model version is champion",
            where=f"registered model {use_case.name}, alias {CHAMPION}",
            remedy=f"nightjar train --use-case {use_case.name} --date YYYY-MM-DD, or nightjar rollback",
        )
    return found


def find_alias(settings: Settings, use_case: UseCase, alias: str) -> ModelVersion | None:
    """The version that carries an alias, or none; none too when the alias points to a version that was deleted."""
    from mlflow.exceptions import MlflowException

    client = open_registry(settings)
    with reaching(settings):
        model = next(iter(client.search_registered_models(f"name = '{use_case.name}'")), None)
        if model is None or alias not in model.aliases:
            return None
        try:
            return _as_version(client.get_model_version(use_case.name, str(model.aliases[alias])))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


def set_alias(settings: Settings, use_case: UseCase, alias: str, version: str | None) -> None:
    """Move an alias to the version, or take it away."""
    client = open_registry(settings)
    with reaching(settings):
        if version is None:
            client.delete_registered_model_alias(use_case.name, alias)
        else:
            client.set_registered_model_alias(use_case.name, alias, version)


def get_version(settings: Settings, use_case: UseCase, version: str) -> ModelVersion:
    """A registered version by its number.

    Raises:
        UnknownVersion: there is none.
    """
    client = open_registry(settings)
    with reaching(settings):
        numbers = [str(one.version) for one in client.search_model_versions(f"name = '{use_case.name}'")]
        if version not in numbers:
            raise UnknownVersion(
                "no such model version is registered",
                where=f"registered model {use_case.name}",
                expected=f"one of {', '.join(sorted(numbers, key=int)) or 'none yet'}",
                found=version,
                remedy="give the number of one that is",
            )
        return _as_version(client.get_model_version(use_case.name, version))


def trainer(settings: Settings, version: ModelVersion) -> str:
    """Who asked for the version's training: as noted, else the account that MLflow saw."""
    noted = version.tags.get(TRAINER_TAG)
    with reaching(settings):
        return noted or str(open_registry(settings).get_run(version.mlflow_run_id).data.tags.get("mlflow.user", ""))


def note_trainer(settings: Settings, use_case: UseCase, version: str, name: str) -> None:
    """Note who asked for the version's training, for whoever is to approve it."""
    with reaching(settings):
        open_registry(settings).set_model_version_tag(use_case.name, version, TRAINER_TAG, name)


def model_tag(settings: Settings, use_case: UseCase, tag: str) -> str:
    """A tag of the registered model itself, which all its versions share; empty where there is none."""
    client = open_registry(settings)
    with reaching(settings):
        model = next(iter(client.search_registered_models(f"name = '{use_case.name}'")), None)
    return str(model.tags.get(tag, "")) if model else ""


def set_model_tag(settings: Settings, use_case: UseCase, tag: str, value: str) -> None:
    """Set a tag of the registered model itself."""
    with reaching(settings):
        open_registry(settings).set_registered_model_tag(use_case.name, tag, value)


def validation_metrics(settings: Settings, version: ModelVersion) -> dict[str, float]:
    """Metrics that the version's training run logged, by name."""
    with reaching(settings):
        return dict(open_registry(settings).get_run(version.mlflow_run_id).data.metrics)


def fold_metrics(settings: Settings, version: ModelVersion, names: Sequence[str]) -> dict[str, list[float]]:
    """Metrics of the version's validation folds by name, oldest fold first; those that it has."""
    client = open_registry(settings)
    with reaching(settings):
        found = {name: client.get_metric_history(version.mlflow_run_id, f"fold.{name}") for name in names}
    return {
        name: [one.value for one in sorted(folds, key=lambda one: one.step)] for name, folds in found.items() if folds
    }


def validation_parameters(settings: Settings, version: ModelVersion) -> dict[str, str]:
    """Parameters that the version's training run logged, by name."""
    with reaching(settings):
        return dict(open_registry(settings).get_run(version.mlflow_run_id).data.params)


def load(settings: Settings, use_case: UseCase, version: ModelVersion) -> tuple[Model, ModelFacts]:
    """The version's model and what is known of it, once its files are seen to be the signed ones.

    Raises:
        ArtifactRefused: a file is missing or differs from what was signed for this version.
    """
    return read_bundle(
        settings,
        use_case,
        lambda name: fetch(settings, use_case, version, f"{FOLDER}/{name}"),
        f"model {use_case.name}, version {version.version}",
        version.tags.get(BUNDLE_TAG, "none"),
    )


def load_reference(settings: Settings, use_case: UseCase, version: ModelVersion) -> dict[str, ColumnReference]:
    """The training distribution of each feature, and of the score under the name `score`."""
    import json

    columns = json.loads(read_file(settings, use_case, version, REFERENCE_FILE))
    return {name: ColumnReference.model_validate(column) for name, column in columns.items()}


def read_file(settings: Settings, use_case: UseCase, version: ModelVersion, name: str) -> str:
    """Text of a file that the version's training run left; ArtifactRefused where it cannot be read."""
    return fetch(settings, use_case, version, name).decode()


def fetch(settings: Settings, use_case: UseCase, version: ModelVersion, name: str) -> bytes:
    """A file that the version's training run left.

    Raises:
        ArtifactRefused: it is missing or cannot be read.
    """
    open_registry(settings)
    import mlflow

    uri = f"runs:/{version.mlflow_run_id}/{name}"
    with TemporaryDirectory() as folder:
        try:
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)).read_bytes()
        except (OSError, mlflow.exceptions.MlflowException) as error:
            raise ArtifactRefused(
                "a file of the model cannot be read",
                where=f"model {use_case.name}, version {version.version}",
                expected=uri,
                found=error,
                remedy="restore the artefact store, or roll back to another version",
            ) from error


def _as_version(found: "RegisteredVersion") -> ModelVersion:
    return ModelVersion(str(found.version), str(found.run_id), dict(found.tags))


def without_password(text: str) -> str:
    """The text with what stands before the host of an address made unreadable."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)


@contextmanager
def reaching(settings: Settings) -> Iterator[None]:
    """A block in which an error of the registry is an EngineFailure."""
    import mlflow
    import sqlalchemy as sa

    try:
        yield
    except (mlflow.exceptions.MlflowException, sa.exc.SQLAlchemyError) as error:
        raise EngineFailure(
            "the model registry did not answer as it should",
            where=without_password(settings.mlflow_store),
            found=without_password(str(error)),
            remedy="check that the registry is reachable and holds the model; then run the step again",
        ) from error
