"""Where the parts of a step are computed: in this process, or by the workers of a Dask cluster. The rows are the same.

A worker takes its settings from its own environment, so that no secret travels; it has to see the same lake.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines import steps
from pipelines.errors import EngineFailure, InvalidSetting
from pipelines.settings import DASK, PREFIX, Settings, load_settings

if TYPE_CHECKING:
    from distributed import Client, Future

_PATIENCE_S = 30  # for the scheduler's answer, and for a first worker
_PARTS_OF_A_WORKER = 2  # so that all do not wait for one that is slow
_T = TypeVar("_T")
_Part = Callable[[Settings, str], _T]  # what it gives for the entities that fulfil a condition


class Here:
    """This process; it computes a part when it is asked for."""

    least = 1

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def map(self, part: _Part[_T], conditions: Sequence[str]) -> Iterator[_T]:
        """What the function gives for each condition, in order."""
        return (part(self._settings, condition) for condition in conditions)


class Cluster:
    """The workers of a Dask cluster; `least` parts keep all of them busy.

    What was on a worker that died is computed again by another. What a part raises is raised here.
    """

    def __init__(self, settings: Settings, client: "Client") -> None:
        self.client, self._settings = client, settings
        self.least = _PARTS_OF_A_WORKER * len(self.workers())

    def workers(self) -> list[str]:
        """Addresses of those that are there now."""
        return sorted(self.client.ncores())

    def submit(self, part: _Part[Any], condition: str) -> "Future":
        """Have a part computed; the function is picklable, and gets the settings of the worker."""
        return self.client.submit(_compute, part, self._settings.lake.uri, condition, pure=False)

    def result(self, future: "Future") -> Any:
        """What a part gave.

        Raises:
            EngineFailure: the cluster is gone or of another version, or one worker after the other died of the part.
        """
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker as error:
            what, remedy = "workers died of the same part, one after the other", "give each worker more memory"
            raise cluster_failure(self._settings, what, error, remedy) from error
        except (CancelledError, RuntimeError) as error:
            if not future.cancelled():
                raise
            what, remedy = "the Dask cluster has dropped a part", "have scheduler, workers and steps run the same image"
            raise cluster_failure(self._settings, what, error, remedy) from error

    def map(self, part: _Part[_T], conditions: Sequence[str]) -> Iterator[_T]:
        """What the function gives for each condition, in order; few results wait on the workers to be fetched."""
        ahead: deque[Future] = deque()
        for condition in conditions:
            ahead.append(self.submit(part, condition))
            if len(ahead) > self.least:
                yield self.result(ahead.popleft())
        while ahead:
            yield self.result(ahead.popleft())


@contextmanager
def open_engine_of_parts(settings: Settings) -> Iterator[Here | Cluster]:
    """What computes parts, by the settings.

    Raises:
        EngineFailure: the scheduler does not answer, or has no worker.
    """
    if settings.engine != DASK:
        yield Here(settings)
        return
    with open_cluster(settings) as cluster:
        yield cluster


@contextmanager
def open_cluster(settings: Settings) -> Iterator[Cluster]:
    """The cluster of the settings, with one worker at least; what its workers spend counts for the open steps.

    Raises:
        EngineFailure: the scheduler does not answer, or has no worker.
    """
    from distributed import Client

    try:
        client = Client(settings.dask_scheduler, timeout=_PATIENCE_S, set_as_default=False)
    except OSError as error:
        raise cluster_failure(settings, "the Dask scheduler does not answer", error) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_PATIENCE_S)
        except TimeoutError as error:
            raise cluster_failure(settings, "the Dask cluster has no worker", error) from error
        before = _usage(client)
        try:
            yield Cluster(settings, client)
        finally:
            after = _usage(client)
            cpu_s = sum(cpu - before.get(address, (0.0, 0.0))[0] for address, (cpu, _) in after.items())
            steps.add_usage(cpu_s, max((peak for _, peak in after.values()), default=0.0))


def cluster_failure(settings: Settings, what: str, error: BaseException, remedy: str = "") -> EngineFailure:
    """The error that names the cluster."""
    return EngineFailure(
        what,
        where=f"{PREFIX}DASK_SCHEDULER={settings.dask_scheduler}",
        found=" ".join(f"{type(error).__name__}: {error}".split())[:300],
        remedy=remedy or f"start its scheduler and workers; {PREFIX}ENGINE=local does without",
    )


def _usage(client: "Client") -> dict[str, tuple[float, float]]:
    """CPU seconds of each worker since its start, and its peak memory since the last call, MiB."""
    try:
        return dict(client.run(steps.usage, on_error="ignore"))
    except (OSError, CancelledError):
        return {}  # a step that failed with the cluster says so itself


def _compute(part: _Part[_T], lake: str, condition: str) -> _T:
    """In a worker: the part, by the worker's own settings."""
    settings = load_settings()
    if settings.lake.uri != lake:
        raise InvalidSetting(
            "a Dask worker sees another lake than the step",
            where=f"environment variable {PREFIX}LAKE_URI of the worker",
            expected=lake,
            found=settings.lake.uri,
            remedy="give workers and steps the same lake: a bucket, or a folder that both mount at one place",
        )
    return part(settings, condition)
