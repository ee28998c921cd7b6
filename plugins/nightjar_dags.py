"""What all DAGs of Nightjar share: defaults, the assets that join them, keys and reports as plain values."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from airflow.sdk import Asset, ExceptionRetryPolicy, Param, RetryAction, RetryRule, get_current_context
from airflow.sdk.exceptions import AirflowSkipException
from pydantic_core import to_jsonable_python

from nightjar_notifiers import note_cause, page_failure, resolve_page
from pipelines.errors import BadInput, DatesNotIngested, EngineFailure, InvalidRunParameter
from pipelines.settings import Settings, load_settings
from pipelines.use_case import UseCase

PLATFORM_OWNER = "data platform"
POOL = "nightjar"  # tasks of a pool that does not exist never start: airflow pools set nightjar 2 "heavy steps"
CORE_TRANSACTIONS = Asset("core__transactions")
RETRIES = ExceptionRetryPolicy(
    rules=[
        RetryRule(DatesNotIngested, RetryAction.RETRY, reason="another run may be about to bring the dates in"),
        RetryRule(BadInput, RetryAction.FAIL, reason="bad input stays bad until somebody mends it"),
        RetryRule([EngineFailure, OSError], RetryAction.RETRY, reason="a connection or engine may recover"),
    ]
)


def scores_asset(use_case: UseCase) -> Asset:
    """The published scores of a use case, by business date."""
    return Asset(f"scores__{use_case.name}")


def retrain_asset(use_case: UseCase) -> Asset:
    """Requests for a new model of a use case, by the business date on whose evidence they rest."""
    return Asset(f"retrain__{use_case.name}")


def model_asset(use_case: UseCase) -> Asset:
    """Champions of a use case, by the business date up to which they were trained."""
    return Asset(f"model__{use_case.name}")


def dag_arguments(page: str | None, owner: str, *tags: str, patience: timedelta = timedelta(hours=6)) -> dict[str, Any]:
    """Arguments of every DAG: page, tags, owner; one run at a time; retries of what may heal; who hears of its end."""
    settings = load_settings()
    return {
        "doc_md": page,
        "description": (page or "").strip().partition("\n")[0],
        "start_date": datetime(2017, 1, 1, tzinfo=UTC),
        "catchup": False,
        "max_active_runs": 1,  # nights are held against those before them; of one date no two runs may be at work
        "max_active_tasks": 4,
        "dagrun_timeout": patience,
        "tags": ["nightjar", *tags],
        "default_args": {
            "owner": owner,
            "pool": POOL,
            "retries": settings.retries,
            "retry_delay": timedelta(seconds=settings.retry_delay_s),
            "retry_exponential_backoff": 2.0,
            "max_retry_delay": timedelta(minutes=10),
            "retry_policy": RETRIES,
            "execution_timeout": timedelta(hours=1),
            "on_failure_callback": note_cause,
        },
        "on_failure_callback": page_failure,
        "on_success_callback": resolve_page,
    }


def date_param(default: date | None, title: str, description: str) -> Param:
    """A business date in the trigger form; without a default it may stay empty."""
    kinds = ["string"] if default else ["null", "string"]
    value = default.isoformat() if default else None
    return Param(value, description, title=title, type=kinds, format="date", pattern=r"^\d{4}-\d{2}-\d{2}$")


def schedule_end(settings: Settings) -> datetime | None:
    """The end of the day on which the last business date of the schedule is ingested; none: no end."""
    if settings.schedule_end_date is None:
        return None
    return datetime.combine(settings.schedule_end_date + timedelta(days=1), time.max, settings.zone)


def business_date(value: object, where: str) -> date:
    """The business date that a partition key or a parameter names.

    Raises:
        InvalidRunParameter: it is absent or not a date written as YYYY-MM-DD.
    """
    text = str(value or "")
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.isoformat() != text:
        raise InvalidRunParameter(
            "the run names no business date",
            where=where,
            expected="a date as YYYY-MM-DD, such as 2017-11-19",
            found=repr(value),
            remedy="trigger the DAG again with a date as partition key (Advanced options) or parameter",
        )
    return found


def run_date() -> tuple[date, str]:
    """The business date (partition key, else the parameter `as_of`) and the id of the run of this task."""
    context = get_current_context()
    run_id, key = context["run_id"], context.get("partition_key")
    as_of = context["params"].get("as_of")
    return business_date(as_of or key, f"run {run_id} of {context['dag'].dag_id}"), run_id


def run_dates(*names: str) -> tuple[list[date], str]:
    """The business dates that the run's parameters name, which must not fall, and the id of the run.

    Raises:
        InvalidRunParameter: one is not a date, or an earlier one lies after a later one.
    """
    context = get_current_context()
    where = f"run {context['run_id']} of {context['dag'].dag_id}"
    dates = [business_date(context["params"][name], f"{where}, parameter {name}") for name in names]
    if dates != sorted(dates):
        raise InvalidRunParameter(
            "the dates are out of order",
            where=where,
            expected=" <= ".join(names),
            found=", ".join(str(day) for day in dates),
            remedy="trigger the DAG again with dates in order",
        )
    return dates, context["run_id"]


def plain(report: object) -> object:
    """A step's report as plain JSON values: dates as ISO strings, missing numbers as null."""
    return to_jsonable_python(report, inf_nan_mode="null")


def skip_unless(is_due: bool, reason: str) -> None:
    """Mark the task as skipped, with the reason, unless there is something to do."""
    if not is_due:
        raise AirflowSkipException(reason)


def announce(asset: Asset, as_of: date, **facts: object) -> None:
    """Give the event of an asset its partition key and the facts that its readers need."""
    event = get_current_context()["outlet_events"][asset]
    event.add_partitions(as_of.isoformat())
    event.extra = plain(facts)
