"""What the upstream system delivered: finds the drops in landing and checks that each is as agreed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.contracts import SCHEMA_VERSION, DropContract
from pipelines.errors import (
    DateOutsideData,
    EmptyDay,
    MissingColumn,
    MissingDrop,
    MissingManifest,
    UnreadableFile,
    WrongManifest,
    WrongType,
)

MANIFEST = "manifest.json"


class DeliveredFile(BaseModel):
    """One file of a drop, as its sender describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What a drop holds; it is delivered last, so a drop without it is not finished."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drop: str
    business_date: date
    schema_version: int
    is_closed: bool
    files: tuple[DeliveredFile, ...]


@dataclass(frozen=True)
class Drop:
    """One delivery of one business date, with its manifest."""

    contract: DropContract
    business_date: date
    folder: Path
    manifest: Manifest

    @property
    def paths(self) -> list[Path]:
        """The delivered files."""
        return [self.folder / file.name for file in self.manifest.files]

    @property
    def rows(self) -> int:
        """Rows over all files."""
        return sum(file.rows for file in self.manifest.files)

    @property
    def sha256(self) -> str | None:
        """Hash of the delivered file; of the files' hashes where there are several; none without a file."""
        hashes = [file.sha256 for file in self.manifest.files]
        if len(hashes) > 1:
            return hashlib.sha256("".join(hashes).encode()).hexdigest()
        return hashes[0] if hashes else None


def days_between(first: date, last: date) -> list[date]:
    """Every date from `first` to `last`, both included.

    Raises:
        DateOutsideData: `first` is later than `last`.
    """
    if first > last:
        raise DateOutsideData(
            "the range of dates is empty",
            where=f"{first} to {last}",
            expected="a first date that is not after the last",
            found=f"{first} > {last}",
            remedy="exchange the two dates",
        )
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def drop_folder(landing: Path, contract: DropContract, day: date) -> Path:
    """Folder into which a drop is delivered."""
    return landing / contract.name / f"date={day}"


def find_drops(landing: Path, contract: DropContract, first: date, last: date) -> list[Drop]:
    """The drops from `first` to `last`, by date; a daily contract has one for each date.

    Raises:
        MissingDrop: a daily drop was not delivered.
        MissingManifest, WrongManifest: a delivery is not finished, or contradicts itself.
        EmptyDay: an open day without rows.
    """
    drops = []
    for day in days_between(first, last):
        folder = drop_folder(landing, contract, day)
        if folder.is_dir():
            drops.append(_read_drop(folder, contract, day))
        elif contract.is_daily:
            raise MissingDrop(
                f"{contract.name} of {day} were not delivered",
                where=str(folder),
                expected=f"a folder with {MANIFEST}",
                found="no folder",
                remedy=_deliver_again(day),
            )
    return drops


def newest_drop(landing: Path, contract: DropContract, up_to: date) -> Drop:
    """The last drop delivered for `up_to` or an earlier date.

    Raises:
        MissingDrop: there is none.
    """
    wanted = drop_folder(landing, contract, up_to)
    folders = [folder for folder in wanted.parent.glob("date=????-??-??") if folder.name <= wanted.name]
    if not folders:
        raise MissingDrop(
            f"no {contract.name} were delivered up to {up_to}",
            where=str(wanted.parent),
            expected=f"a drop of {up_to} or an earlier date",
            found="none",
            remedy=f"deliver an earlier date, or this one again: {_deliver_again(up_to)}",
        )
    newest = max(folders)
    return _read_drop(newest, contract, date.fromisoformat(newest.name.removeprefix("date=")))


def check_files(drop: Drop) -> None:
    """Nothing, when each file is the one that the manifest describes and has the contract's columns.

    Raises:
        UnreadableFile, MissingColumn, WrongType, WrongManifest: what is wrong with which file.
    """
    for path, file in zip(drop.paths, drop.manifest.files, strict=True):
        if not path.is_file():
            raise _wrong_manifest("the manifest names a file that does not exist", path, file.name, "no file", drop)
        schema, rows = _read_footer(path, drop)
        _check_schema(schema, path, drop)
        found = {
            "rows": rows,
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for fact, value in found.items():
            if value != getattr(file, fact):
                raise _wrong_manifest(
                    "the file is not the manifest's", path, f"{fact} {getattr(file, fact)}", value, drop
                )


def check_content(drops: Sequence[Drop]) -> None:
    """Nothing, when every file can be read to its end: slower than `check_files`, for after a failure.

    Raises:
        UnreadableFile: names the first one that cannot.
    """
    for drop in drops:
        for path in drop.paths:
            try:
                pq.read_table(path, partitioning=None)
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(path, error, drop) from error


def _read_drop(folder: Path, contract: DropContract, day: date) -> Drop:
    path = folder / MANIFEST
    if not path.is_file():
        raise MissingManifest(
            "the delivery is not finished",
            where=str(folder),
            expected=MANIFEST,
            found=", ".join(sorted(file.name for file in folder.iterdir())) or "an empty folder",
            remedy=f"wait for the sender, or deliver again: {_deliver_again(day)}",
        )
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]) or "file"
        raise WrongManifest(
            "the manifest cannot be read",
            where=str(path),
            expected=f"a valid {field}",
            found=f"{problem['msg']}: {str(problem['input'])[:100]!r}",
            remedy=_deliver_again(day),
        ) from error
    drop = Drop(contract, day, folder, manifest)
    _check_manifest(drop, path)
    return drop


def _check_manifest(drop: Drop, path: Path) -> None:
    manifest, contract = drop.manifest, drop.contract
    agreed = {"drop": contract.name, "business_date": drop.business_date, "schema_version": SCHEMA_VERSION}
    for fact, value in agreed.items():
        if getattr(manifest, fact) != value:
            raise _wrong_manifest(
                "the manifest is another drop's", path, f"{fact} {value}", getattr(manifest, fact), drop
            )
    if manifest.is_closed and drop.rows:
        raise _wrong_manifest("a closed day has rows", path, "0 rows", drop.rows, drop)
    if not (drop.rows or manifest.is_closed or contract.may_be_empty):
        raise EmptyDay(
            f"{contract.name} of {drop.business_date} have no rows, and the day is not marked closed",
            where=str(path),
            expected="rows, or is_closed: true",
            found="0 rows, is_closed: false",
            remedy=f"ask the sender; if the stores were closed, the manifest must say so; then "
            f"{_deliver_again(drop.business_date)}",
        )


def _read_footer(path: Path, drop: Drop) -> tuple[pa.Schema, int]:
    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error, drop) from error


def _check_schema(found: pa.Schema, path: Path, drop: Drop) -> None:
    for name, type_ in drop.contract.columns:
        if name not in found.names:
            raise MissingColumn(
                f"the column {name} is missing",
                where=str(path),
                expected=f"{name} ({type_})",
                found=", ".join(found.names),
                remedy=f"deliver a file with every agreed column: {_deliver_again(drop.business_date)}",
            )
        if found.field(name).type != type_:
            raise WrongType(
                f"the column {name} has another type than agreed",
                where=str(path),
                expected=f"{name} ({type_})",
                found=f"{name} ({found.field(name).type})",
                remedy=f"deliver a file with the agreed types: {_deliver_again(drop.business_date)}",
            )


def _wrong_manifest(what: str, path: Path, expected: object, found: object, drop: Drop) -> WrongManifest:
    remedy = _deliver_again(drop.business_date)
    return WrongManifest(what, where=str(path), expected=expected, found=found, remedy=remedy)


def _unreadable(path: Path, error: Exception, drop: Drop) -> UnreadableFile:
    return UnreadableFile(
        "the file cannot be read as Parquet",
        where=str(path),
        expected="a whole Parquet file",
        found=f"{path.stat().st_size} bytes; {str(error).splitlines()[0]}",
        remedy=_deliver_again(drop.business_date),
    )


def _deliver_again(day: date) -> str:
    return f"nightjar land --from {day} --to {day}"
