"""What the upstream system delivered: finds the drops in landing and checks that each is as agreed."""

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.contracts import SCHEMA_VERSION, DropContract
from pipelines.errors import (
    DateOutsideData,
    EmptyDay,
    MissingDrop,
    MissingManifest,
    WrongManifest,
)
from pipelines.storage import Location

MANIFEST = "manifest.json"


class DeliveredFile(BaseModel):
    """One file of a drop, as its sender describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*\.(parquet|csv|csv\.gz)$")
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    encoding: Literal["utf-8", "utf-8-sig", "latin-1"] = "utf-8"  # of a CSV file; utf-8-sig begins with a BOM


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
    landing: Location
    manifest: Manifest

    @property
    def rows(self) -> int:
        """Rows over all files."""
        return sum(file.rows for file in self.manifest.files)

    def name_of(self, file: DeliveredFile) -> str:
        """Name of a delivered file below landing."""
        return f"{drop_name(self.contract, self.business_date)}/{file.name}"


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


def drop_name(contract: DropContract, day: date) -> str:
    """Where below landing a drop is delivered."""
    return f"{contract.name}/date={day}"


def find_drops(landing: Location, contract: DropContract, first: date, last: date) -> list[Drop]:
    """The drops from `first` to `last`, by date; a daily contract has one for each date.

    Raises:
        MissingDrop: a daily drop was not delivered.
        MissingManifest, WrongManifest: a delivery is not finished, or contradicts itself.
        EmptyDay: an open day without rows.
    """
    days = days_between(first, last)
    names = landing.names(_common_start(drop_name(contract, first), drop_name(contract, last)))
    delivered = {name.rpartition("/")[0] for name in names}
    drops = []
    for day in days:
        if drop_name(contract, day) in delivered:
            drops.append(read_drop(landing, contract, day))
        elif contract.is_daily:
            raise MissingDrop(
                f"{contract.name} of {day} were not delivered",
                where=landing.uri_of(drop_name(contract, day)),
                expected=f"a folder with {MANIFEST}",
                found="no folder",
                remedy=deliver_again(day),
            )
    return drops


def newest_drop(landing: Location, contract: DropContract, up_to: date) -> Drop:
    """The last drop delivered for `up_to` or an earlier date.

    Raises:
        MissingDrop: there is none.
    """
    names = landing.names(f"{contract.name}/date=")
    wanted = drop_name(contract, up_to)
    folders = [folder for folder in {name.rpartition("/")[0] for name in names} if folder <= wanted]
    if not folders:
        raise MissingDrop(
            f"no {contract.name} were delivered up to {up_to}",
            where=landing.uri_of(contract.name),
            expected=f"a drop of {up_to} or an earlier date",
            found="none",
            remedy=f"deliver an earlier date, or this one again: {deliver_again(up_to)}",
        )
    return read_drop(landing, contract, date.fromisoformat(max(folders).rpartition("=")[2]))


def read_drop(landing: Location, contract: DropContract, day: date) -> Drop:
    """A delivered drop, its manifest checked.

    Raises:
        MissingManifest, WrongManifest: the delivery is not finished, or contradicts itself.
        EmptyDay: an open day without rows.
    """
    folder = drop_name(contract, day)
    where = landing.uri_of(f"{folder}/{MANIFEST}")
    if (landing.folder / folder / MANIFEST).is_symlink():
        raise WrongManifest(
            "a link is not a manifest", where=where, expected="a file", found="a link", remedy=deliver_again(day)
        )
    try:
        manifest = Manifest.model_validate_json(landing.read(f"{folder}/{MANIFEST}"))
    except FileNotFoundError as error:
        raise MissingManifest(
            "the delivery is not finished",
            where=landing.uri_of(folder),
            expected=MANIFEST,
            found=", ".join(name.rpartition("/")[2] for name in landing.names(f"{folder}/")) or "an empty folder",
            remedy=f"wait for the sender, or deliver again: {deliver_again(day)}",
        ) from error
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]) or "file"
        raise WrongManifest(
            "the manifest cannot be read",
            where=where,
            expected=f"a valid {field}",
            found=f"{problem['msg']}: {str(problem['input'])[:100]!r}",
            remedy=deliver_again(day),
        ) from error
    drop = Drop(contract, day, landing, manifest)
    _check_manifest(drop, where)
    return drop


def _common_start(one: str, other: str) -> str:
    same = [a == b for a, b in zip(one, other, strict=True)]
    return one[: same.index(False)] if False in same else one


def _check_manifest(drop: Drop, path: str) -> None:
    manifest, contract = drop.manifest, drop.contract
    agreed = {"drop": contract.name, "business_date": drop.business_date, "schema_version": SCHEMA_VERSION}
    for fact, value in agreed.items():
        if getattr(manifest, fact) != value:
            raise wrong_manifest(
                "the manifest is another drop's", path, f"{fact} {value}", getattr(manifest, fact), drop
            )
    if manifest.is_closed and drop.rows:
        raise wrong_manifest("a closed day has rows", path, "0 rows", drop.rows, drop)
    if not (drop.rows or manifest.is_closed or contract.may_be_empty):
        raise EmptyDay(
            f"{contract.name} of {drop.business_date} have no rows, and the day is not marked closed",
            where=path,
            expected="rows, or is_closed: true",
            found="0 rows, is_closed: false",
            remedy=f"ask the sender; if the stores were closed, the manifest must say so; then "
            f"{deliver_again(drop.business_date)}",
        )


def wrong_manifest(what: str, path: Path | str, expected: object, found: object, drop: Drop) -> WrongManifest:
    """The error for a manifest that says something else than what is there."""
    where = drop.landing.origin(path) if isinstance(path, Path) else path
    return WrongManifest(what, where=where, expected=expected, found=found, remedy=deliver_again(drop.business_date))


def deliver_again(day: date) -> str:
    """The command that repeats a delivery."""
    return f"nightjar land --from {day} --to {day}"
