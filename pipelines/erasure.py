"""Erasure: takes a household out of every layer, with proof, and keeps it out."""

import json
import shutil
import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import date

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlalchemy as sa

from pipelines import lake, tables, warehouse
from pipelines.access import note_access, personal_drops, write_private
from pipelines.crash_points import crash_point
from pipelines.drop_files import raw_rows, size_and_hash, write_like
from pipelines.drops import MANIFEST, DeliveredFile, Drop, drop_name
from pipelines.engine import open_engine
from pipelines.errors import BadInput, EngineFailure
from pipelines.ingest_log import append_log, current_log, entry
from pipelines.online_store import forget_online
from pipelines.pseudonyms import key_id, pseudonym, require_same_key
from pipelines.publishing import is_as_published, record_erasure
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.storage import sql_list
from pipelines.use_case import UseCase
from pipelines.use_cases import load_use_cases

COLUMN = "household_id"
_HOUSEHOLD = sa.Column(COLUMN, sa.BigInteger)
_BATCH_ROWS = 1_000_000


@dataclass(frozen=True)
class ErasureReport:
    """Rows removed from each place and, counted afterwards, left there; `unread` are delivered files nobody can read.

    `is_complete` is false where there are such files: they must be looked at by hand.
    """

    household_id: int
    as_of: date
    removed: Mapping[str, int]
    left: Mapping[str, int]
    unread: tuple[str, ...]
    is_complete: bool
    receipt: str


def erase(settings: Settings, household: str, as_of: date, run_id: str) -> ErasureReport:
    """Remove a household, given by its raw id, from landing, lake, online store, warehouse and local copies.

    The tombstone comes first: from then on ingest drops its rows. A second call ends what a killed one began. Old
    versions of the lake's tables go, so no other step may run meanwhile. `as_of` is the date of the request.

    Raises:
        WrongKey: the lake was filled with another pseudonym key.
        EngineFailure: rows came back while it ran.
    """
    warehouse.create_tables(settings, [])
    require_same_key(settings)
    with measured(settings, "erase", str(as_of), run_id) as cost, open_engine(settings) as connection:
        erasure = _Erasure(settings, connection, household, as_of, run_id)
        erasure.bury()
        for remove in erasure.layers:
            erasure.keep_count(remove())
            crash_point("erasure.after_layer")
        cost.rows = erasure.removed.total()
        return erasure.prove()


class _Erasure:
    """One call of erase; the connection knows the raw id as the variable `raw_id`."""

    def __init__(
        self, settings: Settings, connection: duckdb.DuckDBPyConnection, household: str, as_of: date, run_id: str
    ) -> None:
        self.settings, self.connection, self.as_of, self.run_id = settings, connection, as_of, run_id
        self.household_id = pseudonym(settings.key, household)
        connection.execute("SET VARIABLE raw_id = ?", [household])
        self.receipt = settings.home / "receipts" / f"erasure-{self.household_id}-{as_of}.json"
        begun = json.loads(self.receipt.read_text()) if self.receipt.exists() else {"removed": {}}
        self.removed = Counter[str](begun["removed"])
        self.unread: list[str] = []
        self.layers = (self.from_landing, self.from_lake, self.from_copies, self.from_stores)

    def bury(self) -> None:
        """Write down who asked, and the tombstone."""
        note_access(self.settings, "erase", self.run_id, ids=1, subject=self.household_id, reason="request to erase")
        grave = {COLUMN: self.household_id}
        with warehouse.open_warehouse(self.settings) as connection:
            warehouse.replace_rows(connection, tables.TOMBSTONES, [grave | {"run_id": self.run_id}], **grave)

    def keep_count(self, removed: Mapping[str, int]) -> None:
        """Add to the receipt what a layer has lost."""
        self.removed.update(removed)
        write_private(self.receipt, json.dumps({"removed": self.removed}))

    def from_landing(self) -> Counter[str]:
        """Rewrite the delivered files that hold the household, and their manifests."""
        removed = Counter[str]()
        for drop in personal_drops(self.settings, self.unread):
            found = {file: rows for file in drop.manifest.files if (rows := self._rows_in(drop, file))[0]}
            removed[f"landing/{drop.contract.name}"] += sum(held for held, _ in found.values())
            if found:
                self._rewrite(drop, found)
        return removed

    def from_lake(self) -> Counter[str]:
        """Write the partitions and snapshots that hold the household without it, and remove the old versions."""
        store, removed = self.settings.lake, Counter[str]()
        for table in lake.tables(store):
            removed[f"lake/{table}"] = self._from_table(table)
            lake.vacuum(store, table, 0)
        for name in store.names("features__"):
            path, (table, day, *_) = store.fetch(name), name.split("/")
            if COLUMN in pq.read_schema(path).names:
                rows = pq.read_table(path, partitioning=None)
                kept = rows.filter(pc.field(COLUMN) != self.household_id)
                removed[f"lake/{table}"] += rows.num_rows - kept.num_rows
                if kept.num_rows < rows.num_rows:
                    lake.replace_snapshot(store, table, kept, date.fromisoformat(day.removeprefix("as_of=")))
        return removed

    def from_copies(self) -> dict[str, int]:
        """Remove the copies that this machine made of files and objects; whoever needs one makes it again."""
        for pattern in ("cache", "scratch", "rebuild-*"):
            for folder in self.settings.home.glob(pattern):
                shutil.rmtree(folder, ignore_errors=True)
        return {}

    def from_stores(self) -> dict[str, int]:
        """Delete the household's rows of the online store and of the warehouse, free pages included."""
        removed = {"online store": forget_online(self.settings, COLUMN, self.household_id)}
        with warehouse.open_warehouse(self.settings) as connection:
            dates = self._published_dates(connection)
            for table in warehouse.tables_with(connection, _HOUSEHOLD):
                gone = connection.execute(sa.delete(table).where(table.c[COLUMN] == self.household_id))
                removed[f"warehouse/{table.name}"] = gone.rowcount
            for use_case, day in dates:
                record_erasure(connection, use_case, day, self.run_id)
        place = sa.make_url(self.settings.warehouse)
        if place.drivername.startswith("sqlite"):  # PostgreSQL does it by itself
            with closing(sqlite3.connect(str(place.database), timeout=60, isolation_level=None)) as file:
                file.execute("VACUUM")
                file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed

    def _published_dates(self, connection: sa.Connection) -> list[tuple[UseCase, date]]:
        """The publications that hold rows of the household, but for those that somebody has edited: they stay so."""
        found, known = [], set(sa.inspect(connection).get_table_names())
        for use_case in load_use_cases(self.settings).values():
            if use_case.entity == COLUMN and use_case.scores_table in known:
                days = tables.scores_table(use_case).c
                query = sa.select(days.score_date).where(days[COLUMN] == self.household_id).distinct()
                dates = list(connection.scalars(query))
                found += [(use_case, day) for day in dates if is_as_published(connection, use_case, day)]
        return found

    def prove(self) -> ErasureReport:
        """Look again everywhere: whatever is found was not there a moment ago; else, close the receipt."""
        left = Counter[str](dict.fromkeys(self.removed, 0))
        for look in self.layers:
            left.update(look())
        if left.total():
            raise EngineFailure(
                "rows of the household came back while it was erased",
                where=", ".join(place for place, rows in left.items() if rows),
                found=f"{left.total()} rows",
                remedy="run it again while no other step runs",
            )
        unread = tuple(sorted(set(self.unread)))
        report = ErasureReport(
            self.household_id, self.as_of, dict(self.removed), dict(left), unread, not unread, str(self.receipt)
        )
        told = asdict(report) | {"as_of": str(self.as_of), "run_id": self.run_id, "key_id": key_id(self.settings)}
        write_private(self.receipt, json.dumps(told, indent=1))
        return report

    def _rows_in(self, drop: Drop, file: DeliveredFile) -> tuple[int, int]:
        """Rows of the household in a delivered file, and of all."""
        counts = "count(*) FILTER (raw_id = getvariable('raw_id')), count(*)"
        try:
            held, rows = self.connection.sql(f"SELECT {counts} FROM ({raw_rows(drop, file)})").fetchall()[0]
        except (duckdb.Error, BadInput):
            self.unread.append(drop.name_of(file))
            return 0, 0
        return held, rows

    def _rewrite(self, drop: Drop, found: Mapping[DeliveredFile, tuple[int, int]]) -> None:
        """Put files without the household in place; a kill leaves the old ones beside a manifest of the new."""
        landing, entries = drop.landing, {file.name: file for file in drop.manifest.files}
        scratch = self.settings.home / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        for file, (held, rows) in found.items():
            others = f"SELECT * EXCLUDE (raw_id) FROM ({raw_rows(drop, file)}) WHERE raw_id IS DISTINCT FROM "
            write_like(self.connection, others + "getvariable('raw_id')", file, scratch / file.name)
            content = size_and_hash(scratch / file.name) | {"rows": rows - held}
            entries[file.name] = file.model_copy(update=content)
            self._note_hash(drop, entries[file.name])
            self._note_lines(drop, file, entries[file.name])
        files = tuple(entries.values())
        is_closed = drop.manifest.is_closed or not any(file.rows for file in files)
        manifest = drop.manifest.model_copy(update={"files": files, "is_closed": is_closed})
        name = f"{drop_name(drop.contract, drop.business_date)}/{MANIFEST}"
        landing.write(name, manifest.model_dump_json(indent=2).encode())
        for file in found:
            landing.upload(scratch / file.name, drop.name_of(file))

    def _note_hash(self, drop: Drop, file: DeliveredFile) -> None:
        """Tell the log the new hash of a file that it knows, so that the file counts as delivered, not as news."""
        table, name, day = drop.contract.core_table.name, drop.name_of(file), drop.business_date
        known = [row for row in current_log(self.settings, day, day, table) if row["source_file"] == name]
        if known and file.sha256 not in {row["source_sha256"] for row in known}:
            append_log(self.settings, [entry(drop, file, "erased")], self.run_id)

    def _note_lines(self, drop: Drop, old: DeliveredFile, new: DeliveredFile) -> None:
        """Tell the list of rows dropped from quarantine where in the rewritten file they are."""
        table, lines = (
            tables.QUARANTINE_DROPS,
            f"SELECT row_number() OVER () - 1, raw_id FROM ({raw_rows(drop, old)})",
        )
        delivered = size_and_hash(drop.landing.fetch(drop.name_of(old)))["sha256"]
        with warehouse.open_warehouse(self.settings) as connection:
            query = sa.select(table).where(table.c.source_sha256 == delivered)
            if rows := warehouse.read_rows(connection, query):
                held = f"SELECT line FROM ({lines}) t(line, raw_id) WHERE raw_id = getvariable('raw_id') ORDER BY ALL"
                gone = [line for (line,) in self.connection.sql(held).fetchall()]
                moved = [
                    row | {"source_sha256": new.sha256, "source_line": line - bisect_left(gone, line)}
                    for row in rows
                    if (line := row["source_line"]) not in gone
                ]
                warehouse.replace_rows(connection, table, moved, source_sha256=new.sha256)

    def _from_table(self, table: str) -> int:
        """Rewrite, in one commit, the dates of a Delta table that hold the household; gives its rows."""
        store, delta = self.settings.lake, lake.open_table(self.settings.lake, table)
        if delta is None or COLUMN not in (schema := pa.schema(delta.schema().to_arrow())).names:
            return 0
        partitions = delta.metadata().partition_columns
        day, files = partitions[0], lake.files_of(store, table, partition=partitions[0])
        types = ", ".join(f"'{name}': {'VARCHAR' if name != day else 'DATE'}" for name in partitions)
        stored = f"read_parquet({sql_list(files)}, hive_partitioning = true, hive_types = {{{types}}})"
        held = f"SELECT {day}, count(*) FROM {stored} WHERE {COLUMN} = $1 GROUP BY ALL ORDER BY ALL"
        found = self.connection.execute(held, [self.household_id]).fetchall() if files else []
        if found:
            listed = ", ".join(f"'{value}'" for value, _ in found)
            chosen = f"{day} IN ({listed})"
            kept = f"SELECT {', '.join(schema.names)} FROM {stored} WHERE {chosen} AND {COLUMN} IS DISTINCT FROM $1"
            rows = self.connection.sql(kept, params=[self.household_id]).to_arrow_reader(_BATCH_ROWS)
            lake.replace_where(store, table, rows.cast(schema), predicate=chosen, partition_by=partitions)
        return sum(rows for _, rows in found)
