"""What monitoring measured of one score date, and the one way to write it down."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date

from pipelines import tables, warehouse
from pipelines.labels import mature_on
from pipelines.settings import Settings
from pipelines.use_case import UseCase

EVERYTHING = "all"
OK, WARN, ALERT, INFO = "ok", "warn", "alert", "info"
DATA, PREDICTION, LABEL = "data", "prediction", "label"  # the three clocks: what a figure had to wait for


@dataclass(frozen=True)
class Measurement:
    """One row of `monitor__metrics`, without its use case and dates; `low` and `high` are its 95 % interval."""

    metric: str
    model_version: str
    value: float
    slice: str = EVERYTHING
    reference: float | None = None
    threshold: float | None = None
    status: str = INFO
    clock: str = LABEL
    low: float | None = None
    high: float | None = None


def replace_measurements(
    settings: Settings,
    use_case: UseCase,
    score_date: date,
    metrics: Sequence[str],
    measurements: Sequence[Measurement],
) -> int:
    """Put the measurements in place of the date's rows of these metrics, at once; other metrics stay.

    What waits for labels is known when they have matured; everything else at the end of the date itself.
    """
    matured = mature_on(use_case, score_date)
    place = {"use_case": use_case.name, "score_date": score_date}
    with warehouse.open_warehouse(settings) as connection:
        return sum(
            warehouse.replace_rows(
                connection,
                tables.METRICS,
                [
                    place | asdict(found) | {"known_date": matured if found.clock == LABEL else score_date}
                    for found in measurements
                    if found.metric == metric
                ],
                **place,
                metric=metric,
            )
            for metric in metrics
        )
