"""Where Feast keeps what look-ups read: SQLite in the home folder, or Redis; and what is removed from it."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from pipelines.errors import EngineFailure
from pipelines.settings import Settings

PROJECT_NAME, READ_PATIENCE_S, WRITE_PATIENCE_S = "nightjar", 0.25, 30


def config(settings: Settings, patience_s: float) -> dict[str, Any]:
    """The store as Feast wants it told; Redis that is silent for `patience_s` is given up."""
    if not settings.redis_url:
        return {"type": "sqlite", "path": str(settings.feast_home / "online.db")}
    url = urlsplit(settings.redis_url)
    told: dict[str, Any] = {"db": int(url.path.strip("/") or 0), "ssl": url.scheme == "rediss"}
    told |= {"socket_timeout": patience_s, "socket_connect_timeout": patience_s}
    told |= {"retry": None}  # else the client asks again for seconds; steps are repeated by Airflow
    told |= {name: unquote(value) for name in ("username", "password") if (value := getattr(url, name))}
    words = (f"{name}={json.dumps(value)}".replace(",", r"\u002c") for name, value in told.items())
    return {"type": "redis", "connection_string": ",".join([f"{url.hostname}:{url.port or 6379}", *words])}


@contextmanager
def named_errors(settings: Settings) -> Iterator[None]:
    """What Redis refuses, by a name of ours."""
    if not settings.redis_url:
        yield
        return
    from redis.exceptions import RedisError

    try:
        yield
    except RedisError as error:
        raise EngineFailure(
            "the online store does not take or give what was asked",
            where=f"NIGHTJAR_REDIS_URL: {urlsplit(settings.redis_url).hostname}",
            found=f"{type(error).__name__}: {error}",
            remedy="check that Redis is reachable, has memory left and knows the login; then run the step again",
        ) from error


def forget_online(settings: Settings, join_key: str, value: int) -> int:
    """Delete every row of an entity from the online store, alone or as part of a key; gives their number.

    In Redis a row holds the features of one key. A file that was in use before Redis is cleaned too.
    """
    path, removed = settings.feast_home / "online.db", 0
    if settings.redis_url:
        with named_errors(settings):
            removed = _forget_in_redis(settings, join_key, value)
    if not path.exists():
        return removed
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as store:
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%entity_key%'"
        for (table,) in store.execute(tables).fetchall():
            holding = f'SELECT DISTINCT entity_key FROM "{table}" WHERE instr(entity_key, ?)'
            for (key,) in store.execute(holding, [value.to_bytes(8, "little")]).fetchall():
                if _is_of(key, join_key, value):
                    removed += store.execute(f'DELETE FROM "{table}" WHERE entity_key = ?', [key]).rowcount
        store.execute("VACUUM")  # else the rows stay in the file's free pages
    return removed


def _forget_in_redis(settings: Settings, join_key: str, value: int) -> int:
    from redis import Redis

    suffix, removed = PROJECT_NAME.encode(), 0
    holding = b"".join(b"\\" + bytes([byte]) for byte in value.to_bytes(8, "little"))  # no byte is a wildcard
    with Redis.from_url(settings.redis_url, socket_timeout=WRITE_PATIENCE_S) as store:
        for key in store.scan_iter(b"*" + holding + b"*" + suffix, count=10_000):
            if _is_of(key.removesuffix(suffix), join_key, value):
                removed += store.delete(key)
    return removed


def _is_of(key: bytes, join_key: str, value: int) -> bool:
    from feast.infra.key_encoding_utils import deserialize_entity_key

    entity = deserialize_entity_key(key, entity_key_serialization_version=3)
    known = dict(zip(entity.join_keys, entity.entity_values, strict=True))
    return join_key in known and known[join_key].int64_val == value
