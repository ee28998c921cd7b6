"""Feature snapshots: what was known of every entity and item at the end of a business date."""

import hashlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from pipelines import lake, ledger
from pipelines.checks import require
from pipelines.cluster import open_cluster
from pipelines.coverage import require_unbroken
from pipelines.crash_points import crash_point
from pipelines.engine import Versions, open_core
from pipelines.ledger import FEATURES, Inputs, Made
from pipelines.pages import DATA_DOCS, page_path
from pipelines.partitions import WHOLE, entity_ranges, gathered
from pipelines.scratch import Rows
from pipelines.settings import DASK, Settings
from pipelines.steps import measured
from pipelines.use_case import FeatureTable, UseCase
from pipelines.validation import validate

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation


_Audit = Callable[[FeatureTable, pa.Table], None]
_SOURCE_ROWS = 4  # a row of features rests on some rows, in the reference data on five to six


@dataclass(frozen=True)
class FeatureReport:
    """Rows over all feature tables of one snapshot, and the version of their content."""

    as_of: date
    feature_version: str
    rows: int


def build_features(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> FeatureReport:
    """Write the snapshots of every feature table as of the end of `as_of`, replacing what was there.

    Raises:
        MissingPartition: that business date, or one before it, was not ingested.
        ChecksFailed: a table is not what the use case expects; its snapshot stays as it was.
    """
    with measured(settings, f"features__{use_case.name}", str(as_of), run_id) as cost:
        require_unbroken(settings, last=as_of)
        cost.rows, content = 0, {}
        inputs = inputs_of(settings, use_case, as_of)
        audit = partial(_audit, settings, use_case, as_of)
        for table, rows in compute_snapshot(settings, use_case, as_of, inputs.core_versions, audit):
            written = lake.replace_snapshot(settings.lake, table.name, rows, as_of)
            cost.rows += written.rows
            content[table.name] = written.version
        version = _version_over(content.values())
        made = Made(as_of=as_of, version=version, content=content, inputs=inputs)
        crash_point("features.before_log")
        ledger.record(settings, use_case, FEATURES, made, run_id)
    return FeatureReport(as_of, version, cost.rows)


def inputs_of(settings: Settings, use_case: UseCase, as_of: date) -> Inputs:
    """What the snapshot of a date would be made from now."""
    return ledger.inputs_up_to(settings, as_of, definition_of(settings, use_case))


def definition_of(settings: Settings, use_case: UseCase) -> str:
    """What says what the features are."""
    return use_case.model_dump_json(include={"base_tables", "feature_tables"}) + settings.business_timezone


def compute_snapshot(
    settings: Settings, use_case: UseCase, as_of: date, versions: Versions, audit: _Audit | None = None
) -> Iterator[tuple[FeatureTable, Rows]]:
    """Each feature table with its rows as of the end of a date, from these versions of the core tables.

    Of many entities some are computed, and audited, at a time; the rows are there until the next table is asked for.
    """
    if settings.engine == DASK:
        yield from _by_cluster(settings, use_case, as_of, versions, audit)
        return
    known_at = end_of_day(settings, as_of)
    with open_core(settings, up_to=as_of, versions=versions) as connection, base_tables(connection, use_case, as_of):
        for table in use_case.feature_tables:
            ranges = ranges_of(connection, use_case, table, as_of)
            parts = (compute_features(connection, table, as_of, known_at, condition) for condition in ranges)
            with gathered(settings, len(ranges), _audited(table, parts, audit)) as rows:
                yield table, rows


def _by_cluster(
    settings: Settings, use_case: UseCase, as_of: date, versions: Versions, audit: _Audit | None
) -> Iterator[tuple[FeatureTable, Rows]]:
    """The same by workers: tables by entity for some entities at a time, from these entities' rows alone."""
    by_entity = [table for table in use_case.feature_tables if table.keys[0] == use_case.entity]
    kept: dict[str, list[pa.Table]] = {table.name: [] for table in by_entity}
    with open_cluster(settings) as cluster:
        whole = {
            table.name: cluster.submit(partial(_compute_tables, use_case, (table,), as_of, versions), WHOLE)
            for table in use_case.feature_tables
            if table not in by_entity
        }
        with open_core(settings, up_to=as_of, versions=versions) as connection:
            ranges = entity_ranges(
                connection, "core__transactions", use_case.entity, times=_SOURCE_ROWS, least=cluster.least
            )

        def first_of_each() -> Iterator[pa.Table]:
            part = partial(_compute_tables, use_case, tuple(by_entity), as_of, versions)
            for rows, *others in cluster.map(part, ranges):
                for table, more in zip(by_entity[1:], others, strict=True):
                    kept[table.name].append(more)
                yield rows

        for table in use_case.feature_tables:
            if table.name in whole:
                number, parts = 1, iter(cluster.result(whole[table.name]))
            elif table is by_entity[0]:
                number, parts = len(ranges), first_of_each()
            else:
                number, parts = 1, iter([pa.concat_tables(kept[table.name])])
            with gathered(settings, number, _audited(table, parts, audit)) as rows:
                yield table, rows


def _compute_tables(
    use_case: UseCase,
    tables: Sequence[FeatureTable],
    as_of: date,
    versions: Versions,
    settings: Settings,
    condition: str,
) -> list[pa.Table]:
    """In a worker: the rows of some feature tables for the entities that fulfil a condition."""
    known_at, only = end_of_day(settings, as_of), (use_case.entity, condition)
    with (
        open_core(settings, up_to=as_of, versions=versions, only=only) as connection,
        base_tables(connection, use_case, as_of),
    ):
        return [compute_features(connection, table, as_of, known_at) for table in tables]


def feature_version(settings: Settings, use_case: UseCase, as_of: date) -> str:
    """Version of a snapshot over all its tables: the first 16 hex digits of the hash of their content hashes.

    Raises:
        MissingPartition: a table has no snapshot of that date.
    """
    return _version_over(lake.require_snapshot(settings.lake, t.name, as_of)[1] for t in use_case.feature_tables)


def end_of_day(settings: Settings, business_date: date) -> datetime:
    """The instant, UTC, at which a business date ends in the stores' time zone."""
    midnight = datetime.combine(business_date + timedelta(days=1), time(), tzinfo=settings.zone)
    return midnight.astimezone(UTC)


@contextmanager
def base_tables(connection: duckdb.DuckDBPyConnection, use_case: UseCase, as_of: date) -> Iterator[None]:
    """The use case's base tables, as temporary tables while the context lasts."""
    for base in use_case.base_tables:
        connection.execute(f"CREATE TEMP TABLE {base.name} AS {base.sql}", _parameters(base.sql, as_of))
    yield
    for base in use_case.base_tables:
        connection.execute(f"DROP TABLE {base.name}")


def compute_features(
    connection: duckdb.DuckDBPyConnection, table: FeatureTable, as_of: date, known_at: datetime, condition: str = WHOLE
) -> pa.Table:
    """The rows of one feature table, ordered by key: timestamps, keys, and every feature as a 32-bit float.

    The condition chooses among the rows that the table is computed from.
    """
    keys = ", ".join(table.keys)
    aggregates = ", ".join(f"{sql} AS {name}" for name, sql in table.aggregates.items())
    derived = "".join(f", {sql} AS {name}" for name, sql in table.derived.items())
    stamp = f"TIMESTAMPTZ '{known_at.isoformat()}'"
    features = ", ".join(f"{name}::FLOAT AS {name}" for name in table.features)
    query = f"""
        WITH aggregated AS (SELECT {keys}, {aggregates} FROM ({table.source}) WHERE {condition} GROUP BY {keys}),
             derived AS (SELECT *{derived} FROM aggregated {table.joins})
        SELECT {stamp} AS event_timestamp, {stamp} AS created_timestamp, {keys}, {features}
        FROM derived ORDER BY {keys}
    """
    return connection.sql(query, params=_parameters(query, as_of)).to_arrow_table()


def _version_over(content_hashes: Iterable[str]) -> str:
    return hashlib.sha256("".join(content_hashes).encode()).hexdigest()[:16]


def ranges_of(
    connection: duckdb.DuckDBPyConnection, use_case: UseCase, table: FeatureTable, as_of: date
) -> Sequence[str]:
    """Conditions that choose the entities to compute at a time; a table that is not by entity is computed at once."""
    if table.keys[0] != use_case.entity:
        return [WHOLE]
    given = _parameters(table.source, as_of)
    return entity_ranges(connection, f"({table.source})", use_case.entity, times=_SOURCE_ROWS, given=given)


def _audited(table: FeatureTable, parts: Iterator[pa.Table], audit: _Audit | None) -> Iterator[pa.Table]:
    for rows in parts:
        if audit:
            audit(table, rows)
        yield rows


def _audit(settings: Settings, use_case: UseCase, as_of: date, table: FeatureTable, rows: pa.Table) -> None:
    where = f"{table.name}, as_of={as_of}"
    suite = importlib.import_module(use_case.expectations_module).features(table.name)
    checked = sorted({name for expectation in suite for name in _columns_of(expectation)})
    docs = page_path(settings.home, DATA_DOCS, table.name, as_of)
    found = validate(rows.select(checked).to_pandas(), suite, where=where, docs=docs)
    require(found.checks, where=where, remedy="look for a fault in the core tables of these days or in the SQL")


def _columns_of(expectation: "Expectation") -> list[str]:
    named = expectation.configuration.kwargs
    return [*named.get("column_list", ()), *([named["column"]] if "column" in named else [])]


def _parameters(query: str, as_of: date) -> dict[str, date] | None:
    return {"as_of": as_of} if "$as_of" in query else None
