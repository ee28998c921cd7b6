"""Shifts of a night's data: the figures that a use case watches, what of them moved, and where a fault begins."""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta

import numpy as np

from pipelines.causes import Moved
from pipelines.contracts import CORE_TRANSACTIONS
from pipelines.control import Estimate
from pipelines.engine import open_core
from pipelines.ingest_log import current_log
from pipelines.measurements import ALERT, DATA, EVERYTHING, OK, Measurement
from pipelines.settings import Settings
from pipelines.shifts import Shift, find_shifts
from pipelines.signals import read_windows
from pipelines.use_case import UseCase

DETECTABLE, QUARANTINED = "shift_detectable", "quarantined_share"
_MAX_QUARANTINED = 0.01  # of a window's lines; a day with a twentieth of them is not ingested at all


def metrics_of(use_case: UseCase) -> list[str]:
    """Names of what this module measures."""
    return [*(signal.name for signal in use_case.signals), DETECTABLE, QUARANTINED]


def read_shifts(settings: Settings, use_case: UseCase, as_of: date) -> list[Shift]:
    """Every watched figure of the window that ends on a date; none where the use case watches none."""
    if not use_case.signals:
        return []
    policy = use_case.monitor
    count = policy.history_windows + policy.reference_windows + policy.earlier_windows + 1
    days = [as_of - timedelta(days=policy.window_days * back) for back in range(count)]
    with open_core(settings, up_to=as_of) as connection:
        return find_shifts(use_case, read_windows(connection, use_case, days), as_of)


def measurements_of(shifts: Iterable[Shift], model_version: str) -> list[Measurement]:
    """Two rows for each figure: what it was, and the smallest change of it that one window shows."""
    found = []
    for one in shifts:
        low, high = Estimate(one.value, one.error, 0).interval
        found += [
            Measurement(
                one.signal,
                model_version,
                one.value,
                one.slice,
                one.reference,
                one.threshold,
                one.status,
                DATA,
                low,
                high,
            ),
            Measurement(DETECTABLE, model_version, one.detectable, f"{one.signal} {one.slice}", clock=DATA),
        ]
    return found


def quarantined(settings: Settings, use_case: UseCase, as_of: date, model_version: str) -> tuple[Measurement, str]:
    """The share of the window's delivered lines that are in quarantine, and the files that brought most of them."""
    log = current_log(settings, as_of - timedelta(days=use_case.monitor.window_days - 1), as_of)
    bad = {row["source_file"]: row["rows_quarantined"] for row in log if row["rows_quarantined"]}
    share = sum(bad.values()) / max(sum(row["rows_in"] for row in log), 1)
    worst = sorted(bad, key=lambda file: (-bad[file], file))[:3]
    status = ALERT if share > _MAX_QUARANTINED else OK
    found = Measurement(QUARANTINED, model_version, share, threshold=_MAX_QUARANTINED, status=status, clock=DATA)
    return found, ", ".join(worst)


def moved_data(settings: Settings, use_case: UseCase, shifts: Sequence[Shift], as_of: date) -> list[Moved]:
    """The figures that alert; a fault points to the drop with which it begins."""
    meanings = {signal.name: signal.meaning for signal in use_case.signals}
    return [
        Moved(
            one.signal,
            one.slice,
            DATA,
            one.value,
            one.reference,
            one.threshold,
            one.first_date,
            is_raw=True,
            is_fault=one.is_fault,
            is_season=one.is_season,
            source=drop_of(settings, first_bad_day(settings, use_case, one, as_of)) if one.is_fault else "",
            subject=meanings[one.signal],
        )
        for one in shifts
        if one.status == ALERT
    ]


def first_bad_day(settings: Settings, use_case: UseCase, shift: Shift, as_of: date) -> date:
    """The first day of the shift's windows on which the figure is at least half as far off as on the worst."""
    length = use_case.monitor.window_days
    (signal,) = (one for one in use_case.signals if one.name == shift.signal)
    begin = max(shift.first_date, as_of - timedelta(days=3 * length)) - timedelta(days=length - 1)
    days = [begin + timedelta(days=number) for number in range((as_of - begin).days + 1)]
    daily = use_case.model_copy(
        update={"signals": (signal,), "monitor": use_case.monitor.model_copy(update={"window_days": 1})}
    )
    with open_core(settings, up_to=as_of) as connection:
        figures = read_windows(connection, daily, days).figures
    known = [(day, figures[day].get((shift.signal, shift.slice))) for day in days]
    values = [(day, one.value) for day, one in known if one is not None and np.isfinite(one.value)]
    side = 1 if shift.value >= shift.reference else -1
    off = {day: side * (value - shift.reference) for day, value in values}
    return min((day for day in off if off[day] >= max(off.values()) / 2), default=as_of)


def drop_of(settings: Settings, day: date) -> str:
    """The files that a day's lines came in, and the day."""
    files = sorted({row["source_file"] for row in current_log(settings, day, day) if row["rows_kept"]})
    return f"{CORE_TRANSACTIONS.name} of {day}: {', '.join(files) or 'no file'}"


def quarantine_moved(found: Measurement, files: str, as_of: date) -> list[Moved]:
    """The share of lines in quarantine, where it is beyond its limit: a fault of the files."""
    if found.status != ALERT:
        return []
    return [
        Moved(
            QUARANTINED,
            EVERYTHING,
            DATA,
            found.value,
            None,
            found.threshold,
            as_of,
            is_raw=True,
            is_fault=True,
            source=files,
            subject="lines that broke a rule",
        )
    ]
