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


@dataclass(frozen=True)
class ProfileReport:
    """The page, and how many rows of the date and of the days before it are drawn."""

    table: str
    business_date: date
    rows: int
    reference_rows: int
    page: Path


def profile(settings: Settings, table: str, day: date) -> ProfileReport:
    """Write the page about a core table at a date: distributions, missing values, and drift if it can.

    Drift needs rows in the `REFERENCE_DAYS` before. The page shows no id and draws at most `SAMPLE_ROWS` rows of
    either side, chosen by their hash. What drift means is for `monitor` to decide: Evidently's marks are for a look.

    Raises:
        MissingPartition: the table has no partition of the date.
    """
    periods = [(day, day), (day - timedelta(days=REFERENCE_DAYS), day - timedelta(days=1))]
    with open_engine(settings) as connection:
        current, reference = (
            _sample(connection, lake.files_of(settings.lake, table, first=first, last=last))
            if table in CORE_TABLES
            else None
            for first, last in periods
        )
    if current is None:
        raise MissingPartition(
            "there is nothing to draw",
            where=f"{table}, {day}",
            expected=f"a partition of that date in one of {', '.join(CORE_TABLES)}",
            remedy=f"nightjar ingest --from {day} --to {day}",
        )
    from evidently import Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    drawn = Report([DataDriftPreset(), DataSummaryPreset()] if reference else [DataSummaryPreset()])
    html = drawn.run(current, reference).get_html_str(as_iframe=False)
    page = write_page(page_path(settings.home, PROFILES, table, day), html)
    rows, reference_rows = (len(sample.as_dataframe()) if sample else 0 for sample in (current, reference))
    return ProfileReport(table, day, rows, reference_rows, page)


def _sample(connection: duckdb.DuckDBPyConnection, files: list[str]) -> "Dataset | None":
    if not files:
        return None
    from evidently import DataDefinition, Dataset

    rows = connection.read_parquet(files, hive_partitioning=False)
    kinds = {name: str(kind) for name, kind in zip(rows.columns, rows.types, strict=True) if not name.endswith("_id")}
    numbers = [name for name, kind in kinds.items() if kind == "BIGINT" or kind.startswith("DECIMAL")]
    words = [name for name, kind in kinds.items() if kind == "VARCHAR"]
    columns = ", ".join([*(f"{name}::DOUBLE AS {name}" for name in numbers), *words])
    frame = connection.sql(f"SELECT {columns} FROM rows ORDER BY hash(rows) LIMIT {SAMPLE_ROWS}").df()
    return Dataset.from_pandas(frame, DataDefinition(numerical_columns=numbers, categorical_columns=words))
