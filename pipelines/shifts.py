"""Shifts: which figures of the newest window are not what they were, told from chance by their own history.

A figure's change is its window less the median of the windows just before it, and less that of windows some while
ago, which shows what comes slowly. Windows that were themselves unusual are no reference, so that a holiday does not
make the week after it look strange. What is usual of a change comes from earlier ones, and as its floor from all
figures together. A shift counts if two of three windows show it, if one shows it grossly, or if small changes to one
side add up.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import combinations
from statistics import median
from typing import NamedTuple

import numpy as np

from pipelines.control import Estimate, cusum, discoveries, is_persistent
from pipelines.measurements import ALERT, OK, WARN
from pipelines.signals import Key, Windows
from pipelines.use_case import MonitorPolicy, Signal, UseCase

_POWER = 0.8416  # distance that a normal variable exceeds with a probability of 20 %
_MEDIAN_OF_FOUR = 1.3  # variance of a median of a few normal variables, times their number
_QN = 2.2219  # makes Qn the standard deviation of a normal distribution


@dataclass(frozen=True)
class Shift:
    """A figure of the newest window beside its reference; `threshold` and `detectable` are in the figure's unit.

    `distance` is in standard deviations; `detectable` is the smallest change that one window shows with a power of
    80 %. `first_date` is the last day of the first window of those, without a break, that the shift has lasted.
    """

    signal: str
    slice: str
    value: float
    reference: float
    threshold: float
    distance: float
    detectable: float
    status: str
    first_date: date
    is_fault: bool
    is_season: bool
    error: float = 0.0


class Usual(NamedTuple):
    """What is usual of a figure's changes: their standard deviation, and how many of them tell."""

    spread: float
    changes: int


Compared = tuple[Key, int]  # a figure, and how many windows its reference lies back
_Series = tuple[list[date], list[float], list[float]]  # days, values and errors as compared, oldest first


class _Trail(NamedTuple):
    """A figure's windows from old to new, as compared: the newest value, its reference and error, all distances."""

    days: list[date]
    value: float
    reference: float
    error: float
    distances: list[float]
    spread: float
    lag: int


def find_shifts(
    use_case: UseCase, windows: Windows, as_of: date, usual: Mapping[Compared, Usual] | None = None
) -> list[Shift]:
    """Every figure of the window that ends on `as_of`, with its status, by signal and slice.

    What is usual comes from the windows before, unless it is given. A figure with too short a history is left out.
    """
    known = learn_usual(use_case, windows, as_of) if usual is None else usual
    policy, signals = use_case.monitor, {signal.name: signal for signal in use_case.signals}
    trails = {}
    for key in sorted(windows.figures[as_of]):
        series = _as_compared(signals[key[0]], _history(windows, key, as_of, policy))
        for lag in _lags(policy, signals[key[0]]):
            if (key, lag) in known:
                trails[key, lag] = _trail(policy, series, lag, known[key, lag].spread)
    p_values = [_p_value(trail, known[one].changes + policy.prior_windows) for one, trail in trails.items()]
    kept = discoveries(p_values, policy.false_share)
    season = _is_season(use_case, as_of)
    found: dict[Key, list[Shift]] = {}
    for ((key, _), trail), is_kept in zip(trails.items(), kept, strict=True):
        judged = _judge(policy, signals[key[0]], key, trail, is_season=season, is_kept=is_kept)
        found.setdefault(key, []).append(judged)
    return [max(both, key=_gravity) for both in found.values()]


def learn_usual(use_case: UseCase, windows: Windows, as_of: date) -> dict[Compared, Usual]:
    """What is usual of each figure's changes in the windows before `as_of`; the window itself does not count."""
    policy, signals = use_case.monitor, {signal.name: signal for signal in use_case.signals}
    count, own = policy.reference_windows, dict[Compared, tuple[float, float, int]]()
    for key in sorted(windows.sums):
        days, values, errors = _as_compared(signals[key[0]], _history(windows, key, as_of, policy))
        past = len([day for day in days if day < as_of])
        for lag in _lags(policy, signals[key[0]]):
            changes = [values[t] - median(values[t - lag - count : t - lag]) for t in range(lag + count, past)]
            if len(changes) >= policy.min_windows:
                floor = max(median(errors) * np.sqrt(1 + _MEDIAN_OF_FOUR / count), 1e-12)
                own[key, lag] = (spread_of(changes), floor, len(changes))
    usually = max(1.0, median(spread / floor for spread, floor, _ in own.values())) if own else 1.0
    return {one: Usual(_shrunk(policy, *parts, usually), parts[2]) for one, parts in own.items()}


def spread_of(changes: Sequence[float]) -> float:
    """Standard deviation of the changes but for a few wild ones: Qn of Rousseeuw and Croux 1993, 82 % efficient."""
    half = len(changes) // 2 + 1
    apart = sorted(abs(one - other) for one, other in combinations(changes, 2))
    return _QN * apart[half * (half - 1) // 2 - 1] * len(changes) / (len(changes) + (1.4 if len(changes) % 2 else 3.8))


def _shrunk(policy: MonitorPolicy, spread: float, floor: float, changes: int, usually: float) -> float:
    """The spread, drawn up to what other figures show beyond their sampling error: few changes know little.

    After Smyth 2004 (moderated t); never drawn down, since prices vary by more than their sampling error says.
    """
    prior = policy.prior_windows
    together = (changes * spread**2 + prior * (usually * floor) ** 2) / (changes + prior)
    return float(max(spread, np.sqrt(together)))


def _lags(policy: MonitorPolicy, signal: Signal) -> tuple[int, ...]:
    return (0,) if signal.moves_with_year else (0, policy.earlier_windows)


def _gravity(shift: Shift) -> tuple[bool, int, float]:
    return shift.is_fault, (OK, WARN, ALERT).index(shift.status), abs(shift.distance)


def _history(windows: Windows, key: Key, as_of: date, policy: MonitorPolicy) -> Iterable[tuple[date, Estimate]]:
    """The figure's windows up to `as_of`, oldest first, no more of them than the policy wants."""
    days = [day for day in windows.last_dates if day <= as_of and key in windows.figures[day]]
    newest = days[-(policy.history_windows + policy.reference_windows + policy.earlier_windows + 1) :]
    found = ((day, windows.figures[day][key]) for day in newest)
    return [(day, one) for day, one in found if np.isfinite(one.value)]


def _as_compared(signal: Signal, history: Iterable[tuple[date, Estimate]]) -> _Series:
    """Days, values and errors; of a figure whose changes are shares, as logarithms."""
    days, values, errors = list[date](), list[float](), list[float]()
    for day, one in history:
        value, error = one.value, one.error
        if signal.is_relative:
            least = max(value, 1e-6)  # a figure that has gone altogether has a logarithm too
            value, error = float(np.log(least)), min(error / least, 1.0)
        days.append(day)
        values.append(value)
        errors.append(error)
    return days, values, errors


def _trail(policy: MonitorPolicy, series: _Series, lag: int, spread: float) -> _Trail:
    """Walk the windows from old to new; an unusual one is no reference for the next few."""
    days, values, errors = series
    count, distances, reference = policy.reference_windows, [0.0] * len(values), values[-1]
    for t in range(lag + count, len(values)):
        near = [s for s in range(max(0, t - lag - 2 * count), t - lag) if abs(distances[s]) <= policy.limit][-count:]
        chosen = near if len(near) >= 2 else range(t - lag - count, t - lag)
        reference = median(values[s] for s in chosen)
        distances[t] = (values[t] - reference) / spread if spread else 0.0
    return _Trail(days, values[-1], reference, errors[-1], distances, spread, lag)


def _p_value(trail: _Trail, freedom: int) -> float:
    """Chance of a distance as far as the newest, by Student's distribution: the spread is an estimate itself."""
    from scipy.special import stdtr

    return float(2 * stdtr(max(freedom - 1, 1), -abs(trail.distances[-1])))


def _judge(policy: MonitorPolicy, signal: Signal, key: Key, trail: _Trail, *, is_season: bool, is_kept: bool) -> Shift:
    far, change = trail.distances[-1], trail.value - trail.reference
    sign = 1.0 if far >= 0 else -1.0
    size = abs(float(np.expm1(change)) if signal.is_relative else change)
    matters = size >= signal.min_change
    flags = [one * sign > policy.limit for one in trail.distances]
    is_gross = abs(far) > policy.severe
    is_fault = bool(is_gross and matters and (signal.is_quality or _is_absurd(signal, change)))
    is_found = is_kept and (is_gross or is_persistent(flags))
    is_alert = matters and (is_found or _is_ramp(policy, trail, sign))

    def shown(one: float) -> float:
        return float(np.exp(one)) if signal.is_relative else one

    detectable = shown(trail.reference + (policy.limit + _POWER) * trail.spread) - shown(trail.reference)
    smallest = signal.min_change * (shown(trail.reference) if signal.is_relative else 1.0)
    return Shift(
        *key,
        value=shown(trail.value),
        reference=shown(trail.reference),
        threshold=shown(trail.reference + sign * policy.limit * trail.spread),
        distance=far,
        detectable=max(detectable, smallest),
        status=ALERT if is_alert else WARN if flags[-1] and matters else OK,
        first_date=_since(trail, sign),
        is_fault=is_fault,
        is_season=bool(is_season and size <= signal.season_change and not is_fault),
        error=trail.error * (shown(trail.value) if signal.is_relative else 1.0),
    )


def _is_ramp(policy: MonitorPolicy, trail: _Trail, sign: float) -> bool:
    """Whether changes to one side add up, the newest among them; against windows long ago they add up by chance."""
    if trail.lag:
        return False
    up, down = cusum(trail.distances, policy.ramp_slack)
    return trail.distances[-1] * sign > policy.ramp_slack and (up if sign > 0 else down) > policy.ramp_limit


def _is_absurd(signal: Signal, change: float) -> bool:
    """Whether a figure is so many times its reference, or so small a part of it, that no customer did that."""
    return bool(signal.is_relative and signal.fault_factor and abs(change) >= np.log(signal.fault_factor))


def _since(trail: _Trail, sign: float) -> date:
    """Last day of the first window from which on every window lies more than a deviation to the same side."""
    start = len(trail.days) - 1
    while start and trail.distances[start - 1] * sign > 1:
        start -= 1
    return trail.days[start]


def _is_season(use_case: UseCase, as_of: date) -> bool:
    """Whether the window that ends on `as_of` holds a day of a known season."""
    first = as_of - timedelta(days=use_case.monitor.window_days - 1)
    return any(season.first_date <= as_of and season.last_date >= first for season in use_case.calendar)
