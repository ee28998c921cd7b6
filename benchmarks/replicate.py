"""More of the real data: every household several times over, with ids of its own."""

import hashlib
import io
from datetime import date

import duckdb
import pyarrow.parquet as pq

from pipelines.contracts import DROPS, SCHEMA_VERSION
from pipelines.drops import MANIFEST, DeliveredFile, Manifest, days_between, drop_name
from pipelines.settings import Settings

_HOUSEHOLDS, _BASKETS = 1_000_000, 10**12  # above every id of the data


def replicate(source: Settings, target: Settings, first: date, last: date, times: int) -> None:
    """Land in `target` what `source` has landed, each household's purchases `times` times, as other households."""
    for day in days_between(first, last):
        for name, contract in DROPS.items():
            folder = drop_name(contract, day)
            if not source.landing.exists(f"{folder}/{MANIFEST}"):
                continue
            manifest = Manifest.model_validate_json(source.landing.read(f"{folder}/{MANIFEST}"))
            files = tuple(
                _copy(source, target, f"{folder}/{file.name}", times if name == "transactions" else 1)
                for file in manifest.files
            )
            told = Manifest(
                drop=name,
                business_date=day,
                schema_version=SCHEMA_VERSION,
                is_closed=manifest.is_closed,
                files=files,
            )
            target.landing.write(f"{folder}/{MANIFEST}", told.model_dump_json().encode())


def _copy(source: Settings, target: Settings, name: str, times: int) -> DeliveredFile:
    path = source.landing.fetch(name)
    if times == 1:
        content, rows = path.read_bytes(), pq.read_metadata(path).num_rows
    else:
        table = (
            duckdb.connect()
            .sql(
                f"SELECT * EXCLUDE (copy) REPLACE (household_id + {_HOUSEHOLDS} * copy AS household_id, "
                f"basket_id + {_BASKETS} * copy AS basket_id) "
                f"FROM read_parquet('{path}', hive_partitioning = false), range({times}) copies(copy)"
            )
            .to_arrow_table()
        )
        table = table.cast(DROPS["transactions"].schema)
        written = io.BytesIO()
        pq.write_table(table, written)
        content, rows = written.getvalue(), table.num_rows
    target.landing.write(name, content)
    return DeliveredFile(
        name=name.rpartition("/")[2], rows=rows, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
