"""What tells people how a run ended: a page from the final state of the run, never from an attempt.

Airflow calls a DAG's callbacks in the DAG processor, so a task that was killed or ran out of memory is paged too. The
causes are noted by the tasks that fail, in their own process. Plain functions: a notifier of Airflow renders templates
first, which can fail, and there are none.
"""

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from pipelines import paging
from pipelines.settings import load_settings

if TYPE_CHECKING:
    from pipelines.run_pages import EndedRun


def note_cause(context: Any) -> None:
    """Keep the error of a task that failed for good, for the page of its run; one that was killed leaves none."""
    from pipelines.run_pages import cause_of

    if error := context.get("exception"):
        at, task = datetime.now(UTC), context["ti"]
        cause = cause_of(error, task.task_id, task.log_url, at)
        paging.note_cause(load_settings(), _ended(context).notes, cause)


def page_failure(context: Any) -> None:
    """Page a run that failed: once, however many tasks, attempts and reruns."""
    from pipelines import run_pages

    settings, at = load_settings(), datetime.now(UTC)
    run_pages.page_failure(settings, _ended(context), at)
    paging.deliver(settings, at)


def resolve_page(context: Any) -> None:
    """Resolve what was open for the DAG and the date of a run that ended well; page open incidents."""
    from pipelines import run_pages, use_cases, watch

    settings, at, run = load_settings(), datetime.now(UTC), _ended(context)
    run_pages.resolve_run(settings, run, at)
    try:
        if run.dag_id.startswith(("score__", "monitor__")):
            use_case = use_cases.get_use_case(run.dag_id.partition("__")[2], settings)
            watch.page_incidents(settings, use_case, at)
    finally:
        paging.deliver(settings, at)


def _ended(context: Any) -> "EndedRun":
    """The run, from what Airflow tells: nothing but DAG, run and reason where no task can be named."""
    from pipelines.run_pages import EndedRun

    dag, task = context["dag"], context.get("ti")
    key = context.get("params", {}).get("as_of") or context.get("partition_key") or ""
    try:
        day = date.fromisoformat(key)
    except ValueError:
        day = None
    told = (task.task_id, task.log_url) if task else ("", "")
    return EndedRun(dag.dag_id, context["run_id"], day, dag.owner, context.get("reason", ""), *told)
