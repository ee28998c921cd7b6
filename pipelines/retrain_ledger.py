"""The ledger of trainings: who asked for one, which run was let in, and what became of it; a row for each date."""

import json
from dataclasses import dataclass
from datetime import date
from typing import Any

import sqlalchemy as sa

from pipelines import promotion_log, tables, warehouse
from pipelines.promotion_log import ROLLBACK
from pipelines.retrain_policy import BLOCK, NONE, REQUEST, Evidence, Request, Verdict, hash_of
from pipelines.settings import Settings
from pipelines.use_case import UseCase

ADMITTED, COALESCED, REFUSED = "admitted", "coalesced", "refused"
MONITOR = "nightjar"  # who asks where no person does
_DECISIONS, _COSTS = tables.RETRAIN_DECISIONS, tables.RUN_COSTS


@dataclass(frozen=True)
class AdmitReport:
    """Whether a run may train for a date, and why."""

    as_of: date
    is_admitted: bool
    reason: str


def keep_decision(
    settings: Settings, use_case: UseCase, evidence: Evidence, verdict: Verdict, run_id: str
) -> dict[str, Any]:
    """Write the monitor's decision on a date, and give what stands there.

    Where a training was asked for already it stays asked for, and its causes are counted with the others.
    """
    with promotion_log.locked(settings) as connection:
        kept = _row(connection, use_case, evidence.as_of)
        before = json.loads(kept["evidence"]) if kept else {}
        told = verdict.told(evidence)
        if kept and kept["is_requested"]:
            known = {cause["key"] for cause in before.get("causes", [])}
            more = [cause for cause in told["causes"] if cause["key"] not in known]
            row = kept | {"evidence": json.dumps(told | before | {"causes": before.get("causes", []) + more})}
        else:
            row = {
                "run_id": run_id,
                "is_requested": verdict.action == REQUEST,
                "action": verdict.action,
                "model_version": evidence.model_version,
                "reason": verdict.reason,
                "gain_usd": verdict.gain_usd,
                "cost_usd": verdict.cost_usd,
                "evidence": json.dumps(told | {"triggers": before.get("triggers", [])}),
                "evidence_hash": verdict.evidence_hash,
            }
        return _write(connection, use_case, evidence.as_of, row)


def admit(
    settings: Settings, use_case: UseCase, as_of: date, run_id: str, by: str = MONITOR, *, anyway: bool = False
) -> AdmitReport:
    """Let one run train with the data up to a date, and write down who else asked for it.

    Another run is coalesced unless the first one has failed, and data at fault let nobody in; `anyway` overrules both.
    A run that was let in stays so.
    """
    with promotion_log.locked(settings) as connection:
        row = _row(connection, use_case, as_of) or _nothing_decided(use_case, as_of, run_id)
        evidence = json.loads(row["evidence"])
        triggers = evidence.setdefault("triggers", [])
        outcome, reason = _outcome(connection, use_case, as_of, triggers, run_id)
        if anyway and outcome != ADMITTED:
            outcome, reason = ADMITTED, f"{by} wants it although {reason}"
        trigger = {"run_id": run_id, "by": by, "outcome": outcome, "reason": reason}
        if (run_id, outcome) not in {(one["run_id"], one["outcome"]) for one in triggers}:
            triggers.append(trigger)
        if outcome == ADMITTED and not row["is_requested"]:
            said = f"; the policy had said {row['action']}: {row['reason']}" if row["reason"] else ""
            row |= {"is_requested": True, "action": REQUEST, "reason": f"asked for by {by}{said}"}
            row |= {"run_id": run_id, "evidence_hash": hash_of([f"asked for by {by} on {as_of}"])}
        _write(connection, use_case, as_of, row | {"evidence": json.dumps(evidence)})
    return AdmitReport(as_of, outcome == ADMITTED, reason)


def past_requests(connection: sa.Connection, use_case: UseCase, as_of: date) -> list[Request]:
    """Trainings that were asked for on other dates than this one, oldest first, with what became of them."""
    query = sa.select(_DECISIONS).where(
        _DECISIONS.c.use_case == use_case.name, _DECISIONS.c.is_requested, _DECISIONS.c.decision_date != as_of
    )
    rows = warehouse.read_rows(connection, query.order_by(_DECISIONS.c.decision_date))
    moves = promotion_log.entries(connection, use_case) if rows else []
    return [
        Request(
            row["decision_date"],
            frozenset(cause["key"] for cause in json.loads(row["evidence"]).get("causes", [])),
            _verdict(_trained_on(connection, use_case, row["decision_date"]), moves),
        )
        for row in rows
    ]


def _outcome(
    connection: sa.Connection, use_case: UseCase, as_of: date, triggers: list[dict[str, str]], run_id: str
) -> tuple[str, str]:
    admitted = [one["run_id"] for one in triggers if one["outcome"] == ADMITTED]
    if run_id in admitted:
        return ADMITTED, ""
    working = [other for other in admitted if not _has_failed(connection, use_case, as_of, other)]
    if working:
        return COALESCED, f"coalesced: run {working[-1]} trains with the data up to {as_of}, or has done so"
    table = tables.FINDINGS
    query = sa.select(table.c.told).where(
        table.c.use_case == use_case.name, table.c.finding_date == as_of, table.c.action == BLOCK
    )
    faults = list(connection.scalars(query))
    return (REFUSED, f"the data are at fault: {'; '.join(faults)}") if faults else (ADMITTED, "")


def _has_failed(connection: sa.Connection, use_case: UseCase, as_of: date, run_id: str) -> bool:
    query = _trainings(use_case, as_of).where(_COSTS.c.run_id == run_id).order_by(_COSTS.c.cost_id.desc()).limit(1)
    ended = warehouse.read_rows(connection, query)
    return bool(ended) and not ended[0]["is_success"]


def _trained_on(connection: sa.Connection, use_case: UseCase, as_of: date) -> set[str]:
    rows = warehouse.read_rows(connection, _trainings(use_case, as_of).where(_COSTS.c.is_success))
    return {row["model_version"] for row in rows}


def _trainings(use_case: UseCase, as_of: date) -> sa.Select[Any]:
    place = (_COSTS.c.step == f"train__{use_case.name}", _COSTS.c.partition_key == str(as_of))
    return sa.select(_COSTS).where(*place)


def _verdict(versions: set[str], moves: list[dict[str, Any]]) -> str:
    """What was said last of the versions that a training made."""
    said = ""
    for move in moves:
        if move["action"] == ROLLBACK and move["from_version"] in versions:
            said = ROLLBACK
        elif move["action"] != ROLLBACK and move["to_version"] in versions:
            said = move["action"]
    return said


def _nothing_decided(use_case: UseCase, as_of: date, run_id: str) -> dict[str, Any]:
    row = {"run_id": run_id, "is_requested": False, "action": NONE, "model_version": "", "reason": ""}
    return row | {"gain_usd": None, "cost_usd": use_case.retraining.cost_usd, "evidence": "{}", "evidence_hash": ""}


def _row(connection: sa.Connection, use_case: UseCase, as_of: date) -> dict[str, Any] | None:
    place = (_DECISIONS.c.use_case == use_case.name, _DECISIONS.c.decision_date == as_of)
    return next(iter(warehouse.read_rows(connection, sa.select(_DECISIONS).where(*place))), None)


def _write(connection: sa.Connection, use_case: UseCase, as_of: date, row: dict[str, Any]) -> dict[str, Any]:
    place = {"use_case": use_case.name, "decision_date": as_of}
    warehouse.replace_rows(connection, _DECISIONS, [row | place], **place)
    return row
