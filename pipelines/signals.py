"""Signals: the figures of the data that are watched for shifts, by window and household."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import duckdb
import numpy as np
from numpy.typing import NDArray

from pipelines.control import Estimate, Vector, ratio
from pipelines.errors import InvalidRunParameter
from pipelines.use_case import Signal, UseCase

Key = tuple[str, str]  # signal and slice


@dataclass(frozen=True)
class Sums:
    """Numerators and denominators of one figure: windows × entities. Windows without enough history are not there."""

    dates: tuple[date, ...]
    numerators: NDArray[np.float64]
    denominators: NDArray[np.float64]

    def estimates(self, weights: Vector | None = None) -> dict[date, Estimate]:
        """The figure of each window, of all entities or of each as often as its weight says."""
        w = np.ones(self.numerators.shape[1]) if weights is None else weights
        rows = zip(self.dates, self.numerators, self.denominators, strict=True)
        return {day: ratio(w * above, w * below) for day, above, below in rows}


@dataclass(frozen=True)
class Windows:
    """Every figure of every window, and the sums by entity, in the order of `entities`, that they come from."""

    last_dates: tuple[date, ...]
    figures: Mapping[date, Mapping[Key, Estimate]]
    sums: Mapping[Key, Sums]
    entities: NDArray[np.generic]

    def weighted(self, weights: Vector) -> "Windows":
        """The same windows with each entity as often as its weight says, as in a bootstrap of entities."""
        return replace(self, figures=figures_of(self.last_dates, self.sums, weights))


def read_windows(connection: duckdb.DuckDBPyConnection, use_case: UseCase, last_dates: Sequence[date]) -> Windows:
    """Every signal of the windows that end on these dates, which lie a whole number of windows apart.

    A window that reaches back, with what the signal looks back to, to before the first row lacks the signal.

    Raises:
        InvalidRunParameter: the dates do not lie whole windows apart.
    """
    days = tuple(sorted(set(last_dates)))
    length = use_case.monitor.window_days
    if any((days[-1] - day).days % length for day in days):
        raise InvalidRunParameter(
            "the windows overlap",
            where=f"signals of {use_case.name}",
            expected=f"last dates a multiple of {length} days apart",
            found=", ".join(str(day) for day in days),
            remedy="ask for windows that end on the same weekday",
        )
    _open_windows(connection, use_case, days)
    (start,) = connection.sql("SELECT min(business_date) FROM core__transactions").fetchall()[0]
    entities = connection.sql(
        f"SELECT DISTINCT {use_case.entity} AS entity FROM core__transactions ORDER BY entity"
    ).fetchnumpy()["entity"]
    sums: dict[Key, Sums] = {}
    for signal in use_case.signals:
        needed = timedelta(days=length - 1 + signal.lookback_days)
        known = tuple(day for day in days if start <= day - needed)
        sums |= _sums_of(connection, use_case, signal, known, entities) if known else {}
    return Windows(days, figures_of(days, sums), sums, entities)


def _open_windows(connection: duckdb.DuckDBPyConnection, use_case: UseCase, days: Sequence[date]) -> None:
    """Put the macro and the tables in place that the signals share."""
    length, last = use_case.monitor.window_days, f"DATE '{days[-1]}'"
    lookback = max((signal.lookback_days for signal in use_case.signals), default=0)
    first = days[0] - timedelta(days=length - 1 + -(-lookback // length) * length)
    connection.execute(f"""
        CREATE OR REPLACE TEMP MACRO window_of(day) AS CASE WHEN day BETWEEN DATE '{first}' AND {last}
            THEN {last} - (({last} - day) // {length} * {length})::INTEGER END
    """)
    for table in use_case.signal_tables:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {table.name} AS {table.sql}")


def _sums_of(
    connection: duckdb.DuckDBPyConnection,
    use_case: UseCase,
    signal: Signal,
    days: tuple[date, ...],
    entities: NDArray[np.generic],
) -> dict[Key, Sums]:
    rows = connection.sql(f"""
        SELECT window_date::DATE AS day, {use_case.entity} AS entity, slice,
               coalesce(sum(numerator), 0)::DOUBLE AS numerator, coalesce(sum(denominator), 0)::DOUBLE AS denominator
        FROM ({signal.sql}) WHERE window_date BETWEEN DATE '{days[0]}' AND DATE '{days[-1]}' GROUP BY ALL
    """).to_arrow_table()
    grid = np.array(days, dtype="datetime64[D]")
    day = rows.column("day").to_numpy().astype("datetime64[D]")
    place = np.searchsorted(grid, day)
    column = np.searchsorted(entities, rows.column("entity").to_numpy())
    encoded = rows.column("slice").combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy()
    values = [rows.column(name).to_numpy() for name in ("numerator", "denominator")]
    is_asked = grid[np.minimum(place, len(grid) - 1)] == day

    def placed(code: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        chosen = is_asked & (codes == code)
        above, below = np.zeros((len(days), len(entities))), np.zeros((len(days), len(entities)))
        above[place[chosen], column[chosen]] = values[0][chosen]
        below[place[chosen], column[chosen]] = values[1][chosen]
        return above, below

    shared = placed(-1)[1]
    return {
        (signal.name, name): Sums(days, above, below + shared)
        for code, name in enumerate(encoded.dictionary.to_pylist())
        for above, below in [placed(code)]
    }


def figures_of(
    days: Sequence[date], sums: Mapping[Key, Sums], weights: Vector | None = None
) -> dict[date, dict[Key, Estimate]]:
    """The figures of each window, of entities each as often as its weight says."""
    found = {key: one.estimates(weights) for key, one in sums.items()}
    return {day: {key: known[day] for key, known in found.items() if day in known} for day in days}
