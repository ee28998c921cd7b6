"""Access to raw ids: the drops that hold them, the way back from pseudonyms, and the log of who went it."""

import csv
import getpass
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import sqlalchemy as sa

from pipelines import tables, warehouse
from pipelines.contracts import DROPS
from pipelines.drop_files import raw_rows
from pipelines.drops import MANIFEST, Drop, read_drop
from pipelines.engine import open_engine
from pipelines.errors import BadInput, MissingColumn
from pipelines.pseudonyms import pseudonym, require_same_key
from pipelines.settings import Settings
from pipelines.storage import replacing

COLUMN = "household_id"
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_DATED = re.compile(r"[a-z]+/date=(\d{4}-\d\d-\d\d)/[^/]+")


@dataclass(frozen=True)
class ReidentifyReport:
    """How many rows were written, and the pseudonyms whose rows have no raw id: landing does not know them."""

    rows: int
    ids: int
    unknown: tuple[str, ...]
    output: str


def reidentify(settings: Settings, source: Path, target: Path, reason: str, run_id: str) -> ReidentifyReport:
    """Translate the column `household_id` of a CSV file from pseudonyms to raw ids; the other columns stay.

    A row without a known household keeps its place with an empty one. No cell of the output is a formula.

    Raises:
        MissingColumn: the file has no column household_id.
        WrongKey: the lake was filled with another pseudonym key.
    """
    require_same_key(settings)
    with source.open(encoding="utf-8-sig", newline="") as content:
        reader = csv.reader(content)
        header = next(reader, [])
        rows = [row + [""] * (len(header) - len(row)) for row in reader if row]
    if COLUMN not in header:
        raise MissingColumn(
            f"the column {COLUMN} is missing",
            where=str(source),
            expected=COLUMN,
            found=", ".join(header),
            remedy="name the column of pseudonyms so",
        )
    place = header.index(COLUMN)
    wanted = {row[place] for row in rows}
    note_access(settings, "reidentify", run_id, ids=len(wanted), reason=reason)
    known = _raw_ids(settings, wanted)
    with replacing(target) as unfinished:
        unfinished.touch(mode=0o600)
        with unfinished.open("w", encoding="utf-8", newline="") as output:
            writer = csv.writer(output)
            writer.writerow(map(harmless, header))
            for row in rows:
                writer.writerow(map(harmless, [*row[:place], known.get(row[place], ""), *row[place + 1 :]]))
    return ReidentifyReport(len(rows), len(known), tuple(sorted(wanted - set(known))), str(target))


def harmless(cell: str) -> str:
    """A cell's text that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell[:1] in tuple("=+-@\t\r") and not _NUMBER.fullmatch(cell) else cell


def note_access(
    settings: Settings, what: str, run_id: str, *, ids: int, reason: str, subject: int | None = None
) -> None:
    """Write down who does what with ids; the ids themselves are not named."""
    row = {"who": getpass.getuser(), "what": what, "run_id": run_id, "ids": ids, "subject": subject, "reason": reason}
    warehouse.create_tables(settings, [])
    with warehouse.open_warehouse(settings) as connection:
        warehouse.append_rows(connection, tables.ACCESS_LOG, [row])


def personal_drops(settings: Settings, unread: list[str]) -> Iterator[Drop]:
    """Every delivered drop that names households, newest first; files without a sound manifest go to `unread`."""
    for contract in DROPS.values():
        if COLUMN in contract.schema.names:
            names = set(settings.landing.names(f"{contract.name}/"))
            days = {found[1] for name in names if name.endswith(MANIFEST) and (found := _DATED.fullmatch(name))}
            for day in sorted(days, reverse=True):
                try:
                    drop = read_drop(settings.landing, contract, date.fromisoformat(day))
                except (BadInput, ValueError):
                    continue
                folder = f"{contract.name}/date={day}"
                names -= {f"{folder}/{MANIFEST}", *(drop.name_of(file) for file in drop.manifest.files)}
                yield drop
            unread += names


def write_private(path: Path, text: str) -> None:
    """Put a file in place that only its owner may read."""
    with replacing(path) as unfinished:
        unfinished.touch(mode=0o600)
        unfinished.write_text(text)


def _raw_ids(settings: Settings, wanted: set[str]) -> Mapping[str, str]:
    """Raw ids by pseudonym, of those that landing knows and that were not erased; reads no more than it needs."""
    with warehouse.open_warehouse(settings) as connection:
        erased = {str(row) for row in connection.scalars(sa.select(tables.TOMBSTONES.c[COLUMN]))}
    found: dict[str, str] = {}
    tried: set[str] = set()
    with open_engine(settings) as engine:
        for drop in personal_drops(settings, []):
            for file in drop.manifest.files:
                if wanted - erased <= set(found):
                    return found
                try:
                    rows = engine.sql(f"SELECT DISTINCT raw_id FROM ({raw_rows(drop, file)})").fetchall()
                except (duckdb.Error, BadInput):
                    continue
                for raw in {row[0] for row in rows if row[0] is not None} - tried:
                    tried.add(raw)
                    name = str(pseudonym(settings.key, raw))
                    if name in wanted - erased:
                        found[name] = raw
    return found
