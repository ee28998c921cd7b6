"""`make drill`: breaks a real pipeline on purpose and counts the pages that arrive, on a real mail and a web server."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from local_stack.airflow_server import Airflow, airflow_environment, ready_airflow, start_airflow, stop_airflow
from local_stack.receivers import Receivers
from local_stack.servers import Server, family, start_server, stop_server
from pipelines.errors import EngineFailure, RunFailed
from pipelines.settings import PREFIX, Settings, load_settings

CHANNELS = ("slack", "email", "pagerduty")
HISTORY = date(2017, 10, 1), date(2017, 11, 18)
NIGHT, BAD_NIGHT, KILLED_NIGHT, DARK_NIGHT, MUTE_NIGHT, ORPHAN = (date(2017, 11, day) for day in range(19, 25))
SCORE = "score__category_propensity"
DAGS = ("ingest", SCORE, "deadline")
_FAST = {
    "RETRIES": "1",
    "RETRY_DELAY_S": "1",
    "SILENCE_LIMIT_S": "30",
    "FLOOD_PAGES": "20",  # so much goes wrong here within minutes
    "WAREHOUSE_PATIENCE_S": "2",
    "SCHEDULE_END_DATE": str(NIGHT),
    "DEMO": "true",
}
_PATIENCE_S, _SETTLED_S = 900, 4
console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)


@dataclass
class Outcome:
    """What arrived for one incident: the subjects by channel, pages and words that it is over."""

    incident: str
    expected: int
    pages: dict[str, list[str]] = field(default_factory=dict)
    resolved: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether each channel has exactly the expected pages."""
        return all(len(found) == self.expected for found in self.pages.values())


class Drill:
    """A real Airflow over a home of its own, the servers where pages arrive, and ways to break it."""

    def __init__(self, settings: Settings, airflow: Airflow, inbox: Receivers) -> None:
        self.settings, self.airflow, self.inbox = settings, airflow, inbox
        self.outcomes: list[Outcome] = []

    @contextmanager
    def incident(self, name: str, expected: int = 1) -> Iterator[Callable[..., None]]:
        """Count what arrives from here on; gives the function that waits for the page."""
        began, outcome = len(self.inbox.arrived), Outcome(name, expected)

        def wait_for_page(*, is_resolved: bool = False, look: Callable[[], object] = lambda: None) -> None:
            wanted = expected * len(CHANNELS)
            _wait(lambda: len(self._news(began, is_resolved)) >= wanted, f"pages for: {name}", look=look)

        yield wait_for_page
        time.sleep(_SETTLED_S)  # a page too many would come now
        for is_resolved, counted in ((False, outcome.pages), (True, outcome.resolved)):
            news = self._news(began, is_resolved)
            counted.update({channel: [text for at, text in news if at == channel] for channel in CHANNELS})
        self.outcomes.append(outcome)
        told = self.inbox.arrived[began:]
        mail = next((f"{subject}\n{text}" for at, subject, text in told if at == "email"), "no page\n")
        console.print(f"\n[bold]{name}[/]")
        console.print(mail, markup=False, soft_wrap=True, end="")

    def _news(self, began: int, is_resolved: bool) -> list[tuple[str, str]]:
        news = [(channel, subject) for channel, subject, _ in self.inbox.arrived[began:]]
        return [each for each in news if each[1].startswith("[Nightjar] resolved") == is_resolved]

    def run(self, dag_id: str, night: date, state: str, kills: int = 0) -> str:
        """Run a DAG for a date, kill its first task so often, and wait for its end; gives the run's id."""
        with _held(self.settings) if kills else nullcontext():
            run_id = self.airflow.trigger(dag_id, str(night))
            for attempt in range(1, kills + 1):
                self.kill_task(dag_id, run_id, attempt)
        self.wait_for(dag_id, run_id, state)
        return run_id

    def wait_for(self, dag_id: str, run_id: str, state: str) -> None:
        """Return once a run has ended, as it should."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"
        _wait(lambda: self.airflow.get(path)["state"] in ("success", "failed"), f"the end of {dag_id} {run_id}")
        found = self.airflow.get(path)["state"]
        if found != state:
            raise RunFailed(
                f"{dag_id} ended otherwise than the drill wants",
                where=run_id,
                expected=state,
                found=found,
                remedy=f"read {self.settings.home / 'airflow' / 'logs'}",
            )

    def kill_task(self, dag_id: str, run_id: str, attempt: int) -> None:
        """Kill the process of an attempt, as the machine does that has no memory left."""
        self.when_running(dag_id, run_id, attempt).kill()

    def when_running(self, dag_id: str, run_id: str, attempt: int = 1) -> psutil.Process:
        """The process of an attempt, once it runs."""
        found: list[psutil.Process] = []

        def is_running() -> bool:
            path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
            ids = {one["id"] for one in self.airflow.get(path)["task_instances"] if one["try_number"] == attempt}
            titles = {process: _title(process) for process in family(self.airflow.server)}
            found[:] = [process for process, title in titles.items() if any(f"-- {each}" in title for each in ids)]
            return bool(found)

        _wait(is_running, f"attempt {attempt} of {dag_id} {run_id}", step_s=0.5)
        return found[0]

    def clear(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Have a task of a run, and what follows from it, done again."""
        body = {"dag_run_id": run_id, "task_ids": [task_id], "include_downstream": False, "dry_run": False}
        body |= {"only_failed": False, "reset_dag_runs": True}
        self.airflow._call("POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", body)

    def watch(self) -> int:
        """`nightjar watch`, as cron on a second host would call it; gives its exit code."""
        command = [str(Path(sys.executable).with_name("nightjar")), "watch"]
        environment = dict(os.environ) | {f"{PREFIX}AIRFLOW_URL": self.airflow.server.url}
        return subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL).returncode  # noqa: S603


def drill(home: Path) -> list[Outcome]:
    """Break the pipeline in every way; gives what arrived."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what it starts is stopped
    shutil.rmtree(home, ignore_errors=True)
    inbox = Receivers()
    told = {PREFIX + name: value for name, value in _FAST.items()} | inbox.variables | {f"{PREFIX}HOME": str(home)}
    os.environ.update(told)
    settings = load_settings()
    _prepare(settings)
    server = start_airflow(settings)
    try:
        with inbox, ready_airflow(settings, server, DAGS) as airflow:
            airflow.switch(DAGS, is_on=True)
            return _break_everything(Drill(settings, airflow, inbox))
    finally:
        stop_airflow(settings)


def _prepare(settings: Settings) -> None:
    """Bring in some weeks; there is no champion, so nights are scored by the simple rule."""
    from pipelines.ingest import ingest
    from pipelines.landing import land
    from pipelines.use_cases import load_use_cases
    from pipelines.warehouse import create_tables

    land(settings, HISTORY[0], ORPHAN)
    ingest(settings, *HISTORY, "drill")
    create_tables(settings, list(load_use_cases(settings).values()))


def _break_everything(drill: Drill) -> list[Outcome]:
    scored = _succeed_in_the_second_attempt(drill)
    drill.airflow.switch([SCORE], is_on=False)
    _deliver_a_bad_drop(drill)
    _kill_a_task(drill)
    _refuse_the_scores(drill, scored)
    _be_late(drill)
    _lose_the_warehouse(drill)
    _lose_the_channels(drill)
    _lose_the_scheduler(drill)
    return drill.outcomes


def _succeed_in_the_second_attempt(drill: Drill) -> str:
    with drill.incident("a retry that succeeded", expected=0):
        drill.run("ingest", NIGHT, "success", kills=1)
    with drill.incident("scores came from a fallback: no champion") as page:
        _wait(lambda: bool(drill.airflow.runs(SCORE, str(NIGHT))), "the scoring that follows")
        run_id = drill.airflow.runs(SCORE, str(NIGHT))[0].run_id
        drill.wait_for(SCORE, run_id, "success")
        page()
    return run_id


def _deliver_a_bad_drop(drill: Drill) -> None:
    from pipelines.landing import land

    file = next(drill.settings.landing.folder.glob(f"transactions/*{BAD_NIGHT}/*.parquet"))
    with drill.incident("bad drop; run twice, then mended") as page:
        file.write_bytes(file.read_bytes()[:-1000])
        drill.run("ingest", BAD_NIGHT, "failed")
        page()
        drill.run("ingest", BAD_NIGHT, "failed")
        shutil.rmtree(file.parent)
        land(drill.settings, BAD_NIGHT, BAD_NIGHT)
        drill.run("ingest", BAD_NIGHT, "success")
        page(is_resolved=True)


def _kill_a_task(drill: Drill) -> None:
    with drill.incident("task killed by SIGKILL, in each attempt") as page:
        drill.run("ingest", KILLED_NIGHT, "failed", kills=2)
        page()


def _refuse_the_scores(drill: Drill, run_id: str) -> None:
    """Spoil the scores of a date in the lake and have them published again."""
    import pyarrow.compute as pc

    from pipelines import lake
    from pipelines.use_cases import get_use_case

    table = get_use_case("category_propensity", drill.settings).scores_table
    delta = lake.open_table(drill.settings.lake, table)
    if delta is None:
        raise RunFailed("nothing was scored", where=table, remedy="read the runs before")
    rows = delta.to_pyarrow_table()
    spoilt = rows.set_column(rows.column_names.index("score"), "score", pc.add(rows.column("score"), 7.0))
    with drill.incident("audit refused") as page:
        lake.replace_where(
            drill.settings.lake, table, spoilt, predicate=f"as_of = '{NIGHT}'", partition_by=["as_of", "model_version"]
        )
        drill.airflow.switch([SCORE], is_on=True)
        drill.clear(SCORE, run_id, "publish_scores")
        drill.wait_for(SCORE, run_id, "failed")
        page()
        drill.airflow.switch([SCORE], is_on=False)


def _be_late(drill: Drill) -> None:
    with drill.incident("scores late; looked for twice") as page:
        drill.run("deadline", BAD_NIGHT, "success")
        page()
        drill.run("deadline", BAD_NIGHT, "success")


def _lose_the_warehouse(drill: Drill) -> None:
    file = drill.settings.home / "warehouse.db"
    away = file.with_name("away.db")
    with drill.incident("warehouse down, and back") as page:
        file.rename(away)
        file.mkdir()
        drill.run("ingest", DARK_NIGHT, "failed")
        page()
        drill.watch()
        file.rmdir()
        away.rename(file)
        drill.run("ingest", DARK_NIGHT, "success")
        page(is_resolved=True, look=drill.watch)


def _lose_the_channels(drill: Drill) -> None:
    file = next(drill.settings.landing.folder.glob(f"transactions/*{MUTE_NIGHT}/*.parquet"))
    with drill.incident("alert channel down and back, while a drop is bad") as page:
        drill.inbox.stop()
        file.write_bytes(b"")
        drill.run("ingest", MUTE_NIGHT, "failed")
        _wait(lambda: _is_waiting(drill), "the page in the outbox")
        drill.inbox.start()
        page(look=drill.watch)


def _lose_the_scheduler(drill: Drill) -> None:
    """Kill the scheduler in mid-run, let the watch notice, start it again: the run ends well."""
    server = drill.airflow.server
    with drill.incident("scheduler killed in mid-run: silence; the run ends well after its restart") as page:
        drill.watch()
        run_id = drill.airflow.trigger("ingest", str(ORPHAN))
        drill.when_running("ingest", run_id)
        for process in family(server):
            if "airflow scheduler" in _title(process):
                os.kill(process.pid, signal.SIGKILL)
        page(look=drill.watch)
        scheduler = _start_scheduler(drill.settings, server)
        try:
            drill.wait_for("ingest", run_id, "success")
            page(is_resolved=True, look=drill.watch)
        finally:
            stop_server(drill.settings, scheduler)


def _start_scheduler(settings: Settings, server: Server) -> Server:
    port = int(server.url.rpartition(":")[2])
    command = [str(Path(sys.executable).with_name("airflow")), "scheduler"]
    return start_server(settings, "scheduler", command, airflow_environment(settings, port), server.url)


def _is_waiting(drill: Drill) -> bool:
    from pipelines.paging import read_state

    return bool(read_state(drill.settings).outbox)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _wait(
    is_done: Callable[[], bool], what: str, *, look: Callable[[], object] = lambda: None, step_s: float = 1
) -> None:
    """Return once it is done; that Airflow does not answer, as on a busy machine, means not yet."""
    deadline = time.monotonic() + _PATIENCE_S
    while not _answers(is_done):
        if time.monotonic() > deadline:
            raise RunFailed(
                f"the drill waited in vain for {what}", where=f"{_PATIENCE_S} s", remedy="read var/drill/airflow/logs"
            )
        look()
        time.sleep(step_s)


@contextmanager
def _held(settings: Settings) -> Iterator[None]:
    """Lets no step write to the warehouse, so that each is killed before it has ended."""
    with closing(sqlite3.connect(settings.home / "warehouse.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def _answers(is_done: Callable[[], bool]) -> bool:
    try:
        return is_done()
    except EngineFailure:
        return False


def main() -> int:
    """Run the drill and print what arrived; 1 where a count is not the expected one."""
    began = time.perf_counter()
    outcomes = drill(load_settings().home / "drill")
    table = Table("incident", "pages expected", *CHANNELS, "resolved", "", title="Pages that arrived")
    for outcome in outcomes:
        counts = [str(len(outcome.pages[channel])) for channel in CHANNELS]
        resolved = str(max(len(found) for found in outcome.resolved.values()))
        table.add_row(outcome.incident, str(outcome.expected), *counts, resolved, "ok" if outcome.is_right else "WRONG")
    console.print()
    console.print(table)
    console.print(f"done in {time.perf_counter() - began:.0f} s")
    return int(not all(outcome.is_right for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
