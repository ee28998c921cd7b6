"""Homes of a test's own that begin with the real year."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import date
from pathlib import Path

import deltalake
import pytest

from pipelines.settings import Settings


@pytest.fixture(scope="session")
def year_copy(year: Settings, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    """Gives settings of a new home that holds the real year, or no more of it than up to a date."""

    def year_copy(until: date | None = None, **chosen: object) -> Settings:
        settings = Settings(home=tmp_path_factory.mktemp("home"), **chosen)
        with (
            closing(sqlite3.connect(year.home / "warehouse.db")) as source,
            closing(sqlite3.connect(settings.home / "warehouse.db")) as copy,
        ):
            source.backup(copy)
            if until:
                copy.execute("DELETE FROM ops__ingest_log WHERE business_date > ?", [str(until)])
                copy.commit()
        for table in year.lake.folder.glob("core__*"):
            shutil.copytree(table, settings.lake.folder / table.name, copy_function=os.link)
            if until:
                _forget_later(settings.lake.folder / table.name, until)
        return settings

    return year_copy


def _forget_later(table: Path, until: date) -> None:
    """Drop later partitions from the table and their files from the disk."""
    delta = deltalake.DeltaTable(str(table))
    delta.delete(f"business_date > '{until}'")
    delta.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
