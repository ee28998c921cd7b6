"""Why figures have moved, and what follows from it: the cause comes before the action. All pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from pipelines.measurements import DATA, LABEL

DATA_FAULT, PIPELINE_CHANGE, SEASON = "data fault", "pipeline change", "season"
COVARIATE_SHIFT, CONCEPT_SHIFT = "covariate shift", "concept shift"
BLOCK, INFORM, RETRAIN = "block", "inform", "retrain"
ACTIONS: Mapping[str, str] = {
    DATA_FAULT: BLOCK,
    PIPELINE_CHANGE: INFORM,
    SEASON: INFORM,
    COVARIATE_SHIFT: RETRAIN,
    CONCEPT_SHIFT: RETRAIN,
}


@dataclass(frozen=True)
class Moved:
    """A figure beyond what is usual of it. `is_raw`: of the data as delivered, which no pipeline can change.

    `is_fault`: no customer does that; `is_season`: a known season explains it. `subject` is what it is of, in words.
    """

    metric: str
    slice: str
    clock: str
    value: float
    reference: float | None
    threshold: float | None
    first_date: date
    is_raw: bool = False
    is_fault: bool = False
    is_season: bool = False
    source: str = ""
    subject: str = ""


@dataclass(frozen=True)
class Changes:
    """What has changed in the pipeline since the times that figures are held against, in words.

    `features`: their definition; `scoring`: the model or the libraries, which change scores and lists.
    """

    features: Sequence[str] = field(default=())
    scoring: Sequence[str] = field(default=())

    def behind(self, moved: Moved) -> Sequence[str]:
        """The changes that may have moved a figure; a new model moves no figure of the data, and learns the labels."""
        if moved.is_raw:
            return ()
        return self.features if moved.clock in (DATA, LABEL) else [*self.features, *self.scoring]


@dataclass(frozen=True)
class Finding:
    """A figure that has moved, with its cause, what follows, and where to look."""

    moved: Moved
    cause: str
    action: str
    told: str
    source: str


def classify(moved: Sequence[Moved], changes: Changes) -> list[Finding]:
    """The cause of each: a fault of the data first, which explains all the rest; then what is known; then the world.

    Labels that moved while the data are quiet are a concept shift; with the data, they follow a covariate shift.
    """
    faults = [one for one in moved if one.is_fault]
    has_shifted = any(one.clock == DATA and not one.is_season and not changes.behind(one) for one in moved)
    found = []
    for one in moved:
        cause = _cause(one, changes, has_fault=bool(faults), has_shifted=has_shifted)
        known = [fault.source for fault in faults if fault.source]
        sources = {DATA_FAULT: [one.source or "; ".join(dict.fromkeys(known))], PIPELINE_CHANGE: changes.behind(one)}
        source = "; ".join(sources.get(cause, [one.source]))
        found.append(Finding(one, cause, ACTIONS[cause], _told(one, cause, source), source))
    return found


def _cause(one: Moved, changes: Changes, *, has_fault: bool, has_shifted: bool) -> str:
    if one.is_fault or (has_fault and not one.is_season):
        return DATA_FAULT
    if one.is_season:
        return SEASON
    if changes.behind(one):
        return PIPELINE_CHANGE
    return CONCEPT_SHIFT if one.clock == LABEL and not has_shifted else COVARIATE_SHIFT


def _told(one: Moved, cause: str, source: str) -> str:
    usual = "" if one.reference is None else f", usually {one.reference:.4g}"
    limit = "" if one.threshold is None else f" (limit {one.threshold:.4g})"
    where = f" of {one.slice}" if one.slice != "all" else ""
    of = f": {one.subject}" if one.subject else ""
    return f"{cause}: {one.metric}{where} is {one.value:.4g}{usual}{limit}{of}" + (f"; see {source}" if source else "")
