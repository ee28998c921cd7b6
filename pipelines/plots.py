"""The pictures of a training run."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from pipelines.cross_validation import Validation
from pipelines.model import Model

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the choice of a backend that needs no screen

_BINS, _SHOWN = 20, 25


def plot_calibration(validation: Validation, path: Path) -> None:
    """Predicted against observed rate, out of fold, over bins of equally many rows."""
    probabilities = np.concatenate(validation.probabilities)
    order = np.argsort(probabilities)
    predicted = [part.mean() for part in np.array_split(probabilities[order], _BINS)]
    observed = [part.mean() for part in np.array_split(validation.positive[order], _BINS)]
    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    top = max(*predicted, *observed) * 1.05
    axes.plot([0, top], [0, top], color="grey", linewidth=1)
    axes.plot(predicted, observed, marker="o")
    axes.set(xlabel="predicted probability", ylabel="observed rate", title="Calibration, out of fold")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def importance(model: Model) -> NDArray[np.float64]:
    """Share of the trees' gain by feature; the mean over the components."""
    gains = [part.booster.feature_importance("gain") for part in model.components]
    return np.asarray(np.mean([gain / max(gain.sum(), 1e-12) for gain in gains], axis=0))


def plot_importance(model: Model, path: Path) -> None:
    """The features with the largest share of the trees' gain."""
    gain = importance(model)
    order = np.argsort(gain)[-_SHOWN:]
    figure, axes = plt.subplots(figsize=(7, 7), layout="constrained")
    axes.barh([model.features[position] for position in order], gain[order])
    axes.set(xlabel="share of gain", title="Feature importance")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_slices(slices: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """How well lists are ordered in each slice, and how far the mean score is from the observed rate."""
    names = list(slices)[::-1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 1.5 + 0.3 * len(names)), layout="constrained", sharey=True)
    left.barh(range(len(names)), [slices[name]["ndcg"] for name in names])
    left.set_yticks(range(len(names)), names, parse_math=False)
    left.set(xlabel="NDCG")
    gaps = [100 * (slices[name]["mean_score"] - slices[name]["observed_rate"]) for name in names]
    right.barh(range(len(names)), gaps, color=["tab:orange" if gap > 0 else "tab:blue" for gap in gaps])
    right.axvline(0, color="grey", linewidth=1)
    right.set(xlabel="mean score less observed rate, percentage points")
    figure.savefig(path, dpi=110)
    plt.close(figure)
