"""Monitoring of one business date: outcomes, quality, drift, KPIs, findings and the decision on a new model."""

from dataclasses import dataclass
from datetime import date

from pipelines import registry
from pipelines.champion import RULE_PREFIX
from pipelines.column_drift import METRICS, SCORE, SHARE, TRAINING, column_drift, drifted_columns, list_drift
from pipelines.findings import record_findings
from pipelines.kpis import compute_kpis
from pipelines.measurements import replace_measurements
from pipelines.outcomes import published_version, record_outcomes
from pipelines.quality import measure_quality
from pipelines.retraining import decide_retraining
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.use_case import UseCase

__all__ = [
    "compute_kpis",
    "decide_retraining",
    "measure_drift",
    "measure_quality",
    "record_findings",
    "record_outcomes",
]


@dataclass(frozen=True)
class DriftReport:
    """Which features drifted, what share of the model's gain they have, and whether the score drifted."""

    as_of: date
    model_version: str
    features: int
    drifted: tuple[str, ...]
    drifted_share: float
    is_score_drifted: bool


def measure_drift(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> DriftReport:
    """Measure how far features, scores and lists of `as_of` are from the training data and from the weeks before.

    Where a simple rule scored it there is no training data, and only the lists are measured.

    Raises:
        MissingPartition: the date has no features, or its scores are not published.
        ArtifactRefused: the model's reference cannot be read.
    """
    with measured(settings, f"drift__{use_case.name}", str(as_of), run_id) as cost:
        published = cost.model_version = published_version(settings, use_case, as_of)
        found = list_drift(settings, use_case, as_of, published)
        if not published.startswith(RULE_PREFIX):
            version = registry.get_version(settings, use_case, published)
            found += column_drift(settings, use_case, as_of, version)
        cost.rows = replace_measurements(settings, use_case, as_of, METRICS, found)
    drifted = drifted_columns(found)
    features = tuple(name for name in drifted if name != SCORE)
    share = next((one.value for one in found if one.metric == SHARE), 0.0)
    count = sum(one.metric == TRAINING and one.slice != SCORE for one in found)
    return DriftReport(as_of, published, count, features, share, SCORE in drifted)
