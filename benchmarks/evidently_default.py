"""Evidently's preset, with every default, over the features of two nights: what the monitor is compared with."""

import sys
from datetime import date

from pipelines.feature_faults import read_nights
from pipelines.settings import load_settings
from pipelines.steps import measured
from pipelines.use_cases import get_use_case

STEP = "evidently"


def main(before: date, as_of: date) -> None:
    """Compare the rows that our own checks look at, and write the cost down as that of a step."""
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    settings = load_settings()
    use_case = get_use_case("category_propensity", settings)
    with measured(settings, STEP, str(as_of), "bench") as cost:
        nights = read_nights(settings, use_case, before, as_of)
        reference, current = (pd.DataFrame(night, columns=list(use_case.features)) for night in nights)
        Report([DataDriftPreset()]).run(current, reference)
        cost.rows = len(current)


if __name__ == "__main__":
    main(*(date.fromisoformat(day) for day in sys.argv[1:]))
