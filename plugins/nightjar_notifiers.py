"""What tells people how a run ended: a page from the final state of the run, never from an attempt.

Airflow calls a DAG's callbacks in the DAG processor, so a task that was killed or ran out of memory is paged too. The
causes are noted by the tasks that fail, in their own process.
"""

from datetime import UTC, date, datetime
from typing import Any

from airflow.sdk import BaseNotifier

from pipelines import paging
from pipelines.settings import Settings, load_settings


class NoteCause(BaseNotifier):
    """Of a task that failed for good: keeps its error for the page of the run."""

    def notify(self, context: Any) -> None:
        """Write the cause down, if there is one; a task that was killed leaves none."""
        from pipelines.run_pages import cause_of

        if error := context.get("exception"):
            at, task = datetime.now(UTC), context["ti"]
            cause = cause_of(error, task.task_id, task.log_url, at)
            paging.note_cause(load_settings(), _ended(context).notes, cause)


class PageFailure(BaseNotifier):
    """Of a run that failed: one page, however many tasks, attempts and reruns."""

    def notify(self, context: Any) -> None:
        """Page it."""
        from pipelines.run_pages import page_failure

        settings, at = load_settings(), datetime.now(UTC)
        page_failure(settings, _ended(context), at)
        paging.deliver(settings, at)


class ResolvePage(BaseNotifier):
    """Of a run that ended well: its page is over; what was scored by a fallback is paged."""

    def notify(self, context: Any) -> None:
        """Resolve what was open for the DAG and the date."""
        from pipelines.run_pages import resolve_run

        settings, at, run = load_settings(), datetime.now(UTC), _ended(context)
        resolve_run(settings, run, at)
        try:
            if run.dag_id.startswith("score__"):
                _page_incidents(settings, run.dag_id.removeprefix("score__"), at)
        finally:
            paging.deliver(settings, at)


def _page_incidents(settings: Settings, use_case: str, at: datetime) -> None:
    from pipelines.use_cases import get_use_case
    from pipelines.watch import page_incidents

    page_incidents(settings, get_use_case(use_case, settings), at)


def _ended(context: Any) -> Any:
    """The run, from what Airflow tells: nothing but DAG, run and reason where no task can be named."""
    from pipelines.run_pages import EndedRun

    dag, task = context["dag"], context.get("ti")
    key = context.get("params", {}).get("as_of") or context.get("partition_key") or ""
    try:
        day = date.fromisoformat(key)
    except ValueError:
        day = None
    return EndedRun(
        dag_id=dag.dag_id,
        run_id=context["run_id"],
        business_date=day,
        owner=dag.owner,
        reason=context.get("reason", ""),
        last_task=task.task_id if task else "",
        log_url=task.log_url if task else "",
    )
