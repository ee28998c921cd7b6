"""The policy on a new model: what is expected to be gained, what it costs, and what the evidence asks for. All pure."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from statistics import median
from typing import Any

from pipelines.use_case import RetrainPolicy

NONE, REQUEST, WAIT, COALESCE, BLOCK = "none", "request", "wait", "coalesce", "block"
_MONTH, _RECENT_DAYS = timedelta(days=30), 28


@dataclass(frozen=True)
class Matured:
    """A score date of the model whose labels are final, and the log loss that right rates would have saved, nats."""

    score_date: date
    avoidable: float


@dataclass(frozen=True)
class Cause:
    """What speaks for a new model; by its key it counts once.

    One that is proven, by labels, counts by itself; another one only adds to the expected gain.
    """

    key: str
    told: str
    is_proven: bool = True


@dataclass(frozen=True)
class Request:
    """A training that was asked for at a date: the keys of its causes, and what became of it; empty: nothing yet."""

    asked: date
    keys: frozenset[str] = frozenset()
    verdict: str = ""


@dataclass(frozen=True)
class Evidence:
    """All that a decision may see, as it was known at the end of `as_of`.

    `trained` is none where a simple rule scored the date. `matured`, oldest first, is of this model alone.
    """

    as_of: date
    model_version: str
    trained: date | None
    matured: Sequence[Matured] = ()
    causes: Sequence[Cause] = ()
    faults: Sequence[str] = ()
    requests: Sequence[Request] = ()


@dataclass(frozen=True)
class Verdict:
    """What follows from the evidence, and why; `causes` are those that no training was asked for yet."""

    action: str
    reason: str
    gain_usd: float | None
    cost_usd: float
    causes: Sequence[Cause] = field(default=())

    @property
    def evidence_hash(self) -> str:
        """SHA-256 of what gave cause."""
        return hash_of([cause.key for cause in self.causes])

    def told(self, evidence: Evidence) -> dict[str, Any]:
        """The evidence as it is written down, as JSON values."""
        told = asdict(evidence) | {"causes": [asdict(cause) for cause in self.causes]}
        told["requests"] = [one.asked for one in evidence.requests]
        return json.loads(json.dumps(told, default=str))  # type: ignore[no-any-return]


def hash_of(keys: Sequence[str]) -> str:
    """SHA-256 of causes by their keys, in whatever order."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


def judge(policy: RetrainPolicy, evidence: Evidence) -> Verdict:
    """Ask for a new model where there is cause that was not used before, and nothing speaks against it.

    Faults of the data forbid a training; one that is under way answers the cause already; cooldown and budget delay.
    """
    fresh = [cause for cause in evidence.causes if cause.key not in _used(policy, evidence)]
    is_shifted = any(not cause.is_proven for cause in fresh)
    gain, cost = expected_gain(policy, evidence, is_shifted=is_shifted), policy.cost_usd
    causes = [*_by_itself(policy, evidence, gain), *(cause for cause in fresh if cause.is_proven or (gain or 0) > cost)]
    told = "; ".join(cause.told for cause in causes)
    worth = f"a new model would bring {_usd(gain)} in {policy.horizon_days} days and costs {_usd(cost)}"

    def say(action: str, why: str) -> Verdict:
        return Verdict(action, f"{why}; {worth}" if why else worth, gain, cost, causes)

    if not causes:
        idle = [cause.told for cause in evidence.causes]
        if len(fresh) < len(idle):
            return say(COALESCE, f"a training was asked for already: {'; '.join(idle)}")
        return say(WAIT, "; ".join(idle)) if idle else say(NONE, "")
    if evidence.faults:
        return say(BLOCK, f"the data are at fault ({'; '.join(evidence.faults)}), in spite of: {told}")
    return say(*_room(policy, evidence, told))


def expected_gain(policy: RetrainPolicy, evidence: Evidence, *, is_shifted: bool = False) -> float | None:
    """US$ that a new model is expected to bring over the horizon; none where no model scores.

    What the old one loses by now is taken as what it would go on losing: by its age, by wrong rates of the score
    dates that matured in the last four weeks (their median), and by a shift that no label has shown yet. Where a
    challenger was refused, age and rates count from then on: it was no better.
    """
    if evidence.trained is None:
        return None
    refused = [one.asked for one in evidence.requests if one.verdict == "refuse" and one.asked <= evidence.as_of]
    since = max([evidence.trained, *refused])
    seen = [one for one in evidence.matured if one.score_date > since]
    recent = [one.avoidable for one in seen if seen[-1].score_date - one.score_date < timedelta(days=_RECENT_DAYS)]
    nats = policy.staleness_nats_per_week * (evidence.as_of - since).days / 7
    nats += max(0.0, median(recent) - policy.usual_nats) if recent else 0.0
    nats += policy.shift_nats if is_shifted else 0.0
    return nats * policy.usd_per_nat_week * policy.horizon_days / 7


def _by_itself(policy: RetrainPolicy, evidence: Evidence, gain: float | None) -> list[Cause]:
    """Causes that need no finding: no model, its age, and a gain above the cost."""
    version, as_of = evidence.model_version, evidence.as_of
    if evidence.trained is None:
        return [Cause(f"no model on {as_of}", f"{version} scored the date, not a model")]
    newest = evidence.matured[-1].score_date if evidence.matured else evidence.trained
    age, limit = (as_of - evidence.trained).days, policy.champion_max_age_days
    causes = []
    if age > limit:
        causes.append(
            Cause(f"age of version {version}, {newest}", f"version {version} is {age} days old, above {limit}")
        )
    if gain is not None and gain > policy.cost_usd:
        causes.append(Cause(f"gain over version {version}, {newest}", "the expected gain pays"))
    return causes


def _room(policy: RetrainPolicy, evidence: Evidence, told: str) -> tuple[str, str]:
    """Whether there is room for a training now."""
    asked = [one.asked for one in evidence.requests]
    later = [day for day in asked if day > evidence.as_of]
    if later:
        return COALESCE, f"a training was asked for on {later[0]}, a later date: {told}"
    recent = [one for one in evidence.requests if evidence.as_of - one.asked < timedelta(days=policy.cooldown_days)]
    waiting = [one.asked for one in recent if not one.verdict]
    if waiting:
        return COALESCE, f"the training of {waiting[-1]} has no verdict yet: {told}"
    if recent:
        return WAIT, f"within {policy.cooldown_days} days of the training of {recent[-1].asked}: {told}"
    month = [day for day in asked if evidence.as_of - day < _MONTH]
    if len(month) >= policy.max_per_30_days:
        return WAIT, f"{len(month)} trainings were asked for in 30 days, as many as may be: {told}"
    return REQUEST, told


def _used(policy: RetrainPolicy, evidence: Evidence) -> set[str]:
    """Keys of causes that a training was made of; of one that ended without verdict they may be used again."""
    cooled = evidence.as_of - timedelta(days=policy.cooldown_days)
    return {key for one in evidence.requests if one.verdict or one.asked > cooled for key in one.keys}


def _usd(value: float | None) -> str:
    return "an unknown sum" if value is None else f"{value:,.0f} US$"
