"""Shifts: which figures of the newest window are not what they were, told from chance by their own history.

A figure's change is its window less the median of the windows just before it; those that were themselves unusual do
not count, so that a holiday does not make the week after it look strange. What is usual of a change comes from
earlier ones, and as its floor from all figures together. A shift counts if two of three windows show it, if one
shows it grossly, or if small changes to one side add up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from pipelines.control import Estimate, cusum, discoveries, is_persistent
from pipelines.measurements import ALERT, OK, WARN
from pipelines.signals import Key, Windows
from pipelines.use_case import MonitorPolicy, Signal, UseCase

_MAD_TO_SD = 1.4826  # of a normal distribution
_POWER = 0.8416  # distance that a normal variable exceeds with a probability of 20 %
_MEDIAN_OF_FOUR = 1.3  # variance of a median of a few normal variables, times their number


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


@dataclass(frozen=True)
class Usual:
    """What is usual of a figure's changes: their standard deviation, and of how many changes."""

    spread: float
    changes: int


@dataclass(frozen=True)
class _Trail:
    """A figure's windows from old to new: value and error as compared, reference and distance of each."""

    days: tuple[date, ...]
    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    references: NDArray[np.float64]
    distances: NDArray[np.float64]
    spread: float


def find_shifts(
    use_case: UseCase, windows: Windows, as_of: date, usual: Mapping[Key, Usual] | None = None
) -> list[Shift]:
    """Every figure of the window that ends on `as_of`, with its status, by signal and slice.

    What is usual comes from the windows before, unless it is given. A figure with too short a history is left out.
    """
    known = learn_usual(use_case, windows, as_of) if usual is None else usual
    signals = {signal.name: signal for signal in use_case.signals}
    policy = use_case.monitor
    trails = {
        key: _trail(policy, signals[key[0]], _history(windows, key, as_of, policy), known[key])
        for key in sorted(windows.figures[as_of])
        if key in known
    }
    p_values = [_p_value(trail, known[key].changes + policy.prior_windows) for key, trail in trails.items()]
    is_kept = discoveries(p_values, policy.false_share)
    is_season = _is_season(use_case, as_of)
    return [
        _judge(policy, signals[key[0]], key, trail, is_season=is_season, is_kept=kept)
        for (key, trail), kept in zip(trails.items(), is_kept, strict=True)
    ]


def learn_usual(use_case: UseCase, windows: Windows, as_of: date) -> dict[Key, Usual]:
    """What is usual of each figure's changes in the windows before `as_of`; the window itself does not count."""
    policy, own = use_case.monitor, {}
    signals = {signal.name: signal for signal in use_case.signals}
    for key in sorted(windows.sums):
        history = _history(windows, key, as_of, policy)
        days, values, errors = _as_compared(signals[key[0]], history)
        count = policy.reference_windows
        is_past = np.array([day < as_of for day in days], dtype=bool)
        changes = np.array([values[t] - np.median(values[t - count : t]) for t in range(count, len(values))])
        changes = changes[is_past[count:]]
        if len(changes) >= policy.min_windows:
            floor = float(np.median(errors)) * np.sqrt(1 + _MEDIAN_OF_FOUR / count)
            # About their median: those of a ramp are all alike, and are to stand out.
            spread = _MAD_TO_SD * float(np.median(np.abs(changes - np.median(changes))))
            own[key] = (spread, max(floor, 1e-12), len(changes))
    usually = float(np.median([spread / floor for spread, floor, _ in own.values()])) if own else 1.0
    return {key: Usual(_shrunk(policy, *parts, max(usually, 1.0)), parts[2]) for key, parts in own.items()}


def _shrunk(policy: MonitorPolicy, spread: float, floor: float, changes: int, usually: float) -> float:
    """The spread, drawn up to what other figures show beyond their sampling error: few changes know little.

    After Smyth 2004 (moderated t); never drawn down, since prices vary by more than their sampling error says.
    """
    prior = policy.prior_windows
    together = (changes * spread**2 + prior * (usually * floor) ** 2) / (changes + prior)
    return float(max(spread, np.sqrt(together)))


def _history(windows: Windows, key: Key, as_of: date, policy: MonitorPolicy) -> list[tuple[date, Estimate]]:
    """The figure's windows up to `as_of`, oldest first, no more of them than the policy wants."""
    days = [day for day in windows.last_dates if day <= as_of and key in windows.figures[day]]
    newest = days[-(policy.history_windows + policy.reference_windows + 1) :]
    found = [(day, windows.figures[day][key]) for day in newest]
    return [(day, one) for day, one in found if np.isfinite(one.value)]


def _as_compared(
    signal: Signal, history: Sequence[tuple[date, Estimate]]
) -> tuple[tuple[date, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Days, values and errors; of a figure whose changes are shares, as logarithms."""
    values = np.array([one.value for _, one in history])
    errors = np.array([one.error for _, one in history])
    if signal.is_relative:
        # A figure that has gone altogether is as if one entity in a thousand of its error were left.
        least = np.maximum(np.abs(values), np.maximum(errors, 1e-9) * 1e-3)
        values, errors = np.log(np.maximum(values, least)), np.minimum(errors / least, 1.0)
    return tuple(day for day, _ in history), values, errors


def _trail(policy: MonitorPolicy, signal: Signal, history: Sequence[tuple[date, Estimate]], usual: Usual) -> _Trail:
    """Walk the windows from old to new; an unusual one is no reference for the next eight."""
    days, values, errors = _as_compared(signal, history)
    count = policy.reference_windows
    references, distances = values.copy(), np.zeros(len(values))
    is_usual = np.ones(len(values), dtype=bool)
    for t in range(count, len(values)):
        recent = [s for s in range(max(0, t - 2 * count), t) if is_usual[s]][-count:]
        chosen = recent if len(recent) >= 2 else list(range(t - count, t))
        references[t] = np.median(values[chosen])
        distances[t] = (values[t] - references[t]) / usual.spread if usual.spread else 0.0
        is_usual[t] = abs(distances[t]) <= policy.limit
    return _Trail(days, values, errors, references, distances, usual.spread)


def _p_value(trail: _Trail, freedom: int) -> float:
    """Chance of a distance as far as the newest, by Student's distribution: the spread is an estimate itself."""
    from scipy.stats import t

    return float(2 * t.sf(abs(trail.distances[-1]), max(freedom - 1, 1)))


def _judge(policy: MonitorPolicy, signal: Signal, key: Key, trail: _Trail, *, is_season: bool, is_kept: bool) -> Shift:
    now, reference = float(trail.values[-1]), float(trail.references[-1])
    far, change = float(trail.distances[-1]), now - reference
    sign = 1.0 if far >= 0 else -1.0
    matters = abs(np.expm1(change) if signal.is_relative else change) >= signal.min_change
    flags = [bool(one * sign > policy.limit) for one in trail.distances]
    is_ramp = cusum(trail.distances.tolist(), policy.ramp_slack)[0 if sign > 0 else 1] > policy.ramp_limit
    is_gross = abs(far) > policy.severe
    is_found = is_kept and (is_gross or is_persistent(flags))
    is_fault = bool(is_gross and matters and (signal.is_quality or _is_absurd(signal, change)))
    status = ALERT if matters and (is_found or is_ramp) else WARN if flags[-1] and matters else OK

    def shown(one: float) -> float:
        return float(np.exp(one)) if signal.is_relative else float(one)

    threshold = reference + sign * policy.limit * trail.spread
    detectable = abs(shown(reference + (policy.limit + _POWER) * trail.spread) - shown(reference))
    return Shift(
        *key,
        value=shown(now),
        reference=shown(reference),
        threshold=shown(threshold),
        distance=far,
        detectable=max(
            detectable, abs(shown(reference)) * signal.min_change if signal.is_relative else signal.min_change
        ),
        status=status,
        first_date=_since(trail, sign),
        is_fault=is_fault,
        is_season=is_season and signal.is_seasonal and not is_fault,
        error=float(trail.errors[-1]) * (shown(now) if signal.is_relative else 1.0),
    )


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
