"""What a training run leaves: a folder with all that explains the model, and its registration in MLflow."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import registry
from pipelines.bundle import FOLDER, feature_definition, write_bundle
from pipelines.crash_points import crash_point
from pipelines.cross_validation import Validation, models_of
from pipelines.drift import Reference, build_reference
from pipelines.lineage import Lineage, TrainedOn
from pipelines.metrics import Quality
from pipelines.model import Model
from pipelines.plots import plot_calibration, plot_importance
from pipelines.settings import Settings
from pipelines.training_set import Snapshot
from pipelines.use_case import UseCase

RUN_FILE = "run.json"  # written last: a folder that has it is whole


@dataclass(frozen=True)
class Trained:
    """The final model with the snapshots it saw, the validation of its recipe, and what they were made from.

    `use_case` has the plan that was used, which a search may have found.
    """

    use_case: UseCase
    model: Model
    snapshots: Sequence[Snapshot]
    validation: Validation
    lineage: Lineage


def kept_folder(
    settings: Settings, use_case: UseCase, as_of: date, trained_on: Sequence[TrainedOn], search_minutes: float
) -> Path:
    """Where a training on these inputs leaves its result until it is registered."""
    told = [use_case.model_dump_json(), str(search_minutes), *(one.model_dump_json() for one in trained_on)]
    name = f"{as_of}-{hashlib.sha256(''.join(told).encode()).hexdigest()[:16]}"
    return settings.home / "unregistered" / use_case.name / name


def is_whole(folder: Path) -> bool:
    """Whether a training has left its whole result there."""
    return (folder / RUN_FILE).exists()


def write_run(settings: Settings, trained: Trained, cpu_s: float, folder: Path) -> None:
    """Write everything that a training leaves; `cpu_s` is what it cost, in processor seconds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    use_case, validation = trained.use_case, trained.validation
    newest = trained.lineage.snapshots[-1].features.as_of
    facts = {
        "use_case": use_case.name,
        "kind": validation.chosen,
        "trained_as_of": trained.lineage.as_of,
        "last_label_date": newest + timedelta(days=use_case.horizon_days),
        "feature_definition": feature_definition(settings, use_case),
    }
    bundle = write_bundle(settings, trained.model, facts, folder / FOLDER)
    (folder / registry.LINEAGE_FILE).write_text(trained.lineage.model_dump_json(indent=1))
    reference = {name: column.model_dump() for name, column in _reference(trained).items()}
    (folder / registry.REFERENCE_FILE).write_text(json.dumps(reference))
    plot_calibration(validation, folder / "calibration.png")
    plot_importance(trained.model, folder / "importance.png")
    named = {name: one.named(use_case.top_n) for name, one in validation.overall.items()}
    compared = {"chosen": validation.chosen, "best_rule": validation.best_rule, "quality": named}
    (folder / registry.VALIDATION_FILE).write_text(json.dumps(compared, indent=1))
    run = {
        "bundle_sha256": bundle,
        "report": {
            "model": validation.chosen,
            "rows": sum(len(snapshot.matrix) for snapshot in trained.snapshots),
            "best_rule": validation.best_rule,
            "beats_best_rule": validation.beats_best_rule,
            "gain": asdict(validation.gain),
            "quality": named,
        },
        "params": _parameters(trained),
        "metrics": _metrics(use_case, validation) | _training_figures(trained, cpu_s),
        "fold_metrics": [_flat(use_case, validation, fold, "fold.") for fold in validation.per_fold],
    }
    unfinished = folder / f".{RUN_FILE}"
    unfinished.write_text(json.dumps(run, indent=1, default=str))
    unfinished.rename(folder / RUN_FILE)


def register(settings: Settings, use_case: UseCase, folder: Path) -> tuple[str, dict[str, Any]]:
    """Register what a training left, as the new challenger; gives the version and the training's report.

    The version was read back and found whole; only then the folder is removed.

    Raises:
        EngineFailure: the registry did not answer as it should; the folder stays.
    """
    run = json.loads((folder / RUN_FILE).read_text())
    client = registry.open_registry(settings)
    import mlflow

    with registry.reaching(settings):
        experiment = registry.experiment_id(settings, use_case, client)
        with mlflow.start_run(experiment_id=experiment, run_name=str(run["params"]["as_of"])) as started:
            mlflow.log_params(run["params"])
            for step, figures in enumerate(run["fold_metrics"], start=1):
                mlflow.log_metrics(figures, step=step)
            mlflow.log_metrics(run["metrics"])
            mlflow.log_artifacts(str(folder))
            crash_point("training.after_artifacts")
        if not client.search_registered_models(f"name = '{use_case.name}'"):
            client.create_registered_model(use_case.name, description=use_case.question)
        made = client.create_model_version(
            use_case.name,
            source=f"{started.info.artifact_uri}/{FOLDER}",
            run_id=started.info.run_id,
            tags={registry.BUNDLE_TAG: run["bundle_sha256"], "kind": run["report"]["model"]},
        )
    crash_point("training.after_version")
    version = registry.get_version(settings, use_case, str(made.version))
    registry.load(settings, use_case, version)
    registry.set_alias(settings, use_case, registry.CHALLENGER, version.version)
    crash_point("training.after_alias")
    shutil.rmtree(folder)
    return version.version, run["report"]


def _parameters(trained: Trained) -> dict[str, object]:
    lineage, use_case = trained.lineage, trained.use_case
    return {
        "as_of": lineage.as_of,
        "model": trained.validation.chosen,
        "snapshot_dates": ",".join(str(one.features.as_of) for one in lineage.snapshots),
        "feature_versions": ",".join(one.features.version for one in lineage.snapshots),
        "training_set_sha256": lineage.training_set_sha256,
        "rows": sum(len(snapshot.matrix) for snapshot in trained.snapshots),
        "feature_count": len(use_case.features),
        "best_rule": trained.validation.best_rule,
        "code_version": lineage.code_version,
        **use_case.training.model_dump(),
    }


def _training_figures(trained: Trained, cpu_s: float) -> dict[str, float]:
    """What the gate must know of the training set; a feature without any variation counts as missing."""
    matrix = np.concatenate([snapshot.matrix for snapshot in trained.snapshots])
    positive = np.concatenate([snapshot.positive for snapshot in trained.snapshots])
    with np.errstate(all="ignore"):
        varies = np.nanmax(matrix, axis=0) > np.nanmin(matrix, axis=0)
    return {
        "training_cpu_s": cpu_s,
        "training_rows": float(len(matrix)),
        "training_positive_share": float(positive.mean()),
        "training_features_missing": float((~varies).sum()),
    }


def _metrics(use_case: UseCase, validation: Validation) -> dict[str, float]:
    gain = {f"ndcg_gain.{name}": value for name, value in asdict(validation.gain).items()}
    return _flat(use_case, validation, validation.overall) | gain


def _flat(
    use_case: UseCase, validation: Validation, qualities: Mapping[str, Quality], prefix: str = ""
) -> dict[str, float]:
    """The chosen model's figures under their own names, those of others under theirs."""
    models = models_of(use_case.training)
    groups = {name: f"{'candidate' if name in models else 'rule'}.{name}." for name in qualities}
    groups[validation.chosen] = ""
    return {
        f"{prefix}{groups[name]}{figure}": value
        for name, one in qualities.items()
        for figure, value in one.named(use_case.top_n).items()
    }


def _reference(trained: Trained) -> Reference:
    """Training distributions of the features, and of the score as validation gave it to whole lists."""
    matrices = [snapshot.matrix for snapshot in trained.snapshots]
    weights = [snapshot.weight for snapshot in trained.snapshots]
    scores = [one[:, np.newaxis] for one in trained.validation.probabilities]
    return build_reference(trained.model.features, matrices, weights) | build_reference(
        ["score"], scores, [np.ones(len(one)) for one in scores]
    )
