"""Partitions of a date: neighbouring entities with no more rows than a step may hold in memory at once.

Whatever is ordered by entity has the same rows in the same order whether it is computed at once or range by range.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa

from pipelines.scratch import Rows, ScratchRows
from pipelines.settings import Settings
from pipelines.storage import sql_text

MOST_ROWS = 1_000_000  # with 80 features each: 0.3 GiB, and as much again as a matrix
WHOLE = "true"


def entity_ranges(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    entity: str,
    *,
    times: float = 1,
    least: int = 1,
    given: dict[str, date] | None = None,
) -> list[str]:
    """SQL conditions on the entity, in its order; each entity there may ever be fulfils exactly one.

    Each selects at most a million rows of the relation (or so many times as much) beside those of its first entity,
    and so few that there are about `least` conditions. Where that is one, it is `true`.
    """
    ((rows,),) = connection.sql(f"SELECT count(*) FROM {relation}", params=given).fetchall()
    limit = min(round(times * MOST_ROWS), max(-(-rows // least), 1))
    if rows <= limit:
        return [WHOLE]
    query = f"""
        SELECT min({entity})::VARCHAR FROM (
            SELECT {entity}, (sum(count(*)) OVER (ORDER BY {entity})::BIGINT - 1) // {limit} AS part
            FROM {relation} GROUP BY {entity}
        ) GROUP BY part ORDER BY part
    """
    firsts = [first for (first,) in connection.sql(query, params=given).fetchall()]
    ends = [None, *(sql_text(first) for first in firsts[1:]), None]
    return [_between(entity, *limits) for limits in pairwise(ends)]


@contextmanager
def scratch_folder(settings: Settings) -> Iterator[Path]:
    """A folder for what does not fit into memory, while the context lasts."""
    scratch = settings.home / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch) as folder:
        yield Path(folder)


@contextmanager
def gathered(settings: Settings, number: int, parts: Iterator[pa.Table]) -> Iterator[Rows]:
    """So many tables, one behind the other: a single one as it is, else rows on disk, of which one part is held."""
    if number == 1:
        yield next(parts)
        return
    with scratch_folder(settings) as folder:
        with ScratchRows(folder / "rows.arrow") as rows:
            while (part := next(parts, None)) is not None:
                rows.add(part)
                del part
        yield rows


def _between(entity: str, first: str | None, end: str | None) -> str:
    limits = [f"{entity} >= {first}"] if first else []
    return " AND ".join([*limits, f"{entity} < {end}"] if end else limits) or WHOLE
