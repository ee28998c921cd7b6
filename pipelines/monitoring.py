"""Monitoring of one business date: outcomes, quality, drift, KPIs and the decision on a new model."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from pipelines import registry
from pipelines.champion import RULE_PREFIX
from pipelines.drift import Reference, distance
from pipelines.engine import open_engine
from pipelines.kpis import compute_kpis
from pipelines.measurements import ALERT, DATA, OK, PREDICTION, Measurement, replace_measurements
from pipelines.outcomes import published_version, record_outcomes
from pipelines.quality import measure_quality
from pipelines.quality_rows import scores_sql
from pipelines.retraining import DRIFT_SHARE, decide_retraining
from pipelines.scoring import candidate_features
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.training_set import to_matrix
from pipelines.use_case import UseCase

__all__ = ["compute_kpis", "decide_retraining", "measure_drift", "measure_quality", "record_outcomes"]

DRIFT, SCORE = "drift_ks", "score"


@dataclass(frozen=True)
class DriftReport:
    """Which features lie further from the training data than their thresholds, and whether the score does."""

    as_of: date
    model_version: str
    features: int
    drifted: tuple[str, ...]
    drifted_share: float
    is_score_drifted: bool


def measure_drift(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> DriftReport:
    """Measure how far features and scores of `as_of` lie from the training data of the model that scored it.

    Where a simple rule scored it there is no training data, and nothing is measured.

    Raises:
        MissingPartition: the date has no features, or its scores are not published.
        ArtifactRefused: the model's reference cannot be read.
    """
    with measured(settings, f"drift__{use_case.name}", str(as_of), run_id) as cost:
        published = cost.model_version = published_version(settings, use_case, as_of)
        if published.startswith(RULE_PREFIX):
            cost.rows = replace_measurements(settings, use_case, as_of, (DRIFT, DRIFT_SHARE), [])
            return DriftReport(as_of, published, 0, (), 0.0, False)
        version = registry.get_version(settings, use_case, published)
        reference = registry.load_reference(settings, use_case, version)
        columns = _columns(settings, use_case, as_of, version.version, reference)
        found = compare_columns(use_case, version.version, reference, columns)
        cost.rows = replace_measurements(settings, use_case, as_of, (DRIFT, DRIFT_SHARE), found)
    drifted = [one.slice for one in found if one.metric == DRIFT and one.status == ALERT]
    features = tuple(name for name in drifted if name != SCORE)
    return DriftReport(as_of, version.version, len(reference) - 1, features, found[-1].value, SCORE in drifted)


def compare_columns(
    use_case: UseCase, model_version: str, reference: Reference, columns: Mapping[str, NDArray[np.floating]]
) -> list[Measurement]:
    """The distance of each column, and last the share of features beyond their thresholds."""
    found = []
    for name, expected in reference.items():
        far = distance(expected, columns[name])
        status = ALERT if far > expected.threshold else OK
        clock = PREDICTION if name == SCORE else DATA
        limit = expected.threshold
        found.append(Measurement(DRIFT, model_version, far, slice=name, threshold=limit, status=status, clock=clock))
    features = [one.status == ALERT for one in found if one.slice != SCORE]
    share, limit = sum(features) / len(features), use_case.retraining.drifted_feature_share
    status = ALERT if share > limit else OK
    return [*found, Measurement(DRIFT_SHARE, model_version, share, threshold=limit, status=status, clock=DATA)]


def _columns(
    settings: Settings, use_case: UseCase, as_of: date, model_version: str, reference: Reference
) -> dict[str, NDArray[np.floating]]:
    """Values of each column of the reference over the candidates of a date."""
    names = [name for name in reference if name != SCORE]
    matrix = to_matrix(candidate_features(settings, use_case, as_of), names)
    scores = scores_sql(settings, use_case, as_of, model_version)
    with open_engine(settings) as connection:
        score = connection.sql(f"SELECT score FROM ({scores})").to_arrow_table().column("score").to_numpy()
    return {name: matrix[:, position] for position, name in enumerate(names)} | {SCORE: score}
