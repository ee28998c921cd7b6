"""Business figures of a date, and of the week that ends on it, with intervals, the simple rule's, and what is usual."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta

import duckdb
import numpy as np
import sqlalchemy as sa

from pipelines import warehouse
from pipelines.control import Estimate, ratio
from pipelines.coverage import ingested_dates, require_ingested
from pipelines.engine import open_core
from pipelines.errors import InvalidUseCase
from pipelines.kpi_views import VIEWS, show_period
from pipelines.measurements import ALERT, INFO, OK
from pipelines.quality_bands import band_around, estimate_between
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.tables import KPI_DAILY, KPI_WEEKLY
from pipelines.use_case import Kpi, UseCase

SUNDAY = 7
_WEEKS = 12  # that say what is usual of a weekday
_LEAST_SHARE = 0.02  # of what is usual: a smaller change is none, however steady the figure


@dataclass(frozen=True)
class Figure:
    """One value with its 95 % interval, that of the simple rule's lists, and the band of the weeks before."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reference: float | None = None
    band_low: float | None = None
    band_high: float | None = None
    status: str = INFO


@dataclass(frozen=True)
class KpiReport:
    """The figures by name; `reason` says why there are none of the week, `alerts` name those out of their bands."""

    as_of: date
    daily: Mapping[str, float | None]
    weekly: Mapping[str, float | None]
    reason: str
    alerts: tuple[str, ...] = ()


def compute_kpis(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> KpiReport:
    """Write the KPIs of `as_of` and, when it is a Sunday, of the seven days that end on it.

    Raises:
        MissingPartition: a business date of the period was not ingested.
        InvalidUseCase: a KPI's SQL does not give exactly one value.
    """
    with measured(settings, f"kpis__{use_case.name}", str(as_of), run_id) as cost:
        reason = _no_week(settings, as_of)
        week_begins = as_of if reason else as_of - timedelta(days=6)
        require_ingested(settings, first=week_begins, last=as_of)
        with open_core(settings, up_to=as_of) as connection:
            daily = _period(settings, use_case, connection, as_of, as_of)
            weekly = {} if reason else _period(settings, use_case, connection, week_begins, as_of)
        cost.rows = _write(settings, use_case, as_of, daily, weekly)
    return KpiReport(
        as_of,
        {name: one.value for name, one in daily.items()},
        {name: one.value for name, one in weekly.items()},
        reason,
        tuple(name for both in (daily, weekly) for name, one in both.items() if one.status == ALERT),
    )


def evaluate(
    connection: duckdb.DuckDBPyConnection, kpis: Sequence[Kpi], first: date, last: date
) -> dict[str, float | None]:
    """The value of each KPI for the days from `first` to `last`; none where there was nothing to measure."""
    return {kpi.name: _value(connection, kpi, kpi.value_sql, first, last) for kpi in kpis}


def judged(figure: Figure, past: Sequence[Estimate], limit: float, *, is_season: bool) -> Figure:
    """The figure with the band of its past, and whether it lies in it; in a known season that is for information.

    `limit` is half the band's width, in standard deviations.
    """
    if figure.value is None:
        return figure
    band = band_around(limit, past, _estimate(figure))
    if band is None:
        return figure
    middle, least = sum(band) / 2, _LEAST_SHARE * abs(sum(band) / 2)
    low, high = min(band[0], middle - least), max(band[1], middle + least)
    is_inside = low <= figure.value <= high
    status = OK if is_inside else INFO if is_season else ALERT
    return Figure(**asdict(figure) | {"band_low": low, "band_high": high, "status": status})


def _period(
    settings: Settings, use_case: UseCase, connection: duckdb.DuckDBPyConnection, first: date, last: date
) -> dict[str, Figure]:
    is_daily = first == last
    kpis = [kpi for kpi in use_case.kpis if kpi.is_daily or not is_daily]
    show_period(settings, use_case, connection, first, last, with_rule=any(kpi.rule_sql for kpi in kpis))
    found = {}
    for kpi in kpis:
        figure = _figure(connection, kpi, first, last)
        if kpi.has_band:
            past = _past(settings, use_case, connection, kpi, first, last)
            figure = judged(figure, past, kpi.band_limit, is_season=_is_season(use_case, kpi, first, last))
        found[kpi.name] = figure
    return found


def _figure(connection: duckdb.DuckDBPyConnection, kpi: Kpi, first: date, last: date) -> Figure:
    value, low, high = _value(connection, kpi, kpi.value_sql, first, last), None, None
    if kpi.entity_sql and value is not None:
        bounds = _bounds(kpi.entity_sql, first, last)
        parts = connection.execute(f"SELECT numerator, denominator FROM ({kpi.entity_sql})", bounds).fetchnumpy()
        found = ratio(*(np.ma.filled(parts[name], 0).astype(np.float64) for name in ("numerator", "denominator")))
        if np.isfinite(found.error):
            low, high = found.interval
    reference = _value(connection, kpi, kpi.rule_sql, first, last) if kpi.rule_sql else None
    return Figure(value, low, high, reference)


def _value(connection: duckdb.DuckDBPyConnection, kpi: Kpi, sql: str, first: date, last: date) -> float | None:
    rows = connection.execute(sql, _bounds(sql, first, last)).fetchall()
    if len(rows) != 1 or len(rows[0]) != 1:
        raise InvalidUseCase(
            "the KPI's SQL must give one value",
            where=f"KPI {kpi.name}",
            expected="one row with one column",
            found=f"{len(rows)} rows",
            remedy="aggregate in the KPI's SQL",
        )
    return None if rows[0][0] is None else float(rows[0][0])


def _bounds(sql: str, first: date, last: date) -> dict[str, date]:
    return {name: day for name, day in (("first_date", first), ("last_date", last)) if f"${name}" in sql}


def _past(
    settings: Settings, use_case: UseCase, connection: duckdb.DuckDBPyConnection, kpi: Kpi, first: date, last: date
) -> list[Estimate]:
    """The figure of the twelve weeks before, of the same weekday; seasons do not count.

    What the core tables alone tell is computed anew, so that it is there from the first night on; the rest was stored.
    """
    back = [timedelta(weeks=week) for week in range(1, _WEEKS + 1)]
    ordinary = [by for by in back if not _is_season(use_case, kpi, first - by, last - by)]
    if kpi.reads(VIEWS):
        return _stored(settings, use_case, kpi, [last - by for by in ordinary], is_daily=first == last)
    begins = min(ingested_dates(settings), default=first)
    values = [_value(connection, kpi, kpi.value_sql, first - by, last - by) for by in ordinary if first - by >= begins]
    return [Estimate(value, 0.0, 0) for value in values if value is not None]


def _stored(settings: Settings, use_case: UseCase, kpi: Kpi, days: Sequence[date], *, is_daily: bool) -> list[Estimate]:
    table = KPI_DAILY if is_daily else KPI_WEEKLY
    query = sa.select(table).where(
        table.c.use_case == use_case.name,
        table.c.kpi == kpi.name,
        table.c.kpi_date.in_(days),
        table.c.value.is_not(None),
    )
    with warehouse.open_warehouse(settings, only_reads=True) as connection:
        rows = warehouse.read_rows(connection, query.order_by(table.c.kpi_date))
    return [_estimate(Figure(row["value"], row["low"], row["high"])) for row in rows]


def _estimate(figure: Figure) -> Estimate:
    value = figure.value if figure.value is not None else float("nan")
    low, high = (end if end is not None else value for end in (figure.low, figure.high))
    return estimate_between(value, low, high)


def _is_season(use_case: UseCase, kpi: Kpi, first: date, last: date) -> bool:
    """Whether the days that the figure tells of hold one of a known season; lists are judged by earlier days."""
    window = use_case.horizon_days + use_case.late_window_days if kpi.reads(VIEWS) else 0
    begins = first - timedelta(days=window)
    return any(season.first_date <= last and season.last_date >= begins for season in use_case.calendar)


def _no_week(settings: Settings, as_of: date) -> str:
    """Why no week is computed for the date; empty where one is."""
    if as_of.isoweekday() != SUNDAY:
        return f"{as_of} does not end a week (Monday to Sunday)"
    begins, history_begins = as_of - timedelta(days=6), min(ingested_dates(settings), default=as_of)
    if begins < history_begins:
        return f"the week from {begins} is not whole: history begins on {history_begins}"
    return ""


def _write(
    settings: Settings, use_case: UseCase, as_of: date, daily: Mapping[str, Figure], weekly: Mapping[str, Figure]
) -> int:
    defined = {kpi.name: kpi for kpi in use_case.kpis}
    place = {"use_case": use_case.name, "kpi_date": as_of}
    written = 0
    with warehouse.open_warehouse(settings) as connection:
        for table, figures in ((KPI_DAILY, daily), (KPI_WEEKLY, weekly)):
            rows = [
                {
                    **place,
                    "kpi": name,
                    **asdict(figure),
                    "unit": defined[name].unit,
                    "owner": defined[name].owner or use_case.owner,
                    "meaning": defined[name].meaning,
                }
                for name, figure in figures.items()
            ]
            written += warehouse.replace_rows(connection, table, rows, **place)
    return written
