"""How long callers of the look-up wait at 200 calls a second, a million rows published, its server on one core.

Alone: python -m benchmarks.look_up. The load is made by Locust, on the other cores, by `look_up_users.py`: of ten calls
eight ask for a list as published, one with a context that asks the online store too, one for an unknown entity.
"""

import csv
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import sqlalchemy as sa

from benchmarks.bulk_load import FIRST, LISTED, NIGHT, STEP, night_of
from benchmarks.databases import on_each
from local_stack.servers import LOOPBACK, free_port, start_server, stop_server, wait_until_up
from pipelines import tables, warehouse
from pipelines.feature_store import open_store
from pipelines.features import end_of_day
from pipelines.settings import PREFIX, PROJECT, Settings, load_settings
from pipelines.use_case import UseCase
from pipelines.use_cases import get_use_case

ROWS, ONLINE, CALLERS, RATE, SECONDS, LIMIT_MS = 1_000_000, 500, 100, 200, 20, 50


@dataclass(frozen=True)
class Served:
    """What callers saw, and what an answer cost the server."""

    database: str
    rate: float
    failures: int
    median_ms: float
    p99_ms: float
    cpu_ms: float
    memory_mib: float

    @property
    def is_over(self) -> bool:
        """Whether callers wait longer than they may, or do not get what they ask for."""
        return self.p99_ms > LIMIT_MS or self.failures > 0 or self.rate < 0.95 * RATE

    def __str__(self) -> str:
        told = f"look-ups at {self.rate:.0f} a second, {ROWS:,} rows published in {self.database}: "
        told += (
            f"p50 {self.median_ms:.0f} ms, p99 {self.p99_ms:.0f} ms (limit {LIMIT_MS} ms), {self.failures} failures; "
        )
        return told + f"{self.cpu_ms:.1f} ms of one core each, {self.memory_mib:.0f} MiB"


def look_ups(home: Path, use_case: UseCase) -> Iterator[Served]:
    """One on SQLite, and one on PostgreSQL where its server is installed."""
    for database, settings in on_each(home):
        yield _serve(settings, use_case, database)


def _serve(settings: Settings, use_case: UseCase, database: str) -> Served:
    _publish(settings, use_case)
    _materialise(settings, use_case)
    key = secrets.token_hex(16)
    with _running(settings, key) as (process, url):
        cpu_s = _cpu_s(process)
        found = _load(settings.home, f"{url}/v1/{use_case.name}", key)
        spent_s = _cpu_s(process) - cpu_s
        memory = process.memory_info().rss / 2**20
    return Served(
        database=database,
        rate=float(found["Requests/s"]),
        failures=int(found["Failure Count"]),
        median_ms=float(found["50%"]),
        p99_ms=float(found["99%"]),
        cpu_ms=1000 * spent_s / int(found["Request Count"]),
        memory_mib=memory,
    )


def _publish(settings: Settings, use_case: UseCase) -> None:
    warehouse.create_tables(settings, [use_case])
    scores, log = tables.scores_table(use_case), tables.PUBLISH_LOG
    with warehouse.open_warehouse(settings) as connection:
        if connection.scalar(sa.select(sa.func.count()).select_from(scores)) != ROWS:
            connection.execute(sa.delete(scores))
            warehouse.load_rows(connection, scores, night_of(use_case, ROWS))
            entry = {"run_id": "bench", "use_case": use_case.name, "score_date": NIGHT, "rows": ROWS, "reason": ""}
            entry |= {"content_hash": "c", "model_version": "12", "feature_version": "f" * 64, "actor": "nightjar"}
            warehouse.append_rows(connection, log, [entry | {"status": "published", "audit": "{}"}])


def _materialise(settings: Settings, use_case: UseCase) -> None:
    """Put the features of some entities into the online store: what the others have is not asked for."""
    if use_case.repeats is None:
        return
    view, _, feature = use_case.repeats.feature.partition(":")
    rows = night_of(use_case, ONLINE * LISTED).select(list(use_case.keys)).to_pandas()
    ended = end_of_day(settings, NIGHT)
    store = open_store(settings, use_case)
    others = {field.name: 1.0 for field in store.get_feature_view(view).features}
    told = rows.assign(**others, event_timestamp=ended, created_timestamp=ended)
    store.write_to_online_store(view, told.assign(**{feature: 3.0}).astype(dict.fromkeys(others, "float32")))


@contextmanager
def _running(settings: Settings, key: str) -> Iterator[tuple[psutil.Process, str]]:
    """A server on one core, once it is ready."""
    port = free_port()
    told = {"HOME": str(settings.home), "SERVE_KEYS": key, "SERVE_LIMIT": f"{10 * RATE}/second", "DEMO": "true"}
    told |= {"WAREHOUSE_URL": settings.warehouse_url}
    environment = os.environ | {f"{PREFIX}{name}": value for name, value in told.items()}
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--port", str(port)]
    server = start_server(settings, "serve", command, environment, f"http://{LOOPBACK}:{port}")
    try:
        wait_until_up(server, 400)
        process = psutil.Process(server.pid)
        process.cpu_affinity([0])
        yield process, server.url
    finally:
        stop_server(settings, server)


def _load(home: Path, address: str, key: str) -> dict[str, str]:
    """What Locust says of all calls together."""
    url, _, path = address.partition("/v1/")
    told = {"CALLER_KEY": key, "CALLED_PATH": f"/v1/{path}", "CALLS_PER_CALLER": str(RATE / CALLERS)}
    told |= {"LISTS": str(ROWS // LISTED), "ONLINE": str(ONLINE), "FIRST": str(FIRST), "STEP": str(STEP)}
    command = [sys.executable, "-m", "locust", "--headless", "--only-summary", "--reset-stats", "--host", url]
    command += ["-f", str(PROJECT / "benchmarks/look_up_users.py"), "--csv", str(home / "locust")]
    command += ["-u", str(CALLERS), "-r", str(CALLERS), "-t", f"{SECONDS}s"]
    stats = home / "locust_stats.csv"
    stats.unlink(missing_ok=True)
    with (home / "locust.log").open("w") as log:  # Locust ends with 1 where calls failed: its figures tell
        subprocess.run(  # noqa: S603  # fixed arguments, no shell
            command, env=os.environ | told, check=False, stdout=log, stderr=log
        )
    with stats.open() as file:
        return next(row for row in csv.DictReader(file) if row["Name"] == "Aggregated")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    here = load_settings()
    served = list(look_ups(here.home / "bench" / "look_up", get_use_case("category_propensity", here)))
    sys.stdout.write("".join(f"{one}\n" for one in served))
    sys.exit(any(one.is_over for one in served))
