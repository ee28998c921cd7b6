"""The decision on a new model: gathered from what was measured, judged by the policy, written down once a date."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa

from pipelines import registry, tables, warehouse
from pipelines.avoidable import AVOIDABLE
from pipelines.causes import BLOCK, RETRAIN
from pipelines.champion import RULE_PREFIX
from pipelines.errors import MissingPartition, UnknownVersion
from pipelines.findings import season_near
from pipelines.measurements import ALERT, DATA, EVERYTHING, LABEL
from pipelines.outcomes import published_version
from pipelines.retrain_ledger import keep_decision, past_requests
from pipelines.retrain_policy import Cause, Evidence, Matured, judge
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.use_case import UseCase

_WEEK, _REMEMBERED_DAYS = timedelta(days=7), 60


@dataclass(frozen=True)
class RetrainReport:
    """Whether a new model is asked for, and why; `model_version` is the one that scored `as_of`."""

    as_of: date
    model_version: str
    is_requested: bool
    action: str
    reason: str


def decide_retraining(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> RetrainReport:
    """Decide whether the model that scored `as_of` should be replaced, and write the decision down.

    A training that was asked for stays asked for: a second run gives the same.

    Raises:
        MissingPartition: the scores of `as_of` are not published or their drift was not measured.
        EngineFailure: the registry cannot be read; nothing is decided then.
    """
    with measured(settings, f"retraining__{use_case.name}", str(as_of), run_id) as cost:
        version = published_version(settings, use_case, as_of)
        cost.model_version = version
        evidence = gather(settings, use_case, as_of, version)
        verdict = judge(use_case.retraining, evidence)
        row = keep_decision(settings, use_case, evidence, verdict, run_id)
        cost.rows = 1
    return RetrainReport(as_of, version, row["is_requested"], row["action"], row["reason"])


def gather(settings: Settings, use_case: UseCase, as_of: date, version: str) -> Evidence:
    """What was known at the end of `as_of` of the model that scored it; figures that were not mature are left out."""
    trained = trained_on(settings, use_case, version)
    with warehouse.open_warehouse(settings, only_reads=True) as connection:
        if trained is not None:
            _require_drift(connection, use_case, as_of)
        found = _findings(connection, use_case, as_of)
        return Evidence(
            as_of=as_of,
            model_version=version,
            trained=trained,
            matured=_matured(connection, settings, use_case, as_of),
            causes=[
                *(_cause(row) for row in found if row["action"] == RETRAIN),
                *_broken_bands(connection, use_case, as_of, version),
            ],
            faults=[row["told"] for row in found if row["action"] == BLOCK],
            requests=past_requests(connection, use_case, as_of),
        )


def trained_on(settings: Settings, use_case: UseCase, version: str) -> date | None:
    """The last date that a model's training knew; none for a rule.

    Raises:
        UnknownVersion: the registry does not know it.
    """
    if version.startswith(RULE_PREFIX):
        return None
    parameters = registry.validation_parameters(settings, registry.get_version(settings, use_case, version))
    return date.fromisoformat(parameters["as_of"])


def _cause(finding: dict[str, Any]) -> Cause:
    """The cause that a finding gives: the same as long as it lasts without a break."""
    key = f"{finding['metric']} of {finding['slice']} since {finding['first_date']}"
    return Cause(key, finding["told"], is_proven=finding["clock"] == LABEL)


def _findings(connection: sa.Connection, use_case: UseCase, as_of: date) -> list[dict[str, Any]]:
    table = tables.FINDINGS
    query = sa.select(table).where(table.c.use_case == use_case.name, table.c.finding_date == as_of)
    return warehouse.read_rows(connection, query.order_by(table.c.metric, table.c.slice))


def _matured(connection: sa.Connection, settings: Settings, use_case: UseCase, as_of: date) -> list[Matured]:
    """Avoidable losses of all models, with the dates that they were trained on; of some months at most."""
    first = as_of - timedelta(days=_REMEMBERED_DAYS)
    query = _known(use_case, as_of).where(tables.METRICS.c.metric == AVOIDABLE, tables.METRICS.c.score_date > first)
    rows = warehouse.read_rows(connection, query)
    trained = dict.fromkeys(row["model_version"] for row in rows)
    for version in trained:
        with suppress(UnknownVersion):  # one that was deleted tells nothing
            trained[version] = trained_on(settings, use_case, version)
    return [
        Matured(row["score_date"], day, row["value"])
        for row in rows
        if (day := trained[row["model_version"]]) is not None and row["score_date"] > day
    ]


def _broken_bands(connection: sa.Connection, use_case: UseCase, as_of: date, version: str) -> list[Cause]:
    """KPIs of the newest week that are worse than usual, where no season explains it; quality is among the findings.

    Only those count that a simple rule has as well: a new model can mend no other.
    """
    table = tables.KPI_WEEKLY
    query = sa.select(table).where(
        table.c.use_case == use_case.name,
        table.c.kpi_date.between(as_of - _WEEK + timedelta(days=1), as_of),
        table.c.status == ALERT,
        table.c.reference.is_not(None),
        table.c.value < table.c.band_low,
    )
    rows = [] if season_near(use_case, as_of) else warehouse.read_rows(connection, query.order_by(table.c.kpi))
    return [
        Cause(
            f"{row['kpi']} of version {version}",
            f"{row['kpi']} is {row['value']:.4g}, usually {row['band_low']:.4g} on",
        )
        for row in rows
    ]


def _known(use_case: UseCase, as_of: date) -> sa.Select[Any]:
    """Figures over all rows that had matured by the date, oldest first."""
    table = tables.METRICS
    return (
        sa.select(table)
        .where(table.c.use_case == use_case.name, table.c.slice == EVERYTHING)
        .where(table.c.clock == LABEL, table.c.known_date <= as_of)
        .order_by(table.c.score_date, table.c.metric)
    )


def _require_drift(connection: sa.Connection, use_case: UseCase, as_of: date) -> None:
    table = tables.METRICS
    query = sa.select(table.c.metric).where(
        table.c.use_case == use_case.name, table.c.score_date == as_of, table.c.clock == DATA
    )
    if connection.scalar(query.limit(1)) is None:
        raise MissingPartition(
            "the drift of the date was not measured: there is no basis for a decision",
            where=f"monitor__metrics, score_date={as_of}",
            remedy=f"nightjar monitor --use-case {use_case.name} --date {as_of}",
        )
