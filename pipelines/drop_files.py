"""The files of a drop: whether each is the one that its manifest describes, and its rows as Parquet."""

import gzip
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.contracts import DropContract
from pipelines.drops import DeliveredFile, Drop, deliver_again, wrong_manifest
from pipelines.errors import MissingColumn, UnreadableFile, WrongType
from pipelines.storage import replacing, sql_list

_BOM = b"\xef\xbb\xbf"
_LONGEST_LINE_BYTES = 4_000_000


def check_files(drop: Drop) -> None:
    """Nothing, when each file is the one that the manifest describes and has the contract's columns.

    The rows of a CSV file are counted when it is read.

    Raises:
        UnreadableFile, MissingColumn, WrongType, WrongManifest: what is wrong with which file.
    """
    for file in drop.manifest.files:
        path = _fetch(drop, file)
        found: dict[str, object] = {}
        if file.name.endswith(".parquet"):
            schema, found["rows"] = _read_footer(path, drop)
            _check_schema(schema, path, drop)
        else:
            _check_header(path, drop, file)
        for fact, value in (found | size_and_hash(path)).items():
            if value != getattr(file, fact):
                raise wrong_manifest(
                    "the file is not the manifest's", path, f"{fact} {getattr(file, fact)}", value, drop
                )


def as_parquet(connection: duckdb.DuckDBPyConnection, drop: Drop, file: DeliveredFile, scratch: Path) -> Path:
    """A delivered file as Parquet with the contract's types: itself, or what was read from CSV, under `scratch`.

    A CSV row with a value that is not of its column's type keeps the whole row as JSON in `unreadable`. Memory does
    not follow the file's size; a file that unpacks to more rows than its manifest says is not read on.

    Raises:
        UnreadableFile, WrongManifest: the text is no CSV in the declared encoding, or has other rows than declared.
    """
    path = _fetch(drop, file)
    if file.name.endswith(".parquet"):
        return path
    staged = scratch / f"{drop.contract.name}-{file.sha256}.{os.getpid()}.parquet"
    columns, is_lost = typed_columns(drop.contract)
    whole = ", ".join(f"'{name}': {name}" for name in drop.contract.schema.names)
    query = f"""
        SELECT {columns}, CASE WHEN {is_lost} THEN to_json({{{whole}}})::VARCHAR END AS unreadable
        FROM {_csv(path, file)} LIMIT {file.rows + 1}"""
    try:
        with replacing(staged) as unfinished:
            connection.sql(query).write_parquet(str(unfinished))
    except duckdb.IOException:
        _require_whole(path, drop)  # else it is the disk that failed
        raise
    except duckdb.Error as error:
        raise _unreadable(path, error, drop) from error
    _require_whole(path, drop)
    rows = pq.read_metadata(staged).num_rows
    if rows != file.rows:
        found = f"more than {file.rows}" if rows > file.rows else rows
        raise wrong_manifest("the file is not the manifest's", path, f"rows {file.rows}", found, drop)
    return staged


def remove_staged(scratch: Path) -> None:
    """Remove what this process has staged: it holds the households' own ids."""
    for path in scratch.glob(f"*.{os.getpid()}.parquet"):
        path.unlink()


def check_content(drops: Sequence[Drop]) -> None:
    """Nothing, when every Parquet file can be read to its end: slower than `check_files`, for after a failure.

    Raises:
        UnreadableFile: names the first one that cannot.
    """
    for drop in drops:
        for file in drop.manifest.files:
            path = _fetch(drop, file)
            if path.suffix == ".parquet":
                try:
                    pq.read_table(path, partitioning=None)
                except (pa.ArrowException, OSError) as error:
                    raise _unreadable(path, error, drop) from error


def size_and_hash(path: Path) -> dict[str, object]:
    """Bytes and SHA-256 of a file, as a manifest states them."""
    with path.open("rb") as content:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}


def raw_rows(drop: Drop, file: DeliveredFile) -> str:
    """SQL for a delivered file's rows as they are, with `raw_id`: the household as `pseudonym` takes it."""
    path, raw_id = _fetch(drop, file), "household_id::VARCHAR"
    if file.name.endswith(".parquet"):
        rows = f"read_parquet({sql_list([path])}, hive_partitioning = false)"
    else:
        rows, raw_id = _csv(path, file), f"coalesce(({_typed('household_id', pa.int64())})::VARCHAR, household_id)"
    return f"SELECT *, {raw_id} AS raw_id FROM {rows}"


def write_like(connection: duckdb.DuckDBPyConnection, query: str, file: DeliveredFile, target: Path) -> None:
    """The query's rows as a file of the same format and encoding; the same rows give the same bytes."""
    if file.name.endswith(".parquet"):
        connection.execute(f"COPY ({query}) TO '{_quoted(target)}' (FORMAT parquet)")
        return
    text = target.with_suffix(".text")
    connection.execute(f"COPY ({query}) TO '{_quoted(text)}' (FORMAT csv, HEADER)")
    packed = gzip.GzipFile(target, "wb", mtime=0) if file.name.endswith(".gz") else target.open("wb")
    with (
        text.open(encoding="utf-8", newline="") as rows,
        packed,
        TextIOWrapper(packed, file.encoding, newline="") as to,
    ):
        shutil.copyfileobj(rows, to)
    text.unlink()


def _csv(path: Path, file: DeliveredFile) -> str:
    return (
        f"read_csv({sql_list([path])}, all_varchar = true, header = true, delim = ',', quote = '\"', escape = '\"', "
        f"encoding = '{file.encoding.removesuffix('-sig')}', strict_mode = true, max_line_size = {_LONGEST_LINE_BYTES})"
    )


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _fetch(drop: Drop, file: DeliveredFile) -> Path:
    try:
        path = drop.landing.fetch(drop.name_of(file))
    except FileNotFoundError:
        raise wrong_manifest(
            "the manifest names a file that does not exist",
            drop.landing.uri_of(drop.name_of(file)),
            file.name,
            "no file",
            drop,
        ) from None
    if path.is_symlink():
        raise wrong_manifest("a link is not a delivered file", path, "a file", f"a link to {path.readlink()}", drop)
    return path


def typed_columns(contract: DropContract) -> tuple[str, str]:
    """SQL for the contract's columns out of text columns of their names, and for whether a value gets lost thereby."""
    sql = {name: _typed(name, type_) for name, type_ in contract.columns}
    lost = (f"({typed}) IS NULL AND nullif({name}, '') IS NOT NULL" for name, typed in sql.items())
    return ", ".join(f"{typed} AS {name}" for name, typed in sql.items()), " OR ".join(lost)


def _typed(name: str, type_: pa.DataType) -> str:
    """SQL for a text column's values in the contract's type; null where a value is not of that type."""
    text = f"nullif({name}, '')"
    if pa.types.is_string(type_):
        return text
    if pa.types.is_integer(type_):  # a cast alone would round 3.7
        return f"CASE WHEN regexp_full_match({text}, '[+-]?[0-9]+') THEN TRY_CAST({text} AS BIGINT) END"
    kinds = {"double": "DOUBLE", "timestamp[us]": "TIMESTAMP", "date32[day]": "DATE"}
    return f"TRY_CAST({text} AS {kinds[str(type_)]})"


def _check_header(path: Path, drop: Drop, file: DeliveredFile) -> None:
    line = next(_parts(path, drop), b"").split(b"\n")[0]
    if line.startswith(_BOM) and file.encoding != "utf-8-sig":
        raise _unreadable(path, ValueError(f"a byte order mark, but the manifest declares {file.encoding}"), drop)
    names = line.removeprefix(_BOM).decode(file.encoding.removesuffix("-sig"), errors="replace").strip().split(",")
    for name, type_ in drop.contract.columns:
        if name not in [found.strip('"') for found in names]:
            raise _missing_column(name, type_, path, names, drop)


def _require_whole(path: Path, drop: Drop) -> None:
    for _ in _parts(path, drop):  # the checksum of a packed file is at its end
        pass


def _parts(path: Path, drop: Drop) -> Iterator[bytes]:
    """The text, unpacked, in parts that hold the longest line."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as content:
            while part := content.read(_LONGEST_LINE_BYTES):
                yield part
    except (OSError, EOFError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise _unreadable(path, error, drop) from error


def _read_footer(path: Path, drop: Drop) -> tuple[pa.Schema, int]:
    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error, drop) from error


def _check_schema(found: pa.Schema, path: Path, drop: Drop) -> None:
    for name, type_ in drop.contract.columns:
        if name not in found.names:
            raise _missing_column(name, type_, path, found.names, drop)
        if found.field(name).type != type_:
            raise WrongType(
                f"the column {name} has another type than agreed",
                where=drop.landing.origin(path),
                expected=f"{name} ({type_})",
                found=f"{name} ({found.field(name).type})",
                remedy=f"deliver a file with the agreed types: {deliver_again(drop.business_date)}",
            )


def _missing_column(name: str, type_: pa.DataType, path: Path, found: Sequence[str], drop: Drop) -> MissingColumn:
    return MissingColumn(
        f"the column {name} is missing",
        where=drop.landing.origin(path),
        expected=f"{name} ({type_})",
        found=", ".join(found)[:500],
        remedy=f"deliver a file with every agreed column: {deliver_again(drop.business_date)}",
    )


def _unreadable(path: Path, error: Exception, drop: Drop) -> UnreadableFile:
    return UnreadableFile(
        "the file cannot be read",
        where=drop.landing.origin(path),
        expected=f"a whole {'Parquet' if path.suffix == '.parquet' else 'CSV'} file, encoded as declared",
        # the first line only: the others of a CSV error quote the row, with its household
        found=f"{path.stat().st_size} bytes; {(str(error).splitlines() or [type(error).__name__])[0]}",
        remedy=deliver_again(drop.business_date),
    )
