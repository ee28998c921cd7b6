"""Which business dates the lake holds, closed days included."""

from datetime import date, timedelta

import sqlalchemy as sa

from pipelines import tables, warehouse
from pipelines.errors import DatesNotIngested, MissingPartition
from pipelines.settings import Settings

_SHOWN = 5


def ingested_dates(settings: Settings) -> list[date]:
    """The business dates whose transactions were ingested, ascending; a closed day counts."""
    log = tables.INGEST_LOG
    query = sa.select(log.c.business_date).where(log.c.table_name == "core__transactions").distinct()
    with warehouse.open_warehouse(settings) as connection:
        return sorted(connection.scalars(query))


def require_unbroken(settings: Settings, *, last: date) -> None:
    """Nothing, when every business date from the first that was ingested to `last` was.

    Raises:
        MissingPartition: `last` was not, and perhaps others; names them.
        DatesNotIngested: `last` was, others were not.
    """
    require_ingested(settings, first=min([*ingested_dates(settings), last]), last=last)


def require_ingested(settings: Settings, *, first: date, last: date) -> None:
    """Nothing, when every business date from `first` to `last` was ingested.

    Raises:
        MissingPartition: `last` was not, and perhaps others; names them.
        DatesNotIngested: `last` was, others were not.
    """
    held = set(ingested_dates(settings))
    wanted = [first + timedelta(days=day) for day in range((last - first).days + 1)]
    missing = [day for day in wanted if day not in held]
    if missing:
        shown = ", ".join(map(str, missing[:_SHOWN])) + (" …" if len(missing) > _SHOWN else "")
        error = DatesNotIngested if last in held else MissingPartition
        raise error(
            "business dates were not ingested",
            where=f"core__transactions, {first} to {last}",
            expected=f"all of the {len(wanted)} days",
            found=f"{len(missing)} missing: {shown}",
            remedy=f"nightjar ingest --from {missing[0]} --to {missing[-1]}",
        )
