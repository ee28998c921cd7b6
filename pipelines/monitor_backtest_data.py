"""Trials of the monitor of the data: known changes made in the real rows, and what it then finds week by week."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

import duckdb
import numpy as np

from pipelines.causes import ACTIONS, Changes, Moved, classify
from pipelines.control import Vector
from pipelines.engine import open_core
from pipelines.measurements import ALERT, DATA
from pipelines.settings import Settings
from pipelines.shifts import Compared, Shift, Usual, find_shifts, learn_usual
from pipelines.signals import Key, Windows, read_windows
from pipelines.use_case import BaseTable, Season, Trial, UseCase

CORE = "core__transactions"
_MOVED = 1.0  # standard deviations


@dataclass(frozen=True)
class Half:
    """One half of the entities, by a hash: its rows, its usual windows, and what could be learnt before the trials."""

    name: str
    use_case: UseCase
    connection: duckdb.DuckDBPyConnection
    windows: Windows
    learnt_until: date

    def drawn(self, seed: int) -> "Sample":
        """The entities as they are for seed 0, and for any other a bootstrap of them."""
        count = len(self.windows.entities)
        if not seed:
            return self._sample(None)
        generator = np.random.default_rng(seed)
        return self._sample(generator.multinomial(count, np.full(count, 1 / count)).astype(float))

    def _sample(self, weights: Vector | None) -> "Sample":
        windows = self.windows if weights is None else self.windows.weighted(weights)
        return Sample(windows, learn_usual(self.use_case, windows, self.learnt_until + timedelta(days=1)), weights)


@dataclass(frozen=True)
class Sample:
    """A half's windows with weighted entities, and what is usual in those before the trials.

    `untouched` has the distances of untouched windows, none of a figure that is paged for: a trial is found by a
    figure that it has moved, and that would not have been paged for without it.
    """

    windows: Windows
    usual: Mapping[Compared, Usual]
    weights: Vector | None
    untouched: dict[date, dict[Key, float]] = field(default_factory=dict)

    def look(self, use_case: UseCase, day: date) -> list[Shift]:
        """What the monitor makes of an untouched window, which is kept in mind."""
        shifts = find_shifts(use_case, self.windows, day, self.usual)
        told = paged(shifts)
        self.untouched[day] = {(one.signal, one.slice): one.distance for one in shifts if one not in told}
        return shifts

    def found(self, use_case: UseCase, changed: Windows, days: Sequence[date]) -> tuple[str, ...]:
        """The cause of what is paged for on these dates of a trial, and would not be without it."""
        windows = self.with_trial(changed)
        return tuple(
            cause_of(
                _moved(one)
                for one in paged(find_shifts(use_case, windows, day, self.usual))
                if abs(one.distance - self.untouched[day].get((one.signal, one.slice), one.distance)) > _MOVED
            )
            for day in days
        )

    def with_trial(self, changed: Windows) -> Windows:
        """These windows until the trial, and the changed ones from it on."""
        onset = changed.last_dates[0]
        if self.weights is not None:
            place = np.searchsorted(self.windows.entities, changed.entities)
            changed = changed.weighted(self.weights[place])
        dates = tuple(day for day in self.windows.last_dates if day < onset)
        figures = {day: self.windows.figures[day] for day in dates} | dict(changed.figures)
        return replace(self.windows, last_dates=dates + changed.last_dates, figures=figures)


@dataclass(frozen=True)
class Found:
    """What the monitor made of one trial: the cause of what it paged for in each of its weeks, empty for no page."""

    trial: str
    size: str
    half: str
    onset: date
    seed: int
    causes: tuple[str, ...]

    @property
    def cause(self) -> str:
        """What the first page names as the cause."""
        return next((cause for cause in self.causes if cause), "")

    @property
    def delay(self) -> int | None:
        """Weeks from the onset to the end of the first week that it was found in, from 1."""
        return next((week for week, cause in enumerate(self.causes, start=1) if cause), None)


@contextmanager
def open_half(
    settings: Settings, use_case: UseCase, number: int, last_dates: Sequence[date], learnt_until: date
) -> Iterator[Half]:
    """The entities whose hash has this remainder, with the windows that end on these dates."""
    days = sorted(last_dates)
    with open_core(settings, up_to=days[-1]) as connection:
        connection.execute(f"""
            CREATE TEMP TABLE half_rows AS
            SELECT * FROM {CORE} WHERE hash({use_case.entity}) % 2 = {number} ORDER BY business_date;
            CREATE OR REPLACE TEMP VIEW untouched AS SELECT * FROM half_rows;
            CREATE OR REPLACE VIEW {CORE} AS SELECT * FROM half_rows;
        """)
        windows = read_windows(connection, use_case, days)
        fixed = _with_fixed_slices(connection, use_case)
        yield Half("AB"[number], fixed, connection, windows, learnt_until)


def read_trial(half: Half, trial: Trial, onset: date, seed: int) -> Windows:
    """The windows of the trial's weeks, made from the half's rows with the change."""
    connection, length = half.connection, half.use_case.monitor.window_days
    # One week before, too: it has what a trial takes away altogether.
    days = [onset + timedelta(days=length * week - 1) for week in range(trial.weeks + 1)]
    days = [day for day in days if day <= half.windows.last_dates[-1]]
    lookback = max(signal.lookback_days for signal in half.use_case.signals)
    first = onset - timedelta(days=(1 - -lookback // length) * length)
    connection.execute(f"SET VARIABLE onset = DATE '{onset}'")
    connection.execute(f"SET VARIABLE seed = {seed}")
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW untouched AS
            SELECT * FROM half_rows WHERE business_date BETWEEN DATE '{first}' AND DATE '{days[-1]}';
        CREATE OR REPLACE TEMP TABLE changed_rows AS {trial.sql};
        CREATE OR REPLACE VIEW {CORE} AS SELECT * FROM changed_rows
            WHERE business_date <= DATE '{days[-1]}';
    """)
    return read_windows(connection, half.use_case, days)


def judge_trial(half: Half, sample: Sample, trial: Trial, changed: Windows, onset: date, seed: int) -> Found:
    """What the monitor finds at the end of each week of the trial."""
    use_case = _announced(half.use_case, trial, onset)
    causes = sample.found(use_case, changed, changed.last_dates[1:])
    return Found(trial.name, trial.size, half.name, onset, seed, causes)


def paged(shifts: Sequence[Shift]) -> tuple[Shift, ...]:
    """The shifts that somebody is told of: a season explains itself."""
    return tuple(one for one in shifts if one.status == ALERT and not one.is_season)


def cause_of(moved: Iterable[Moved]) -> str:
    """The cause that comes first for what has moved; empty for nothing."""
    found = classify(list(moved), Changes())
    return min((one.cause for one in found), key=(*ACTIONS,).index, default="")


def _moved(one: Shift) -> Moved:
    """As the nightly findings put it."""
    return Moved(
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
    )


def _announced(use_case: UseCase, trial: Trial, onset: date) -> UseCase:
    if not trial.is_announced:
        return use_case
    last = onset + timedelta(days=use_case.monitor.window_days - 1)
    season = Season(name=trial.name, first_date=onset, last_date=last)
    return use_case.model_copy(update={"calendar": (*use_case.calendar, season)})


def _with_fixed_slices(connection: duckdb.DuckDBPyConnection, use_case: UseCase) -> UseCase:
    """The use case with those tables kept as they are that choose among rows: a trial does not choose anew."""
    kept = []
    for table in use_case.signal_tables:
        if table.is_choice:
            connection.execute(f"CREATE TEMP TABLE kept_{table.name} AS SELECT * FROM {table.name}")
            kept.append(BaseTable(name=table.name, sql=f"SELECT * FROM kept_{table.name}"))
        else:
            kept.append(table)
    return use_case.model_copy(update={"signal_tables": tuple(kept)})
