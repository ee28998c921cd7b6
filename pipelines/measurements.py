"""What monitoring measured of one score date, and the one way to write it down."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date

from pipelines import tables, warehouse
from pipelines.settings import Settings
from pipelines.use_case import UseCase

EVERYTHING = "all"
OK, ALERT, INFO = "ok", "alert", "info"


@dataclass(frozen=True)
class Measurement:
    """One row of `monitor__metrics`, without its use case and date."""

    metric: str
    model_version: str
    value: float
    slice: str = EVERYTHING
    reference: float | None = None
    threshold: float | None = None
    status: str = INFO


def replace_measurements(
    settings: Settings,
    use_case: UseCase,
    score_date: date,
    metrics: Sequence[str],
    measurements: Sequence[Measurement],
) -> int:
    """Put the measurements in place of the date's rows of these metrics, at once; other metrics stay."""
    place = {"use_case": use_case.name, "score_date": score_date}
    with warehouse.open_warehouse(settings) as connection:
        return sum(
            warehouse.replace_rows(
                connection,
                tables.METRICS,
                [place | asdict(found) for found in measurements if found.metric == metric],
                **place,
                metric=metric,
            )
            for metric in metrics
        )
