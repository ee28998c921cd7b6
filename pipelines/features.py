"""Feature snapshots: what was known of every entity and item at the end of a business date."""

import hashlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines import lake, ledger
from pipelines.checks import require
from pipelines.cluster import open_engine_of_parts
from pipelines.coverage import require_unbroken
from pipelines.crash_points import crash_point
from pipelines.engine import Versions, open_core
from pipelines.feature_sql import FeatureSql, keep
from pipelines.ledger import FEATURES, Inputs, Made
from pipelines.pages import DATA_DOCS, page_path
from pipelines.partitions import WHOLE, entity_ranges, scratch_folder
from pipelines.scratch import Rows, ScratchRows
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.use_case import FeatureTable, UseCase
from pipelines.validation import validate

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation


_Audit = Callable[[FeatureTable, pa.Table], None]
_Part = tuple[list[pa.Table], dict[str, pa.Table]]  # of some entities: feature tables, base tables by name
_SOURCE_ROWS = 4  # a row of features rests on some lines, in the reference data on six to seven


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
    settings: Settings, use_case: UseCase, as_of: date, versions: Versions, audit: _Audit = lambda table, rows: None
) -> Iterator[tuple[FeatureTable, Rows]]:
    """Each feature table with its rows as of the end of a date, from these versions of the core tables.

    Where there are many entities, the tables by entity are computed, and audited, for some of them at a time, from the
    core rows of these alone. The rows are there until the next table is asked for.
    """
    feature_sql = FeatureSql(use_case, as_of, end_of_day(settings, as_of), versions)
    with open_engine_of_parts(settings) as engine, scratch_folder(settings) as folder:
        ranges = ranges_of(settings, feature_sql, engine.least)
        if ranges == [WHOLE]:
            (made,) = engine.map(feature_sql.whole, ranges)
            rows: Mapping[str, Rows] = _audited(use_case.feature_tables, made, audit)
        else:
            kept = folder / "base_tables.duckdb"
            parts = engine.map(feature_sql.of_entities, ranges)
            rows = _gathered(settings, feature_sql.by_entity, kept, parts, audit)
            if feature_sql.of_all:
                rows |= _audited(feature_sql.of_all, feature_sql.of_kept(settings, kept), audit)
        for table in use_case.feature_tables:
            yield table, rows[table.name]


def ranges_of(settings: Settings, feature_sql: FeatureSql, least: int = 1) -> list[str]:
    """Conditions that choose the entities to compute at a time; of few it is one, that all fulfil."""
    entity, (as_of, versions) = feature_sql.use_case.entity, (feature_sql.as_of, feature_sql.versions)
    with open_core(settings, up_to=as_of, versions=versions) as connection:
        return entity_ranges(connection, "core__transactions", entity, times=_SOURCE_ROWS, least=least)


def _gathered(
    settings: Settings, tables: Sequence[FeatureTable], kept: Path, parts: Iterator[_Part], audit: _Audit
) -> dict[str, Rows]:
    """The tables by entity from one range of entities after the other; their base tables are kept for the others."""
    with ExitStack() as open_files:
        rows = {
            table.name: open_files.enter_context(ScratchRows(kept.with_name(f"{table.name}.arrow"))) for table in tables
        }
        for made, base_tables in parts:
            audited = _audited(tables, made, audit)
            keep(settings, kept, base_tables)
            del made, base_tables  # else a part would be held while the next is computed
            for name in list(audited):
                rows[name].add(audited.pop(name))
    return dict(rows)


def _audited(tables: Sequence[FeatureTable], made: Sequence[pa.Table], audit: _Audit) -> dict[str, pa.Table]:
    for table, rows in zip(tables, made, strict=True):
        audit(table, rows)
    return {table.name: rows for table, rows in zip(tables, made, strict=True)}


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


def _version_over(content_hashes: Iterable[str]) -> str:
    return hashlib.sha256("".join(content_hashes).encode()).hexdigest()[:16]


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
