"""From a published row back to the files that it came from."""

from collections.abc import Mapping
from datetime import date
from typing import Any

import sqlalchemy as sa
from rich.text import Text
from rich.tree import Tree

from pipelines import ledger, registry, tables, warehouse
from pipelines.champion import RULE_PREFIX
from pipelines.contracts import CORE_TABLES
from pipelines.engine import open_core
from pipelines.errors import NotPublished
from pipelines.ledger import FEATURES, Made
from pipelines.lineage import lineage_of
from pipelines.settings import Settings
from pipelines.use_case import UseCase

_SHOWN = 5
_LOGGED = ("business_date", "table_name", "source_file", "source_sha256", "rows_kept", "attempt", "table_version")


def trace(settings: Settings, use_case: UseCase, score_date: date, entity: int, item: str) -> dict[str, Any]:
    """What a published row rests on: `row`, `training` (empty for a simple rule), `features`, and `files`.

    The files brought the entity's own rows that its features saw, newest first.

    Raises:
        NotPublished: there is no such row, or its features are older than the ledger.
        ArtifactRefused: its model's record of the training set is missing.
    """
    table = tables.scores_table(use_case)
    wanted = {"score_date": score_date, use_case.entity: entity, use_case.item: item}
    with warehouse.open_warehouse(settings) as connection:
        query = sa.select(table).where(*(table.c[name] == value for name, value in wanted.items()))
        row = next(iter(warehouse.read_rows(connection, query)), {})
    made = ledger.newest(settings, use_case, FEATURES, score_date, row.get("feature_version", ""))
    if made is None:
        raise NotPublished(
            "readers see no such row, or the ledger of snapshots does not know its features",
            where=f"{table.name}, {tables.SNAPSHOT_LOG.name}",
            expected=", ".join(f"{name} {value}" for name, value in wanted.items()),
            found=row or "no row",
            remedy=f"ask for a row as it stands in {table.name}, published since the ledger is kept",
        )
    is_rule = row["model_version"].startswith(RULE_PREFIX)
    training = {} if is_rule else _training(settings, use_case, row["model_version"])
    files = _files(settings, use_case, made, entity)
    return {"row": row, "training": training, "features": made.model_dump(), "files": files}


def _training(settings: Settings, use_case: UseCase, model_version: str) -> dict[str, Any]:
    lineage = lineage_of(settings, use_case, model_version)
    return {
        "model_version": model_version,
        "mlflow_run_id": registry.get_version(settings, use_case, model_version).mlflow_run_id,
        "code_version": lineage.code_version,
        "training_set_sha256": lineage.training_set_sha256,
        "snapshots": {str(one.features.as_of): one.features.version for one in lineage.snapshots},
    }


def as_tree(values: Mapping[str, Any], tree: Tree | None = None) -> Tree:
    """Nested values for people, with the newest of long lists."""
    tree = tree or Tree("lineage")
    for name, value in values.items():
        if isinstance(value, dict):
            as_tree(value, tree.add(name))
        elif isinstance(value, list):
            branch = tree.add(f"{name}, {len(value)} in all")
            for each in value[:_SHOWN]:
                branch.add(Text(" · ".join(map(str, each.values())), overflow="fold"))
        else:
            tree.add(Text(f"{name} {value}", overflow="fold"))
    return tree


def _files(settings: Settings, use_case: UseCase, made: Made, entity: int) -> list[dict[str, Any]]:
    """The files of the days on which the entity has rows, as of the core versions that were read."""
    log, found = tables.INGEST_LOG.c, []
    with open_core(settings, up_to=made.as_of, versions=made.inputs.core_versions) as connection:
        for table, version in made.inputs.core_versions.items():
            if version is None or use_case.entity not in CORE_TABLES[table].schema.names:
                continue
            query = f"SELECT DISTINCT business_date FROM {table} WHERE {use_case.entity} = $entity"
            days = connection.execute(query, {"entity": entity}).fetchall()
            logged = sa.select(*(log[name] for name in _LOGGED)).where(log.table_name == table)
            with warehouse.open_warehouse(settings) as opened:
                rows = warehouse.read_rows(opened, logged.order_by(log.attempt))
            rows = [row for row in rows if row["table_version"] != "none" and int(row["table_version"]) <= version]
            in_force = {row["business_date"]: row["attempt"] for row in rows}
            wanted = {(day, in_force.get(day)) for (day,) in days}
            found += [row for row in rows if row["rows_kept"] and (row["business_date"], row["attempt"]) in wanted]
    return sorted(found, key=lambda row: (row["business_date"], row["table_name"]), reverse=True)
