"""Realised figures of one ranking with their errors by entity, of all candidates and of each slice. All pure.

Lines of one entity resemble each other, so that the entity is the unit of sampling. Means and ratios have linearised
errors; so has the calibration error, with the signs of its bins as they are; the AUC has that of its placements.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa

from pipelines.control import Estimate, Vector, ratio
from pipelines.measurements import EVERYTHING
from pipelines.metrics import ECE_BINS, lists_of
from pipelines.model import Flags
from pipelines.residuals import NO_SLICES, Slices, sums_at
from pipelines.use_case import UseCase

Figures = Mapping[tuple[str, str], Estimate]  # by metric and slice
_MEANS = ("precision", "recall", "ndcg", "hit")
_SMALLEST = float(np.finfo(np.float64).eps)  # as scikit-learn clips probabilities


def realised(use_case: UseCase, scored: pa.Table, *, slices: Slices = NO_SLICES, is_probability: bool) -> Figures:
    """The figures of `metrics.quality` by name and slice; `slices` flag candidates, in their order.

    A slice has figures of lists where it holds whole lists. What cannot be computed, such as the AUC of rows that all
    came true, is left out.
    """
    candidates = scored.filter(scored.column("is_candidate"))
    entity = candidates.column(use_case.entity).to_numpy()
    positive = candidates.column("is_positive").to_numpy().astype(np.bool_)
    score = candidates.column("score").to_numpy().astype(np.float64)
    lists = lists_of(use_case, scored)
    everything: dict[str, Flags] = {EVERYTHING: np.ones(len(score), np.bool_)}
    found: dict[tuple[str, str], Estimate] = {}
    for name, flags in (everything | dict(slices)).items():
        own = {"auc": auc_by_entity(positive[flags], score[flags], entity[flags])}
        if is_probability:
            own |= _of_probabilities(positive[flags], score[flags], entity[flags])
        found |= {(metric, name): one for metric, one in own.items()}
        chosen = lists if name == EVERYTHING else _whole_lists(use_case, lists, entity, flags)
        found |= {(metric, name): one for metric, one in _of_lists(use_case, chosen).items()}
    return {key: one for key, one in found.items() if np.isfinite(one.value)}


def auc_by_entity(positive: Flags, score: Vector, entity: np.ndarray) -> Estimate:
    """Area under the ROC curve; its error is that of the placement values, summed by entity (Obuchowski 1997)."""
    from scipy.stats import rankdata

    entities, places = np.unique(entity, return_inverse=True)
    negative = ~positive
    if not positive.any() or not negative.any():
        return Estimate(float("nan"), float("nan"), len(entities))
    ranks = rankdata(score)
    above = (ranks[positive] - rankdata(score[positive])) / negative.sum()  # share of negatives below each positive
    below = 1 - (ranks[negative] - rankdata(score[negative])) / positive.sum()
    value = float(above.mean())
    influence = sums_at(places[positive], (above - value) / positive.sum(), len(entities))
    influence += sums_at(places[negative], (below - value) / negative.sum(), len(entities))
    correction = len(entities) / max(len(entities) - 1, 1)
    return Estimate(value, float(np.sqrt(correction * np.square(influence).sum())), len(entities))


def _of_probabilities(positive: Flags, probability: Vector, entity: np.ndarray) -> dict[str, Estimate]:
    entities, places = np.unique(entity, return_inverse=True)
    clipped = np.clip(probability, _SMALLEST, 1 - _SMALLEST)
    losses = -np.log(np.where(positive, clipped, 1 - clipped))
    bins = np.minimum((probability * ECE_BINS).astype(int), ECE_BINS - 1)
    signs = np.sign(sums_at(bins, probability - positive, ECE_BINS))
    rows = sums_at(places, np.ones(len(losses)), len(entities))
    return {
        "log_loss": ratio(sums_at(places, losses, len(entities)), rows),
        "ece": ratio(sums_at(places, signs[bins] * (probability - positive), len(entities)), rows),
    }


def _of_lists(use_case: UseCase, lists: pd.DataFrame) -> dict[str, Estimate]:
    entities, places = np.unique(lists[use_case.entity].to_numpy(), return_inverse=True)
    sums = {
        name: sums_at(places, lists[name].to_numpy(np.float64), len(entities))
        for name in (*(f"{mean}_at_n" for mean in _MEANS), "value_captured_usd", "value_usd")
    }
    count = sums_at(places, np.ones(len(lists)), len(entities))
    n = use_case.top_n
    found = {f"{mean}_at_{n}": ratio(sums[f"{mean}_at_n"], count) for mean in _MEANS}
    return found | {f"value_captured_at_{n}": ratio(sums["value_captured_usd"], sums["value_usd"])}


def _whole_lists(use_case: UseCase, lists: pd.DataFrame, entity: np.ndarray, flags: Flags) -> pd.DataFrame:
    """The lists of entities in the slice; none where it cuts through a list."""
    inside = np.unique(entity[flags])
    is_cut = bool(np.isin(entity[~flags], inside).any())
    return lists[lists[use_case.entity].isin(inside)] if not is_cut else lists.iloc[:0]
