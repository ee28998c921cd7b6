"""`make run`: the whole chain on real data in a real Airflow; `make up`, `make down`: the stack stays up."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from threading import Thread

import typer
from rich.console import Console

from local_stack.airflow_runs import Follower, print_step, waiting
from local_stack.airflow_server import NAME as AIRFLOW
from local_stack.airflow_server import NO_TELEMETRY, USER, Airflow, private_keys, ready_airflow, start_airflow
from local_stack.servers import LOOPBACK, Server, free_port, recall, start_server, stop_server, wait_until_up
from pipelines.errors import NightjarError
from pipelines.settings import Settings, load_settings
from pipelines.use_case import UseCase
from pipelines.use_cases import load_use_cases

MLFLOW = "mlflow"
AIRFLOW_PORT, MLFLOW_PORT = 8080, 5000
FIRST_DATE, TRAIN_DATE, LAST_DATE = date(2017, 1, 1), date(2017, 11, 9), date(2017, 11, 18)
NIGHTS = (date(2017, 11, 19), date(2017, 11, 20))
app = typer.Typer(add_completion=False, help=__doc__)
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@app.command()
def run() -> None:
    """Bring in the history, train, run two nights, print what came of it, and stop Airflow."""
    began = time.perf_counter()
    with _failing_clearly():
        settings = load_settings()
        use_cases = list(load_use_cases(settings).values())
        server = start_airflow(settings)
        try:
            with _ready_airflow(settings, server, use_cases, began) as airflow:
                _give_up_leftovers(airflow)
                follower = Follower(console, settings, airflow)
                _bootstrap(follower, use_cases)
                Thread(target=_load_libraries, daemon=True).start()
                for night in NIGHTS:
                    _night(follower, use_cases, night)
        finally:
            _stop(settings, AIRFLOW)
        from local_stack.summary import show_places, show_summary

        for use_case in use_cases:
            show_summary(console, settings, use_case, NIGHTS[-1])
        show_places(console, settings, use_cases[0])
        console.print(f"done in {time.perf_counter() - began:.0f} s")


@app.command()
def up() -> None:
    """Start Airflow and MLflow and leave them running."""
    with _failing_clearly(), ExitStack() as undo:
        settings = load_settings()
        use_cases = list(load_use_cases(settings).values())
        password, began = private_keys(settings)["password"], time.perf_counter()
        server = recall(settings, AIRFLOW) or start_airflow(settings, AIRFLOW_PORT)
        undo.callback(_stop, settings, AIRFLOW)
        tracking = recall(settings, MLFLOW) or _start_mlflow(settings)
        if tracking:
            undo.callback(_stop, settings, MLFLOW)
            with waiting(console, "MLflow starts"):
                wait_until_up(tracking)
        with _ready_airflow(settings, server, use_cases, began) as airflow:
            url = airflow.server.url
        undo.pop_all()
        console.print(f"Airflow  {url}  user {USER}  password {password}")
        console.print(f"MLflow   {tracking.url if tracking else settings.mlflow_tracking_uri}")
        console.print("make down stops what runs here")


@app.command()
def down() -> None:
    """Stop what `make up` started for this home folder."""
    with _failing_clearly():
        settings = load_settings()
        running = [name for name in (AIRFLOW, MLFLOW) if recall(settings, name)]
        for name in running:
            _stop(settings, name)
        if not running:
            console.print(f"nothing runs for {settings.home}")


def _start_mlflow(settings: Settings) -> Server | None:
    """MLflow's pages over the embedded store; none where the settings name a tracking server."""
    if settings.mlflow_tracking_uri.startswith("http"):
        return None
    port = free_port(MLFLOW_PORT)
    command = [
        str(Path(sys.executable).with_name("mlflow")),
        "server",
        "--host",
        LOOPBACK,
        "--port",
        str(port),
    ]
    command += ["--workers", "1", "--backend-store-uri", settings.mlflow_store]
    command += ["--artifacts-destination", settings.mlflow_artifacts.as_uri()]
    environment = dict(os.environ) | NO_TELEMETRY | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment["MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"] = "false"
    environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = f"{LOOPBACK}:{port},localhost:{port}"
    return start_server(settings, MLFLOW, command, environment, f"http://{LOOPBACK}:{port}")


def _ready_airflow(settings: Settings, server: Server, use_cases: Sequence[UseCase], began: float) -> Airflow:
    dag_ids = [
        "bootstrap",
        "ingest",
        *(f"{kind}__{u.name}" for u in use_cases for kind in ("score", "monitor", "train")),
    ]
    with waiting(console, "Airflow starts"):
        airflow = ready_airflow(settings, server, dag_ids)
    airflow.switch(dag_ids, is_on=True)
    console.print(f"Airflow is ready after {time.perf_counter() - began:.0f} s: {airflow.server.url}")
    return airflow


def _give_up_leftovers(airflow: Airflow) -> None:
    """End what an interrupted start left unfinished: its steps left whole partitions or none."""
    leftovers = [run for run in airflow.runs() if not run.is_finished]
    for run in leftovers:
        airflow.give_up(run)
        console.print(f"gave up {run.dag_id} {run.partition_key or ''}, which an interrupted start left unfinished")


def _bootstrap(follower: Follower, use_cases: Sequence[UseCase]) -> None:
    from pipelines import lake

    airflow, settings = follower.airflow, follower.settings
    _headline(f"history up to {LAST_DATE}, and a champion that learned up to {TRAIN_DATE}")
    if LAST_DATE in lake.dates_of(settings.lake, "core__transactions") and all(
        _is_published(settings, use_case, TRAIN_DATE) for use_case in use_cases
    ):
        console.print("skipped: this home folder holds the history and the first scores already")
        return
    params = {"first_date": str(FIRST_DATE), "train_date": str(TRAIN_DATE), "last_date": str(LAST_DATE)}
    run_id = airflow.trigger("bootstrap", **params)
    follower.follow(lambda: [run for run in airflow.runs("bootstrap") if run.run_id == run_id], {"bootstrap"})


def _night(follower: Follower, use_cases: Sequence[UseCase], night: date) -> None:
    from pipelines.landing import land

    airflow, settings = follower.airflow, follower.settings
    _headline(f"the night of {night}")
    began, landed = time.perf_counter(), land(settings, night, night)
    print_step(console, "ok", f"{'the tills':30} land", time.perf_counter() - began, landed.rows)
    known = {run.run_id for run in airflow.runs(partition_key=str(night))}
    airflow.trigger("ingest", str(night))
    follower.follow(
        lambda: [run for run in airflow.runs(partition_key=str(night)) if run.run_id not in known],
        {"ingest", *(f"{kind}__{use_case.name}" for use_case in use_cases for kind in ("score", "monitor"))},
    )


def _load_libraries() -> None:
    """Import, while the nights run, what the summary needs (7 s)."""
    import mlflow  # noqa: F401  # imported to be warm, used by the summary

    from local_stack import summary  # noqa: F401  # likewise


def _headline(text: str) -> None:
    console.print(f"\n{text}", style="bold")


def _is_published(settings: Settings, use_case: UseCase, score_date: date) -> bool:
    import sqlalchemy as sa

    from pipelines import tables, warehouse

    scores = tables.scores_table(use_case)
    with warehouse.open_warehouse(settings) as connection:
        if not sa.inspect(connection).has_table(scores.name):
            return False
        return connection.scalar(sa.select(scores.c.rank).where(scores.c.score_date == score_date)) is not None


def _stop(settings: Settings, name: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it running
    server = recall(settings, name)
    killed = stop_server(settings, server) if server else 0
    console.print(f"{name} is stopped" + (f"; {killed} processes had to be killed" if killed else ""))
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _failing_clearly() -> Iterator[None]:
    """Our errors and Ctrl-C end the command with a message and a status instead of a traceback."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell's `&` had it ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except NightjarError as error:
        console.print(str(error), markup=False, style="red", soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        console.print("interrupted")
        raise typer.Exit(130) from error


if __name__ == "__main__":
    app()
