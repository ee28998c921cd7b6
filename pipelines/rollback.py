"""The way back: an earlier version is champion again, and readers see its scores for the dates that are named."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import pyarrow.parquet as pq
import sqlalchemy as sa

from pipelines import lake, promotion_log, registry, tables, warehouse
from pipelines.crash_points import crash_point
from pipelines.errors import InvalidRunParameter
from pipelines.promotion import champion_of_record, settle
from pipelines.promotion_log import ROLLBACK, Entry
from pipelines.publishing import publish
from pipelines.scoring import score
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.use_case import UseCase


@dataclass(frozen=True)
class RollbackOrder:
    """Which version is to be champion again, and the score dates, both included, to show its scores for; none: none."""

    model_version: str
    actor: str
    reason: str
    first: date | None = None
    last: date | None = None


@dataclass(frozen=True)
class RollbackReport:
    """What was restored; `republished` says of each date whether the version had scored it or scored it anew."""

    model_version: str
    from_version: str | None
    trained_as_of: date
    reason: str
    republished: Mapping[date, str]
    rows: int


def roll_back(settings: Settings, use_case: UseCase, order: RollbackOrder, run_id: str) -> RollbackReport:
    """Make a version champion again, without a challenger, and publish its scores for the dates that have any.

    Scores that the version left of the same features are taken as they are, others are made.

    Raises:
        InvalidRunParameter: the dates are out of order, or one is missing.
        UnknownVersion, ArtifactRefused: the version cannot be restored; nothing was done.
        MissingPartition: a date lost its features; the version is champion, later dates wait for a second run.
    """
    with measured(settings, f"rollback__{use_case.name}", order.model_version, run_id) as cost:
        cost.model_version = order.model_version
        version = registry.get_version(settings, use_case, order.model_version)
        _, facts = registry.load(settings, use_case, version)
        versions = _published(settings, use_case, order)
        moved = promotion_log.last_move(promotion_log.history(settings, use_case))
        former = champion_of_record(moved, registry.find_alias(settings, use_case, registry.CHAMPION))
        evidence = json.dumps({"score_dates": [str(day) for day in versions]})
        entry = Entry(ROLLBACK, former, version.version, order.actor, order.reason, evidence)
        promotion_log.append(settings, use_case, entry, run_id, moved)
        crash_point("rollback.after_log")
        settle(settings, use_case)
        crash_point("rollback.after_aliases")
        republished, cost.rows = {}, 0
        for day, feature_version in versions.items():
            is_stored = _stored(settings, use_case, day, version.version) == feature_version
            if not is_stored:
                score(settings, use_case, day, run_id, model_version=version.version)
            cost.rows += publish(settings, use_case, day, run_id, version.version).rows
            republished[day] = "stored scores" if is_stored else "scored anew"
            crash_point("rollback.after_date")
    return RollbackReport(version.version, former, facts.trained_as_of, order.reason, republished, cost.rows)


def _published(settings: Settings, use_case: UseCase, order: RollbackOrder) -> dict[date, str]:
    """Feature version of each published score date of the order."""
    if order.first is None and order.last is None:
        return {}
    if order.first is None or order.last is None or order.first > order.last:
        raise InvalidRunParameter(
            "the score dates are out of order, or one is missing",
            where="rollback",
            expected="first date <= last date, or neither",
            found=f"{order.first}, {order.last}",
            remedy="give both in order; leave both out to publish nothing again",
        )
    warehouse.create_tables(settings, [use_case])
    table = tables.scores_table(use_case)
    query = (
        sa.select(table.c.score_date, sa.func.min(table.c.feature_version).label("feature_version"))
        .where(table.c.score_date.between(order.first, order.last))
        .group_by(table.c.score_date)
        .order_by(table.c.score_date)
    )
    with warehouse.open_warehouse(settings) as connection:
        return {row.score_date: row.feature_version for row in connection.execute(query)}


def _stored(settings: Settings, use_case: UseCase, day: date, version: str) -> str | None:
    """Version of the features that a model's scores in the lake were made of; none: it has not scored the date."""
    files = lake.files_where(settings.lake, use_case.scores_table, lake.scored_by(day, version))
    found = pq.read_table(files[0], columns=["feature_version"], partitioning=None).column(0) if files else []
    return str(found[0]) if len(found) else None
