"""The decision on a new model: by rules that see only what was measured, written down once for each date."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import sqlalchemy as sa

from pipelines import registry, tables, warehouse
from pipelines.champion import RULE_PREFIX
from pipelines.checks import Check
from pipelines.errors import MissingPartition
from pipelines.labels import last_mature
from pipelines.measurements import EVERYTHING
from pipelines.outcomes import published_version
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.use_case import RetrainPolicy, UseCase

DRIFT_SHARE = "drift_share"


@dataclass(frozen=True)
class RetrainReport:
    """Whether a new model is asked for, and why; `model_version` is the one that scored `as_of`."""

    as_of: date
    model_version: str
    is_requested: bool
    reason: str


@dataclass(frozen=True)
class Evidence:
    """What a decision rests on; `realised_auc` is none before scores of the model have matured."""

    trained_as_of: date
    validation_auc: float
    realised_auc: float | None
    drifted_share: float


def decide_retraining(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> RetrainReport:
    """Decide whether the model that scored `as_of` should be replaced, and write the decision down.

    Raises:
        MissingPartition: the scores of `as_of` are not published or their drift was not measured.
        EngineFailure: the registry cannot be read; nothing is decided then.
    """
    with measured(settings, f"retraining__{use_case.name}", str(as_of), run_id) as cost:
        version = published_version(settings, use_case, as_of)
        if version.startswith(RULE_PREFIX):
            checks: Sequence[Check] = [Check("who scored the date", False, version, "a model", is_blocking=False)]
        else:
            checks = apply_policy(use_case.retraining, _gather(settings, use_case, as_of, version), as_of)
        failed = [check for check in checks if not check.success]
        reason = "; ".join(map(str, failed or checks))
        place = {"use_case": use_case.name, "decision_date": as_of}
        row = {
            **place,
            "run_id": run_id,
            "is_requested": bool(failed),
            "action": "request" if failed else "none",
            "model_version": version,
            "reason": reason,
            "evidence": json.dumps({"model_version": version, "checks": [asdict(check) for check in checks]}),
            "evidence_hash": hashlib.sha256(reason.encode()).hexdigest(),
        }
        with warehouse.open_warehouse(settings) as connection:
            cost.rows = warehouse.replace_rows(connection, tables.RETRAIN_DECISIONS, [row], **place)
    return RetrainReport(as_of, version, bool(failed), reason)


def apply_policy(policy: RetrainPolicy, evidence: Evidence, as_of: date) -> Sequence[Check]:
    """The policy's rules; one that fails asks for a new model."""
    age, realised = (as_of - evidence.trained_as_of).days, evidence.realised_auc
    lowest = round(evidence.validation_auc - policy.min_auc_drop, 5)
    return [
        Check(
            "days since the model's training date",
            age <= policy.champion_max_age_days,
            age,
            f"at most {policy.champion_max_age_days}",
            is_blocking=False,
        ),
        Check(
            "realised AUC",
            realised is None or realised >= lowest,
            "no matured scores of this model yet" if realised is None else round(realised, 5),
            f"at least {lowest} ({policy.min_auc_drop} below validation)",
            is_blocking=False,
        ),
        Check(
            "share of drifted features",
            evidence.drifted_share <= policy.drifted_feature_share,
            round(evidence.drifted_share, 5),
            f"at most {policy.drifted_feature_share}",
            is_blocking=False,
        ),
    ]


def _gather(settings: Settings, use_case: UseCase, as_of: date, model_version: str) -> Evidence:
    version = registry.get_version(settings, use_case, model_version)
    return Evidence(
        trained_as_of=date.fromisoformat(registry.validation_parameters(settings, version)["as_of"]),
        validation_auc=registry.validation_metrics(settings, version)["auc"],
        realised_auc=_realised_auc(settings, use_case, as_of, model_version),
        drifted_share=_drifted_share(settings, use_case, as_of, model_version),
    )


def _realised_auc(settings: Settings, use_case: UseCase, as_of: date, model_version: str) -> float | None:
    """AUC of the model's newest scores that have matured at the end of `as_of`."""
    query = (
        _metric(use_case, "auc", model_version)
        .where(tables.METRICS.c.score_date <= last_mature(use_case, as_of))
        .order_by(tables.METRICS.c.score_date.desc())
        .limit(1)
    )
    with warehouse.open_warehouse(settings) as connection:
        found: float | None = connection.scalar(query)
    return found


def _drifted_share(settings: Settings, use_case: UseCase, as_of: date, model_version: str) -> float:
    query = _metric(use_case, DRIFT_SHARE, model_version).where(tables.METRICS.c.score_date == as_of)
    with warehouse.open_warehouse(settings) as connection:
        found = connection.scalar(query)
    if found is None:
        raise MissingPartition(
            "the drift of the date was not measured: there is no basis for a decision",
            where=f"monitor__metrics, {DRIFT_SHARE}, score_date={as_of}, model_version={model_version}",
            remedy=f"nightjar monitor --use-case {use_case.name} --date {as_of}",
        )
    return float(found)


def _metric(use_case: UseCase, metric: str, model_version: str) -> sa.Select[Any]:
    table = tables.METRICS
    return sa.select(table.c.value).where(
        table.c.use_case == use_case.name,
        table.c.metric == metric,
        table.c.slice == EVERYTHING,
        table.c.model_version == model_version,
    )
