"""Backtest: train on what was known at one date, score later dates, and compare with the simple rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa

from pipelines.features import build_features
from pipelines.labels import build_labels
from pipelines.lineage import current_snapshot
from pipelines.metrics import Interval, Quality, paired_interval, quality
from pipelines.scoring import candidate_features
from pipelines.search import Progress
from pipelines.settings import Settings
from pipelines.training import fit
from pipelines.training_set import labelled_candidates, missed_positives, scored_table, snapshot_dates, with_rules
from pipelines.use_case import UseCase


@dataclass(frozen=True)
class BacktestReport:
    """Quality of the model and of each rule on the same later dates, and the model's gain over the best rule."""

    train_as_of: date
    score_dates: tuple[date, ...]
    rows: int
    quality: Mapping[str, Quality]
    best_rule: str
    gain: Interval


def backtest(
    settings: Settings,
    use_case: UseCase,
    train_as_of: date,
    score_dates: Sequence[date],
    progress: Progress = lambda *_: None,
) -> BacktestReport:
    """Judge the recipe on dates that lie after everything it was trained on; registers and publishes nothing.

    Raises:
        MissingPartition, LabelsImmature: a date's features or labels cannot be built from what was ingested.
    """
    trained_on = [
        current_snapshot(settings, use_case, day, "backtest") for day in snapshot_dates(use_case, train_as_of)
    ]
    trained = fit(settings, use_case, train_as_of, trained_on, progress=progress)
    model, chosen = trained.model, trained.validation.chosen
    names = [chosen, *(rule.name for rule in use_case.rules)]
    scored: dict[str, list[pa.Table]] = {name: [] for name in names}
    for number, day in enumerate(score_dates, start=1):
        build_features(settings, use_case, day, "backtest")
        build_labels(settings, use_case, day, "backtest")
        features = with_rules(settings, use_case, candidate_features(settings, use_case, day))
        labelled, missed = labelled_candidates(settings, use_case, day), missed_positives(settings, use_case, day)
        for name in names:
            score = model.predict(features, settings.threads) if name == chosen else features.column(name).to_numpy()
            scored[name].append(scored_table(use_case, labelled, score, missed))
        progress("score dates", number, len(score_dates))
    together = {name: pa.concat_tables(parts) for name, parts in scored.items()}
    found = {name: quality(use_case, rows, is_probability=name == chosen) for name, rows in together.items()}
    best_rule = max(names[1:], key=lambda name: found[name].ndcg_at_n)
    gain = paired_interval(use_case, together[chosen], together[best_rule])
    rows = sum(part.num_rows for part in scored[chosen])
    return BacktestReport(train_as_of, tuple(score_dates), rows, found, best_rule, gain)


def weekly(first: date, last: date) -> list[date]:
    """Every seventh date from `first` to `last`."""
    return [first + timedelta(days=days) for days in range(0, (last - first).days + 1, 7)]
