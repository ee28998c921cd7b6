"""Feature faults: columns of a night's features that lost values, got stuck, or moved as they never do in a night.

A night is held against the one before it over the candidates of both, so that growth does not count. How far a
feature may move is told by its own last nights; with fewer than seven of them, by wide limits for all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines import lake, ledger
from pipelines.checks import Check
from pipelines.engine import open_engine
from pipelines.errors import MissingPartition
from pipelines.ledger import FEATURES
from pipelines.scoring import candidates_query
from pipelines.settings import Settings
from pipelines.training_set import Matrix, to_matrix
from pipelines.use_case import UseCase

_SAMPLED_ROWS = 50_000  # of whole entities: a fault in a twentieth of the rows shows in far fewer
_WEEK, _SHOWN, _DIGITS, _FARTHEST_DAYS = 7, 5, 5, 3


class Move(NamedTuple):
    """How a feature differs from the night before, in shares of the rows that both nights have.

    Rise of the nulls; largest rise of a single value; rows that kept their value; Kolmogorov-Smirnov distance of the
    values.
    """

    nulls: float
    value: float
    same: float
    shape: float


Moves = Mapping[str, Move]
_TOLD = dict(
    zip(Move._fields, ("lost values", "stuck at one value", "stand still", "values of another kind"), strict=True)
)
CHECKS = tuple(f"features: {told}" for told in _TOLD.values())
_WIDE = Move(nulls=0.1, value=0.99, same=1.0, shape=0.99)
_BEYOND = Move(nulls=0.01, value=0.02, same=0.02, shape=0.25)  # the least distance above the highest of the nights
_LIVELY, _STILL = 0.95, 0.9999  # shares of rows: of a feature that changes every night, and of one that stands still
_QUIET = 0.02  # rise of the median feature's rows that stay, on a day on which little happened


@dataclass(frozen=True)
class FeatureFault:
    """A feature that moved farther than it ever does; `kind` is the field of `Move`."""

    feature: str
    kind: str
    value: float
    limit: float

    def __str__(self) -> str:
        return f"{self.feature} {self.value:.3f} (at most {self.limit:.3f})"


def moves(features: Sequence[str], before: Matrix, now: Matrix) -> dict[str, Move]:
    """The move of each feature between two nights: matrices of the same candidates in the same order."""
    if not len(now):
        return {}
    return {name: _move(before[:, place], now[:, place]) for place, name in enumerate(features)}


def feature_faults(now: Moves, nights: Sequence[Moves], days: int = 1) -> list[FeatureFault]:
    """The features that moved too far in so many days, by the moves of the last nights, each of one day.

    On a day on which little happened, such as a holiday, features may stand still.
    """
    found = [
        FeatureFault(feature, kind, value, limit)
        for feature, move in now.items()
        for kind, value, limit in zip(
            Move._fields, move, _limits([night[feature] for night in nights if feature in night], days), strict=True
        )
        if value > limit
    ]
    is_quiet = len(nights) >= _WEEK and _stillness(now) > max(map(_stillness, nights)) + _QUIET
    return [fault for fault in found if fault.kind != "same" or not is_quiet]


def feature_checks(now: Moves, nights: Sequence[Moves], days: int = 1, *, is_blocking: bool = True) -> list[Check]:
    """A check for each kind of fault, which names the features that have it."""
    faults = feature_faults(now, nights, days)
    by_kind = {kind: [fault for fault in faults if fault.kind == kind] for kind in Move._fields}
    return [
        Check(f"features: {_TOLD[kind]}", not found, _listed(found), "none of them", is_blocking)
        for kind, found in by_kind.items()
    ]


def compare_nights(
    settings: Settings, use_case: UseCase, before: date, as_of: date, nights: Sequence[Moves]
) -> tuple[dict[str, Move], list[Check]]:
    """How the features of a date moved since an earlier one, and the verdict on it.

    It only warns where the nights lie more than 3 days apart, or features are made in another way since. In a known
    season a night counts as two: a closed day moves what counts days as no other does.
    """
    try:
        found = moves(use_case.features, *read_nights(settings, use_case, before, as_of))
    except MissingPartition as error:
        return {}, [Check("features: night before", True, error.where, "a snapshot to compare with", False)]
    made = [ledger.newest(settings, use_case, FEATURES, day) for day in (before, as_of)]
    is_same = len({one.inputs.definition for one in made if one}) == 1
    days = (as_of - before).days
    is_season = any(one.first_date <= as_of <= one.last_date for one in use_case.calendar)
    checks = feature_checks(
        found, nights, 2 * days if is_season else days, is_blocking=is_same and days <= _FARTHEST_DAYS
    )
    return found if days == 1 and is_same else {}, checks


def _limits(known: Sequence[Move], days: int) -> Move:
    """How far a feature may move in so many days."""
    if len(known) < _WEEK:
        return _WIDE
    figures = np.array(known)
    highest, spread = figures.max(axis=0), np.ptp(figures, axis=0)
    limits = highest + np.maximum((1 + _WEEK / len(known)) * spread, _BEYOND)  # few nights have not seen much
    nulls, value, same, shape = (limits * days).tolist()
    is_lively = highest[Move._fields.index("same")] < _LIVELY and days == 1
    return Move(nulls, value, min(same, _STILL) if is_lively else 1.0, shape)


def _stillness(night: Moves) -> float:
    return median(move.same for move in night.values()) if night else 0.0


def _move(before: NDArray[np.floating], now: NDArray[np.floating]) -> Move:
    rows, was_null, is_null = len(now), np.isnan(before), np.isnan(now)
    values, places = np.unique(np.concatenate([before[~was_null], now[~is_null]]), return_inverse=True)
    if not len(values):
        return Move(0.0, 0.0, 1.0, 0.0)
    given = rows - int(was_null.sum())
    old, new = (np.bincount(part, minlength=len(values)) / rows for part in (places[:given], places[given:]))
    gap = np.cumsum(new) / max(new.sum(), 1 / rows) - np.cumsum(old) / max(old.sum(), 1 / rows)
    figures = (
        is_null.mean() - was_null.mean(),
        (new - old).max(),
        ((before == now) | (was_null & is_null)).mean(),
        np.abs(gap).max(),
    )
    return Move(*(round(float(figure), _DIGITS) for figure in figures))


def read_nights(
    settings: Settings, use_case: UseCase, before: date, as_of: date, sample: int = 0
) -> tuple[Matrix, Matrix]:
    """The features of two dates over the candidates of both; of many candidates those of a sample of entities.

    Raises:
        MissingPartition: one of the dates has no features.
    """
    path, _ = lake.require_snapshot(settings.lake, use_case.feature_tables[0].name, as_of)
    every = max(1, round(pq.read_metadata(path).num_rows / _SAMPLED_ROWS))
    keys = ", ".join(use_case.keys)
    old, new = (candidates_query(settings, use_case, day) for day in (before, as_of))
    chosen = ", ".join(f"{side}.{name} AS {side}_{name}" for side in ("old", "new") for name in use_case.features)
    rows_of = f"({new}) new JOIN ({old}) old USING ({keys}) WHERE hash({use_case.entity}) % {every} = {sample % every}"
    query = f"SELECT {chosen} FROM {rows_of}"
    with open_engine(settings) as connection:
        rows = connection.sql(query).to_arrow_table()
    first, last = (to_matrix(rows, [f"{side}_{name}" for name in use_case.features]) for side in ("old", "new"))
    return first, last


def _listed(faults: Sequence[FeatureFault]) -> str:
    rest = len(faults) - _SHOWN
    shown = "; ".join(map(str, faults[:_SHOWN])) or "none"
    return shown + (f"; and {rest} more" if rest > 0 else "")
