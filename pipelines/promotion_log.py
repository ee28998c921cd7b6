"""The log of promotions: who, when, from, to, why; append-only, a chain of hashes for each use case."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC
from typing import Any

import sqlalchemy as sa

from pipelines import registry, tables, warehouse
from pipelines.crash_points import crash_point
from pipelines.errors import HistoryAltered, NotJudged
from pipelines.settings import Settings
from pipelines.use_case import UseCase

PROMOTE, REFUSE, ROLLBACK = "promote", "refuse", "rollback"
TAG = "promotion_log"  # of the registered model: the newest entry_hash, and the next one while it is being written
_LOG = tables.PROMOTION_LOG
_START = "0" * 64
_REMEDY = (
    "find out who changed it, and restore the table from a backup; an entry that is lost for good is passed over by "
    f"setting the registered model's tag {TAG} to the entry_hash of the last one"
)


@dataclass(frozen=True)
class Entry:
    """One decision; `actor` took it, `trainer` asked for the training, `evidence` is JSON."""

    action: str
    from_version: str | None
    to_version: str
    actor: str
    reason: str
    evidence: str
    trainer: str | None = None


@contextmanager
def locked(settings: Settings) -> Iterator[sa.Connection]:
    """A transaction of the warehouse beside which no other one writes to the log."""
    warehouse.create_tables(settings, [])
    with warehouse.open_warehouse(settings) as connection:
        if connection.dialect.name == "postgresql":  # SQLite's transactions have one writer anyway
            connection.execute(sa.text(f"SELECT pg_advisory_xact_lock(hashtext('{_LOG.name}'))"))
        yield connection


def entries(connection: sa.Connection, use_case: UseCase) -> list[dict[str, Any]]:
    """All entries of a use case, oldest first."""
    query = sa.select(_LOG).where(_LOG.c.use_case == use_case.name).order_by(_LOG.c.promotion_id)
    return warehouse.read_rows(connection, query)


def history(settings: Settings, use_case: UseCase) -> list[dict[str, Any]]:
    """All entries of a use case, oldest first; by itself it does not verify them."""
    with locked(settings) as connection:
        return entries(connection, use_case)


def last_move(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The newest entry that made a champion."""
    return next((row for row in reversed(rows) if row["is_promoted"]), None)


def append(settings: Settings, use_case: UseCase, entry: Entry, run_id: str, after: Mapping[str, Any] | None) -> None:
    """Write an entry, unless it repeats what was last said of its version; `after` is the last move it knows of.

    Raises:
        NotJudged: another champion was made since.
        HistoryAltered: the newest entry is not the one that was written last.
    """
    with locked(settings) as connection:
        rows = entries(connection, use_case)
        newest = _require_known(settings, use_case, rows)
        about = [row for row in rows if entry.to_version in (row["to_version"], row["from_version"])]
        said = {name: value for name, value in asdict(entry).items() if name != "from_version"}
        if not about or not said.items() <= about[-1].items():
            if last_move(rows) != after:
                raise another_champion(use_case, entry.to_version, _champion(after), _champion(last_move(rows)))
            row = {
                **asdict(entry),
                "run_id": run_id,
                "use_case": use_case.name,
                "is_promoted": entry.action != REFUSE,
                "recorded_at": connection.scalar(sa.select(sa.func.now())),
                "previous_hash": newest,
            }
            row["entry_hash"] = _hash(row)
            registry.set_model_tag(settings, use_case, TAG, f"{newest} {row['entry_hash']}")
            crash_point("promotion_log.before_entry")
            warehouse.append_rows(connection, _LOG, [row])
    crash_point("promotion_log.after_entry")
    confirm(settings, use_case)


def confirm(settings: Settings, use_case: UseCase) -> None:
    """Let the registry know the newest entry, and no other."""
    with locked(settings) as connection:
        newest = _require_known(settings, use_case, entries(connection, use_case))
        registry.set_model_tag(settings, use_case, TAG, newest)


def verify(settings: Settings, use_case: UseCase) -> int:
    """The number of entries, when all are as they were written and the champion is the one they tell of.

    Raises:
        HistoryAltered: names the first entry that does not hold.
    """
    rows, previous = history(settings, use_case), _START
    for row in rows:
        if row["previous_hash"] != previous:
            raise _altered(
                use_case, row, "an entry before this one is missing or moved", previous, row["previous_hash"]
            )
        if row["entry_hash"] != _hash(row):
            raise _altered(use_case, row, "the entry was changed", row["entry_hash"], _hash(row))
        previous = row["entry_hash"]
    _require_known(settings, use_case, rows)
    moved, champion = last_move(rows), registry.find_alias(settings, use_case, registry.CHAMPION)
    if moved and champion and champion.version != moved["to_version"]:
        what = "the alias champion was moved by other means, or a promotion was interrupted: run it again"
        raise _altered(use_case, moved, what, moved["to_version"], champion.version)
    return len(rows)


def another_champion(use_case: UseCase, version: str, judged: str | None, found: str | None) -> NotJudged:
    """The error of a version that was judged against another champion than there is now."""
    return NotJudged(
        "the champion has changed since the version was judged",
        where=f"model {use_case.name}, version {version}",
        expected=f"champion {judged or 'none'}",
        found=f"champion {found or 'none'}",
        remedy="judge it again: clear judge_model, or nightjar model promote; if the alias was moved by hand, "
        "nightjar rollback --model to the version that is to be champion",
    )


def _champion(moved: Mapping[str, Any] | None) -> str | None:
    return str(moved["to_version"]) if moved else None


def _require_known(settings: Settings, use_case: UseCase, rows: list[dict[str, Any]]) -> str:
    """The hash of the newest entry, when the registry knows it."""
    newest = rows[-1]["entry_hash"] if rows else _START
    known = registry.model_tag(settings, use_case, TAG).split() or [_START]
    if newest not in known:
        last = rows[-1] if rows else {"promotion_id": "none"}
        raise _altered(use_case, last, "entries after this one are missing, or it is forged", known[-1], newest)
    return str(newest)


def _altered(use_case: UseCase, row: Mapping[str, Any], what: str, expected: object, found: object) -> HistoryAltered:
    where = f"{_LOG.name}, use_case={use_case.name}, promotion_id={row['promotion_id']}"
    return HistoryAltered(what, where=where, expected=expected, found=found, remedy=_REMEDY)


def _hash(row: Mapping[str, Any]) -> str:
    told = {name: value for name, value in row.items() if name not in ("promotion_id", "entry_hash")}
    at = told["recorded_at"]
    told["recorded_at"] = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
