"""Ingest: settles business dates, that is, makes their partitions of the core tables what was delivered for them."""

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from importlib import import_module
from typing import Any

import duckdb

from pipelines import drop_files, drops, lake, pseudonyms, reference, transactions, warehouse
from pipelines.contracts import (
    CORE_TRANSACTIONS,
    DROPS,
    QUARANTINE_TRANSACTIONS,
    REFERENCE_DROPS,
    TRANSACTIONS_DROP,
)
from pipelines.coverage import ingested_dates
from pipelines.crash_points import crash_point
from pipelines.day_checks import require_sound_days
from pipelines.drops import Drop
from pipelines.engine import open_engine
from pipelines.errors import BadInput, ChecksFailed, EngineFailure, StorageRefused
from pipelines.ingest_log import COUNTS, Log, append_log, counts_by_file, current_log, entry
from pipelines.settings import Settings
from pipelines.steps import CLI_RUN, measured
from pipelines.transactions import Delivery
from pipelines.use_cases import late_window_days

_LOOK_BACK_DAYS = 35  # how far back a file that came after the late window is noticed
_CHUNK_LINES = 150_000  # beyond the first day's; what is settled at once stays as small however big a day


@dataclass(frozen=True)
class IngestReport:
    """What became of the transactions of the dates; `table_version` is that of core__transactions.

    `affected` are the dates whose scores must be made anew: those asked for, and those that a correction reaches.
    `unsettled` are ingested ones in reach whose drops have changed and now fail: they stay as they were, and a run of
    their own says why.
    """

    first: date
    last: date
    days: int
    rows_in: int
    rows_kept: int
    rows_quarantined: int
    rows_duplicate: int
    affected: tuple[date, ...]
    unsettled: tuple[date, ...]
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
    late_days = late_window_days(settings)
    import_module("expectations.transactions")  # Great Expectations takes seconds to load, which are no step's cost
    warehouse.create_tables(settings, [])
    pseudonyms.require_same_key(settings)
    with measured(settings, "ingest", f"{first}..{last}" if first != last else f"{first}", run_id) as cost:
        batch = _Batch(settings, first, last, late_days, run_id)
        changed = batch.changed_before()
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
    affected = batch.affected(changed)
    unsettled = tuple(sorted(batch.unsettled))
    days = (last - first).days + 1
    return IngestReport(first, last, days, rows_in, kept, quarantined, duplicate, affected, unsettled, version)


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
        self.known = current_log(settings, date.min, date.max)
        self.unsettled: set[date] = set()
        self._add_neighbours()
        self.repeats = self._repeated_files()

    def chunks(self) -> Iterator[tuple[date, date]]:
        """First and last date of each stretch of days that is settled at once: few enough days, and lines."""
        days = sorted(self.dates)
        while days:
            chunk, lines = days[:1], 0
            for day in days[1:]:
                lines += self.delivered[day].rows
                is_next = day - chunk[-1] == timedelta(days=1)
                if not is_next or len(chunk) == self.settings.ingest_chunk_days or lines > _CHUNK_LINES:
                    break
                chunk.append(day)
            yield chunk[0], chunk[-1]
            days = days[len(chunk) :]

    def changed_before(self) -> list[date]:
        """The dates that this very run replaced before it was killed, and has not told anybody."""
        mine = (row for row in self.known if row["run_id"] == self.run_id != CLI_RUN and row["status"] == "replaced")
        return [row["business_date"] for row in mine if row["business_date"] in self.dates]

    def settle(self, chunk: tuple[date, date]) -> Log:
        """Replace the partitions of these dates where they differ; gives the rows of the log that it wrote.

        A date that was not asked for and is no longer plausible stays as it is.
        """
        try:
            return self._settle(*chunk)
        except ChecksFailed:
            others = [day for day in drops.days_between(*chunk) if not self.first <= day <= self.last]
            if not others:
                raise
            if chunk[0] == chunk[1]:
                self.unsettled.add(chunk[0])
                return []
        asked = max(chunk[0], self.first), min(chunk[1], self.last)
        log = self._settle(*asked) if asked[0] <= asked[1] else []
        return log + [row for day in others for row in self.settle((day, day))]

    def record_late(self) -> None:
        """Write down, once, each file that came for a date after its late window; it changes nothing."""
        before = self.first - timedelta(days=self.late_days)
        known = [row for row in self.known if 0 < (before - row["business_date"]).days <= _LOOK_BACK_DAYS]
        late: Log = []
        for day in {row["business_date"] for row in known} - self.dates:
            seen = {row["source_sha256"] for row in known if row["business_date"] == day}
            for drop in self._readable(day):
                late += [
                    {**entry(drop, file, "late"), "rows_in": file.rows, "rows_late": file.rows}
                    for file in drop.manifest.files
                    if file.sha256 not in seen
                ]
        append_log(self.settings, late, self.run_id)

    def affected(self, changed: Collection[date]) -> tuple[date, ...]:
        """The dates whose scores must be made anew.

        What another run ingests meanwhile, as in a backfill, is not scored before the dates before it are there: a date
        that is new does not reach it.
        """
        before = {row["business_date"] for row in self.known}
        new = {day for day in changed if day not in before and min(before, default=day) < day}
        asked = {*drops.days_between(self.first, self.last)} | _reached(before, new, self.late_days)
        return affected_dates(self.settings, asked, {*changed} - new)

    def _settle(self, first: date, last: date) -> Log:
        delivery = self._delivery(first, last)
        with open_engine(self.settings) as connection, _reading(self.settings, [drop for drop, _ in delivery.files]):
            transactions.register_withdrawn(connection, self.settings)
            references = {
                contract: [drop for drop in self.asked[contract.name] if first <= drop.business_date <= last]
                for contract in REFERENCE_DROPS
            }
            references = {contract: chosen for contract, chosen in references.items() if chosen}
            for contract, chosen in references.items():
                reference.read(connection, self.settings, contract, chosen)
            counts = transactions.sort_out(connection, self.settings, delivery)
            require_sound_days(connection, self.settings, delivery, self.run_id)
            log: Log = []
            for contract, chosen in references.items():
                log += reference.replace(connection, self.settings, contract, chosen)
            crash_point("ingest.after_reference")
            lake.replace_changed(connection, self.settings.lake, QUARANTINE_TRANSACTIONS, "quarantined", (first, last))
            crash_point("ingest.after_quarantine")
            changed = lake.replace_changed(connection, self.settings.lake, CORE_TRANSACTIONS, "kept", (first, last))
            crash_point("ingest.after_core")
        log = append_log(self.settings, log + self._news(delivery, counts, changed), self.run_id)
        crash_point("ingest.after_log")
        return log

    def _add_neighbours(self) -> None:
        """Settle anew the ingested dates near these, and near those that hold a copy of a file of theirs."""
        near = timedelta(days=self.late_days)
        self._add_ingested(self.first - near, self.last + near)
        known = [row for row in self.known if row["source_sha256"] and row["status"] != "late"]
        hashes = {row["source_sha256"] for row in known if row["business_date"] in self.dates}
        hashes |= {file.sha256 for drop in self.delivered.values() for file in drop.manifest.files}
        for day in {row["business_date"] for row in known if row["source_sha256"] in hashes} - self.dates:
            self._add_ingested(day - near, day + near)

    def _add_ingested(self, first: date, last: date) -> None:
        near = timedelta(days=self.late_days)
        ingested = {row["business_date"] for row in self.known}
        here = {day for day in ingested | self.dates if first <= day <= last}
        for day in drops.days_between(min(here), max(here) + near):
            if day not in self.delivered:
                self.delivered |= {drop.business_date: drop for drop in self._readable(day)}
        lost = {day for day in ingested - set(self.delivered) if min(here) <= day <= max(here) + near}
        for day in sorted(lost):
            if self.first <= day <= self.last + near:
                self._read(day)  # raises: without it, lines that it brought for the dates asked for would be gone
        short = {day for day in here if any(day <= gone <= day + near for gone in lost)}
        self.unsettled |= short
        self.dates |= here - short

    def _read(self, day: date) -> Drop:
        drop = drops.read_drop(self.settings.landing, TRANSACTIONS_DROP, day)
        drop_files.check_files(drop)
        return drop

    def _readable(self, day: date) -> list[Drop]:
        """The drop of a date that was not asked for; none where it would fail, which its own run will say."""
        try:
            return [self._read(day)]
        except StorageRefused:
            raise
        except BadInput:
            return []

    def _repeated_files(self) -> set[str]:
        """Names below landing of files that were delivered before, for an earlier date or under another name."""
        placed = [
            (day, drop.name_of(file), file.sha256)
            for day, drop in self.delivered.items()
            for file in drop.manifest.files
        ]
        places = ("business_date", "source_file", "source_sha256")
        rewritten = {row["source_file"] for row in self.known if row["status"] == "erased"}  # known by both hashes
        placed += [
            tuple(row[name] for name in places)
            for row in self.known
            if row["source_file"] and (row["business_date"] not in self.delivered or row["source_file"] in rewritten)
        ]
        seen: dict[str, str] = {}
        return {name for _, name, sha256 in sorted(placed) if seen.setdefault(sha256, name) != name}

    def _delivery(self, first: date, last: date) -> Delivery:
        until = last + timedelta(days=self.late_days)
        files = [
            (drop, file)
            for day, drop in sorted(self.delivered.items())
            if first <= day <= until
            for file in drop.manifest.files
            if drop.name_of(file) not in self.repeats
        ]
        landing, contract = self.settings.landing, DROPS["products"]
        known = [drops.newest_drop(landing, contract, first), *drops.find_drops(landing, contract, first, last)]
        products = list({drop.business_date: drop for drop in known}.values())
        for drop in products:
            drop_files.check_files(drop)
        closed = {day for day in drops.days_between(first, last) if self.delivered[day].manifest.is_closed}
        return Delivery(first, last, files, products, closed, self.late_days)

    def _news(self, delivery: Delivery, counts: Log, changed: set[date]) -> Log:
        """The log's rows of the dates that were asked for, and of the others of which it says something else so far.

        A date counts as replaced, too, when its rows are other ones than the log knows: the run that brought them
        was killed before it could say so.
        """
        log = self._log_of_lines(delivery, counts)
        fresh = counts_by_file(log)
        known = {key: sums for key, sums in counts_by_file(self.known).items() if key[0] in delivery.days}
        told = {key[0] for key, _ in known.items() ^ fresh.items()}
        changed = changed | {day for day, *_ in _kept(known) ^ _kept(fresh)}
        version = lake.version_of(self.settings.lake, CORE_TRANSACTIONS.name)
        for row in log:
            row["table_version"] = version
            if row["status"] != "duplicate":
                row["status"] = "replaced" if row["business_date"] in changed else "unchanged"
        return [row for row in log if row["business_date"] in told or self.first <= row["business_date"] <= self.last]

    def _log_of_lines(self, delivery: Delivery, counts: Log) -> Log:
        """A row per date and file that has lines for it, and per file that has none of its own drop's date."""
        by_place = {(row["business_date"], row["source_file"]): row for row in counts}
        log: Log = []
        for day in delivery.days:
            drop = self.delivered[day]
            for file in drop.manifest.files or (None,):
                row = entry(drop, file, "")
                if file is not None and row["source_file"] in self.repeats:
                    row |= {"status": "duplicate", "rows_in": file.rows, "rows_duplicate": file.rows}
                log.append(row | by_place.pop((day, row["source_file"]), {}))
        for (_, name), row in by_place.items():  # late lines: of another date's drop
            drop, file = next((drop, file) for drop, file in delivery.files if drop.name_of(file) == name)
            log.append(entry(drop, file, "") | row)
        return log


def _kept(counts: Mapping[Any, tuple[int, ...]]) -> set[tuple[Any, ...]]:
    return {(*key, sums[1]) for key, sums in counts.items() if sums[1]}


def affected_dates(settings: Settings, asked: Set[date], changed: Collection[date]) -> tuple[date, ...]:
    """The dates whose scores must be made anew: those asked for, and the ingested ones that the changed ones reach."""
    if changed:
        asked = asked | _reached(ingested_dates(settings), changed, late_window_days(settings))
    return tuple(sorted(asked))


def _reached(ingested: Collection[date], changed: Collection[date], late_days: int) -> Set[date]:
    first, last = min(changed, default=date.max), max(changed, default=date.min)
    return {day for day in ingested if first <= day and (day - last).days <= late_days}


@contextmanager
def _reading(settings: Settings, delivered: Sequence[Drop]) -> Iterator[None]:
    """Tells a damaged file, whose hash its sender took after the damage, from a failure of the engine."""
    try:
        yield
    except (duckdb.Error, OSError) as error:
        drop_files.check_content(delivered)
        raise EngineFailure(
            "the engine failed on files that can be read",
            where=f"{len(delivered)} files",
            found=str(error).splitlines()[0],
            remedy="free space if the disk is full, and run again; if memory is short, raise "
            "NIGHTJAR_DUCKDB_MEMORY_LIMIT_MIB or lower NIGHTJAR_INGEST_CHUNK_DAYS",
        ) from error
    finally:
        drop_files.remove_staged(settings.home / "scratch")
