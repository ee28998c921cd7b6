"""A page to look at: one partition of a lake table, drawn beside the month before it."""

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from pipelines import lake
from pipelines.contracts import CORE_TABLES
from pipelines.engine import open_engine
from pipelines.errors import MissingPartition
from pipelines.pages import PROFILES, page_path, write_page
from pipelines.settings import Settings

if TYPE_CHECKING:
    from evidently import Dataset

REFERENCE_DAYS = 28
SAMPLE_ROWS = 20_000
_NUMBERS = ("BIGINT", "INTEGER", "FLOAT", "DOUBLE", "DECIMAL")
_DATED = ("business_date", "as_of", "event_timestamp", "created_timestamp")


@dataclass(frozen=True)
class ProfileReport:
    """The page, and how many rows of the date and of the days before it are drawn."""

    table: str
    business_date: date
    rows: int
    reference_rows: int
    page: Path


def profile(settings: Settings, table: str, day: date) -> ProfileReport:
    """Write the page about a core or feature table at a date: distributions, missing values, and drift if it can.

    Drift needs rows in the `REFERENCE_DAYS` before. The page shows no id and draws at most `SAMPLE_ROWS` rows of either side, chosen by their hash. Its drift marks are
    Evidently's own, good for a look; what counts as drift is for `monitor` to decide.

    Raises:
        MissingPartition: the table has no partition of the date.
    """
    with open_engine(settings) as connection:
        current = _sample(connection, settings, table, day, day)
        reference = _sample(connection, settings, table, day - timedelta(days=REFERENCE_DAYS), day - timedelta(days=1))
    if current is None:
        raise MissingPartition(
            "there is nothing to draw",
            where=f"{table}, {day}",
            expected=f"a partition of that date in a feature table or in one of {', '.join(CORE_TABLES)}",
            remedy=f"nightjar ingest --from {day} --to {day}, or nightjar features --date {day}",
        )
    from evidently import Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    drawn = Report([DataDriftPreset(), DataSummaryPreset()] if reference else [DataSummaryPreset()])
    html = drawn.run(current, reference).get_html_str(as_iframe=False)
    page = write_page(page_path(settings.home, PROFILES, table, day), html)
    rows, reference_rows = (len(sample.as_dataframe()) if sample else 0 for sample in (current, reference))
    return ProfileReport(table, day, rows, reference_rows, page)


def _sample(
    connection: duckdb.DuckDBPyConnection, settings: Settings, table: str, first: date, last: date
) -> "Dataset | None":
    from evidently import DataDefinition, Dataset

    files = _files(settings, table, first, last)
    if not files:
        return None
    rows = connection.read_parquet(files, hive_partitioning=False)
    kinds = {
        name: str(kind) for name, kind in zip(rows.columns, rows.types, strict=True) if not name.endswith("_id")
    }
    numbers = [name for name, kind in kinds.items() if kind.startswith(_NUMBERS)]
    words = [name for name, kind in kinds.items() if kind in ("VARCHAR", "BOOLEAN") and name not in _DATED]
    columns = ", ".join([*(f"{name}::DOUBLE AS {name}" for name in numbers), *words])
    frame = connection.sql(f"SELECT {columns} FROM rows ORDER BY hash(rows) LIMIT {SAMPLE_ROWS}").df()
    return Dataset.from_pandas(frame, DataDefinition(numerical_columns=numbers, categorical_columns=words))


def _files(settings: Settings, table: str, first: date, last: date) -> list[str]:
    if table in CORE_TABLES:
        return lake.files_of(settings.lake, table, first=first, last=last)
    days = (first + timedelta(days=number) for number in range((last - first).days + 1))
    paths = (lake.snapshot_path(settings.lake, table, day) for day in days)
    return [str(path) for path in paths if path.exists()]
