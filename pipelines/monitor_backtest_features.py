"""Trials of the check of features: a column of one night loses values or sticks, and the same night should tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

import numpy as np

from pipelines.audit import NIGHTS
from pipelines.feature_faults import Moves, feature_faults, moves, read_nights
from pipelines.lineage import current_snapshot
from pipelines.settings import Settings
from pipelines.training_set import Matrix
from pipelines.use_case import UseCase

KINDS = ("null", "stuck at one value")
SHARES = (0.05, 0.2)


@dataclass(frozen=True)
class FeatureTrial:
    """Whether a fault in a share of one feature's rows was told on its night; `is_false`: one was told without any."""

    kind: str
    share: float
    half: str
    night: date
    seed: int
    feature: str
    is_found: bool


@dataclass(frozen=True)
class FeatureNight:
    """One night beside the one before, of one half of the entities, and the nights that say what is usual."""

    night: date
    half: str
    before: Matrix
    now: Matrix
    usual: tuple[Moves, ...]


def build_nights(settings: Settings, use_case: UseCase, night: date) -> list[date]:
    """The nights that a trial needs; snapshots that are missing are built."""
    days = [night - timedelta(days=back) for back in range(NIGHTS, -1, -1)]
    for day in days:
        current_snapshot(settings, use_case, day, "monitor-backtest")
    return days


def read_night(settings: Settings, use_case: UseCase, number: int, night: date) -> FeatureNight:
    """The night of a trial, whose snapshots are there."""
    days = [night - timedelta(days=back) for back in range(NIGHTS, -1, -1)]
    pairs = [read_nights(settings, use_case, before, day, number) for before, day in pairwise(days)]
    usual = tuple(moves(use_case.features, *pair) for pair in pairs[:-1])
    return FeatureNight(night, "AB"[number], *pairs[-1], usual)


def try_faults(use_case: UseCase, night: FeatureNight, seeds: int) -> list[FeatureTrial]:
    """Every kind and share of fault, each with a feature drawn by the seed."""
    found = []
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        place = int(generator.integers(len(use_case.features)))
        feature = use_case.features[place]
        order = generator.random(len(night.now))
        for kind in KINDS:
            for share in SHARES:
                column = spoilt(night.now[:, place], order < share, kind)
                told = moves([feature], night.before[:, [place]], column[:, None])
                is_found = bool(feature_faults(told, night.usual))
                found.append(FeatureTrial(kind, share, night.half, night.night, seed, feature, is_found))
    return found


def false_faults(use_case: UseCase, nights: Sequence[FeatureNight]) -> tuple[int, int]:
    """Of how many features of untouched nights a fault was told, and of how many none should have been."""
    told = [len(feature_faults(moves(use_case.features, one.before, one.now), one.usual)) for one in nights]
    return sum(told), len(nights) * len(use_case.features)


def spoilt(column: np.ndarray, chosen: np.ndarray, kind: str) -> np.ndarray:
    """A column whose chosen rows are null, or all have a high value of the column."""
    given = column[~np.isnan(column)]
    value = np.nan if kind == "null" or not len(given) else np.quantile(given, 0.9, method="nearest")
    return np.where(chosen, np.float32(value), column).astype(np.float32)
