"""The look-up: the newest published list of one entity, fitted to what the caller knows of the moment."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from itertools import islice
from threading import Lock
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from pipelines import feature_store, tables, warehouse
from pipelines.errors import EngineFailure, NothingToServe
from pipelines.features import end_of_day
from pipelines.logs import open_log
from pipelines.settings import Settings
from pipelines.use_case import UseCase

MOST_NAMED, PATIENCE_S, COLD_START = 50, 1, "cold_start"
Name = Annotated[str, Field(min_length=1, max_length=200)]
Cause = Literal["bought", "out_of_stock", "blocked"]


class Context(BaseModel):
    """What the caller knows of the moment: items by name, as they are published; others do no harm."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bought: list[Name] = Field([], max_length=MOST_NAMED, description="Bought since the list was made")
    out_of_stock: list[Name] = Field([], max_length=MOST_NAMED, description="Cannot be had now")
    blocked: list[Name] = Field([], max_length=MOST_NAMED, description="Must not be shown")

    @property
    def causes(self) -> dict[str, Cause]:
        """Why each item that is named may not be listed; the graver cause goes before."""
        bought: dict[str, Cause] = dict.fromkeys(self.bought, "bought")
        return bought | dict.fromkeys(self.out_of_stock, "out_of_stock") | dict.fromkeys(self.blocked, "blocked")


class Publication(BaseModel):
    """What a list was made of: the newest publication that the warehouse has."""

    model_config = ConfigDict(frozen=True)

    score_date: date = Field(description="The scores are as of the end of this business date")
    publish_id: int = Field(description="Entry of ops__publish_log")
    model_version: str
    feature_version: str


class Listed(BaseModel):
    """One item of a list."""

    item: str
    rank: int = Field(description="Its place in this answer; 1 is the likeliest")
    published_rank: int | None = Field(description="Its place in the warehouse; null: it was not on the list there")
    score: float = Field(description="Probability, as published, or lower where it was just bought")
    score_source: str = Field(description="champion, cached, baseline or cold_start")
    reasons: list[str]
    is_low_confidence: bool = Field(description="Whether validation does not vouch for the score")


class Answer(BaseModel):
    """The list of an entity."""

    use_case: str
    entity: int
    is_known: bool = Field(description="Whether a list was published for the entity; else it gets what is popular")
    versions: Publication
    items: list[Listed]
    left_out: dict[str, Cause] = Field(description="Items that would be on the list but for the context")


class LookUp:
    """Gives the lists of one use case; all of a list is read in one transaction."""

    def __init__(self, settings: Settings, use_case: UseCase) -> None:
        soon = {"warehouse_patience_s": PATIENCE_S, "warehouse_lock_timeout_s": PATIENCE_S}
        self._settings, self._use_case = settings.model_copy(update=soon), use_case
        self._scores, self._lock = tables.scores_table(use_case), Lock()
        self._newest_query, self._list_query = self._queries()
        self._popular: tuple[Publication | None, list[Listed]] = None, []
        self._online = feature_store.open_online(settings) if use_case.repeats else None

    def prepare(self) -> None:
        """Let nobody wait for what the first call and the first with a purchase take: connections, imports, caches."""
        with suppress(EngineFailure, NothingToServe):  # then the first callers are told, and /health
            first = self.answer(0, Context())
            self.answer(0, Context(bought=[one.item for one in first.items[:1]]))

    def newest(self) -> Publication | None:
        """What readers see now; null before the first night. What is popular is read too, before somebody needs it.

        Raises:
            EngineFailure: the warehouse does not answer.
        """
        with warehouse.open_warehouse(self._settings, only_reads=True, is_kept=True) as connection:
            published = self._newest(connection)
            if published:
                self._popular_of(connection, published)
        return published

    def answer(self, entity: int, context: Context) -> Answer:
        """The list of an entity, never longer than `top_n`, and not shorter while there are popular items left.

        Raises:
            NothingToServe: nothing was published yet.
            EngineFailure: the warehouse does not answer.
        """
        with warehouse.open_warehouse(self._settings, only_reads=True, is_kept=True) as connection:
            published = self._newest(connection)
            if published is None:
                raise NothingToServe(
                    "nothing was published yet",
                    where=self._use_case.scores_table,
                    remedy="ask again after the first night",
                )
            mine = {"day": published.score_date, "who": entity}
            rows = [dict(row) for row in connection.execute(self._list_query, mine).mappings()]
            needs_more = len(rows) < self._use_case.top_n or context.causes
            popular = self._popular_of(connection, published) if needs_more else []
        own = [_listed(self._use_case, row) for row in rows] or popular[: self._use_case.top_n]
        chances = self._chances(published, entity, [one.item for one in own if one.item in context.bought])
        items, left_out = fitted(own, popular, context, chances, self._use_case.top_n)
        return Answer(
            use_case=self._use_case.name,
            entity=entity,
            is_known=bool(rows),
            versions=published,
            items=items,
            left_out=left_out,
        )

    def _queries(self) -> tuple[sa.Select[Any], sa.Select[Any]]:
        """Of the newest publication, and of the list of `who` on `day`; made once, since every call asks both."""
        log, scores = tables.PUBLISH_LOG.c, self._scores.c
        day = sa.select(sa.func.max(scores.score_date)).scalar_subquery()
        newest = sa.select(*(log[name] for name in Publication.model_fields))
        newest = newest.where(log.use_case == self._use_case.name, log.score_date == day, log.status != "refused")
        mine = (scores.score_date == sa.bindparam("day"), scores[self._use_case.entity] == sa.bindparam("who"))
        listed = sa.select(self._scores).where(*mine).order_by(scores.rank)
        return newest.order_by(log.publish_id.desc()).limit(1), listed

    def _newest(self, connection: sa.Connection) -> Publication | None:
        found = connection.execute(self._newest_query).mappings().first()
        return Publication(**found) if found else None

    def _popular_of(self, connection: sa.Connection, published: Publication) -> list[Listed]:
        """The items to which the lists of a publication give the most probability; read once for each publication.

        The score is its mean over all lists, those without the item as 0. There are more than any context can name.
        """
        with self._lock:
            if self._popular[0] != published:
                item, scores = self._scores.c[self._use_case.item], self._scores.c
                lists = sa.select(sa.func.count()).where(scores.score_date == published.score_date, scores.rank == 1)
                total = sa.func.sum(scores.score)
                query = sa.select(item, (total / lists.scalar_subquery()).label("score"))
                query = query.where(scores.score_date == published.score_date).group_by(item)
                query = query.order_by(total.desc(), item).limit(2 * self._use_case.top_n + 3 * MOST_NAMED)
                found = warehouse.read_rows(connection, query)
                cold = {"score_source": COLD_START, "reason_1": "popular with all", "is_low_confidence": True}
                ranked = (row | cold | {"rank": place} for place, row in enumerate(found, start=1))
                popular = [_listed(self._use_case, row) for row in ranked]
                self._popular = published, [one.model_copy(update={"published_rank": None}) for one in popular]
            return self._popular[1]

    def _chances(self, published: Publication, entity: int, bought: Sequence[str]) -> dict[str, float]:
        """How likely each item is bought again within the horizon, for those whose usual rate is known.

        As if purchases came by chance at that rate (a Poisson process): 1 − exp(−rate · horizon).
        """
        repeats, horizon = self._use_case.repeats, self._use_case.horizon_days
        if not bought or repeats is None:
            return {}
        keys = [{self._use_case.entity: entity, self._use_case.item: item} for item in bought]
        since = end_of_day(self._settings, published.score_date)
        try:
            values = feature_store.read_online(self._online, repeats.feature, keys, since)
        except EngineFailure as error:
            open_log(self._settings).warning(error.what, where=error.where, found=str(error.found))
            return {}
        known = zip(bought, values, strict=True)
        return {item: 1 - math.exp(-value / repeats.days * horizon) for item, value in known if value is not None}


def fitted(
    own: Sequence[Listed], popular: Sequence[Listed], context: Context, chances: Mapping[str, float], top_n: int
) -> tuple[list[Listed], dict[str, Cause]]:
    """The list in its new order, and what is not on it for which cause.

    An item that was just bought falls to its chance where that is known, and goes otherwise. Popular items that are
    not named follow where places are left; they score no more than the last before them.
    """
    causes, kept = context.causes, list[Listed]()
    if not causes and len(own) == top_n:
        return list(own), {}
    left_out = dict[str, Cause]()
    for one in own:
        cause = causes.get(one.item)
        if cause == "bought" and one.item in chances:
            lower = {"score": min(one.score, chances[one.item]), "is_low_confidence": True}
            kept.append(one.model_copy(update=lower))
        elif cause:
            left_out[one.item] = cause
        else:
            kept.append(one)
    kept.sort(key=lambda one: -one.score)
    lowest, seen = min((one.score for one in kept), default=1.0), {one.item for one in own} | causes.keys()
    more = (one for one in popular if one.item not in seen)
    kept += [one.model_copy(update={"score": min(one.score, lowest)}) for one in islice(more, top_n - len(kept))]
    return [one.model_copy(update={"rank": rank}) for rank, one in enumerate(kept, start=1)], left_out


def _listed(use_case: UseCase, row: Mapping[str, Any]) -> Listed:
    reasons = [row.get(f"reason_{number}") for number in (1, 2, 3)]
    return Listed(
        item=row[use_case.item],
        rank=row["rank"],
        published_rank=row["rank"],
        score=row["score"],
        score_source=row["score_source"],
        reasons=[reason for reason in reasons if reason],
        is_low_confidence=row["is_low_confidence"],
    )
