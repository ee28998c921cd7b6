"""A Dask cluster of this machine: a scheduler and workers, each a process of its own, as a deployment has them."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from local_stack.servers import LOOPBACK, Server, family, free_port, start_server, stop_server
from pipelines.settings import PREFIX, PROJECT, Settings

_DASK = str(Path(sys.executable).parent / "dask")


def die(*_: object) -> None:
    """End the process that calls it."""
    os._exit(9)


class DaskCluster:
    """What runs: the scheduler, and workers with one thread each that know the lake of a home."""

    def __init__(self, settings: Settings, **chosen: str) -> None:
        self.url = f"tcp://{LOOPBACK}:{free_port()}"
        self._servers: dict[str, Server] = {}
        self._notes = Settings(home=settings.home / "dask", demo=True)
        known = {"HOME": settings.home / "of_workers", "DEMO": True, "LAKE_URI": settings.lake.uri, "THREADS": 1}
        told = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        self._environment = {
            **told,
            **{f"{PREFIX}{name}": str(value) for name, value in known.items()},
            "PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}",
            **chosen,
        }

    def start_scheduler(self) -> None:
        port = self.url.rpartition(":")[2]
        self._start("scheduler", "scheduler", "--host", LOOPBACK, "--port", port, "--no-dashboard")

    def start_worker(self, name: str) -> None:
        own = ["--local-directory", str(self._notes.home / name), "--nthreads", "1"]
        self._start(name, "worker", self.url, "--name", name, "--host", LOOPBACK, "--no-dashboard", *own)

    def kill(self, name: str) -> None:
        """End a server as a machine does that has no memory left."""
        processes = family(self._servers[name])
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=30)

    def stop(self) -> None:
        for server in reversed(self._servers.values()):
            stop_server(self._notes, server, patience_s=2)

    def _start(self, name: str, *command: str) -> None:
        self._servers[name] = start_server(self._notes, name, [_DASK, *command], self._environment, "")


@contextmanager
def running_dask(settings: Settings, *workers: str, **chosen: str) -> Iterator[DaskCluster]:
    """A scheduler and workers of these names, stopped at the end; `chosen` are further variables of them."""
    cluster = DaskCluster(settings, **chosen)
    try:
        cluster.start_scheduler()
        for name in workers:
            cluster.start_worker(name)
        yield cluster
    finally:
        cluster.stop()
