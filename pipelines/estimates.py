"""What quality to expect of a night's scores before any label has come, and how far the estimate was off.

Confidence-based performance estimation: where the probabilities are right, they tell the quality themselves. It sees
what a change of the inputs does to quality, and cannot see what a change of the world does; its error tells that.
"""

from datetime import date

import numpy as np

from pipelines.control import Vector
from pipelines.engine import open_engine
from pipelines.measurements import PREDICTION, Measurement, replace_measurements
from pipelines.quality_rows import scores_sql
from pipelines.settings import Settings
from pipelines.use_case import UseCase

ESTIMATED, ERROR = "estimated_", "estimate_error_"
ESTIMATED_FIGURES = ("auc", "log_loss")


def expected_quality(probability: Vector) -> dict[str, float]:
    """AUC and log loss to be expected of rows that come true with these probabilities; nothing without any.

    The AUC is the chance that a row that comes true lies above one that does not, over all pairs of two rows, ties
    counting half (Kivimäki et al. 2025, Confidence-based estimators for predictive performance). Log loss is the mean
    entropy.
    """
    if len(probability) < 2:
        return {}
    p = np.sort(np.clip(probability, 1e-12, 1 - 1e-12))
    starts = np.flatnonzero(np.r_[True, p[1:] > p[:-1]])
    true, false = np.add.reduceat(p, starts), np.add.reduceat(1 - p, starts)  # by distinct probability
    itself = np.add.reduceat(p * (1 - p), starts)  # a row is no pair with itself
    won = (true * (np.cumsum(false) - false)).sum() + (true * false - itself).sum() / 2
    pairs = p.sum() * (1 - p).sum() - itself.sum()
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    return {"auc": float(won / pairs), "log_loss": float(entropy.mean())}


def estimate_quality(settings: Settings, use_case: UseCase, as_of: date, model_version: str) -> int:
    """Write down what quality to expect of a model's scores of a date; gives the number of figures.

    Raises:
        MissingPartition: the version has not scored the date.
    """
    scores = scores_sql(settings, use_case, as_of, model_version)
    with open_engine(settings) as connection:
        probability = connection.sql(f"SELECT score FROM ({scores})").to_arrow_table().column("score").to_numpy()
    found = [
        Measurement(f"{ESTIMATED}{name}", model_version, value, clock=PREDICTION)
        for name, value in expected_quality(probability).items()
    ]
    names = [f"{ESTIMATED}{name}" for name in ESTIMATED_FIGURES]
    return replace_measurements(settings, use_case, as_of, names, found)


def estimate_errors(probability: Vector, realised: dict[str, float], model_version: str) -> list[Measurement]:
    """How far what the probabilities let expect lies from what came true, as `reference`."""
    expected = expected_quality(probability)
    return [
        Measurement(f"{ERROR}{name}", model_version, expected[name] - realised[name], reference=realised[name])
        for name in ESTIMATED_FIGURES
        if name in expected and name in realised
    ]
