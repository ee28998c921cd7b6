"""Incidents: what keeps readers from what they should see, one row from its first date until it is resolved."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date

import sqlalchemy as sa

from pipelines import warehouse
from pipelines.settings import Settings
from pipelines.tables import INCIDENTS
from pipelines.use_case import UseCase


@dataclass(frozen=True)
class Incident:
    """What is wrong; kind and subject say whether it is the same as yesterday's. `meaning`: for the readers."""

    kind: str
    subject: str
    cause: str
    meaning: str
    remedy: str


def open_incident(settings: Settings, use_case: UseCase, day: date, incident: Incident, run_id: str) -> bool:
    """Add the incident, or the day to the open one of its kind and subject; gives whether it is new."""
    table, told = INCIDENTS, asdict(incident) | {"run_id": run_id}
    same = (
        table.c.use_case == use_case.name,
        table.c.kind == incident.kind,
        table.c.subject == incident.subject,
        table.c.resolved_date.is_(None),
    )
    with warehouse.open_warehouse(settings) as connection:
        known = connection.execute(sa.select(table.c.first_date, table.c.last_date).where(*same)).first()
        dates = {"first_date": min(day, *known or (day,)), "last_date": max(day, *known or (day,))}
        if known:
            connection.execute(sa.update(table).where(*same).values(**told, **dates))
        else:
            warehouse.append_rows(connection, table, [{"use_case": use_case.name, **told, **dates}])
    return known is None


def resolve(
    settings: Settings, use_case: UseCase, day: date, kinds: Sequence[str], *, but: Incident | None = None
) -> int:
    """Close the open incidents of these kinds that have no later date, all but one; gives their number."""
    table = INCIDENTS
    closing = sa.update(table).where(
        table.c.use_case == use_case.name,
        table.c.kind.in_(kinds),
        table.c.resolved_date.is_(None),
        table.c.last_date <= day,
    )
    if but is not None:
        closing = closing.where(sa.or_(table.c.kind != but.kind, table.c.subject != but.subject))
    with warehouse.open_warehouse(settings) as connection:
        return connection.execute(closing.values(resolved_date=day)).rowcount
