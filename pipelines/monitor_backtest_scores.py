"""What a row of champions made of a year's score dates, kept on disk: the ground on which concept shifts are tried."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.backtest import score_at, train_at
from pipelines.search import Progress
from pipelines.settings import Settings
from pipelines.use_case import UseCase


def walk_scores(
    settings: Settings,
    use_case: UseCase,
    champions: Mapping[date, Sequence[date]],
    progress: Progress = lambda *_: None,
) -> dict[date, Path]:
    """Files with the scored candidates of each date and its missed positives, as `metrics` measures them.

    `champions` has the score dates by training date. What is there is not made again; features and labels that are
    missing are built, nothing is registered or published. `rule` is the score of the best simple rule.

    Raises:
        MissingPartition, LabelsImmature: a date's features or labels cannot be built from what was ingested.
    """
    folder = settings.home / "monitor_backtest" / _definition(use_case)
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[date, Path] = {}
    for number, (train_as_of, days) in enumerate(champions.items(), start=1):
        paths = {day: folder / f"{train_as_of}_{day}.parquet" for day in days}
        missing = [day for day, path in paths.items() if not path.exists()]
        if missing:
            trained = train_at(settings, use_case, train_as_of)
            model, rule = trained.validation.chosen, trained.validation.best_rule
            for day in missing:
                scored = score_at(settings, use_case, trained, day, (model, rule))
                _write(paths[day], scored[model].append_column("rule", scored[rule].column("score")))
        found |= paths
        progress("champions", number, len(champions))
    return found


def champion_of(path: Path) -> str:
    """Which champion made a file of `walk_scores`."""
    return path.stem.split("_")[0]


def _write(path: Path, rows: pa.Table) -> None:
    unfinished = path.with_suffix(".tmp")
    pq.write_table(rows, unfinished)
    unfinished.rename(path)


def _definition(use_case: UseCase) -> str:
    """Changes with what the scores are made of."""
    parts = {"base_tables", "feature_tables", "training", "positives_sql", "rules"}
    told = use_case.model_dump_json(include=parts, exclude_defaults=True)
    return f"{use_case.name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
