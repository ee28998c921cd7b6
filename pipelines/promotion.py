"""Promotion: the gate's verdict and, where it is asked for, a person's answer make a champion, and are written down."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from pipelines import promotion_log, registry
from pipelines.crash_points import crash_point
from pipelines.errors import ArtifactRefused, NotJudged
from pipelines.gate import SANITY, GateReport
from pipelines.promotion_log import PROMOTE, REFUSE, ROLLBACK, Entry
from pipelines.registry import CHALLENGER, CHAMPION, ModelVersion
from pipelines.settings import Settings
from pipelines.use_case import UseCase

NIGHTJAR = "nightjar"  # decides where no person is asked


@dataclass(frozen=True)
class Answer:
    """What a person said to a version that the gate let pass."""

    actor: str
    is_approved: bool
    reason: str = ""


@dataclass(frozen=True)
class PromotionReport:
    """What was decided of a version, by whom, and why."""

    model_version: str
    is_promoted: bool
    reason: str
    actor: str


def promote(
    settings: Settings, use_case: UseCase, model_version: str, run_id: str, answer: Answer | None = None
) -> PromotionReport:
    """Make the version champion if its verdict is green and, by the setting, somebody other than its trainer agrees.

    Either way it is written down. The champion before becomes challenger; a refused version stays one unless it is
    no sane model. A version that is champion already stays so.

    Raises:
        NotJudged: it was not before the gate, or was compared with another champion than the present one.
        HistoryAltered: the log of promotions is not as it was written.
    """
    version = registry.get_version(settings, use_case, model_version)
    moved = promotion_log.last_move(promotion_log.history(settings, use_case))
    current = registry.find_alias(settings, use_case, CHAMPION)
    champion = champion_of_record(moved, current)
    if champion == version.version:
        settle(settings, use_case)
        return PromotionReport(version.version, True, "is champion already", moved["actor"] if moved else NIGHTJAR)
    verdict = read_verdict(settings, use_case, version)
    if verdict.champion_version != champion:
        raise promotion_log.another_champion(use_case, version.version, verdict.champion_version, champion)
    trainer = registry.trainer(settings, version)
    actor, refusal = _decide(settings, verdict, trainer, answer)
    is_undone = moved and (moved["action"], moved["from_version"]) == (ROLLBACK, version.version)
    if is_undone and answer is None and not refusal:
        refusal = "was rolled back, so only a person promotes it again"
    reason = refusal or (answer.reason if answer else "") or verdict.reason
    evidence = json.dumps(to_jsonable_python([asdict(check) for check in verdict.checks], inf_nan_mode="constants"))
    entry = Entry(REFUSE if refusal else PROMOTE, champion, version.version, actor, reason, evidence, trainer)
    promotion_log.append(settings, use_case, entry, run_id, moved)
    crash_point("promotion.after_log")
    if not refusal:
        settle(settings, use_case)
    elif any(check.name.startswith(SANITY) and not check.success for check in verdict.checks):
        _retire(settings, use_case, version)
    return PromotionReport(version.version, not refusal, reason, actor)


def settle(settings: Settings, use_case: UseCase) -> None:
    """Make the aliases say what the log says: it was written first, and who was interrupted comes back to here."""
    promotion_log.confirm(settings, use_case)
    with promotion_log.locked(settings) as connection:
        moved = promotion_log.last_move(promotion_log.entries(connection, use_case))
        current = registry.find_alias(settings, use_case, CHAMPION)
        if moved and (current is None or current.version != moved["to_version"]):
            former = moved["from_version"] if moved["action"] == PROMOTE else None
            registry.set_alias(settings, use_case, CHALLENGER, former)
            crash_point("promotion.between_aliases")
            registry.set_alias(settings, use_case, CHAMPION, moved["to_version"])


def champion_of_record(moved: Mapping[str, object] | None, current: ModelVersion | None) -> str | None:
    """The champion by the log, which its alias follows; none where the alias points nowhere."""
    if current is None:
        return None
    return str(moved["to_version"]) if moved else current.version


def read_verdict(settings: Settings, use_case: UseCase, version: ModelVersion) -> GateReport:
    """What the gate said of a version last.

    Raises:
        NotJudged: nothing.
    """
    try:
        text = registry.read_file(settings, use_case, version, registry.GATE_FILE)
    except ArtifactRefused as error:
        raise NotJudged(
            "the version was not judged",
            where=error.where,
            expected=error.expected,
            found=error.found,
            remedy=f"nightjar model promote {version.version} --use-case {use_case.name} --date YYYY-MM-DD --reason …",
        ) from error
    return TypeAdapter(GateReport).validate_json(text)


def _decide(settings: Settings, verdict: GateReport, trainer: str, answer: Answer | None) -> tuple[str, str]:
    """Who decided, and why not; an empty reason is a yes."""
    is_asked = settings.promotion == "approval"
    if not verdict.is_passed:
        return NIGHTJAR, verdict.reason
    if answer is None:
        return NIGHTJAR, f"nobody answered within {settings.approval_timeout_hours:g} hours" if is_asked else ""
    if not answer.is_approved:
        return answer.actor, answer.reason or "a person said no"
    if is_asked and answer.actor.casefold() == trainer.casefold():
        return answer.actor, f"{answer.actor} asked for the training: somebody else must approve"
    return answer.actor, ""


def _retire(settings: Settings, use_case: UseCase, version: ModelVersion) -> None:
    challenger = registry.find_alias(settings, use_case, CHALLENGER)
    if challenger is not None and challenger.version == version.version:
        registry.set_alias(settings, use_case, CHALLENGER, None)
