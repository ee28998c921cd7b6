"""Pseudonyms: households are known by a keyed hash from the first table that is kept."""

import hashlib
import hmac

import duckdb
import pyarrow as pa
import sqlalchemy as sa

from pipelines import tables, warehouse
from pipelines.errors import WrongKey
from pipelines.settings import Settings

_KEY_ID_TEXT = b"nightjar: which key is this?"


def pseudonym(key: bytes, household: object) -> int:
    """HMAC-SHA256 of the id's text, its first 63 bits; with 10 million households two are alike once in 180,000."""
    return int.from_bytes(hmac.digest(key, str(household).encode(), hashlib.sha256)[:8]) >> 1


def key_id(settings: Settings) -> str:
    """Eight hex digits that tell one key from another and give nothing of it away."""
    return hmac.digest(settings.key, _KEY_ID_TEXT, hashlib.sha256).hex()[:8]


def register_pseudonyms(connection: duckdb.DuckDBPyConnection, settings: Settings, relation: str, column: str) -> None:
    """Register `pseudonyms` (raw_id as text, household_id) for every value of a relation's column."""
    found = connection.sql(f"SELECT DISTINCT {column}::VARCHAR FROM {relation} WHERE {column} IS NOT NULL").fetchall()
    known = {raw: pseudonym(settings.key, raw) for (raw,) in found}
    columns = {"raw_id": pa.array(known, pa.string()), "household_id": pa.array(known.values(), pa.int64())}
    connection.register("pseudonyms", pa.table(columns))


def require_same_key(settings: Settings) -> None:
    """Nothing, when what was ingested so far carries pseudonyms of the present key.

    Raises:
        WrongKey: it carries those of another; two names for one household would tear its history apart.
    """
    log = tables.INGEST_LOG
    with warehouse.open_warehouse(settings) as connection:
        used = set(connection.scalars(sa.select(log.c.key_id).distinct()))
    if used - {key_id(settings)}:
        raise WrongKey(
            "the lake was filled with another pseudonym key",
            where="ops__ingest_log, key_id",
            expected=f"the key {', '.join(sorted(used))}",
            found=f"the key {key_id(settings)}",
            remedy="set NIGHTJAR_PSEUDONYM_KEY as it was; to rotate it, ingest landing into a new lake and warehouse",
        )
