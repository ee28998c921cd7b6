"""The ledger of snapshots: from which core versions features and labels were made, and what they hash to."""

import hashlib
from datetime import date

import sqlalchemy as sa
from pydantic import BaseModel

from pipelines import lake, tables, warehouse
from pipelines.settings import Settings
from pipelines.use_case import UseCase, core_tables_in

FEATURES, LABELS = "features", "labels"


class Inputs(BaseModel, frozen=True, extra="forbid"):
    """What a snapshot is made from: versions of the core tables (none: not written yet), and hashes.

    `files` changes when a core day that it may see is replaced, `definition` with the SQL; `candidates` is the
    content of the feature snapshot that labels are for.
    """

    core_versions: dict[str, int | None]
    files: str
    definition: str
    candidates: str = ""


class Made(BaseModel, frozen=True, extra="forbid"):
    """What was written for a date: version, content hash of each table, and for labels the Delta version."""

    as_of: date
    version: str
    content: dict[str, str]
    inputs: Inputs
    table_version: str = ""


def inputs_up_to(settings: Settings, last: date, definition: str, candidates: str = "") -> Inputs:
    """What the SQL of a definition would be computed from now: the core tables that it names, up to a date."""
    versions: dict[str, int | None] = {}
    names: list[str] = []
    for table in core_tables_in(definition):
        versions[table], files = lake.state_of(settings.lake, table, lake.between("business_date", date.min, last))
        names += [f"{table}/{file}" for file in files]
    listed, told = (hashlib.sha256(text.encode()).hexdigest() for text in ("\n".join(names), definition))
    return Inputs(core_versions=versions, files=listed, definition=told, candidates=candidates)


def record(settings: Settings, use_case: UseCase, kind: str, made: Made, run_id: str) -> None:
    """Append an entry; call it once the content is in place."""
    row = {"run_id": run_id, "use_case": use_case.name, "kind": kind, "as_of": made.as_of, "version": made.version}
    with warehouse.open_warehouse(settings) as connection:
        warehouse.append_rows(connection, tables.SNAPSHOT_LOG, [row | {"made": made.model_dump_json()}])


def newest(settings: Settings, use_case: UseCase, kind: str, as_of: date, version: str | None = None) -> Made | None:
    """The last entry of a date, or the last of one version; none without any."""
    log = tables.SNAPSHOT_LOG.c
    query = sa.select(log.made).where(log.use_case == use_case.name, log.kind == kind, log.as_of == as_of)
    with warehouse.open_warehouse(settings) as connection:
        chosen = query if version is None else query.where(log.version == version)
        found = connection.scalar(chosen.order_by(log.snapshot_id.desc()).limit(1))
    return None if found is None else Made.model_validate_json(found)


def is_current(settings: Settings, use_case: UseCase, kind: str, as_of: date, now: Inputs) -> bool:
    """Whether what was last made for a date would come out the same: no core day that it saw and no SQL changed."""
    made = newest(settings, use_case, kind, as_of)
    return made is not None and made.inputs == now.model_copy(update={"core_versions": made.inputs.core_versions})
