"""Statistics of monitoring: figures by household with their error, what is usual of them, and what is not.

A figure is a ratio of two sums over entities, such as sales per basket: the entity is the unit of sampling, since its
lines resemble each other. All functions are pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
FEWEST = 4  # windows that tell what is usual by themselves
_MAD_TO_SD = 1.4826  # of a normal distribution
_CONFIDENCE = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A figure of one window: its value and standard error, and how many entities it rests on."""

    value: float
    error: float
    entities: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        return self.value - _CONFIDENCE * self.error, self.value + _CONFIDENCE * self.error


@dataclass(frozen=True)
class Band:
    """What is usual of a figure: its centre, and the standard deviation between windows beyond their own error.

    `freedom` says how well the spread is known: the degrees of freedom of Student's distribution.
    """

    centre: float
    spread: float
    windows: int
    freedom: int

    def distance(self, now: Estimate) -> float:
        """How many standard deviations, of the window and between windows, the estimate lies from the centre."""
        own = self.spread * np.sqrt(1 + 1 / self.windows)
        deviation = float(np.hypot(own, now.error))
        return (now.value - self.centre) / deviation if deviation else 0.0

    def detectable(self, error: float, limit: float, power: float = 0.8) -> float:
        """The smallest change that `limit` standard deviations find with a power, in units of the figure."""
        from scipy.stats import norm

        own = self.spread * np.sqrt(1 + 1 / self.windows)
        return float((limit + norm.ppf(power)) * np.hypot(own, error))


def ratio(numerators: Vector, denominators: Vector) -> Estimate:
    """Ratio of two sums over entities, with its linearised error (Cochran 1977, Sampling Techniques, eq. 6.13).

    To first order it is the error that a bootstrap of whole entities gives. Entities without both do not count.
    """
    total, is_there = float(denominators.sum()), (numerators != 0) | (denominators != 0)
    count = int(is_there.sum())
    if not total or count < 2:
        return Estimate(float("nan"), float("nan"), count)
    value = float(numerators.sum()) / total
    residuals = (numerators - value * denominators)[is_there]
    error = float(np.sqrt(count / (count - 1) * np.square(residuals).sum())) / abs(total)
    return Estimate(value, error, count)


def band(history: Sequence[Estimate], usually: float = 0.0, prior: int = 0) -> Band | None:
    """What is usual: median of earlier windows, and spread by the median absolute deviation; none with fewer than four.

    What the windows' own errors explain of their spread is taken off, since each estimate brings its own. Few windows
    know little of a spread: it is drawn up to what is `usually` seen of such figures, in units of their errors, which
    weighs as much as `prior` windows (Smyth 2004, moderated t).
    """
    known = [one for one in history if np.isfinite(one.value)]
    if len(known) < FEWEST:
        return None
    error, count = float(np.median([one.error for one in known])), len(known)
    total = deviation_of([one.value for one in known])
    together = (count * total**2 + prior * (usually * error) ** 2) / (count + prior)
    total = max(total, float(np.sqrt(together)))
    spread = float(np.sqrt(max(total**2 - error**2, (0.25 * total) ** 2)))
    return Band(float(np.median([one.value for one in known])), spread, count, count - 1 + prior)


def deviation_of(values: Sequence[float]) -> float:
    """Standard deviation by the median absolute deviation: a few wild values do not count."""
    return _MAD_TO_SD * float(np.median(np.abs(np.asarray(values) - np.median(values))))


def cusum(distances: Sequence[float], slack: float = 0.5) -> tuple[float, float]:
    """Sums of what lies above and below the usual by more than the slack, as they stand after the last distance.

    Page 1954, Continuous inspection schemes; in standard deviations, each at least 0.
    """
    up = down = 0.0
    for one in distances:
        up, down = max(0.0, up + one - slack), max(0.0, down - one - slack)
    return up, down


def discoveries(p_values: Sequence[float], share: float) -> list[bool]:
    """Which of many findings to keep so that at most this share of them is false (Benjamini and Hochberg 1995)."""
    p = np.asarray(p_values, dtype=float)
    if not len(p):
        return []
    order = np.argsort(p)
    passed = np.flatnonzero(p[order] <= share * np.arange(1, len(p) + 1) / len(p))
    kept = np.zeros(len(p), dtype=bool)
    if len(passed):
        kept[order[: passed[-1] + 1]] = True
    return kept.tolist()


def is_persistent(flags: Sequence[bool]) -> bool:
    """Whether two of the last three windows are flagged, the newest among them; oldest first."""
    return bool(flags) and flags[-1] and sum(flags[-3:]) >= 2
