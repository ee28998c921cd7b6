"""The audit: what must hold of a night's rows by themselves, and beside the nights before it."""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import log
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from pydantic import BaseModel

from pipelines import ledger, tables
from pipelines.checks import Check, merged
from pipelines.engine import open_core, open_engine, parameters
from pipelines.fallback import COLD_START
from pipelines.feature_faults import Move, compare_nights
from pipelines.ledger import FEATURES
from pipelines.pages import DATA_DOCS, page_path
from pipelines.partitions import entity_ranges
from pipelines.settings import Settings
from pipelines.storage import sql_list
from pipelines.use_case import UseCase
from pipelines.validation import validate

PUBLISHED, FORCED, REFUSED, ERASED = "published", "forced", "refused", "erased"
BINS = 20
NIGHTS = 14  # that a night is held against, at most
_WITHIN_DAYS, _LEAST_SHARE = 21, 1e-4
_WEEK = 7
_SHARE_IN_A_FRAME = 0.25  # of the rows of a partition: texts take many times as much in a frame
_NEAR = timedelta(days=3)


class Figures(BaseModel, frozen=True, extra="forbid"):
    """A night's rows in numbers: shares of rows between 0 and 1; `scores` by twentieths of the score.

    `features` tells how each feature moved since the night before, where readers saw that one.
    """

    rows: int
    entities: int
    cold_start: float
    scores: tuple[float, ...]
    items: dict[str, float]
    features: dict[str, Move] = {}


@dataclass(frozen=True)
class Night:
    """An earlier publication that readers saw."""

    score_date: date
    model_version: str
    figures: Figures


def figures(settings: Settings, use_case: UseCase, rows: pa.Table) -> Figures:
    """The figures of published or staged rows."""
    with open_engine(settings) as connection:
        connection.register("published", rows)
        (told,) = connection.sql(f"""
            SELECT count(*) AS rows, count(DISTINCT {use_case.entity}) AS entities,
                   coalesce(avg((score_source = '{COLD_START}')::INTEGER), 0) AS cold_start
            FROM published
        """).fetchall()
        by = f"SELECT {{0}} AS part, count(*) / {max(rows.num_rows, 1)} FROM published GROUP BY ALL ORDER BY ALL"
        scores = dict(connection.sql(by.format(f"least(floor(score * {BINS}), {BINS - 1})::INTEGER")).fetchall())
        items = dict(connection.sql(by.format(use_case.item)).fetchall())
    shares = tuple(scores.get(part, 0.0) for part in range(BINS))
    return Figures(rows=told[0], entities=told[1], cold_start=told[2], scores=shares, items=items)


def last_nights(connection: sa.Connection, use_case: UseCase, as_of: date) -> list[Night]:
    """What readers saw of at most 14 dates of the 21 days before a date, newest date first."""
    told = tables.PUBLISH_LOG.c
    query = (
        sa.select(told.score_date, told.model_version, told.audit)
        .where(told.use_case == use_case.name, told.status.in_((PUBLISHED, FORCED)))
        .where(told.audit != "", told.score_date < as_of, told.score_date >= as_of - timedelta(days=_WITHIN_DAYS))
        .order_by(told.publish_id)
    )
    newest = {row.score_date: row for row in connection.execute(query)}
    return [
        Night(day, newest[day].model_version, Figures.model_validate(json.loads(newest[day].audit)["figures"]))
        for day in sorted(newest, reverse=True)[:NIGHTS]
    ]


def expected_of_rows(settings: Settings, use_case: UseCase, as_of: date, rows: pa.Table) -> list[Check]:
    """The verdicts of the use case's expectations of published scores.

    The suite sees the rows with `previous_score` (that of the rank above) and `missing_rows` (how many more the list
    could have, if only with popular items); an active entity that is missing appears with nulls. Of very many rows it
    sees the lists of some entities at a time.

    Raises:
        EngineFailure: an expectation could not be evaluated.
    """
    suite = importlib.import_module(use_case.expectations_module).published_scores()
    docs: Path | None = page_path(settings.home, DATA_DOCS, use_case.scores_table, as_of)
    where, found = f"{use_case.scores_table}, score_date={as_of}", list[Sequence[Check]]()
    with open_core(settings, up_to=as_of) as connection:
        connection.register("published", rows)
        offered = f"""
            SELECT DISTINCT {use_case.item} FROM ({use_case.popular_sql})
            WHERE {use_case.item}::VARCHAR NOT IN (SELECT unnest({sql_list(use_case.excluded_items)}::VARCHAR[]))
        """
        for name, query in (("offered", offered), ("active", use_case.active_sql)):
            connection.execute(f"CREATE TEMP TABLE {name} AS {query}", parameters(query, as_of))
        for condition in entity_ranges(connection, "published", use_case.entity, times=_SHARE_IN_A_FRAME):
            frame = connection.sql(_as_expected(use_case, condition)).df()
            checks = validate(frame, suite, where=where, docs=docs).checks
            docs = docs if all(check.success for check in checks) else None  # the page keeps what was first found
            found.append(checks)
    return merged(found)


def _as_expected(use_case: UseCase, condition: str) -> str:
    return f"""
        SELECT published.* EXCLUDE ({use_case.entity}), {use_case.entity},
               lag(score, 1, 1.0) OVER listed AS previous_score, lag(rank, 1, 0) OVER listed + 1 AS expected_rank,
               greatest((SELECT least(count({use_case.item}), {use_case.top_n}) FROM offered)
                        - count(rank) OVER (PARTITION BY {use_case.entity}), 0) AS missing_rows
        FROM (SELECT * FROM published WHERE {condition}) published
        FULL JOIN (SELECT * FROM active WHERE {condition}) USING ({use_case.entity})
        WINDOW listed AS (PARTITION BY {use_case.entity} ORDER BY rank)
    """


def constraints(settings: Settings, use_case: UseCase, as_of: date, rows: pa.Table) -> list[Check]:
    """Whether no excluded item is on a list, and the rows were made of the date's newest features."""
    listed = set(rows.column(use_case.item).unique().to_pylist())
    excluded = sorted(listed & set(use_case.excluded_items))
    made, versions = ledger.newest(settings, use_case, FEATURES, as_of), rows.column("feature_version").unique()
    seen, newest = ", ".join(map(str, versions)), made.version if made else "none in ops__snapshot_log"
    return [
        Check("excluded items", not excluded, ", ".join(excluded) or "none", "none"),
        Check("features", seen == newest, seen, f"those of {as_of}: {newest}"),
    ]


def features_since(
    settings: Settings, use_case: UseCase, as_of: date, nights: Sequence[Night]
) -> tuple[dict[str, Move], list[Check]]:
    """How the features moved since the newest night that readers saw, and whether they ever move so."""
    if not nights or nights[0].figures.entities < use_case.audit.min_entities:
        return {}, []
    known = [night.figures.features for night in nights]
    return compare_nights(settings, use_case, nights[0].score_date, as_of, known)


def comparisons(
    use_case: UseCase, as_of: date, version: str, now: Figures, nights: Sequence[Night], overlap: float | None
) -> list[Check]:
    """How far the night is from those before it.

    Size is held against the median of the last nights. Scores, mix of items and lists are held against the newest
    night; they only warn where it lies more than 3 days back, or where another model made it: then the gate has
    judged the change. `overlap` is the mean share of an entity's list of that night that is still there.
    """
    policy = use_case.audit
    if not nights or nights[0].figures.entities < policy.min_entities:
        return [Check("nights before", True, "none to compare with", f"{policy.min_entities} entities", False)]
    last = nights[0]
    is_same = last.model_version == version and as_of - last.score_date <= _NEAR
    found = []
    for name in ("rows", "entities"):
        usual = median(getattr(night.figures, name) for night in nights[:_WEEK])
        change, told = getattr(now, name) / usual - 1, f"{getattr(now, name):,}"
        limit = policy.max_rows_change
        found.append(
            Check(name, abs(change) <= limit, f"{told} ({change:+.1%})", f"within {limit:.0%} of {usual:,.0f}")
        )
    compared = {
        "shift of the scores (PSI)": (psi(last.figures.scores, now.scores), policy.max_score_shift),
        "rows that went to other items": (mix_change(last.figures.items, now.items), policy.max_item_mix_change),
        "rise of rows that nobody scored": (now.cold_start - last.figures.cold_start, policy.max_cold_start_rise),
    }
    since = f"since {last.score_date}"
    for name, (value, limit) in compared.items():
        found.append(Check(name, value <= limit, f"{value:.3f} {since}", f"at most {limit}", is_same))
    if overlap is not None:
        least = policy.min_list_overlap
        told = f"{overlap:.3f} {since}"
        found.append(Check("share of the lists that stays", overlap >= least, told, f"at least {least}", is_same))
    return found


def list_overlap(settings: Settings, use_case: UseCase, before: pa.Table, now: pa.Table) -> float | None:
    """Mean share of an entity's earlier list that is still on it, over entities with both; none without any."""
    query = f"""
        SELECT avg(kept) FROM (
            SELECT count(now.{use_case.item}) / count(*) AS kept
            FROM before LEFT JOIN now USING ({use_case.entity}, {use_case.item})
            WHERE {use_case.entity} IN (SELECT {use_case.entity} FROM now) GROUP BY {use_case.entity}
        )
    """
    with open_engine(settings) as connection:
        connection.register("before", before)
        connection.register("now", now)
        found: list[tuple[Any, ...]] = connection.sql(query).fetchall()
    return None if found[0][0] is None else float(found[0][0])


def psi(before: Sequence[float], now: Sequence[float]) -> float:
    """Population stability index between two rows of shares: 0 is the same distribution."""
    pairs = [(max(one, _LEAST_SHARE), max(two, _LEAST_SHARE)) for one, two in zip(before, now, strict=True)]
    return sum((two - one) * log(two / one) for one, two in pairs)


def mix_change(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Share of rows that went from some items to others: the total variation distance of two mixes."""
    return sum(abs(now.get(item, 0.0) - before.get(item, 0.0)) for item in before.keys() | now.keys()) / 2
