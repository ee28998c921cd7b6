"""The pictures of a training run."""

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
    order = np.argsort(validation.probabilities)
    predicted = [part.mean() for part in np.array_split(validation.probabilities[order], _BINS)]
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
