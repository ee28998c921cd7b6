"""The challenger in the shadow: it scores each night beside the champion, and is judged once labels mature."""

from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from pipelines import lake, registry
from pipelines.errors import MissingPartition
from pipelines.labels import last_mature
from pipelines.metrics import Interval, paired_interval
from pipelines.quality_rows import scored_by_all
from pipelines.scoring import score, scored_versions
from pipelines.settings import Settings
from pipelines.use_case import UseCase

_NIGHTS = 14  # two weeks tell as much as the gate's own rows; each costs a pass over all candidates


@dataclass(frozen=True)
class ShadowReport:
    """The challenger's rows in the lake; `reason` says why there are none."""

    as_of: date
    model_version: str
    rows: int
    reason: str


def score_challenger(
    settings: Settings, use_case: UseCase, as_of: date, run_id: str, published_version: str, problem: str
) -> ShadowReport:
    """Score a night with the challenger, beside what is published; readers see nothing of it.

    `problem` is what kept the champion from scoring: there is nothing to compare with then.

    Raises:
        ArtifactRefused: the challenger's files are not the registered ones.
        EngineFailure: the registry does not answer.
    """
    if problem:
        return ShadowReport(as_of, "", 0, f"the champion did not score the night: {problem}")
    challenger = registry.find_alias(settings, use_case, registry.CHALLENGER)
    if challenger is None or challenger.version == published_version:
        return ShadowReport(as_of, "", 0, "there is no challenger")
    scored = score(settings, use_case, as_of, run_id, challenger.version)
    return ShadowReport(as_of, challenger.version, scored.rows, "")


def realised(
    settings: Settings, use_case: UseCase, versions: tuple[str, str | None], learnt_until: date, known_until: date
) -> Interval | None:
    """Paired gain in NDCG of the first version over the second, on the newest 14 nights that can tell; none: no night.

    A night can tell if its labels are written, neither has learnt from any of them (it may have been scored in
    hindsight), and both have scored all of its candidates.
    """
    ours, theirs = versions
    if theirs is None:
        return None
    stored, newest = scored_versions(settings, use_case), last_mature(use_case, known_until)
    pairs: list[list[pa.Table]] = []
    for day in reversed(lake.dates_of(settings.lake, use_case.labels_table, "as_of")):
        if len(pairs) == _NIGHTS:
            break
        if learnt_until <= day <= newest and {(day, ours), (day, theirs)} <= stored:
            try:
                pairs.append([scored_by_all(settings, use_case, day, name)[name] for name in (ours, theirs)])
            except MissingPartition:
                continue
    if not pairs:
        return None
    return paired_interval(use_case, *(pa.concat_tables(part) for part in zip(*pairs, strict=True)))
