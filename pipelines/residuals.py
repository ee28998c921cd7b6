"""What came true beside what the model itself expected: figures in which the difficulty of the season cancels."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.control import Estimate, Vector, ratio
from pipelines.measurements import EVERYTHING
from pipelines.metrics import lists_of
from pipelines.model import Flags
from pipelines.use_case import UseCase

RESIDUAL_LOG_LOSS, RATE_RATIO, CALIBRATION_SLOPE = "residual_log_loss", "rate_ratio", "calibration_slope"
NDCG_GAIN = "ndcg_gain"
FIGURES = (RESIDUAL_LOG_LOSS, RATE_RATIO, CALIBRATION_SLOPE, NDCG_GAIN)
Sums = Mapping[tuple[str, str], tuple[Vector, Vector]]  # by figure and slice: numerators, denominators by entity
Slices = Mapping[str, Flags]
NO_SLICES: Slices = MappingProxyType({})
_SMALLEST = 1e-6  # a probability of 0 or 1 has no logit


@dataclass(frozen=True)
class _Rows:
    """Candidates: the place of each one's entity among `count`, whether it came true, and its probability."""

    place: np.ndarray
    count: int
    positive: Vector
    expected: Vector

    def of(self, chosen: Flags) -> "_Rows":
        return _Rows(self.place[chosen], self.count, self.positive[chosen], self.expected[chosen])

    def total(self, values: Vector) -> Vector:
        return sums_at(self.place, values, self.count)


def residual_sums(
    use_case: UseCase,
    scored: pa.Table,
    *,
    rule: pa.Table | None = None,
    slices: Slices = NO_SLICES,
    min_item_positives: float = 200,
) -> Sums:
    """Sums by entity, entities ascending, whose ratio is a figure; `scored` is what `metrics` measures.

    Its scores are probabilities. `rule` holds the same rows with a rule's scores, for the gain in NDCG over it;
    `slices` flag candidates, in their order. Each item of which so many positives were expected is a slice too.
    """
    entities, places = np.unique(scored.column(use_case.entity).to_numpy(), return_inverse=True)
    is_candidate = scored.column("is_candidate").to_numpy()
    candidates = scored.filter(scored.column("is_candidate"))
    rows = _Rows(
        places[is_candidate],
        len(entities),
        candidates.column("is_positive").to_numpy().astype(np.float64),
        np.clip(candidates.column("score").to_numpy().astype(np.float64), _SMALLEST, 1 - _SMALLEST),
    )
    found = dict(_calibration(rows, EVERYTHING))
    for name, flags in slices.items():
        found |= _calibration(rows.of(flags), name)
    found |= _by_item(use_case, candidates, rows, min_item_positives)
    if rule is not None:
        found[NDCG_GAIN, EVERYTHING] = _gain(use_case, scored, rule, entities)
    return found


def estimates(sums: Sums) -> dict[tuple[str, str], Estimate]:
    """Value and standard error, by entity, of each figure and slice.

    Calibrated probabilities give 0 for residual_log_loss, observed less expected log loss by candidate, and 1 for
    rate_ratio, observed by expected positives, and for calibration_slope, the slope of a logistic recalibration with
    a free intercept (Cox 1958), after one step of Newton from 1. ndcg_gain is paired, over entities with a positive.
    """
    return {key: ratio(*both) for key, both in sums.items()}


def sums_at(places: np.ndarray, values: Vector, count: int) -> Vector:
    """Sum of the values at each of so many places."""
    return np.bincount(places, weights=values, minlength=count).astype(np.float64)


def _calibration(rows: _Rows, name: str) -> Sums:
    if not len(rows.expected):
        return {}
    logit = np.log(rows.expected / (1 - rows.expected))
    more, variance = rows.positive - rows.expected, rows.expected * (1 - rows.expected)
    away = logit - (variance * logit).sum() / variance.sum()  # so that a wrong rate alone is no wrong slope
    weight = variance * away**2
    # Observed log loss less its expectation is -(y ln p + (1-y) ln(1-p)) with y - p in place of y.
    return {
        (RESIDUAL_LOG_LOSS, name): (rows.total(-more * logit), rows.total(np.ones(len(more)))),
        (RATE_RATIO, name): (rows.total(rows.positive), rows.total(rows.expected)),
        (CALIBRATION_SLOPE, name): (rows.total(more * away + weight), rows.total(weight)),
    }


def _by_item(use_case: UseCase, candidates: pa.Table, rows: _Rows, min_positives: float) -> Sums:
    encoded = pc.dictionary_encode(candidates.column(use_case.item).combine_chunks())
    codes, items = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    expected = np.bincount(codes, weights=rows.expected, minlength=len(items))
    found: dict[tuple[str, str], tuple[Vector, Vector]] = {}
    for code in np.flatnonzero(expected >= min_positives):
        figures = _calibration(rows.of(codes == code), f"{use_case.item} {items[code]}")
        found |= {key: both for key, both in figures.items() if key[0] != RESIDUAL_LOG_LOSS}
    return found


def _gain(use_case: UseCase, scored: pa.Table, rule: pa.Table, entities: np.ndarray) -> tuple[Vector, Vector]:
    index = ["as_of", use_case.entity]
    both = lists_of(use_case, scored).merge(lists_of(use_case, rule), on=index, suffixes=("_ours", "_theirs"))
    places = np.searchsorted(entities, both[use_case.entity].to_numpy())
    gain = (both["ndcg_at_n_ours"] - both["ndcg_at_n_theirs"]).to_numpy()
    return sums_at(places, gain, len(entities)), sums_at(places, np.ones(len(gain)), len(entities))
