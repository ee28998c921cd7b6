"""Backtest: train on what was known at one date, score later dates, and compare with the simple rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa

from pipelines.labels import looked_at
from pipelines.lineage import current_snapshot
from pipelines.metrics import Interval, Quality, paired_interval, quality
from pipelines.scoring import candidate_features
from pipelines.search import Progress
from pipelines.settings import Settings
from pipelines.tracking import Trained
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


@dataclass(frozen=True)
class Judged:
    """A champion beside the rule that its own validation had found to be the best; `gain` is in NDCG."""

    champion: Quality
    rule: Quality
    gain: Interval


@dataclass(frozen=True)
class WeekReport:
    """How the champion of a score date did on it."""

    score_date: date
    train_as_of: date
    model: str
    rule: str
    judged: Judged


@dataclass(frozen=True)
class WalkReport:
    """A walk forward: each week with the champion of its time, and all weeks in one."""

    weeks: tuple[WeekReport, ...]
    judged: Judged


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
    trained = train_at(settings, use_case, train_as_of, progress)
    chosen = trained.validation.chosen
    names = [chosen, *(rule.name for rule in use_case.rules)]
    scored: dict[str, list[pa.Table]] = {name: [] for name in names}
    for number, day in enumerate(score_dates, start=1):
        for name, rows in score_at(settings, use_case, trained, day, names).items():
            scored[name].append(rows)
        progress("score dates", number, len(score_dates))
    together = {name: pa.concat_tables(parts) for name, parts in scored.items()}
    found = {name: quality(use_case, rows, is_probability=name == chosen) for name, rows in together.items()}
    best_rule = max(names[1:], key=lambda name: found[name].ndcg_at_n)
    gain = paired_interval(use_case, together[chosen], together[best_rule])
    rows = sum(part.num_rows for part in scored[chosen])
    return BacktestReport(train_as_of, tuple(score_dates), rows, found, best_rule, gain)


def walk_forward(
    settings: Settings,
    use_case: UseCase,
    score_dates: Mapping[date, Sequence[date]],
    progress: Progress = lambda *_: None,
) -> WalkReport:
    """Judge a row of champions, each on the score dates that it serves; `score_dates` are by training date.

    What a champion is compared with, too, was known at its training date.

    Raises:
        MissingPartition, LabelsImmature: a date's features or labels cannot be built from what was ingested.
    """
    weeks, ours, theirs = list[WeekReport](), list[pa.Table](), list[pa.Table]()
    for number, (train_as_of, days) in enumerate(score_dates.items(), start=1):
        trained = train_at(settings, use_case, train_as_of)
        model, rule = trained.validation.chosen, trained.validation.best_rule
        for day in days:
            scored = score_at(settings, use_case, trained, day, (model, rule))
            judged = _judged(use_case, scored[model], scored[rule])
            weeks.append(WeekReport(day, train_as_of, model, rule, judged))
            ours.append(scored[model])
            theirs.append(scored[rule])
        progress("champions", number, len(score_dates))
    return WalkReport(tuple(weeks), _judged(use_case, pa.concat_tables(ours), pa.concat_tables(theirs)))


def weekly(first: date, last: date) -> list[date]:
    """Every seventh date from `first` to `last`."""
    return [first + timedelta(days=days) for days in range(0, (last - first).days + 1, 7)]


def served(train_as_of: date, score_dates: Sequence[date], weeks_each: int) -> dict[date, list[date]]:
    """The score dates of each champion, when one is trained every so many weeks and serves from that date on."""
    champions: dict[date, list[date]] = {}
    for day in score_dates:
        age = (day - train_as_of).days % (7 * weeks_each)
        champions.setdefault(max(train_as_of, day - timedelta(days=age)), []).append(day)
    return champions


def as_markdown(use_case: UseCase, report: WalkReport) -> str:
    """The weeks as a table, the sum of them as its last row."""
    head = (
        f"| score date | trained | model | NDCG@{use_case.top_n} | AUC | ECE | rule | its NDCG | gain | 95 % interval |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|"]
    told = [(f"{week.score_date} | {week.train_as_of} | {week.model}", week.rule, week.judged) for week in report.weeks]
    for first, rule, judged in [*told, ("**all** | – | –", "", report.judged)]:
        ours, gain = judged.champion, judged.gain
        lines.append(
            f"| {first} | {ours.ndcg_at_n:.4f} | {ours.auc or 0:.4f} | {ours.ece or 0:.4f} | {rule} | "
            f"{judged.rule.ndcg_at_n:.4f} | {gain.difference:+.4f} | [{gain.low:+.4f}, {gain.high:+.4f}] |"
        )
    return "\n".join(lines) + "\n"


def train_at(settings: Settings, use_case: UseCase, train_as_of: date, progress: Progress = lambda *_: None) -> Trained:
    """A model of what was known at the end of a date, in memory only."""
    dates = snapshot_dates(use_case, train_as_of)
    trained_on = [current_snapshot(settings, use_case, day, "backtest") for day in dates]
    return fit(settings, use_case, train_as_of, trained_on, progress=progress)


def score_at(
    settings: Settings, use_case: UseCase, trained: Trained, day: date, names: Sequence[str]
) -> dict[str, pa.Table]:
    """What the model and the named rules make of a date, with the labels."""
    current_snapshot(settings, use_case, day, "backtest")
    condition = looked_at(settings, use_case, day)
    features = with_rules(settings, use_case, candidate_features(settings, use_case, day, condition))
    labelled, missed = labelled_candidates(settings, use_case, day), missed_positives(settings, use_case, day)
    chosen = trained.validation.chosen
    scores = {name: features.column(name).to_numpy() for name in names if name != chosen}
    scores[chosen] = trained.model.predict(features, settings.threads)
    return {name: scored_table(use_case, labelled, scores[name], missed) for name in names}


def _judged(use_case: UseCase, ours: pa.Table, theirs: pa.Table) -> Judged:
    return Judged(
        quality(use_case, ours, is_probability=True),
        quality(use_case, theirs, is_probability=False),
        paired_interval(use_case, ours, theirs),
    )
