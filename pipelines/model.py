"""A model: LightGBM's trees, the calibration of their scores, and the features that they expect."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import lightgbm
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from pipelines.errors import ArtifactRefused
from pipelines.training_set import Matrix, Snapshot, Vector, to_matrix
from pipelines.use_case import TrainingPlan


@dataclass(frozen=True)
class Calibration:
    """Platt's map of log-odds: p = 1 / (1 + exp(-(slope · log-odds + intercept))) (Platt 1999)."""

    slope: float
    intercept: float

    @classmethod
    def fit(cls, log_odds: Vector, positive: NDArray[np.bool_]) -> Self:
        """The map that fits the labels best."""
        fitted = LogisticRegression(C=1e6).fit(log_odds.reshape(-1, 1), positive)
        return cls(float(fitted.coef_[0, 0]), float(fitted.intercept_[0]))

    def apply(self, log_odds: Vector) -> Vector:
        """Calibrated probabilities."""
        return np.asarray(1 / (1 + np.exp(-(self.slope * log_odds + self.intercept))))


@dataclass(frozen=True)
class Model:
    """Trees and calibration, with the names of the features in the order of the matrix."""

    booster: lightgbm.Booster
    calibration: Calibration
    features: tuple[str, ...]

    def predict(self, rows: pa.Table, threads: int) -> Vector:
        """Calibrated probabilities of rows that have every feature as a column; taken by name, not by place.

        Raises:
            ArtifactRefused: a feature of the model is not among the columns.
        """
        missing = [feature for feature in self.features if feature not in rows.column_names]
        if missing:
            raise ArtifactRefused(
                "the rows lack features of the model",
                where="feature snapshot",
                expected=", ".join(self.features),
                found=f"missing: {', '.join(missing)}",
                remedy="score with features of the model's own version, or train a new model",
            )
        return self.predict_matrix(to_matrix(rows, self.features), threads)

    def predict_matrix(self, matrix: Matrix, threads: int) -> Vector:
        """Calibrated probabilities of a matrix whose columns are the features, in order."""
        return self.calibration.apply(log_odds_of(self.booster, matrix, threads))


def log_odds_of(booster: lightgbm.Booster, matrix: Matrix, threads: int) -> Vector:
    """The trees' raw scores, one per row."""
    return np.asarray(booster.predict(matrix, raw_score=True, num_threads=threads), np.float64)


def fit_booster(
    plan: TrainingPlan, features: Sequence[str], snapshots: Sequence[Snapshot], threads: int
) -> lightgbm.Booster:
    """Trees from the snapshots' rows; equal input gives an equal model text."""
    data = lightgbm.Dataset(
        np.concatenate([snapshot.matrix for snapshot in snapshots]),
        label=np.concatenate([snapshot.positive for snapshot in snapshots]).astype(np.float64),
        weight=np.concatenate([snapshot.weight for snapshot in snapshots]),
        feature_name=list(features),
        free_raw_data=True,
    )
    return lightgbm.train(booster_parameters(plan, threads), data, num_boost_round=plan.boosting_rounds)


def booster_parameters(plan: TrainingPlan, threads: int) -> dict[str, Any]:
    """LightGBM's parameters for a plan."""
    return {
        "objective": "binary",
        "num_leaves": plan.leaves,
        "learning_rate": plan.learning_rate,
        "min_data_in_leaf": plan.min_rows_in_leaf,
        "feature_fraction": plan.feature_share,
        "lambda_l2": plan.l2,
        "seed": plan.seed,
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


def save_contract(model: Model, model_file: Path) -> dict[str, Any]:
    """What a reader of the model file must know and check: features, calibration and the file's SHA-256."""
    return {
        "features": list(model.features),
        "calibration": {"slope": model.calibration.slope, "intercept": model.calibration.intercept},
        "model_sha256": file_sha256(model_file),
    }


def load_model(model_file: Path, contract_file: Path, *, contract_sha256: str, where: str) -> Model:
    """The model, once its contract and its trees are seen to be, byte for byte, the registered ones.

    Raises:
        ArtifactRefused: a file differs; it is not parsed.
    """
    _require_hash(contract_file, contract_sha256, where)
    contract = json.loads(contract_file.read_text())
    _require_hash(model_file, contract["model_sha256"], where)
    booster = lightgbm.Booster(model_file=str(model_file))
    features = tuple(contract["features"])
    if tuple(booster.feature_name()) != features:
        raise ArtifactRefused(
            "the trees were grown on other features than the contract's",
            where=where,
            expected=features,
            found=tuple(booster.feature_name()),
            remedy="train and register the model again",
        )
    return Model(booster, Calibration(**contract["calibration"]), features)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_hash(path: Path, expected: str, where: str) -> None:
    found = file_sha256(path)
    if found != expected:
        raise ArtifactRefused(
            f"{path.name} is not the registered file",
            where=where,
            expected=f"sha256 {expected}",
            found=f"sha256 {found}",
            remedy="restore the artefact store, or promote another version",
        )
