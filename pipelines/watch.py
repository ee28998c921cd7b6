"""What should be true of the product at an instant, seen from outside of Airflow: a page for what is not."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

import httpx
import sqlalchemy as sa

from pipelines import paging, tables, warehouse
from pipelines.causes import DATA_FAULT
from pipelines.errors import WarehouseDown
from pipelines.paging import Page
from pipelines.settings import Settings
from pipelines.use_case import UseCase

WAREHOUSE, SCHEDULER = "the warehouse is down", "the scheduler is silent"
_TIMEOUT_S = 10
_FALLBACK = ("scores of {} come from a fallback", "scores-came-from-a-fallback")
_SECTIONS = {DATA_FAULT: ("the data of {} are at fault", "the-data-are-at-fault")}  # by kind of incident


def watch(settings: Settings, use_cases: Sequence[UseCase], at: datetime) -> list[str]:
    """Page what is wrong at an instant, resolve what no longer is, and send what waits; gives what is wrong.

    Looks at the scheduler's heartbeat, the warehouse, and whether the newest due date is published.
    """
    wrong = [*_check_scheduler(settings, at), *check_published(settings, use_cases, newest_due(settings, at), at)]
    channels = paging.deliver(settings, at)
    wrong += [f"the channel {name} refuses pages: {problem}" for name, problem in channels.items()]
    known = paging.read_state(settings).open.values()
    return list(dict.fromkeys([*wrong, *(f"open: {each.page.what}: {each.page.cause}" for each in known)]))


def newest_due(settings: Settings, at: datetime) -> date:
    """The newest business date whose scores readers must have at an instant."""
    local = at.astimezone(settings.zone)
    due = local.date() - timedelta(days=1 if local.time() >= settings.publish_deadline else 2)
    return min(due, settings.schedule_end_date or due)


def check_published(settings: Settings, use_cases: Sequence[UseCase], day: date, at: datetime) -> list[str]:
    """Page each use case whose scores of a date readers do not have, and what the warehouse says is open."""
    try:
        found = [line for use_case in use_cases for line in _check_date(settings, use_case, day, at)]
    except WarehouseDown as error:
        news = warehouse_page(f"{error.found}; {error.where}", "the warehouse answers")
        paging.page(settings, news, at)
        return [f"{WAREHOUSE}: {error.found}"]
    paging.resolve(settings, "the warehouse answers", at)
    for use_case in use_cases:
        page_incidents(settings, use_case, at)
    return found


def page_incidents(settings: Settings, use_case: UseCase, at: datetime) -> None:
    """Page every incident that is open in the warehouse, and resolve the pages of those that are not."""
    columns = tables.INCIDENTS.c
    query = sa.select(tables.INCIDENTS).where(columns.use_case == use_case.name, columns.resolved_date.is_(None))
    with warehouse.open_warehouse(settings) as connection:
        rows = {f"incident {use_case.name} {row['kind']}": row for row in warehouse.read_rows(connection, query)}
    for known in paging.read_state(settings).open.values():
        for part in known.parts - rows.keys():
            if part.startswith(f"incident {use_case.name} "):
                paging.resolve(settings, part, at)
    for key, row in rows.items():
        what, runbook = _SECTIONS.get(row["kind"], _FALLBACK)
        news = Page(
            key=key,
            severity="warning",
            what=f"{what.format(use_case.name)} since {row['first_date']}",
            use_case=use_case.name,
            business_date=row["first_date"],
            cause=f"{row['kind']}: {row['cause']}",
            meaning=row["meaning"],
            remedy=row["remedy"],
            runbook=runbook,
            owner=use_case.owner,
        )
        paging.page(settings, news, at)


def warehouse_page(cause: str, part: str, log_url: str = "") -> Page:
    """The page of a warehouse that is down, and what must recover for it to be over."""
    return Page(
        key=WAREHOUSE,
        part=part,
        what=WAREHOUSE,
        cause=cause,
        meaning="nothing, until it is back; nothing is lost: no step leaves half of its rows",
        remedy="bring it back; then clear the runs that failed",
        runbook=WarehouseDown.runbook,
        log_url=log_url,
    )


def _check_date(settings: Settings, use_case: UseCase, day: date, at: datetime) -> list[str]:
    scores = tables.scores_table(use_case)
    with warehouse.open_warehouse(settings) as connection:
        newest = None
        if sa.inspect(connection).has_table(scores.name):
            newest = connection.scalar(sa.select(sa.func.max(scores.c.score_date)).where(scores.c.score_date <= day))
    key = f"late {use_case.name} {day}"
    if newest == day:
        paging.resolve(settings, key, at)
        return []
    deadline = f"{settings.publish_deadline:%H:%M} {settings.business_timezone}"
    news = Page(
        key=key,
        what=f"scores of {use_case.name} for {day} are late",
        use_case=use_case.name,
        business_date=day,
        cause=f"not published by {deadline}, and no run of the date has failed: it waits, runs on, or never began",
        meaning=f"{use_case.scores_table}_latest shows {newest or 'nothing'}",
        remedy=f"look for the runs of {day} of ingest and score__{use_case.name}",
        runbook="scores-are-late",
        owner=use_case.owner,
    )
    causes = (f"ingest {day}", f"score__{use_case.name} {day}", SCHEDULER)
    paging.page(settings, news, at, unless_open=causes)
    return [f"{news.what}: {news.meaning}"]


def _check_scheduler(settings: Settings, at: datetime) -> Iterator[str]:
    """What the page says, if the scheduler was not heard of for too long; an API that is silent tells nothing."""
    if not settings.airflow_url:
        return
    seen, problem = _heartbeat(settings)
    with paging.changing(settings) as state:
        state.heartbeat = max(filter(None, (seen, state.heartbeat)), default=None)
        last = state.heartbeat
    if last and (at - last).total_seconds() <= settings.silence_limit_s:
        paging.resolve(settings, SCHEDULER, at)
        return
    news = Page(
        key=SCHEDULER,
        what=SCHEDULER,
        cause=f"last heartbeat {last.astimezone(settings.zone):%Y-%m-%d %H:%M %Z} {problem}" if last else problem,
        meaning="the newest published date, whole; no later one will come",
        remedy="start Airflow's scheduler and API server; what was running is taken up again",
        runbook="the-scheduler-is-silent",
        log_url=settings.airflow_url,
    )
    paging.page(settings, news, at)
    yield f"{SCHEDULER}: {news.cause}"


def _heartbeat(settings: Settings) -> tuple[datetime | None, str]:
    """When the scheduler last gave a sign, or why that is not known."""
    try:
        answer = httpx.get(f"{settings.airflow_url.rstrip('/')}/api/v2/monitor/health", timeout=_TIMEOUT_S)
        told = answer.raise_for_status().json()["scheduler"]["latest_scheduler_heartbeat"]
        return (datetime.fromisoformat(told), "") if told else (None, "Airflow knows of no heartbeat")
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return None, f"Airflow's API server does not tell: {type(error).__name__}"
