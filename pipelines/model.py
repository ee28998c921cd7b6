"""A model: LightGBM's trees, how their scores are put together and calibrated, and the features that they expect."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import lightgbm
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from pipelines.contributions import tree_contributions
from pipelines.errors import ArtifactRefused
from pipelines.training_set import Matrix, Snapshot, Vector, to_matrix
from pipelines.use_case import TrainingPlan

Flags = NDArray[np.bool_]
Matrix64 = NDArray[np.float64]
Fit = Callable[[TrainingPlan, str, Sequence[str], Sequence[Snapshot]], lightgbm.Booster]  # what grows trees
BINARY, RANKER = "binary", "ranker"
_OBJECTIVES: dict[str, dict[str, Any]] = {
    BINARY: {"objective": "binary"},
    # Burges 2010, From RankNet to LambdaRank to LambdaMART; pairs beyond the truncation level are not looked at.
    RANKER: {"objective": "lambdarank", "lambdarank_truncation_level": 30, "label_gain": [0, 1]},
}
_RELIABLE_ROWS, _RELIABLE_GAP, _BINS = 200, 0.03, 20


@dataclass(frozen=True)
class Calibration:
    """Platt's map (1999) with a slope of its own for the list: log-odds = slope · (raw score less its list's mean)
    + level · (the list's mean) + intercept. A ranker knows who is first on a list, not how much the entity buys."""

    slope: float
    level: float
    intercept: float

    @classmethod
    def fit(cls, raw: Matrix64, positive: Flags) -> Self:
        """The map that fits the labels best; no change where there is but one class, which the gate refuses.

        `raw` is what `within_and_level` gives.
        """
        if positive.all() or not positive.any():
            return cls(1.0, 1.0, 0.0)
        fitted = LogisticRegression(C=1e6).fit(raw, positive)
        slope, level = map(float, fitted.coef_[0])
        return cls(slope, level, float(fitted.intercept_[0]))

    def log_odds(self, raw: Matrix64) -> Vector:
        """Calibrated log-odds."""
        return np.asarray(raw @ np.array([self.slope, self.level]) + self.intercept)

    def apply(self, raw: Matrix64) -> Vector:
        """Calibrated probabilities."""
        return np.asarray(1 / (1 + np.exp(-self.log_odds(raw))))


@dataclass(frozen=True)
class Reliability:
    """Where probabilities can be taken at their word: for each twentieth of [0, 1], whether validation bore it out."""

    is_reliable: tuple[bool, ...]

    @classmethod
    def fit(cls, probability: Vector, positive: Flags) -> Self:
        """Reliable is a bin with at least 200 rows whose mean prediction is within .03 of the observed rate."""
        bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
        rows = np.bincount(bins, minlength=_BINS)
        gap = np.abs(np.bincount(bins, probability - positive, _BINS)) / np.maximum(rows, 1)
        return cls(tuple(bool(good) for good in (rows >= _RELIABLE_ROWS) & (gap <= _RELIABLE_GAP)))

    def doubts(self, probability: Vector) -> Flags:
        """Whether each probability lies where validation does not vouch for it."""
        bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
        return np.asarray(~np.asarray(self.is_reliable, np.bool_)[bins])


@dataclass(frozen=True)
class Component:
    """Trees whose raw score counts with `weight`."""

    name: str
    booster: lightgbm.Booster
    weight: float

    def raw(self, matrix: Matrix, threads: int) -> Vector:
        """Unweighted raw scores, one per row."""
        return np.asarray(self.booster.predict(matrix, raw_score=True, num_threads=threads), np.float64)


@dataclass(frozen=True)
class Seen:
    """Whole lists as the trees see them, and the unweighted raw scores of each component."""

    matrix: Matrix
    entities: NDArray[Any]
    raw: Mapping[str, Vector]


@dataclass(frozen=True)
class Contributions:
    """What each feature adds to a row's log-odds: `base` + the row's sum over `features` is its score's log-odds."""

    features: NDArray[np.float64]
    base: Vector


@dataclass(frozen=True)
class Model:
    """Components and calibration of their weighted sum; the features in the order of the matrix."""

    components: tuple[Component, ...]
    calibration: Calibration
    reliability: Reliability
    features: tuple[str, ...]
    entity: str

    def predict(self, rows: pa.Table, threads: int) -> Vector:
        """Calibrated probabilities of whole lists: rows with the entity and every feature, taken by name, not by place.

        Raises:
            ArtifactRefused: a feature of the model is not among the columns, or is no number.
        """
        return self.probabilities(self.look_at(rows, threads))

    def look_at(self, rows: pa.Table, threads: int) -> Seen:
        """What the trees make of whole lists: where both probabilities and contributions are wanted.

        Raises:
            ArtifactRefused: as `predict`.
        """
        return self._seen(self._matrix(rows), rows.column(self.entity).to_numpy(), threads)

    def probabilities(self, seen: Seen) -> Vector:
        """Calibrated probabilities of the rows."""
        return self.calibration.apply(within_and_level(seen.raw, self.weights, seen.entities))

    def predict_matrix(self, matrix: Matrix, entities: NDArray[Any], threads: int) -> Vector:
        """Calibrated probabilities of a matrix whose columns are the features, in order."""
        return self.probabilities(self._seen(matrix, entities, threads))

    def contributions(self, seen: Seen, picked: NDArray[np.int64], threads: int) -> Contributions:
        """What each feature adds to the log-odds of the picked rows (TreeSHAP, Lundberg et al. 2018).

        The base holds what the rest of the list says.
        """
        total = weighted(seen.raw, self.weights)
        means = list_means(total, seen.entities)
        _, level = within_and_level(seen.raw, self.weights, seen.entities).T
        found = np.zeros((len(picked), len(self.features) + 1))
        for part in self.components:
            found += part.weight * tree_contributions(part.booster, seen.matrix[picked], threads)
        map_ = self.calibration
        base = map_.slope * (found[:, -1] - means[picked]) + map_.level * level[picked] + map_.intercept
        return Contributions(map_.slope * found[:, :-1], base)

    @property
    def weights(self) -> Mapping[str, float]:
        """The components' weights, by name."""
        return {part.name: part.weight for part in self.components}

    def _seen(self, matrix: Matrix, entities: NDArray[Any], threads: int) -> Seen:
        return Seen(matrix, entities, {part.name: part.raw(matrix, threads) for part in self.components})

    def _matrix(self, rows: pa.Table) -> Matrix:
        numbers = {
            field.name
            for field in rows.schema
            if any(test(field.type) for test in (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean))
        }
        missing = [feature for feature in self.features if feature not in numbers]
        if missing:
            raise ArtifactRefused(
                "the rows lack features of the model",
                where="feature snapshot",
                expected=f"columns of numbers: {', '.join(self.features)}",
                found=f"missing, or no numbers: {', '.join(missing)}",
                remedy="score with features of the model's own version, or train a new model",
            )
        return to_matrix(rows, self.features)


def weighted(raw: Mapping[str, Vector], weights: Mapping[str, float]) -> Vector:
    """The weighted sum of components' raw scores."""
    return np.asarray(np.sum([weight * raw[name] for name, weight in weights.items()], axis=0))


def within_and_level(raw: Mapping[str, Vector], weights: Mapping[str, float], entities: NDArray[Any]) -> Matrix64:
    """Rows × 2: the weighted sum less its list's mean; the list's mean of the classifier, or of the sum without one."""
    total = weighted(raw, weights)
    level = raw[BINARY] if BINARY in weights else total
    return np.stack([total - list_means(total, entities), list_means(level, entities)], axis=1)


def list_means(scores: Vector, entities: NDArray[Any]) -> Vector:
    """The mean score of each row's list."""
    _, lists = np.unique(entities, return_inverse=True)
    return np.asarray((np.bincount(lists, scores) / np.bincount(lists))[lists])


def fit_booster(
    plan: TrainingPlan, kind: str, features: Sequence[str], snapshots: Sequence[Snapshot], threads: int
) -> lightgbm.Booster:
    """Trees from the snapshots' rows; equal input gives an equal model text.

    A ranker learns from each entity's list of a date as a whole, without weights: the sample of negatives is the
    same share of every list.
    """
    is_ranker = kind == RANKER
    lists = np.concatenate([list_lengths(snapshot) for snapshot in snapshots]) if is_ranker else None
    data = lightgbm.Dataset(
        np.concatenate([snapshot.matrix for snapshot in snapshots]),
        label=np.concatenate([snapshot.positive for snapshot in snapshots]).astype(np.float64),
        weight=None if is_ranker else np.concatenate([snapshot.weight for snapshot in snapshots]),
        group=lists,
        feature_name=list(features),
        free_raw_data=True,
    )
    return lightgbm.train(booster_parameters(plan, kind, threads), data, num_boost_round=plan.boosting_rounds)


def booster_parameters(plan: TrainingPlan, kind: str, threads: int) -> dict[str, Any]:
    """LightGBM's parameters for a plan."""
    return _OBJECTIVES[kind] | {
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


def list_lengths(snapshot: Snapshot) -> NDArray[np.int64]:
    """Rows of each entity, in the order of the rows, which are sorted by entity first."""
    entities = snapshot.entities
    starts = np.flatnonzero(np.concatenate([[True], entities[1:] != entities[:-1]]))
    return np.diff(np.append(starts, len(entities)))
