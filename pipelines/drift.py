"""Drift: how far the distribution of a column is from an earlier one's, by the Kolmogorov-Smirnov distance.

A column is reduced to its shares between the quantiles of the training data, missing values apart. What distance is
usual comes from earlier ones: their median plus four median absolute deviations; and it is never less than what
chance gives if other entities had come, by a bootstrap of blocks of whole entities.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pipelines.training_set import Vector

QUANTILES = 50
SPREADS = 4
SMALLEST_THRESHOLD = 0.05  # a distance that no figure downstream feels, whatever the spread of the weeks
BLOCKS = 32  # of entities; each is drawn or left as a whole
_DRAWS, _CHANCE, _POWER, _SEED = 200, 0.99, 0.8416, 20170101
_MAD_TO_SD = 1.4826  # of a normal distribution


class ColumnReference(BaseModel):
    """Training distribution of one column: shares at or below each edge, and the distance that counts as drift."""

    model_config = ConfigDict(frozen=True)

    edges: tuple[float, ...]
    cumulative: tuple[float, ...]
    threshold: float


Reference = Mapping[str, ColumnReference]
Counts = NDArray[np.float64]  # rows by block of entities and place: at or below each edge, and above the last


@dataclass(frozen=True)
class Far:
    """A distance, what is usual, its limit, and the smallest distance that is found four times of five."""

    value: float
    usual: float
    threshold: float
    detectable: float

    @property
    def p_value(self) -> float:
        """Chance of such a distance: the limit lies where four median absolute deviations do."""
        from scipy.stats import norm

        reach = max(self.threshold - self.usual, 1e-9)
        return float(norm.sf(SPREADS / _MAD_TO_SD * (self.value - self.usual) / reach))


def build_reference(
    names: Sequence[str], snapshots: Sequence[NDArray[np.floating]], weights: Sequence[Vector]
) -> dict[str, ColumnReference]:
    """The reference of each column over training snapshots (rows × columns) with their rows' weights."""
    return {
        name: _reference_of([matrix[:, column] for matrix in snapshots], weights) for column, name in enumerate(names)
    }


def count_rows(reference: ColumnReference, values: NDArray[np.floating], blocks: NDArray[np.integer]) -> Counts:
    """The rows of each block of entities between the edges of the reference."""
    places = len(reference.edges) + 1
    place = np.searchsorted(np.asarray(reference.edges), _filled(values), side="left")
    counted = np.bincount(blocks.astype(np.int64) * places + place, minlength=BLOCKS * places)
    return counted.reshape(BLOCKS, places).astype(np.float64)


def far_from_training(reference: ColumnReference, now: Counts) -> Far:
    """Distance from the training data, with the limit that was learnt in training."""
    found, (drawn,) = _shares(now), _drawn([now])
    draws = np.abs(drawn - found)[:, :-1].max(axis=1)
    value = float(np.abs(found[:-1] - np.asarray(reference.cumulative)).max())
    return _far(value, 0.0, reference.threshold, draws)


def far_from_past(now: Counts, past: Sequence[Counts], earlier: Sequence[float]) -> Far | None:
    """Distance from the mean of a few earlier snapshots; none with fewer than two.

    What is usual: `earlier` distances of the same kind, and those of each earlier snapshot from the others.
    """
    if len(past) < 2:
        return None
    shares = np.array([_shares(one) for one in past])
    usual = [*earlier, *distances_among(shares, lambda gap: np.abs(gap).max())]
    gap, (drawn, *others) = _shares(now) - shares.mean(axis=0), _drawn([now, *past])
    draws = np.abs(drawn - np.mean(others, axis=0) - gap).max(axis=1)
    return _far(float(np.abs(gap).max()), float(np.median(usual)), limit_of(usual), draws)


def distances_among(shares: Counts, norm_of: Callable[[Vector], float]) -> list[float]:
    """The distance of each row of shares from the mean of the others."""
    others = (shares.sum(axis=0) - shares) / (len(shares) - 1)
    return [float(norm_of(gap)) for gap in shares - others]


def limit_of(usual: Sequence[float]) -> float:
    """Median of earlier distances plus four median absolute deviations, and never less than matters."""
    middle = np.median(usual)
    return float(max(middle + SPREADS * np.median(np.abs(np.asarray(usual) - middle)), SMALLEST_THRESHOLD))


def _far(value: float, usual: float, limit: float, draws: Vector) -> Far:
    """The distance beside the greater of its limit and of chance, by the distances of the draws."""
    threshold = max(limit, float(np.quantile(draws, _CHANCE)))
    return Far(value, usual, threshold, threshold + _POWER * float(draws.std()))


def _drawn(counted: Sequence[Counts]) -> list[Counts]:
    """Cumulative shares of each in samples of as many blocks, drawn with replacement; the same blocks for all."""
    is_used = np.any([one.sum(axis=1) > 0 for one in counted], axis=0)
    blocks = max(int(is_used.sum()), 1)
    weights = np.random.default_rng(_SEED).multinomial(blocks, np.full(blocks, 1 / blocks), size=_DRAWS)
    return [_shares_of(weights[:, : int(is_used.sum())] @ one[is_used]) for one in counted]


def _shares(counts: Counts) -> Vector:
    return np.asarray(_shares_of(counts.sum(axis=0, keepdims=True))[0])


def _shares_of(counts: Counts) -> Counts:
    summed = np.cumsum(counts, axis=1)
    return np.asarray(summed / np.maximum(summed[:, -1:], 1))


def _reference_of(parts: Sequence[NDArray[np.floating]], weights: Sequence[Vector]) -> ColumnReference:
    filled = [_filled(part) for part in parts]
    together = np.concatenate(filled)
    finite = together[np.isfinite(together)]
    edges = np.unique(np.quantile(finite, np.linspace(0, 1, QUANTILES + 1))) if len(finite) else np.zeros(1)
    below = [-np.finfo(np.float32).max, np.nextafter(edges[0], -np.inf)]  # what is missing, what is less
    edges = np.concatenate([below, edges])
    cumulative = _cumulative(edges, together, np.concatenate(weights))
    distances = [
        np.abs(_cumulative(edges, part, weight) - cumulative).max()
        for part, weight in zip(filled, weights, strict=True)
    ]
    return ColumnReference(
        edges=tuple(edges.tolist()),
        cumulative=tuple(cumulative.tolist()),
        threshold=limit_of(distances),
    )


def _filled(values: NDArray[np.floating]) -> Vector:
    return np.where(np.isnan(values), -np.inf, values.astype(np.float64))


def _cumulative(edges: Vector, values: Vector, weight: Vector) -> Vector:
    """Weighted share of the values at or below each edge."""
    place = np.searchsorted(edges, values, side="left")
    counted = np.bincount(place, weights=weight, minlength=len(edges) + 1)
    return np.asarray(np.cumsum(counted)[: len(edges)] / weight.sum())
