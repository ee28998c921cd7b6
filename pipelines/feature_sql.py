"""The SQL of a use case's features, run over the core rows of some entities or of all."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from pipelines.engine import Versions, open_core, open_engine, parameters
from pipelines.settings import Settings
from pipelines.storage import sql_text
from pipelines.use_case import BaseTable, FeatureTable, UseCase

_KEPT = "kept_base_tables"  # a file of DuckDB, as others know it


@dataclass(frozen=True)
class FeatureSql:
    """A snapshot to compute: of which use case, up to which date, which instant that is, from which core tables.

    Workers of a cluster take it over and call its methods. A table is by entity where that is its first key: it is
    made of the core rows of its entities alone. So is a base table that has the entity as a column.
    """

    use_case: UseCase
    as_of: date
    known_at: datetime
    versions: Versions

    @property
    def by_entity(self) -> list[FeatureTable]:
        """The tables by entity, in the use case's order."""
        return [table for table in self.use_case.feature_tables if table.keys[0] == self.use_case.entity]

    @property
    def of_all(self) -> list[FeatureTable]:
        """The tables that rest on the rows of all entities."""
        return [table for table in self.use_case.feature_tables if table.keys[0] != self.use_case.entity]

    def whole(self, settings: Settings, _condition: str) -> list[pa.Table]:
        """The rows of every table, at once."""
        with open_core(settings, up_to=self.as_of, versions=self.versions) as connection:
            self._create(connection, self.use_case.base_tables)
            return self._features(connection, self.use_case.feature_tables)

    def of_entities(self, settings: Settings, condition: str) -> tuple[list[pa.Table], dict[str, pa.Table]]:
        """The rows of the tables by entity for the entities that fulfil a condition.

        With them come those of their base tables that the tables of all entities read, by name.
        """
        entity, bases = self.use_case.entity, self.use_case.base_tables
        with open_core(settings, up_to=self.as_of, versions=self.versions, only=(entity, condition)) as connection:
            self._create(connection, bases)
            by_entity = {base.name for base in bases if entity in connection.table(base.name).columns}
            wanted = by_entity & {base.name for base in self._read_by_all(by_entity)}
            found = {name: connection.table(name).to_arrow_table() for name in sorted(wanted)}
            return self._features(connection, self.by_entity), found

    def of_kept(self, settings: Settings, kept: Path) -> list[pa.Table]:
        """The rows of the tables of all entities, from the base tables that were kept of them."""
        with open_core(settings, up_to=self.as_of, versions=self.versions) as connection:
            connection.execute(f"ATTACH {sql_text(str(kept))} AS {_KEPT} (READ_ONLY)")
            query = f"SELECT table_name FROM duckdb_tables() WHERE database_name = '{_KEPT}'"
            there = {name for (name,) in connection.sql(query).fetchall()}
            for name in there:
                connection.execute(f"CREATE TEMP VIEW {name} AS FROM {_KEPT}.{name}")
            self._create(connection, [base for base in self._read_by_all(there) if base.name not in there])
            return self._features(connection, self.of_all)

    def _create(self, connection: duckdb.DuckDBPyConnection, bases: Sequence[BaseTable]) -> None:
        for base in bases:
            connection.execute(f"CREATE TEMP TABLE {base.name} AS {base.sql}", parameters(base.sql, self.as_of))

    def _features(self, connection: duckdb.DuckDBPyConnection, tables: Sequence[FeatureTable]) -> list[pa.Table]:
        return [compute_features(connection, table, self.as_of, self.known_at) for table in tables]

    def _read_by_all(self, by_entity: Collection[str]) -> list[BaseTable]:
        """The base tables that the tables of all entities read, but not what base tables by entity are made of."""
        read = _words(" ".join(sql for table in self.of_all for sql in (table.source, table.joins)))
        chosen: list[BaseTable] = []
        for base in reversed(self.use_case.base_tables):
            if base.name in read:
                chosen.insert(0, base)
                read |= set() if base.name in by_entity else _words(base.sql)
        return chosen


def keep(settings: Settings, kept: Path, base_tables: Mapping[str, pa.Table]) -> None:
    """Add rows to base tables in a file of DuckDB; it may not exist yet."""
    with open_engine(settings) as connection:
        connection.execute(f"ATTACH {sql_text(str(kept))} AS {_KEPT}")
        for name, rows in base_tables.items():
            connection.register("part", rows)
            connection.execute(f"CREATE TABLE IF NOT EXISTS {_KEPT}.{name} AS FROM part LIMIT 0")
            connection.execute(f"INSERT INTO {_KEPT}.{name} FROM part")


def compute_features(
    connection: duckdb.DuckDBPyConnection, table: FeatureTable, as_of: date, known_at: datetime
) -> pa.Table:
    """The rows of one feature table, ordered by key: timestamps, keys, and every feature as a 32-bit float."""
    keys = ", ".join(table.keys)
    aggregates = ", ".join(f"{sql} AS {name}" for name, sql in table.aggregates.items())
    derived = "".join(f", {sql} AS {name}" for name, sql in table.derived.items())
    stamp = f"TIMESTAMPTZ '{known_at.isoformat()}'"
    features = ", ".join(f"{name}::FLOAT AS {name}" for name in table.features)
    query = f"""
        WITH aggregated AS (SELECT {keys}, {aggregates} FROM ({table.source}) GROUP BY {keys}),
             derived AS (SELECT *{derived} FROM aggregated {table.joins})
        SELECT {stamp} AS event_timestamp, {stamp} AS created_timestamp, {keys}, {features}
        FROM derived ORDER BY {keys}
    """
    return connection.sql(query, params=parameters(query, as_of)).to_arrow_table()


def _words(sql: str) -> set[str]:
    return set(re.findall(r"\w+", sql.lower()))
