"""Avoidable loss: what wrong rates cost, in nats, by what came true."""

import numpy as np

from pipelines.model import Flags
from pipelines.training_set import Vector

AVOIDABLE = "avoidable_log_loss"
_TINY = 1e-6  # a probability of 0 or 1 has no logit


def avoidable_log_loss(positive: Flags, probability: Vector) -> float:
    """Mean log loss that a better level and slope of the log-odds would have saved; 0 where both are right.

    It is half the score statistic of a logistic recalibration (Cox 1958), by row: to second order what the fitted
    recalibration saves, without fitting it.
    """
    expected = np.clip(probability, _TINY, 1 - _TINY)
    logit, variance, more = np.log(expected / (1 - expected)), expected * (1 - expected), positive - expected
    away = logit - (variance * logit).sum() / variance.sum()  # so that level and slope do not overlap
    level, slope = more.sum() ** 2 / variance.sum(), (more * away).sum() ** 2 / (variance * away**2).sum()
    return float((level + slope) / 2 / len(expected))
