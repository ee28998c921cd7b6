"""Ingest: settles business dates, that is, makes their partitions of the core tables what was delivered for them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from importlib import import_module
from typing import Any

import duckdb
import sqlalchemy as sa

from pipelines import drop_files, drops, lake, pseudonyms, reference, transactions, warehouse
from pipelines.checks import log_rows, require
from pipelines.contracts import (
    CORE_TRANSACTIONS,
    DROPS,
    QUARANTINE_TRANSACTIONS,
    REFERENCE_DROPS,
    TRANSACTIONS_DROP,
)
from pipelines.coverage import ingested_dates
from pipelines.drops import DeliveredFile, Drop
from pipelines.engine import open_engine
from pipelines.errors import BadInput, ChecksFailed, EngineFailure
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.transactions import Delivery
from pipelines.use_cases import load_use_cases

COUNTS = ("rows_in", "rows_kept", "rows_quarantined", "rows_duplicate", "rows_erased", "rows_late", "rows_dropped")
_LOOK_BACK_DAYS = 35  # how far back a file that came after the late window is noticed
_CHUNK_LINES = 150_000  # beyond the first day's; what is settled at once stays as small however big a day
Log = list[dict[str, Any]]


@dataclass(frozen=True)
class IngestReport:
    """What became of the transactions of the dates; `table_version` is that of core__transactions.

    `affected` are the dates whose scores must be made anew: those asked for, and those that a correction reaches.
    """

    first: date
    last: date
    days: int
    rows_in: int
    rows_kept: int
    rows_quarantined: int
    rows_duplicate: int
    affected: tuple[date, ...]
    table_version: str


def ingest(settings: Settings, first: date, last: date, run_id: str) -> IngestReport:
    """Settle the dates from `first` to `last`, and anew the ingested ones that lie a late window before or after.

    So a corrected file and late lines reach their date with the next night, whatever the order of delivery. Partitions
    that come out as they were stay untouched. All files of the range are checked before anything is written.

    Raises:
        DateOutsideData: `first` is later than `last`.
        WrongKey: the lake was filled with another pseudonym key.
        MissingDrop, MissingManifest, WrongManifest, EmptyDay: a delivery is not as agreed.
        UnreadableFile, MissingColumn, WrongType: a delivered file is not.
        ChecksFailed: the rows of a day, or the keys of a reference table, are not plausible.
    """
    drops.days_between(first, last)
    use_cases = load_use_cases(settings).values()
    late_days = max((use_case.late_window_days for use_case in use_cases), default=0)
    import_module("expectations.transactions")  # Great Expectations takes seconds to load, which are no step's cost
    warehouse.create_tables(settings, [])
    pseudonyms.require_same_key(settings)
    with measured(settings, "ingest", f"{first}..{last}" if first != last else f"{first}", run_id) as cost:
        batch = _Batch(settings, first, last, late_days, run_id)
        changed: list[date] = []
        asked: Log = []
        for chunk in batch.chunks():
            log = [row for row in batch.settle(chunk) if row["table_name"] == CORE_TRANSACTIONS.name]
            changed += [row["business_date"] for row in log if row["status"] == "replaced"]
            asked += [row for row in log if first <= row["business_date"] <= last]
        batch.record_late()
        kept = sum(row["rows_kept"] for row in asked)
        cost.rows = kept
    rows_in, _, quarantined, duplicate = (sum(row[name] for row in asked) for name in COUNTS[:4])
    version = lake.version_of(settings.lake, CORE_TRANSACTIONS.name)
    affected = _affected(settings, first, last, changed, late_days)
    days = (last - first).days + 1
    return IngestReport(first, last, days, rows_in, kept, quarantined, duplicate, affected, version)


class _Batch:
    """One call of ingest: its drops, each looked at once, and what the log says of the dates so far."""

    def __init__(self, settings: Settings, first: date, last: date, late_days: int, run_id: str) -> None:
        self.settings, self.first, self.last, self.late_days, self.run_id = settings, first, last, late_days, run_id
        self.asked = {n: drops.find_drops(settings.landing, contract, first, last) for n, contract in DROPS.items()}
        for found in self.asked.values():
            for drop in found:
                drop_files.check_files(drop)
        self.delivered = {drop.business_date: drop for drop in self.asked[TRANSACTIONS_DROP.name]}
        self.dates = set(self.delivered)
        self._add_neighbours()
        self.repeats = self._repeated_files()

    def chunks(self) -> Iterator[tuple[date, date]]:
        """First and last date of each stretch of days that is settled at once: few enough days, and lines."""
        days = sorted(self.dates)
        asked = set(drops.days_between(self.first, self.last))
        while days:
            chunk, lines = days[:1], 0
            for day in days[1:]:
                lines += self.delivered[day].rows
                is_next = day - chunk[-1] == timedelta(days=1)
                is_next &= (day in asked) == (chunk[-1] in asked)
                if not is_next or len(chunk) == self.settings.ingest_chunk_days or lines > _CHUNK_LINES:
                    break
                chunk.append(day)
            yield chunk[0], chunk[-1]
            days = days[len(chunk) :]

    def settle(self, chunk: tuple[date, date]) -> Log:
        """Replace the partitions of these dates where they differ; gives the rows of the log that it wrote."""
        first, last = chunk
        delivery = self._delivery(first, last)
        with open_engine(self.settings) as connection, _reading([drop for drop, _ in delivery.files]):
            self._register_tombstones(connection)
            references = {
                contract: [drop for drop in self.asked[contract.name] if first <= drop.business_date <= last]
                for contract in REFERENCE_DROPS
            }
            references = {contract: chosen for contract, chosen in references.items() if chosen}
            for contract, chosen in references.items():
                reference.read(connection, self.settings, contract, chosen)
            counts = transactions.sort_out(connection, self.settings, delivery)
            if not self._is_sound(connection, delivery):
                return []
            log: Log = []
            for contract, chosen in references.items():
                log += reference.replace(connection, self.settings, contract, chosen)
            lake.replace_changed(connection, self.settings.lake, QUARANTINE_TRANSACTIONS, "quarantined", chunk)
            changed = lake.replace_changed(connection, self.settings.lake, CORE_TRANSACTIONS, "kept", chunk)
        log += self._news(self._log_of_lines(delivery, counts, changed), chunk)
        return append_log(self.settings, log, self.run_id)

    def _is_sound(self, connection: duckdb.DuckDBPyConnection, delivery: Delivery) -> bool:
        """Whether the days may replace what is there; a bad day that was asked for is an error."""
        checks = transactions.day_checks(connection, self.settings, delivery)
        with warehouse.open_warehouse(self.settings) as opened:
            for day, verdicts in checks.items():
                rows = log_rows(verdicts, table=CORE_TRANSACTIONS.name, day=day, run_id=self.run_id)
                warehouse.append_rows(opened, warehouse.CHECK_LOG, rows)
        dated = [
            replace(check, observed=f"{check.observed} on {day}")
            for day, verdicts in checks.items()
            for check in verdicts
        ]
        remedy = (
            f"look at the files (lines that break a rule: {transactions.broken_rules(connection)}) and have them "
            "delivered again; or correct the limits in expectations/transactions.py if the business has changed"
        )
        try:
            require(dated, where=str(delivery), remedy=remedy)
        except ChecksFailed:
            if self.first <= delivery.first <= self.last:
                raise
            return False  # a correction that makes an earlier day worse must not stop tonight's; ops__check_log tells
        return True

    def record_late(self) -> None:
        """Write down, once, each file that came for a date after its late window; it changes nothing."""
        before = self.first - timedelta(days=self.late_days)
        known = current_log(self.settings, before - timedelta(days=_LOOK_BACK_DAYS), before - timedelta(days=1))
        late: Log = []
        for day in {row["business_date"] for row in known}:
            seen = {row["source_sha256"] for row in known if row["business_date"] == day}
            for drop in self._readable(day):
                late += [
                    {**_entry(drop, file, "late"), "rows_in": file.rows, "rows_late": file.rows}
                    for file in drop.manifest.files
                    if file.sha256 not in seen
                ]
        append_log(self.settings, late, self.run_id)

    def _add_neighbours(self) -> None:
        near = timedelta(days=self.late_days)
        ingested = {day for day in ingested_dates(self.settings) if self.first - near <= day <= self.last + near}
        start = min(ingested | self.dates)
        for day in drops.days_between(start, max(ingested | self.dates) + near):
            if day not in self.delivered:
                self.delivered |= {drop.business_date: drop for drop in self._readable(day)}
        self.dates |= ingested & set(self.delivered)

    def _readable(self, day: date) -> list[Drop]:
        """The drop of a date that was not asked for; none where it would fail, which its own run will say."""
        try:
            drop = drops.read_drop(self.settings.landing, TRANSACTIONS_DROP, day)
            drop_files.check_files(drop)
        except BadInput:
            return []
        return [drop]

    def _repeated_files(self) -> set[str]:
        """Names below landing of files that were delivered before, for an earlier date or under another name."""
        earlier = current_log(self.settings, date.min, min(self.delivered) - timedelta(days=1))
        seen = {row["source_sha256"]: row["source_file"] for row in earlier}
        repeated = set()
        for _, drop in sorted(self.delivered.items()):
            for file in drop.manifest.files:
                name = drop.name_of(file)
                if seen.setdefault(file.sha256, name) != name:
                    repeated.add(name)
        return repeated

    def _delivery(self, first: date, last: date) -> Delivery:
        until = last + timedelta(days=self.late_days)
        files = [
            (drop, file)
            for day, drop in sorted(self.delivered.items())
            if first <= day <= until
            for file in drop.manifest.files
            if drop.name_of(file) not in self.repeats
        ]
        products = drops.newest_drop(self.settings.landing, DROPS["products"], first)
        drop_files.check_files(products)
        later = [drop for drop in self.asked["products"] if first < drop.business_date <= last]
        return Delivery(first, last, files, [products, *later], self.late_days)

    def _register_tombstones(self, connection: duckdb.DuckDBPyConnection) -> None:
        import pyarrow as pa

        with warehouse.open_warehouse(self.settings) as opened:
            erased = list(opened.scalars(sa.select(warehouse.TOMBSTONES.c.household_id)))
        connection.register("ops__tombstones", pa.table({"household_id": pa.array(erased, pa.int64())}))

    def _log_of_lines(self, delivery: Delivery, counts: Log, changed: set[date]) -> Log:
        """A row per date and file that has lines for it, and per file that has none of its own drop's date."""
        version = lake.version_of(self.settings.lake, CORE_TRANSACTIONS.name)
        by_place = {(row["business_date"], row["source_file"]): row for row in counts}
        log: Log = []
        for day in drops.days_between(delivery.first, delivery.last):
            status = "replaced" if day in changed else "unchanged"
            drop = self.delivered[day]
            for file in drop.manifest.files or (None,):
                repeated = file is not None and drop.name_of(file) in self.repeats
                row = _entry(drop, file, "duplicate" if repeated else status)
                if repeated and file is not None:
                    row |= {"rows_in": file.rows, "rows_duplicate": file.rows}
                log.append(row | by_place.pop((day, row["source_file"]), {}))
        for (day, name), row in by_place.items():  # late lines: of another date's drop
            drop, file = next((drop, file) for drop, file in delivery.files if drop.name_of(file) == name)
            log.append(_entry(drop, file, "replaced" if day in changed else "unchanged") | row)
        return [{**row, "table_version": version} for row in log]

    def _news(self, log: Log, chunk: tuple[date, date]) -> Log:
        """The rows of the dates that were asked for, and of the others of which the log says something else."""
        known = _facts(current_log(self.settings, *chunk))
        fresh = _facts(log)
        return [
            row
            for row in log
            if self.first <= (day := row["business_date"]) <= self.last or fresh[day] != known.get(day)
        ]


def current_log(settings: Settings, first: date, last: date, table: str = CORE_TRANSACTIONS.name) -> Log:
    """What the log says now of the files of these dates: the rows of each date's last attempt, and the late files."""
    log = warehouse.INGEST_LOG
    newest = sa.func.max(log.c.attempt).over(partition_by=log.c.business_date).label("newest")
    between = sa.and_(log.c.table_name == table, log.c.business_date.between(first, last))
    rows = sa.select(log, newest).where(between).subquery()
    query = sa.select(rows).where(sa.or_(rows.c.attempt == rows.c.newest, rows.c.status == "late"))
    with warehouse.open_warehouse(settings) as connection:
        return warehouse.read_rows(connection, query)


def append_log(settings: Settings, rows: Log, run_id: str) -> Log:
    """Append to ops__ingest_log; a date's rows get the number of its next attempt, late files that of its last."""
    log = warehouse.INGEST_LOG
    filled = []
    with warehouse.open_warehouse(settings) as connection:
        newest = sa.select(log.c.table_name, log.c.business_date, sa.func.max(log.c.attempt)).group_by(
            log.c.table_name, log.c.business_date
        )
        attempts = {(table, day): attempt for table, day, attempt in connection.execute(newest)}
        for row in rows:
            last = attempts.get((row["table_name"], row["business_date"]), 0)
            attempt = last if row["status"] == "late" else last + 1
            stamp = {"run_id": run_id, "attempt": attempt, "key_id": pseudonyms.key_id(settings)}
            filled.append({**dict.fromkeys(COUNTS, 0), "table_version": "none", **row, **stamp})
        warehouse.append_rows(connection, log, filled)
    return filled


def _entry(drop: Drop, file: DeliveredFile | None, status: str) -> dict[str, Any]:
    return {
        "table_name": drop.contract.core_table.name,
        "business_date": drop.business_date,
        "status": status,
        "source_file": drop.name_of(file) if file else None,
        "source_sha256": file.sha256 if file else None,
        **dict.fromkeys(COUNTS, 0),
    }


def _facts(log: Log) -> dict[date, set[object]]:
    facts: dict[date, set[object]] = {}
    for row in log:
        if row["status"] != "late":
            counts = tuple(row[name] for name in COUNTS)
            facts.setdefault(row["business_date"], set()).add((row["source_file"], row["source_sha256"], counts))
    return facts


def _affected(settings: Settings, first: date, last: date, changed: Sequence[date], late_days: int) -> tuple[date, ...]:
    dates = set(drops.days_between(first, last))
    if changed:
        reach = max(changed) + timedelta(days=late_days)
        dates |= {day for day in ingested_dates(settings) if min(changed) <= day <= reach}
    return tuple(sorted(dates))


@contextmanager
def _reading(delivered: Sequence[Drop]) -> Iterator[None]:
    """Tells a damaged file, whose hash its sender took after the damage, from a failure of the engine."""
    try:
        yield
    except duckdb.Error as error:
        drop_files.check_content(delivered)
        raise EngineFailure(
            "DuckDB failed on files that can be read",
            where=f"{len(delivered)} files",
            found=str(error).splitlines()[0],
            remedy="run again; if memory is short, raise NIGHTJAR_DUCKDB_MEMORY_LIMIT_MIB "
            "or lower NIGHTJAR_INGEST_CHUNK_DAYS",
        ) from error
