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
    """A score date whose labels are final, and the log loss, in nats, that right rates would have saved its model."""

    score_date: date
    trained: date
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

    `trained` is none where a simple rule scored the date. `matured`, oldest first, is of all models that scored.
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
    worth = f"a new model is expected to bring {_usd(gain)} and costs {_usd(cost)}"

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
    """US$ that a new model is expected to bring while it is the champion; none where no model scores.

    It is taken to serve as long as the old one has, at most over the horizon, and to save what that one loses by now:
    by its age, at the rate at which models have lost lately, or by its own wrong rates, whichever is more; and by a
    shift that no label has shown yet. Where a challenger was refused, the old one counts as new since then.
    """
    if evidence.trained is None:
        return None
    refused = [one.asked for one in evidence.requests if one.verdict == "refuse" and one.asked <= evidence.as_of]
    since = max([evidence.trained, *refused])
    age, horizon = (evidence.as_of - since).days / 7, policy.horizon_days / 7
    own = [one for one in evidence.matured if one.trained == evidence.trained and one.score_date > since]
    wrong = _median([one.avoidable - policy.usual_nats for one in _recent(own)])
    nats = max(_staleness(policy, evidence.matured) * age, wrong)
    shift = policy.shift_nats * horizon if is_shifted else 0.0
    return policy.usd_per_nat_week * (nats * min(age, horizon) + shift)


def _staleness(policy: RetrainPolicy, matured: Sequence[Matured]) -> float:
    """Nats that a model loses with each week of its age: as seen lately, and no less than the policy says."""
    lost = [
        (one.avoidable - policy.usual_nats) / max((one.score_date - one.trained).days / 7, 1)
        for one in _recent(matured)
    ]
    return max(policy.staleness_nats_per_week, _median(lost))


def _recent(matured: Sequence[Matured]) -> list[Matured]:
    """Those of the last four weeks that have matured."""
    return [one for one in matured if (matured[-1].score_date - one.score_date).days < _RECENT_DAYS]


def _median(values: Sequence[float]) -> float:
    return median(values) if values else 0.0


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
