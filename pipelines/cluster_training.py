"""Trees from rows that are spread over the workers of a Dask cluster, by LightGBM's own Dask estimators."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from pipelines.cluster import Cluster, cluster_failure, open_cluster
from pipelines.model import RANKER, Fit, booster_parameters, fit_booster, list_lengths
from pipelines.settings import DASK, Settings
from pipelines.training_set import Snapshot
from pipelines.use_case import TrainingPlan

if TYPE_CHECKING:
    from dask.array import Array

_ATTEMPTS, _NOTICE_S, _RESTART_S = 3, 15, 60
_SOCKET_MINUTES = 10  # LightGBM's workers wait so long for one of theirs
_NAMES = {  # of LightGBM's parameters in its estimators
    "min_data_in_leaf": "min_child_samples",
    "feature_fraction": "colsample_bytree",
    "lambda_l2": "reg_lambda",
    "seed": "random_state",
}


@contextmanager
def open_fit(settings: Settings) -> Iterator[Fit]:
    """What grows trees, by the settings: this process or the workers.

    Raises:
        EngineFailure: the cluster's scheduler does not answer, or has no worker.
    """
    if settings.engine != DASK:
        yield partial(fit_booster, threads=settings.threads)
        return
    with open_cluster(settings) as cluster:
        yield partial(fit_on_workers, settings, cluster)


def fit_on_workers(
    settings: Settings,
    cluster: Cluster,
    plan: TrainingPlan,
    kind: str,
    features: Sequence[str],
    snapshots: Sequence[Snapshot],
) -> lightgbm.Booster:
    """Trees like those of `fit_booster`, and as good, but not the same: workers add up in another order.

    Where a worker dies, all begin anew with those that are left.

    Raises:
        EngineFailure: that happened three times, or no worker is left.
    """
    for _ in range(_ATTEMPTS):
        workers = cluster.workers()
        try:
            return _fit(cluster, workers, plan, kind, features, snapshots)
        except Exception as error:  # what it is depends on who noticed first: LightGBM, Dask or a socket
            failed = error
            if not _has_lost(cluster, workers):
                raise
            _begin_anew(cluster, workers)
    raise cluster_failure(settings, "workers died in each attempt to grow trees", failed) from failed


def _fit(
    cluster: Cluster,
    workers: Sequence[str],
    plan: TrainingPlan,
    kind: str,
    features: Sequence[str],
    snapshots: Sequence[Snapshot],
) -> lightgbm.Booster:
    from lightgbm.dask import DaskLGBMClassifier, DaskLGBMRanker

    lists = np.concatenate([list_lengths(snapshot) for snapshot in snapshots])
    cuts = _cuts(lists, len(workers))

    def spread(rows: NDArray[Any], places: Sequence[int]) -> "Array":
        return _spread(cluster, workers, rows, places)

    starts = [int(lists[:cut].sum()) for cut in cuts]
    matrix = np.concatenate([snapshot.matrix for snapshot in snapshots])
    positive = np.concatenate([snapshot.positive for snapshot in snapshots]).astype(np.int32)
    given = {"X": spread(matrix, starts), "y": spread(positive, starts), "feature_name": list(features)}
    if kind == RANKER:
        estimator, given["group"] = DaskLGBMRanker, spread(lists, cuts)
    else:
        weight = np.concatenate([snapshot.weight for snapshot in snapshots])
        estimator, given["sample_weight"] = DaskLGBMClassifier, spread(weight, starts)
    parameters = {_NAMES.get(name, name): value for name, value in booster_parameters(plan, kind, 1).items()}
    del parameters["num_threads"]  # each worker's own
    model = estimator(client=cluster.client, n_estimators=plan.boosting_rounds, time_out=_SOCKET_MINUTES, **parameters)
    with cluster.client.as_current():  # LightGBM waits by whichever client is the current one
        return model.fit(**given).booster_


def _cuts(lists: NDArray[np.int64], number: int) -> list[int]:
    """Where to cut a row of lists so that each of some workers gets as many rows: between lists."""
    ends = np.cumsum(lists)
    aims = [ends[-1] * place / number for place in range(1, number)]
    cuts = [0, *(int(np.searchsorted(ends, aim)) + 1 for aim in aims), len(lists)]
    return sorted({min(cut, len(lists)) for cut in cuts})


def _spread(cluster: Cluster, workers: Sequence[str], rows: NDArray[Any], cuts: Sequence[int]) -> "Array":
    """The rows between two cuts with one worker each."""
    import dask.array

    parts = []
    for worker, (first, end) in zip(workers, pairwise(cuts), strict=False):
        part = rows[first:end]
        (future,) = cluster.client.scatter([part], workers=[worker], hash=False)
        parts.append(dask.array.from_delayed(future, part.shape, part.dtype))
    return dask.array.concatenate(parts)


def _has_lost(cluster: Cluster, workers: Sequence[str]) -> bool:
    """Whether one of the workers is gone; the scheduler may notice it a moment later than LightGBM."""
    for _ in range(_NOTICE_S):
        if set(workers) - set(cluster.workers()):
            return True
        time.sleep(1)
    return False


def _begin_anew(cluster: Cluster, workers: Sequence[str]) -> None:
    """New processes for the workers that are left: LightGBM waits in them for the one that died, and then crashes."""
    left = [worker for worker in cluster.workers() if worker in workers]
    with suppress(TimeoutError):  # what has not come back by then is not counted on
        cluster.client.restart_workers(left, timeout=_RESTART_S, raise_for_error=False)
        cluster.client.wait_for_workers(1, timeout=_RESTART_S)
