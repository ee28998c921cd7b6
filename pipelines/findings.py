"""Findings of a date: what has moved, by its cause, with what follows; and the one page for a fault of the data."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import sqlalchemy as sa

from pipelines import ledger, registry, tables, warehouse
from pipelines.audit import FORCED, PUBLISHED
from pipelines.causes import BLOCK, DATA_FAULT, INFORM, RETRAIN, Changes, Finding, Moved, classify
from pipelines.champion import RULE_PREFIX
from pipelines.column_drift import LISTS, SCORE, SEASON, SHARE, TRAINING, drifted_columns
from pipelines.data_shifts import (
    measurements_of,
    metrics_of,
    moved_data,
    quarantine_moved,
    quarantined,
    read_shifts,
)
from pipelines.errors import ArtifactRefused
from pipelines.feature_faults import CHECKS
from pipelines.incidents import Incident, open_incident, resolve
from pipelines.labels import newest_mature
from pipelines.ledger import FEATURES
from pipelines.measurements import ALERT, DATA, EVERYTHING, LABEL, PREDICTION, Measurement, replace_measurements
from pipelines.outcomes import published_version
from pipelines.settings import PROJECT, Settings
from pipelines.steps import measured
from pipelines.use_case import UseCase

_NEAR, _BACK = timedelta(days=3), timedelta(days=28)
_SHOWN = 5


@dataclass(frozen=True)
class FindingsReport:
    """How many figures of a date have moved, by what follows; `told` says each in words."""

    as_of: date
    watched: int
    blocking: int
    informing: int
    retraining: int
    told: tuple[str, ...]


def record_findings(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> FindingsReport:
    """Measure shifts of the data, class all that moved by its cause, and put the findings in place of the date's.

    A fault of the data opens an incident, which ends with the first later date that finds none.

    Raises:
        MissingPartition: the scores of the date are not published.
    """
    with measured(settings, f"findings__{use_case.name}", str(as_of), run_id) as cost:
        version = cost.model_version = published_version(settings, use_case, as_of)
        shifts = read_shifts(settings, use_case, as_of)
        in_quarantine, files = quarantined(settings, use_case, as_of, version)
        figures = [*measurements_of(shifts, version), in_quarantine]
        replace_measurements(settings, use_case, as_of, metrics_of(use_case), figures)
        with warehouse.open_warehouse(settings, only_reads=True) as connection:
            moved = [
                *moved_data(settings, use_case, shifts, as_of),
                *quarantine_moved(in_quarantine, files, as_of),
                *_feature_faults(connection, use_case, as_of),
                *_drift(connection, use_case, as_of),
                *_labels(connection, use_case, as_of),
            ]
            moved = [_since(connection, use_case, one, as_of) for one in moved]
        is_scoring = any(one.clock == PREDICTION for one in moved)
        changes = _changes(settings, use_case, as_of, version, is_scoring=is_scoring) if moved else Changes()
        found = classify(moved, changes)
        cost.rows = _write(settings, use_case, as_of, found)
        _tell(settings, use_case, as_of, found, run_id)
    count = {action: sum(one.action == action for one in found) for action in (BLOCK, INFORM, RETRAIN)}
    told = tuple(one.told for one in found)
    return FindingsReport(as_of, len(shifts), count[BLOCK], count[INFORM], count[RETRAIN], told)


def _feature_faults(connection: sa.Connection, use_case: UseCase, as_of: date) -> list[Moved]:
    """Feature checks of the date's publication that failed and would have stopped it: somebody has forced it."""
    log = tables.CHECK_LOG
    place = (log.c.table_name == use_case.scores_table, log.c.business_date == as_of, log.c.check_name.in_(CHECKS))
    newest = sa.select(sa.func.max(log.c.check_id)).where(*place).group_by(log.c.check_name)
    failed = sa.select(log).where(log.c.check_id.in_(newest), log.c.is_blocking, ~log.c.is_success)
    return [
        Moved(row["check_name"], EVERYTHING, DATA, 1.0, None, None, as_of, is_fault=True, source=row["observed"])
        for row in warehouse.read_rows(connection, failed)
    ]


def _drift(connection: sa.Connection, use_case: UseCase, as_of: date) -> list[Moved]:
    """The night's drift of features together, of the score and of the lists, where it alerts."""
    rows = _measured(connection, use_case, as_of, (TRAINING, SEASON, SHARE, LISTS))
    drifted = drifted_columns(rows)
    features = [name for name in drifted if name != SCORE]
    chosen = {SHARE: features, LISTS: ["the published lists"], SEASON: [SCORE], TRAINING: [SCORE]}
    is_season = season_near(use_case, as_of) != ""
    shown = [one for one in rows if one.status == ALERT and (one.metric in (SHARE, LISTS) or one.slice == SCORE)]
    if SCORE not in drifted:
        shown = [one for one in shown if one.slice != SCORE]
    return [
        Moved(
            one.metric,
            one.slice,
            one.clock,
            one.value,
            one.reference,
            one.threshold,
            as_of,
            is_season=is_season,
            subject=", ".join(chosen[one.metric][:_SHOWN]),
        )
        for one in shown
        if one.metric != TRAINING
    ]


def season_near(use_case: UseCase, as_of: date) -> str:
    """The known season of the window that ends on a date or of the one before it, as features look back; or none."""
    first = as_of - timedelta(days=2 * use_case.monitor.window_days - 1)
    named = [one.name for one in use_case.calendar if one.first_date <= as_of and one.last_date >= first]
    return named[-1] if named else ""


def _labels(connection: sa.Connection, use_case: UseCase, as_of: date) -> list[Moved]:
    """Figures of quality of the newest score date whose labels are final, where they alert."""
    return [
        Moved(one.metric, one.slice, LABEL, one.value, one.reference, one.threshold, as_of)
        for one in _measured(connection, use_case, newest_mature(use_case, as_of), clock=LABEL)
        if one.status == ALERT and not one.model_version.startswith(RULE_PREFIX)
    ]


def _measured(
    connection: sa.Connection, use_case: UseCase, day: date, metrics: Iterable[str] = (), clock: str = ""
) -> list[Measurement]:
    table = tables.METRICS
    query = sa.select(table).where(table.c.use_case == use_case.name, table.c.score_date == day)
    query = query.where(table.c.metric.in_(list(metrics))) if metrics else query.where(table.c.clock == clock)
    names = ("metric", "model_version", "value", "slice", "reference", "threshold", "status", "clock")
    rows = warehouse.read_rows(connection, query.order_by(table.c.metric, table.c.slice))
    return [Measurement(**{name: row[name] for name in names}) for row in rows]


def _since(connection: sa.Connection, use_case: UseCase, moved: Moved, as_of: date) -> Moved:
    """The figure with the first date of what was found of it without a break: a finding at most three days ago."""
    table = tables.FINDINGS
    query = sa.select(table.c.first_date).where(
        table.c.use_case == use_case.name,
        table.c.metric == moved.metric,
        table.c.slice == moved.slice,
        table.c.finding_date >= as_of - _NEAR,
        table.c.finding_date < as_of,
    )
    known = connection.scalar(query.order_by(table.c.finding_date.desc()).limit(1))
    return moved if known is None else replace(moved, first_date=min(known, moved.first_date))


def _changes(settings: Settings, use_case: UseCase, as_of: date, version: str, *, is_scoring: bool) -> Changes:
    """What of features, and where asked for of model and libraries, is not what it was in the four weeks before."""
    weeks = [as_of - timedelta(days=7 * back) for back in range(5)]
    made = {day: ledger.newest(settings, use_case, FEATURES, day) for day in weeks}
    definitions = {day: one.inputs.definition for day, one in made.items() if one}
    now = definitions.get(as_of)
    older = [day for day, known in definitions.items() if now and known != now]
    features = [f"features made in another way since {max(older)}"] if older else []
    return Changes(features, _scoring_changes(settings, use_case, as_of, version) if is_scoring else ())


def _scoring_changes(settings: Settings, use_case: UseCase, as_of: date, version: str) -> list[str]:
    log = tables.PUBLISH_LOG.c
    query = sa.select(log.score_date, log.model_version).where(
        log.use_case == use_case.name,
        log.status.in_((PUBLISHED, FORCED)),
        log.score_date.between(as_of - _BACK, as_of),
    )
    with warehouse.open_warehouse(settings, only_reads=True) as connection:
        models = {row.score_date: row.model_version for row in connection.execute(query.order_by(log.publish_id))}
    others = [day for day, model in models.items() if model != version]
    found = [f"version {models[max(others)]} gave way to {version} after {max(others)}"] if others else []
    if version.startswith(RULE_PREFIX):
        return found
    try:
        _, facts = registry.load(settings, use_case, registry.get_version(settings, use_case, version))
    except ArtifactRefused:
        return found
    here = hashlib.sha256((PROJECT / "requirements.txt").read_bytes()).hexdigest()
    is_same = facts.requirements_sha256 == here
    return found if is_same else [*found, f"other libraries than version {version} was trained with"]


def _write(settings: Settings, use_case: UseCase, as_of: date, found: Sequence[Finding]) -> int:
    place = {"use_case": use_case.name, "finding_date": as_of}
    rows = [
        place
        | {name: getattr(one.moved, name) for name in ("metric", "slice", "clock", "first_date")}
        | {name: getattr(one.moved, name) for name in ("value", "reference", "threshold")}
        | {"cause": one.cause, "action": one.action, "told": one.told, "source": one.source}
        for one in found
    ]
    with warehouse.open_warehouse(settings) as connection:
        return warehouse.replace_rows(connection, tables.FINDINGS, rows, **place)


def _tell(settings: Settings, use_case: UseCase, as_of: date, found: Sequence[Finding], run_id: str) -> None:
    """Open the incident of faulty data, or add the date to it; close it where none is left."""
    faults = [one for one in found if one.moved.is_fault]
    if not faults:
        resolve(settings, use_case, as_of, [DATA_FAULT])
        return
    incident = Incident(
        DATA_FAULT,
        use_case.name,
        "; ".join(one.told for one in faults[:_SHOWN]),
        "scores that rest in part on faulty data; no model is trained on them",
        "have the drop delivered again, and ingest its date: what follows is made anew",
    )
    open_incident(settings, use_case, as_of, incident, run_id)
