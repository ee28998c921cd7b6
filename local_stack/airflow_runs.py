"""Runs of DAGs, followed to their end: a line for each task as it ends, and a clear error if one fails."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from local_stack.airflow_server import Airflow, DagRun, TaskRun
from pipelines.errors import RunFailed
from pipelines.settings import Settings

SILENCE_LIMIT_S = 900
_STATES = {"success": "ok", "up_for_retry": "will retry", "upstream_failed": "not run"}


class Follower:
    """Prints what happens in Airflow while it waits for runs to end."""

    def __init__(self, console: Console, settings: Settings, airflow: Airflow) -> None:
        self.console, self.settings, self.airflow = console, settings, airflow
        self._logs = settings.home / "airflow" / "logs"

    def follow(self, find_runs: Callable[[], Sequence[DagRun]], expected: set[str]) -> None:
        """Return once the expected DAGs, and any training that they asked for, have ended well.

        Raises:
            RunFailed: a run failed, or nothing ended for a long time.
        """
        shown: set[TaskRun] = set()
        awaited, quiet_since = set(expected), time.monotonic()
        with waiting(self.console, "waiting for the scheduler") as say:
            while True:
                runs = find_runs()
                tasks = [task for run in runs for task in self.airflow.tasks(run)]
                news = sorted({t for t in tasks if t.is_finished} - shown, key=lambda task: task.ended_at)
                for task in news:
                    self._show(task)
                    if task.task_id == "request_training" and task.state == "success":
                        awaited.add(task.dag_id.replace("monitor__", "train__"))
                shown.update(news)
                quiet_since = time.monotonic() if news else quiet_since
                self._require_success(runs, tasks)
                if awaited <= {run.dag_id for run in runs} and all(run.is_finished for run in runs):
                    return
                self._require_news(quiet_since, awaited)
                say(", ".join(f"{task.dag_id} {task.task_id}" for task in tasks if task.state == "running"))
                time.sleep(1)

    def _show(self, task: TaskRun) -> None:
        report = self.airflow.report(task) if task.state == "success" else {}
        state = _STATES.get(str(task.state), str(task.state))
        rows = report.get("rows_kept", report.get("rows"))
        print_step(self.console, state, f"{task.dag_id:30} {task.task_id}", task.seconds, rows)
        reason = report.get("reason")
        if task.state == "up_for_retry":
            reason = last_error(self._logs / _log_path(task)).partition("\n")[0]
        if reason:
            self.console.print(f"{'':10} {reason}", soft_wrap=True, markup=False, style="dim")

    def _require_success(self, runs: Sequence[DagRun], tasks: Sequence[TaskRun]) -> None:
        broken = {run.run_id: run.dag_id for run in runs if run.state == "failed"}
        if not broken:
            return
        failed = next((task for task in tasks if task.run_id in broken and task.state == "failed"), None)
        log = self._logs / _log_path(failed) if failed else self._logs
        raise RunFailed(
            f"{failed.dag_id} failed in {failed.task_id}" if failed else f"{min(broken.values())} failed",
            where=str(log),
            found=last_error(log).replace("\n", "\n          "),
            remedy="mend what the error names and start again: what is done stays done",
        )

    def _require_news(self, quiet_since: float, awaited: set[str]) -> None:
        if time.monotonic() - quiet_since > SILENCE_LIMIT_S:
            raise RunFailed(
                f"no task has ended for {SILENCE_LIMIT_S} s",
                where=self.airflow.server.url,
                expected=f"runs of {', '.join(sorted(awaited))}",
                remedy=f"read {self.airflow.server.log}",
            )


def print_step(console: Console, state: str, step: str, seconds: float, rows: int | None) -> None:
    """Print one line: how a step ended, its name, its seconds and the rows that it wrote."""
    counted = "" if rows is None else f"{rows:,} rows"
    console.print(f"{state:10} {step:70} {seconds:6.1f} s {counted:>15}".rstrip(), markup=False, soft_wrap=True)


def last_error(log: Path) -> str:
    """The last error that a task's log holds, in its own words."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    for line in reversed(lines):
        if '"error_detail"' in line:
            return "\n".join(error["exc_value"] for error in json.loads(line)["error_detail"])
    return "\n".join(lines[-5:]) or "no log"


@contextmanager
def waiting(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """Show what is waited for, on a terminal only; gives the function that changes the text."""
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(text) as status:
        yield lambda now: status.update(now or text)


def _log_path(task: TaskRun) -> Path:
    place = (f"dag_id={task.dag_id}", f"run_id={task.run_id}", f"task_id={task.task_id}")
    return Path(*place, f"attempt={task.attempt}.log")
