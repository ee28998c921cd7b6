"""What a challenger's nights in the shadow were worth, once their labels have matured."""

from datetime import date

from pipelines.metrics import Interval
from pipelines.settings import Settings
from pipelines.use_case import UseCase


def realised(
    settings: Settings, use_case: UseCase, ours: str, theirs: str | None, known_until: date
) -> Interval | None:
    """Paired gain in NDCG over all matured dates that both versions have scored in the lake; none: there is none."""
    return None
