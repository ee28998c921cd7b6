"""Whether a realised figure is what is usual of it: its own band over earlier matured weeks, and sums of small changes.

A figure is compared with those of score dates whole weeks before, whose label windows do not overlap with its own, of
the models of the use case. Few weeks know little: distances are taken from Student's distribution to the normal one,
and slices of a figure share what is usual of its spread. All functions are pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, stdev

import numpy as np

from pipelines.avoidable import AVOIDABLE
from pipelines.control import FEWEST, Band, Estimate, band, cusum, deviation_of, is_persistent
from pipelines.measurements import ALERT, EVERYTHING, OK, WARN, Measurement
from pipelines.residuals import CALIBRATION_SLOPE, FIGURES, NDCG_GAIN, RATE_RATIO, RESIDUAL_LOG_LOSS
from pipelines.use_case import MonitorPolicy

CUSUM = "cusum"
_LOWER, _UPPER, _BOTH = (-1,), (1,), (-1, 1)  # the sides that are worse
_SIDES = {
    "log_loss": _UPPER,
    "ece": _UPPER,
    AVOIDABLE: _UPPER,
    RESIDUAL_LOG_LOSS: _UPPER,
    RATE_RATIO: _BOTH,
    CALIBRATION_SLOPE: _BOTH,
    NDCG_GAIN: _LOWER,
}
_FEWEST_SLICES = 8  # of a figure that tell how much such a figure usually varies
_GROSS = 5.0  # a normal variable is as far once in three million times: one week is enough


@dataclass(frozen=True)
class Past:
    """A figure as it was measured of an earlier score date, a whole number of weeks before, and of which version."""

    estimate: Estimate
    model_version: str
    is_flagged: bool
    is_season: bool = False


Pasts = Mapping[tuple[str, str], Sequence[Past]]  # by metric and slice, oldest first


def judge(
    policy: MonitorPolicy,
    found: Measurement,
    past: Sequence[Past],
    folds: Sequence[float] = (),
    *,
    is_season: bool = False,
    usually: float | None = None,
) -> Measurement:
    """The measurement with its threshold and status.

    An alert is a figure that is worse than usual in two of three weeks, the newest among them, or grossly so; one week
    alone is a warning. A known season explains what it began with: there, only what was flagged before it goes on to
    be an alert. `usually` is how much such figures vary, if that is known (`spreads`). Before there are four weeks,
    the validation's `folds` count as weeks; with neither there is nothing to compare with.
    """
    usual = _usual(policy, [one.estimate for one in past], folds, usually)
    if usual is None or not np.isfinite(found.value):
        return found
    sides, far = _SIDES.get(found.metric, _LOWER), standardised(usual, estimate_of(found))
    side = max(sides, key=lambda one: one * far)
    limit = usual.centre + side * _limit(policy.limit, usual) * _deviation(usual, estimate_of(found))
    is_flagged = side * far > policy.limit
    flags = [*(one.is_flagged and not (is_season and one.is_season) for one in past), is_flagged]
    is_alert = is_persistent(flags) or (is_flagged and side * far > _GROSS and not is_season)
    status = ALERT if is_alert else WARN if is_flagged else OK
    return replace(found, threshold=limit, status=status)


def cusum_of(
    policy: MonitorPolicy,
    found: Measurement,
    past: Sequence[Past],
    *,
    is_season: bool = False,
    usually: float | None = None,
) -> Measurement | None:
    """The sum of a figure's small changes for the worse since its model version came; none without a band.

    Page 1954, over weekly distances, each from the band of the weeks before it. A new version starts at 0.
    """
    estimates = [*(one.estimate for one in past), estimate_of(found)]
    versions = [*(one.model_version for one in past), found.model_version]
    is_own = [all(version == found.model_version for version in versions[place:]) for place in range(len(versions))]
    distances = []
    for place, now in enumerate(estimates):
        usual = _usual(policy, estimates[:place], (), usually)
        if is_own[place] and usual is not None:
            distances.append(standardised(usual, now))
    if not distances:
        return None
    down_up = dict(zip((1, -1), cusum(distances, policy.ramp_slack), strict=True))
    value = max(down_up[side] for side in _SIDES[found.metric])
    status = OK if value <= policy.ramp_limit else WARN if is_season else ALERT
    return Measurement(
        CUSUM, found.model_version, value, slice=found.metric, threshold=policy.ramp_limit, status=status
    )


def judge_all(
    policy: MonitorPolicy,
    found: Sequence[Measurement],
    pasts: Pasts,
    folds: Mapping[str, Sequence[float]],
    *,
    is_season: bool,
) -> list[Measurement]:
    """All measurements of one version and date with their statuses, and the sums of the residual figures' changes."""
    known = spreads(pasts)
    judged = [
        judge(
            policy,
            one,
            pasts.get((one.metric, one.slice), ()),
            folds.get(one.metric, ()) if one.slice == EVERYTHING else (),
            is_season=is_season,
            usually=known.get(one.metric),
        )
        for one in found
    ]
    sums = [
        cusum_of(
            policy,
            one,
            pasts.get((one.metric, one.slice), ()),
            is_season=is_season,
            usually=known.get(one.metric),
        )
        for one in found
        if one.metric in FIGURES and one.slice == EVERYTHING
    ]
    return [*judged, *(one for one in sums if one is not None)]


def spreads(pasts: Pasts) -> dict[str, float]:
    """How much a figure usually varies between weeks, in units of its own error: the median of its slices.

    Figures of fewer than eight slices are left out: they would tell of themselves.
    """
    ratios: dict[str, list[float]] = {}
    for (metric, _), past in pasts.items():
        known = [one.estimate for one in past if np.isfinite(one.estimate.value)]
        error = median(one.error for one in known) if known else 0.0
        if len(known) >= FEWEST and error > 0:
            ratios.setdefault(metric, []).append(deviation_of([one.value for one in known]) / error)
    return {metric: median(found) for metric, found in ratios.items() if len(found) >= _FEWEST_SLICES}


def estimate_of(found: Measurement) -> Estimate:
    """The measurement's value with the error that its interval tells; none is an exact figure."""
    if found.low is None or found.high is None:
        return Estimate(found.value, 0.0, 0)
    return estimate_between(found.value, found.low, found.high)


def estimate_between(value: float, low: float, high: float) -> Estimate:
    """An estimate from its 95 % interval."""
    return Estimate(value, (high - low) / (2 * 1.959964), 0)


def standardised(usual: Band, now: Estimate) -> float:
    """Distance from the band as a normal variable would have it: a band of few windows is wide in the tails."""
    from scipy.stats import norm, t

    far = usual.distance(now)
    return float(np.sign(far) * norm.isf(max(t.sf(abs(far), usual.freedom), 1e-300)))


def band_around(limit: float, past: Sequence[Estimate], now: Estimate) -> tuple[float, float] | None:
    """What is usual of a figure now: the median of its past, and so many deviations to both sides; none: too few."""
    usual = band(past)
    if usual is None:
        return None
    far = _limit(limit, usual) * _deviation(usual, now)
    return usual.centre - far, usual.centre + far


def was_flagged(status: str) -> bool:
    """Whether a stored status says that the figure was beyond its threshold."""
    return status in (WARN, ALERT)


def _usual(
    policy: MonitorPolicy, windows: Sequence[Estimate], folds: Sequence[float], usually: float | None
) -> Band | None:
    known = [one for one in windows if np.isfinite(one.value)]
    if len(known) >= FEWEST:
        return band(known) if usually is None else band(known, usually, policy.prior_windows)
    values = [*folds, *(one.value for one in known)]
    if not folds or len(values) < 2:
        return None
    return Band(median(values), stdev(values), len(values), len(values) - 1)


def _limit(limit: float, usual: Band) -> float:
    """How many deviations of this band are as rare as so many of a normal variable."""
    from scipy.stats import norm, t

    return float(t.isf(norm.sf(limit), usual.freedom))


def _deviation(usual: Band, now: Estimate) -> float:
    return float(np.hypot(usual.spread * np.sqrt(1 + 1 / usual.windows), now.error))
