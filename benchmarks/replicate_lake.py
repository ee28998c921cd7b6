"""A lake of more households: each household of the core tables several times over, written straight into Delta tables.

No drops are made and nothing is ingested: that would take most of the time and says nothing of a night.
"""

import shutil
from datetime import timedelta

from pipelines import lake, tables, warehouse
from pipelines.contracts import CORE_TABLES, TableContract
from pipelines.engine import open_engine
from pipelines.settings import Settings
from pipelines.storage import sql_list

_BATCH_ROWS, _DATES_AT_ONCE = 250_000, 31
_BASKETS = 10**12  # above every id of the data
_DAYS = "CASE WHEN copy = 0 THEN 0 ELSE [-1, 0, 0, 0, 1][1 + (hash(basket_id, copy) % 5)::INTEGER] END"
_SHARE = "CASE WHEN copy = 0 THEN 1 ELSE (90 + hash(basket_id, product_id, copy) % 21) / 100 END"


def replicate_lake(source: Settings, target: Settings, times: int) -> None:
    """Fill an empty home with the source's core tables, each household `times` times, and note their dates as ingested.

    A copy's id is a hash, like any household's. Two in five of its baskets are a day earlier or later, its amounts up
    to a tenth higher or lower: no copy is another's twin, while volumes, weekdays and seasons stay as they are.
    """
    target.home.mkdir(parents=True, exist_ok=True)
    for table in CORE_TABLES.values():
        if "household_id" in table.schema.names:
            _replicate(source, target, table, times)
        else:
            shutil.copytree(source.lake.folder / table.name, target.lake.folder / table.name)
    warehouse.create_tables(target, [])
    log = tables.INGEST_LOG
    with warehouse.open_warehouse(source, only_reads=True) as connection:
        known = warehouse.read_rows(connection, log.select().order_by(log.c.ingest_id))
    with warehouse.open_warehouse(target) as connection:
        warehouse.append_rows(connection, log, [{k: v for k, v in row.items() if k != "ingest_id"} for row in known])


def _replicate(source: Settings, target: Settings, table: TableContract, times: int) -> None:
    dates, is_moved = lake.dates_of(source.lake, table.name), table.name == "core__transactions"
    reach = timedelta(days=1 if is_moved else 0)
    for start in range(0, len(dates), _DATES_AT_ONCE):
        first, last = dates[start], dates[start : start + _DATES_AT_ONCE][-1]
        files = lake.files_of(source.lake, table.name, first=first - reach, last=last + reach)
        limits = {"first": first, "last": last, "least": dates[0], "most": dates[-1]}
        with open_engine(target) as connection:
            lake.replace_where(
                target.lake,
                table.name,
                connection.sql(_copies(table, files, times, is_moved), params=limits)
                .to_arrow_reader(_BATCH_ROWS)
                .cast(table.schema),
                predicate=lake.between(table.partition, first, last),
                partition_by=[table.partition],
            )


def _copies(table: TableContract, files: list[str], times: int, is_moved: bool) -> str:
    told = {"household_id": "CASE WHEN copy = 0 THEN household_id ELSE (hash(household_id, copy) >> 1)::BIGINT END"}
    if is_moved:
        told["business_date"] = f"least(greatest(business_date + {_DAYS}, $least), $most)"
        told["basket_id"] = f"basket_id + {_BASKETS} * copy"
        told |= {name: f"({name} * {_SHARE})::DECIMAL(12, 2)" for name in table.schema.names if name.endswith("_usd")}
    replaced = ", ".join(f"{sql} AS {name}" for name, sql in told.items())
    rows = f"read_parquet({sql_list(files)}, hive_partitioning = true, hive_types = {{'business_date': DATE}})"
    return (
        f"SELECT {', '.join(table.schema.names)} FROM "
        f"(SELECT * REPLACE ({replaced}) FROM {rows}, range({times}) copies(copy)) "
        f"WHERE business_date BETWEEN $first AND $last AND $least <= $most ORDER BY business_date"
    )
