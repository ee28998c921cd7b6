"""The page of a DAG's run, made from how the run ended; knows the DAGs' names, and nothing of Airflow."""

from dataclasses import dataclass
from datetime import date, datetime

from pipelines import paging
from pipelines.errors import ChecksFailed, NightjarError, WarehouseDown
from pipelines.paging import Cause, Page
from pipelines.settings import Settings
from pipelines.watch import warehouse_page

_READERS_SEE = {
    "ingest": "the newest published date, whole; this one is not ingested and will not be scored",
    "score": "the newest date published before, whole",
    "monitor": "the right scores; figures, KPIs and the decision on retraining of the date are missing",
    "train": "scores of the present champion, as before",
    "rollback": "the bad model's scores on the dates that were not published again yet",
    "bootstrap": "nothing yet: there is no first champion",
    "janitor": "no difference; disks fill up",
    "deadline": "no difference; nobody looked whether the scores are late",
}
_BESIDE = {  # tasks of the scoring that may fail while the date is published
    "materialise_features": "the right scores; only online look-ups are a day old",
    "score_challenger": "the right scores; only the challenger lacks a night of comparison",
}
_SHOWN = 3
_REFUSED = "the-audit-refused-the-scores"


@dataclass(frozen=True)
class EndedRun:
    """A run that is over: `reason` is Airflow's word for how, `last_task` the last one that failed, or ran."""

    dag_id: str
    run_id: str
    business_date: date | None
    owner: str
    reason: str = "success"
    last_task: str = ""
    log_url: str = ""

    @property
    def part(self) -> str:
        """What must recover: the same for every run of a DAG and a date."""
        return f"{self.dag_id} {self.business_date or ''}".strip()

    @property
    def notes(self) -> str:
        """Under which name its tasks note why they failed."""
        return f"{self.dag_id} {self.run_id}"


def cause_of(error: object, task: str, log_url: str, at: datetime) -> Cause:
    """What ended a task, in one line, without what stood in the rows: that stays in the log, as do others' errors."""
    if isinstance(error, NightjarError):
        told = "expected" if isinstance(error, ChecksFailed) else "found"  # failed checks quote rows
        fact = getattr(error, told)
        facts = [error.what, str(error.where), *([f"{told} {fact}"] if fact is not None else [])]
        text, remedy, runbook = f"{type(error).__name__}: {'; '.join(facts)}", error.remedy, error.runbook
    else:
        text, remedy, runbook = f"{type(error).__name__}: see the log", "", NightjarError.runbook
    return Cause(task=task, at=at, error=text, remedy=remedy, runbook=runbook, log_url=log_url)


def page_failure(settings: Settings, run: EndedRun, at: datetime) -> bool:
    """Page a run that failed, once for all its tasks and for all runs of the same date; gives whether it is new."""
    causes = paging.take_causes(settings, run.notes, at)
    if run.reason == "timed_out" or run.last_task not in {cause.task for cause in causes}:
        causes.append(_unexplained(run, at))
    down = next((cause for cause in causes if cause.runbook == WarehouseDown.runbook), None)
    news = warehouse_page(down.error, run.part, down.log_url) if down else _page(run, causes)
    return paging.page(settings, news, at)


def resolve_run(settings: Settings, run: EndedRun, at: datetime) -> None:
    """Note that a run ended well: what was wrong with its DAG and date is over."""
    paging.take_causes(settings, run.notes, at)
    paging.resolve(settings, run.part, at)
    kind, _, use_case = run.dag_id.partition("__")
    if kind == "score":
        paging.resolve(settings, f"late {use_case} {run.business_date}", at)


def _page(run: EndedRun, causes: list[Cause]) -> Page:
    kind, _, use_case = run.dag_id.partition("__")
    first = causes[0]
    shown = "; ".join(f"{cause.task}: {cause.error}" for cause in causes[:_SHOWN])
    rest = len(causes) - _SHOWN
    beside = [_BESIDE.get(cause.task) for cause in causes]
    is_refused = kind == "score" and first.runbook == ChecksFailed.runbook
    return Page(
        key=run.part,
        what=f"{run.dag_id} failed{f' for {run.business_date}' if run.business_date else ''}: "
        + first.error.partition(":")[0]
        + (f", {len(causes)} tasks" if len(causes) > 1 else ""),
        cause=shown + (f"; and {rest} more" if rest > 0 else ""),
        meaning="; ".join(map(str, beside)) if all(beside) else _READERS_SEE.get(kind, "see the DAG's page"),
        runbook=_REFUSED if is_refused else first.runbook,
        severity="critical" if kind in ("ingest", "score", "rollback") and not all(beside) else "warning",
        use_case=use_case,
        business_date=run.business_date,
        remedy=first.remedy,
        owner=run.owner,
        log_url=first.log_url,
    )


def _unexplained(run: EndedRun, at: datetime) -> Cause:
    """The cause of a run whose last task told none."""
    if run.reason == "timed_out":
        text, remedy, runbook = (
            "the run did not end in its time",
            "see what it waited for, then clear it",
            "a-run-failed",
        )
    else:
        text = "killed: no error was left (out of memory, the machine, or a person)"
        remedy, runbook = "look for memory and the machine, then clear the task", "a-task-was-killed"
    return Cause(task=run.last_task, at=at, error=text, remedy=remedy, runbook=runbook, log_url=run.log_url)
