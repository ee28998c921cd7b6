"""Promotion: whether a new model version becomes champion, decided by checks and written down."""

import json
from dataclasses import asdict, dataclass

from pipelines import registry, warehouse
from pipelines.checks import Check
from pipelines.settings import Settings
from pipelines.use_case import UseCase

MAX_ECE = 0.02


@dataclass(frozen=True)
class PromotionReport:
    """What was decided of a version, and why."""

    model_version: str
    is_promoted: bool
    reason: str


def promote(settings: Settings, use_case: UseCase, model_version: str, run_id: str) -> PromotionReport:
    """Make the version champion if, in its cross-validation, it beats the best simple rule and is calibrated.

    A version that is champion already stays so.
    """
    version = registry.get_version(settings, use_case, model_version)
    current = registry.find_alias(settings, use_case, registry.CHAMPION)
    if current is not None and current.version == version.version:
        return PromotionReport(version.version, True, "is champion already")
    checks = _checks(use_case, registry.validation_metrics(settings, version))
    failed = [check for check in checks if not check.success]
    is_promoted = not failed
    if is_promoted:
        registry.set_alias(settings, use_case, registry.CHAMPION, version.version)
    row = {
        "run_id": run_id,
        "use_case": use_case.name,
        "from_version": current.version if current else None,
        "to_version": version.version,
        "is_promoted": is_promoted,
        "evidence": json.dumps([asdict(check) for check in checks]),
    }
    with warehouse.open_warehouse(settings) as connection:
        warehouse.append_rows(connection, warehouse.PROMOTION_LOG, [row])
    reason = "all checks passed" if is_promoted else "; ".join(map(str, failed))
    return PromotionReport(version.version, is_promoted, reason)


def _checks(use_case: UseCase, metrics: dict[str, float]) -> list[Check]:
    low, ece = metrics["ndcg_gain.low"], metrics["ece"]
    return [
        Check("gain_over_best_rule", low > 0, round(low, 5), "lower end of the 95 % interval above 0"),
        Check("calibration_error", ece <= MAX_ECE, round(ece, 5), f"at most {MAX_ECE}"),
    ]
