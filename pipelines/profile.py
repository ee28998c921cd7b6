"""A page to look at: one partition of a lake table or a snapshot of features, drawn beside an earlier time."""

import re
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
_FEATURES, _AS_OF = re.compile(r"features__[a-z0-9_]+"), re.compile(r"/as_of=(\d{4}-\d\d-\d\d)/")
_NUMBERS = ("BIGINT", "INTEGER", "DECIMAL", "DOUBLE", "FLOAT")


@dataclass(frozen=True)
class ProfileReport:
    """The page, and how many rows of the date and of the days before it are drawn."""

    table: str
    business_date: date
    rows: int
    reference_rows: int
    page: Path


def profile(settings: Settings, table: str, day: date, against: date | None = None) -> ProfileReport:
    """Write the page about a core or feature table at a date: distributions, missing values, and drift if it can.

    Drift needs rows to compare with: those of `against`, such as a training date; else of a core table those of the
    `REFERENCE_DAYS` before, of features the newest snapshot that is as old. The page shows no id and draws at most
    `SAMPLE_ROWS` rows of either side, chosen by their hash. What drift means is for `monitor` to decide: Evidently's
    marks are for a look.

    Raises:
        MissingPartition: the table has no partition of the date, or of `against`.
    """
    sides = _snapshots(settings, table, day, against) if _FEATURES.fullmatch(table) else [[], []]
    if table in CORE_TABLES:
        before = (against, against) if against else (day - timedelta(days=REFERENCE_DAYS), day - timedelta(days=1))
        sides = [lake.files_of(settings.lake, table, first=first, last=last) for first, last in ((day, day), before)]
    with open_engine(settings) as connection:
        current, reference = (_sample(connection, files) for files in sides)
    if current is None or (against and reference is None):
        missing = against if against and current else day
        raise MissingPartition(
            "there is nothing to draw",
            where=f"{table}, {missing}",
            expected=f"a partition of that date in one of {', '.join(CORE_TABLES)}, or features",
            remedy=f"nightjar ingest --from {missing} --to {missing}",
        )
    from evidently import Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    drawn = Report([DataDriftPreset(), DataSummaryPreset()] if reference else [DataSummaryPreset()])
    html = drawn.run(current, reference).get_html_str(as_iframe=False)
    page = write_page(page_path(settings.home, PROFILES, table, day), html)
    rows, reference_rows = (len(sample.as_dataframe()) if sample else 0 for sample in (current, reference))
    return ProfileReport(table, day, rows, reference_rows, page)


def _snapshots(settings: Settings, table: str, day: date, against: date | None) -> list[list[str]]:
    """Files of a date's snapshot of features, and of the one that it is compared with, if there is one."""
    found = [date.fromisoformat(text) for name in settings.lake.names(f"{table}/") for text in _AS_OF.findall(name)]
    earlier = against or max((one for one in found if one <= day - timedelta(days=REFERENCE_DAYS)), default=None)
    wanted = [day, earlier] if earlier else [day]
    files = [[str(lake.require_snapshot(settings.lake, table, one)[0])] for one in wanted]
    return files if earlier else [*files, []]


def _sample(connection: duckdb.DuckDBPyConnection, files: list[str]) -> "Dataset | None":
    if not files:
        return None
    from evidently import DataDefinition, Dataset

    rows = connection.read_parquet(files, hive_partitioning=False)
    kinds = {name: str(kind) for name, kind in zip(rows.columns, rows.types, strict=True) if not name.endswith("_id")}
    numbers = [name for name, kind in kinds.items() if kind.startswith(_NUMBERS)]
    words = [name for name, kind in kinds.items() if kind == "VARCHAR"]
    columns = ", ".join([*(f"{name}::DOUBLE AS {name}" for name in numbers), *words])
    frame = connection.sql(f"SELECT {columns} FROM rows ORDER BY hash(rows) LIMIT {SAMPLE_ROWS}").df()
    return Dataset.from_pandas(frame, DataDefinition(numerical_columns=numbers, categorical_columns=words))
