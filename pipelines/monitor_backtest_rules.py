"""What rules of other tools say of the same entities in the same weeks, so that alarms can be counted side by side.

Each entity's own value of a figure in the newest window is held against its values in the four windows before.
"""

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray

from pipelines.control import Vector
from pipelines.signals import Windows

KS, PSI, EVIDENTLY, CBPE = "KS, any p < .05", "PSI, any > .2", "Evidently, default", "CBPE, 3 sd"
REFERENCE_WINDOWS = 4
_BINS = 10


def alarms(usual: Windows, before: Sequence[date], changed: Windows, now: date) -> dict[str, bool]:
    """Which rule raises an alarm over the window that ends on `now`, by the windows before it."""
    reference, current = _values(usual, before[-REFERENCE_WINDOWS:]), _values(changed, [now])
    names = [name for name in reference if name in current and len(reference[name]) and len(current[name])]
    return {
        KS: any(_ks_p(reference[name], current[name]) < 0.05 for name in names),
        PSI: any(stability_index(reference[name], current[name]) > 0.2 for name in names),
        EVIDENTLY: _evidently({name: reference[name] for name in names}, {name: current[name] for name in names}),
    }


def stability_index(reference: Vector, current: Vector) -> float:
    """Population stability index over the tenths of the reference."""
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, _BINS + 1))[1:-1])
    shares = [
        np.maximum(np.bincount(np.searchsorted(edges, part), minlength=len(edges) + 1) / len(part), 1e-4)
        for part in (reference, current)
    ]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def expected_auc(score: Vector) -> float:
    """The AUC that calibrated probabilities promise of themselves: CBPE, without a label."""
    order = np.argsort(score, kind="stable")
    chance = score[order]
    below = np.cumsum(1 - chance) - (1 - chance) / 2
    return float((chance * below).sum() / (chance.sum() * (1 - chance).sum()))


def is_beyond_three_deviations(reference: Sequence[float], value: float) -> bool:
    """Whether a value lies outside of the mean of others plus or minus three standard deviations."""
    return bool(abs(value - np.mean(reference)) > 3 * np.std(reference, ddof=1))


def _values(windows: Windows, days: Sequence[date]) -> dict[str, NDArray[np.float64]]:
    """Each figure of the whole by entity, of those that have one in these windows."""
    found = {}
    for (signal, slice_), sums in windows.sums.items():
        rows = [row for row, day in enumerate(sums.dates) if day in days]
        if slice_ == "all" and rows:
            above, below = sums.numerators[rows].ravel(), sums.denominators[rows].ravel()
            found[signal] = above[below != 0] / below[below != 0]
    return found


def _ks_p(reference: Vector, current: Vector) -> float:
    from scipy.stats import ks_2samp

    return float(ks_2samp(reference, current, method="asymp").pvalue)


def _evidently(reference: Mapping[str, Vector], current: Mapping[str, Vector]) -> bool:
    """Whether Evidently's preset finds data drift with every default: half of the columns have drifted."""
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    frames = [
        pd.DataFrame({name: pd.Series(part) for name, part in columns.items()}) for columns in (current, reference)
    ]
    found = Report([DataDriftPreset()]).run(*frames).dict()
    counted = next(one["value"] for one in found["metrics"] if "DriftedColumnsCount" in one["metric_name"])
    return bool(counted["share"] >= 0.5)
