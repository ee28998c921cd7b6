"""A December night into a date that is published already: our bulk load against `to_sql`, on both databases."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from benchmarks.databases import on_each
from pipelines import tables, warehouse
from pipelines.settings import Settings
from pipelines.use_case import UseCase

ROWS, LISTED, ITEMS = 740_000, 10, 300
FIRST, STEP = 10**17, 7919  # pseudonyms are far apart
NIGHT = date(2017, 12, 23)
LIMITS_S, LEAST_RATIO = {"sqlite": 10, "postgresql": 15}, 3


@dataclass(frozen=True)
class Race:
    """Seconds to put a night in the place of the former one, and of those what each way to write rows took."""

    database: str
    replace_s: float
    load_s: float
    to_sql_s: float

    @property
    def ratio(self) -> float:
        """How much longer `to_sql` takes for the rows; to delete the former ones takes either the same."""
        return self.to_sql_s / self.load_s

    @property
    def is_over(self) -> bool:
        """Whether it takes longer than it may."""
        return self.replace_s > LIMITS_S[self.database] or self.ratio < LEAST_RATIO

    def __str__(self) -> str:
        limit = f"limit {LIMITS_S[self.database]} s"
        ratio = f"to_sql takes {self.ratio:.1f} times as long as our load (at least {LEAST_RATIO})"
        return f"{ROWS:,} rows replaced in {self.database}: {self.replace_s:.1f} s ({limit}); {ratio}"


def races(home: Path, use_case: UseCase) -> Iterator[Race]:
    """One on SQLite, and one on PostgreSQL where its server is installed."""
    for database, settings in on_each(home):
        yield _race(settings, use_case, database)


def _race(settings: Settings, use_case: UseCase, database: str) -> Race:
    table, rows = tables.scores_table(use_case), night_of(use_case)
    frame = rows.to_pandas()
    warehouse.create_tables(settings, [use_case])

    def load(connection: sa.Connection) -> None:
        warehouse.load_rows(connection, table, rows)

    def to_sql(connection: sa.Connection) -> None:
        frame.to_sql(table.name, connection, if_exists="append", index=False)

    _replace(settings, table, load)
    replace_s, load_s = _replace(settings, table, load)
    return Race(database, replace_s, load_s, _replace(settings, table, to_sql)[1])


def _replace(settings: Settings, table: sa.Table, write: Callable[[sa.Connection], None]) -> tuple[float, float]:
    """Seconds from the begin to the commit, and those of writing."""
    began = time.perf_counter()
    with warehouse.open_warehouse(settings) as connection:
        connection.execute(sa.delete(table).where(table.c.score_date == NIGHT))
        write_began = time.perf_counter()
        write(connection)
        written = time.perf_counter()
    return time.perf_counter() - began, written - write_began


def night_of(use_case: UseCase, rows: int = ROWS) -> pa.Table:
    """So many published rows of one night, ten of each entity."""
    chance = np.random.default_rng(7)
    entity, rank = np.repeat(np.arange(rows // LISTED), LISTED), np.tile(np.arange(1, LISTED + 1), rows // LISTED)
    reasons = np.array([f"bought {times} times in the last 28 days" for times in range(50)], dtype=object)
    names = np.array([f"CATEGORY {number}" for number in range(ITEMS)], dtype=object)
    told = {
        "score_date": np.full(rows, np.datetime64(NIGHT, "D")),
        use_case.entity: entity * STEP + FIRST,
        "rank": rank.astype("int32"),
        use_case.item: names[(LISTED * entity + rank) % ITEMS],
        "score": np.sort(chance.random((rows // LISTED, LISTED)))[:, ::-1].ravel(),
        "is_low_confidence": chance.random(rows) < 0.1,
        **{f"reason_{number}": reasons[chance.integers(0, 50, rows)] for number in (1, 2, 3)},
        "score_source": ["champion"] * rows,
        "model_version": ["12"] * rows,
        "feature_version": ["f" * 64] * rows,
        "run_id": ["bench"] * rows,
    }
    schema = warehouse.arrow_schema(tables.scores_table(use_case))
    return pa.table(told).select(schema.names).cast(schema)
