"""Drift: how far the distribution of a column is from the training data's, by the Kolmogorov-Smirnov distance.

A column is reduced to its shares between the quantiles of the training data, missing values apart. The threshold of
a column comes from the training data itself: the median of its weekly snapshots' distances from the whole, plus
four median absolute deviations.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pipelines.training_set import Vector

QUANTILES = 50
SPREADS = 4
SMALLEST_THRESHOLD = 0.05  # a distance that no figure downstream feels, whatever the spread of the weeks


class ColumnReference(BaseModel):
    """Training distribution of one column: shares at or below each edge, and the distance that counts as drift."""

    model_config = ConfigDict(frozen=True)

    edges: tuple[float, ...]
    cumulative: tuple[float, ...]
    threshold: float


Reference = Mapping[str, ColumnReference]


def build_reference(
    names: Sequence[str], snapshots: Sequence[NDArray[np.floating]], weights: Sequence[Vector]
) -> dict[str, ColumnReference]:
    """The reference of each column over training snapshots (rows × columns) with their rows' weights."""
    return {
        name: _reference_of([matrix[:, column] for matrix in snapshots], weights) for column, name in enumerate(names)
    }


def distance(reference: ColumnReference, values: NDArray[np.floating], weight: Vector | None = None) -> float:
    """Kolmogorov-Smirnov distance of the values from the reference, between 0 and 1."""
    weight = np.ones(len(values)) if weight is None else weight
    found = _cumulative(np.asarray(reference.edges), _filled(values), weight)
    return float(np.abs(found - np.asarray(reference.cumulative)).max())


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
    median = np.median(distances)
    spread = np.median(np.abs(distances - median))
    return ColumnReference(
        edges=tuple(edges.tolist()),
        cumulative=tuple(cumulative.tolist()),
        threshold=float(max(median + SPREADS * spread, SMALLEST_THRESHOLD)),
    )


def _filled(values: NDArray[np.floating]) -> Vector:
    return np.where(np.isnan(values), -np.inf, values.astype(np.float64))


def _cumulative(edges: Vector, values: Vector, weight: Vector) -> Vector:
    """Weighted share of the values at or below each edge."""
    place = np.searchsorted(edges, values, side="left")
    counted = np.bincount(place, weights=weight, minlength=len(edges) + 1)
    return np.asarray(np.cumsum(counted)[: len(edges)] / weight.sum())
