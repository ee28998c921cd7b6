"""Publishing: the best rows of each entity, staged, audited, then put before readers in one transaction."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipelines import audit, lake, registry, tables, warehouse
from pipelines.audit import ERASED, FORCED, PUBLISHED, REFUSED, Figures
from pipelines.checks import Check, log_rows, require
from pipelines.crash_points import crash_point
from pipelines.engine import open_engine
from pipelines.errors import AuditRefused, MissingPartition, Superseded
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.storage import sql_list
from pipelines.use_case import UseCase

NIGHTJAR = "nightjar"
_UPSERT = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


@dataclass(frozen=True)
class PublishReport:
    """What readers now see of a date; `is_changed` is false where it was published already, row for row."""

    score_date: date
    model_version: str
    rows: int
    entities: int
    is_changed: bool
    content_hash: str


@dataclass(frozen=True)
class Force:
    """Somebody's decision to publish against the audit."""

    actor: str
    reason: str


@dataclass(frozen=True)
class _Attempt:
    """One attempt to publish a date; `fence` is higher than that of every attempt before it."""

    use_case: UseCase
    as_of: date
    run_id: str
    fence: int


def publish(
    settings: Settings,
    use_case: UseCase,
    as_of: date,
    run_id: str,
    model_version: str | None = None,
    force: Force | None = None,
) -> PublishReport:
    """Put the top N rows of every entity in place of what is published for `as_of`.

    Without `model_version` the champion's scores are taken. Publishing equal rows again changes nothing. The attempt
    that began last wins: an earlier one that is still at work, or wakes up later, is refused.

    Raises:
        MissingPartition: that model has not scored that date.
        AuditRefused: the audit found a fault, and nobody forces it; readers keep seeing what they saw.
        Superseded: a later attempt has begun.
    """
    version = model_version or registry.champion(settings, use_case).version
    warehouse.create_tables(settings, [use_case])
    with measured(settings, f"publish__{use_case.name}", str(as_of), run_id) as cost:
        cost.model_version = version
        attempt = _begin(settings, use_case, as_of, run_id)
        crash_point("publish.after_fence")
        rows = published_rows(settings, use_case, as_of, version)
        content = lake.content_hash(rows)
        is_changed = force is not None or not _is_published(settings, attempt, content, rows.num_rows)
        if is_changed:
            _stage(settings, attempt, rows)
            crash_point("publish.after_staging")
            row = _audit(settings, attempt, content, force)
            crash_point("publish.after_audit")
            _replace(settings, attempt, row)
            crash_point("publish.after_commit")
        cost.rows = rows.num_rows
    entities = len(rows.column(use_case.entity).unique())
    return PublishReport(as_of, version, rows.num_rows, entities, is_changed, content)


def published_rows(settings: Settings, use_case: UseCase, as_of: date, model_version: str) -> pa.Table:
    """The rows to publish, ordered by entity and rank: the warehouse's columns without `run_id`."""
    files = lake.files_where(settings.lake, use_case.scores_table, lake.scored_by(as_of, model_version))
    found = _read(settings, use_case, as_of, files) if files else pa.table({})
    if not found.num_rows:
        raise MissingPartition(
            "there are no scores to publish",
            where=f"{use_case.scores_table}, as_of={as_of}, model_version={model_version}",
            remedy=f"nightjar score --use-case {use_case.name} --date {as_of}",
        )
    return found


def _read(settings: Settings, use_case: UseCase, as_of: date, files: Sequence[str]) -> pa.Table:
    schema = _schema(use_case)
    selected = ", ".join("$as_of AS score_date" if name == "score_date" else name for name in schema.names)
    with open_engine(settings) as connection:
        found = connection.sql(
            f"SELECT {selected} FROM read_parquet({sql_list(files)}, hive_partitioning = true, "
            "hive_types = {'as_of': DATE, 'model_version': VARCHAR}) "
            f"WHERE rank <= {use_case.top_n} ORDER BY {use_case.entity}, rank",
            params={"as_of": as_of},
        )
        return found.to_arrow_table().cast(schema)


def rows_in(connection: sa.Connection, use_case: UseCase, table: sa.Table, **slice_: object) -> pa.Table:
    """The rows of a table of scores whose columns equal `slice_`: as `published_rows` gives them."""
    query = sa.select(*(table.c[name] for name in _schema(use_case).names)).where(
        *(table.c[name] == value for name, value in slice_.items())
    )
    return warehouse.read_table(connection, query.order_by(table.c[use_case.entity], table.c.rank))


def is_as_published(connection: sa.Connection, use_case: UseCase, as_of: date) -> bool:
    """Whether a date holds what the log says was published."""
    newest = _newest(connection, use_case, as_of)
    rows = rows_in(connection, use_case, tables.scores_table(use_case), score_date=as_of)
    return newest is not None and newest["content_hash"] == lake.content_hash(rows)


def record_erasure(connection: sa.Connection, use_case: UseCase, as_of: date, run_id: str) -> None:
    """Tell the log what a date holds after somebody's rows were taken out of it, so that it can still be verified."""
    newest = _newest(connection, use_case, as_of)
    if newest is not None:
        rows = rows_in(connection, use_case, tables.scores_table(use_case), score_date=as_of)
        told = {"run_id": run_id, "status": ERASED, "rows": rows.num_rows, "content_hash": lake.content_hash(rows)}
        kept = {name: newest[name] for name in ("use_case", "score_date", "model_version", "feature_version", "audit")}
        warehouse.append_rows(
            connection, tables.PUBLISH_LOG, [kept | told | {"actor": NIGHTJAR, "reason": "a household was erased"}]
        )


def _schema(use_case: UseCase) -> pa.Schema:
    schema = warehouse.arrow_schema(tables.scores_table(use_case))
    return schema.remove(schema.get_field_index("run_id"))


def _begin(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> _Attempt:
    """Take the fence of the date away from every earlier attempt, and clear away what these left."""
    table, staging = tables.PUBLISH_FENCES, tables.staging_table(use_case)
    with warehouse.open_warehouse(settings) as connection:
        insert: Any = _UPSERT[connection.dialect.name](table)
        first = {"use_case": use_case.name, "score_date": as_of, "fence": 1, "run_id": run_id}
        taken = insert.values(first).on_conflict_do_update(
            index_elements=["use_case", "score_date"],
            set_={"fence": table.c.fence + 1, "run_id": run_id, "recorded_at": sa.func.now()},
        )
        fence = int(connection.execute(taken.returning(table.c.fence)).scalar_one())
        connection.execute(sa.delete(staging).where(staging.c.score_date == as_of))
    return _Attempt(use_case, as_of, run_id, fence)


def _newest(connection: sa.Connection, use_case: UseCase, as_of: date) -> dict[str, Any] | None:
    """The last entry of what readers see of a date."""
    log = tables.PUBLISH_LOG
    query = (
        sa.select(log)
        .where(log.c.use_case == use_case.name, log.c.score_date == as_of, log.c.status != REFUSED)
        .order_by(log.c.publish_id.desc())
        .limit(1)
    )
    return next(iter(warehouse.read_rows(connection, query)), None)


def _require_newest(connection: sa.Connection, attempt: _Attempt) -> None:
    """Nothing, unless a later attempt has begun; none can begin before the transaction ends."""
    fences = tables.PUBLISH_FENCES.c
    where = (fences.use_case == attempt.use_case.name, fences.score_date == attempt.as_of)
    newest = connection.execute(sa.select(fences.fence, fences.run_id).where(*where).with_for_update()).one()
    if newest.fence != attempt.fence:
        raise Superseded(
            "a later attempt to publish the date has begun",
            where=f"{attempt.use_case.scores_table}, score_date={attempt.as_of}",
            expected=f"attempt {attempt.fence}",
            found=f"attempt {newest.fence}, run {newest.run_id}",
            remedy="nothing is lost: look at that run; clear this task if its own rows are wanted",
        )


def _is_published(settings: Settings, attempt: _Attempt, content: str, rows: int) -> bool:
    """Whether readers see these very rows."""
    with warehouse.open_warehouse(settings) as connection:
        newest = _newest(connection, attempt.use_case, attempt.as_of)
        if newest is None or newest["content_hash"] != content:
            return False
        table = tables.scores_table(attempt.use_case)
        seen = sa.select(sa.func.count()).select_from(table).where(table.c.score_date == attempt.as_of)
        return connection.scalar(seen) == rows


def _stage(settings: Settings, attempt: _Attempt, rows: pa.Table) -> None:
    for name, value in (("fence", pa.scalar(attempt.fence, pa.int32())), ("run_id", attempt.run_id)):
        rows = rows.append_column(name, pa.repeat(value, len(rows)))
    with warehouse.open_warehouse(settings) as connection:
        _require_newest(connection, attempt)
        warehouse.load_rows(connection, tables.staging_table(attempt.use_case), rows)


def _audit(settings: Settings, attempt: _Attempt, content: str, force: Force | None) -> dict[str, object]:
    """The entry of ops__publish_log for what was staged; a refusal is written down before it is raised."""
    use_case, as_of = attempt.use_case, attempt.as_of
    with warehouse.open_warehouse(settings) as connection:
        _require_newest(connection, attempt)
        staged = rows_in(connection, use_case, tables.staging_table(use_case), fence=attempt.fence, score_date=as_of)
        nights = audit.last_nights(connection, use_case, as_of)
        day = nights[0].score_date if nights else as_of
        before = rows_in(connection, use_case, tables.scores_table(use_case), score_date=day)
    moved, of_features = audit.features_since(settings, use_case, as_of, nights)
    now = audit.figures(settings, use_case, staged).model_copy(update={"features": moved})
    version = staged.column("model_version")[0].as_py()
    overlap = audit.list_overlap(settings, use_case, before, staged) if nights else None
    checks = [
        Check("rows as they were scored", lake.content_hash(staged) == content, f"{len(staged)} rows", content),
        *audit.constraints(settings, use_case, as_of, staged),
        *audit.expected_of_rows(settings, use_case, as_of, staged),
        *audit.comparisons(use_case, as_of, version, now, nights, overlap),
        *of_features,
    ]
    failed = "; ".join(str(check) for check in checks if check.is_blocking and not check.success)
    status = PUBLISHED if not failed else REFUSED if force is None else FORCED
    row = _entry(attempt, staged, now, content) | {
        "status": status,
        "actor": force.actor if force else NIGHTJAR,
        "reason": f"{force.reason}; against: {failed or 'nothing'}" if force else failed,
    }
    with warehouse.open_warehouse(settings) as connection:
        logged = log_rows(checks, table=use_case.scores_table, day=as_of, run_id=attempt.run_id)
        warehouse.append_rows(connection, tables.CHECK_LOG, logged)
        if status == REFUSED:
            warehouse.append_rows(connection, tables.PUBLISH_LOG, [row])
    if force is None:
        _require(checks, use_case, as_of)
    return row


def _require(checks: Sequence[Check], use_case: UseCase, as_of: date) -> None:
    require(
        checks,
        where=f"{use_case.scores_table}, score_date={as_of}",
        remedy="readers keep the last good publication. Mend the cause and score again, or decide against the audit: "
        f"nightjar publish --use-case {use_case.name} --date {as_of} --force --reason …",
        error=AuditRefused,
    )


def _entry(attempt: _Attempt, rows: pa.Table, now: Figures, content: str) -> dict[str, object]:
    return {
        "run_id": attempt.run_id,
        "use_case": attempt.use_case.name,
        "score_date": attempt.as_of,
        "rows": rows.num_rows,
        "content_hash": content,
        "model_version": rows.column("model_version")[0].as_py(),
        "feature_version": rows.column("feature_version")[0].as_py(),
        "audit": json.dumps({"fence": attempt.fence, "figures": now.model_dump()}),
    }


def _replace(settings: Settings, attempt: _Attempt, row: dict[str, object]) -> None:
    """Swap the date for what was staged, and log it, unless a later attempt has begun; in one transaction."""
    scores, staging = tables.scores_table(attempt.use_case), tables.staging_table(attempt.use_case)
    names = [column.name for column in scores.columns]
    mine = (staging.c.fence == attempt.fence, staging.c.score_date == attempt.as_of)
    with warehouse.open_warehouse(settings) as connection:
        _require_newest(connection, attempt)
        warehouse.make_room(connection, scores, attempt.as_of)
        connection.execute(sa.delete(scores).where(scores.c.score_date == attempt.as_of))
        crash_point("publish.after_delete")
        connection.execute(sa.insert(scores).from_select(names, sa.select(*(staging.c[n] for n in names)).where(*mine)))
        crash_point("publish.after_insert")
        connection.execute(sa.delete(staging).where(*mine))
        warehouse.append_rows(connection, tables.PUBLISH_LOG, [row])
        crash_point("publish.before_commit")
