"""Trials of the monitor of the concept: inputs stay as they are, what they mean for the labels changes.

The ground is what a row of champions made of a year; a trial changes the labels from a score date on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.causes import Moved
from pipelines.control import Estimate
from pipelines.measurements import ALERT, EVERYTHING, LABEL, Measurement
from pipelines.monitor_backtest_data import Found, cause_of
from pipelines.monitor_backtest_rules import CBPE, expected_auc, is_beyond_three_deviations
from pipelines.monitor_backtest_scores import champion_of
from pipelines.quality_bands import CUSUM, Past, judge_all, was_flagged
from pipelines.residuals import residual_sums
from pipelines.signals import Key, Sums, Windows, figures_of
from pipelines.use_case import UseCase

MIN_ITEM_POSITIVES = 50  # a week's in one half; an item with fewer is mostly chance
MATURED = 2  # windows in which a shift should be found
_MOVED = 1.0  # of a figure's own errors: by less, a trial has not moved it
Flags = dict[tuple[date, Key], bool]


@dataclass(frozen=True)
class ConceptTrial:
    """A change of the labels: `draw` says on its first score date who or what is hit, `change` gives labels anew.

    Both are given scored rows and a generator; who was hit first is hit in the weeks after, too. `aim` is the share
    that should be found in two matured windows; 0: it is near what a week of half the entities can show.
    """

    name: str
    size: str
    aim: float
    draw: Callable[[UseCase, pa.Table, np.random.Generator], list[Any]]
    change: Callable[[UseCase, pa.Table, list[Any], np.random.Generator], pa.Array]


def draw_items(count: int) -> Callable[[UseCase, pa.Table, np.random.Generator], list[Any]]:
    """So many of the twenty items with the most positives."""

    def draw(use_case: UseCase, scored: pa.Table, generator: np.random.Generator) -> list[Any]:
        counted = pc.value_counts(scored.column(use_case.item).filter(scored.column("is_positive"))).to_pylist()
        widest = [one["values"] for one in sorted(counted, key=lambda one: (-one["counts"], one["values"]))[:20]]
        return list(generator.choice(widest, count, replace=False))

    return draw


def draw_entities(share: float) -> Callable[[UseCase, pa.Table, np.random.Generator], list[Any]]:
    """A share of the entities."""

    def draw(use_case: UseCase, scored: pa.Table, generator: np.random.Generator) -> list[Any]:
        entities = np.unique(scored.column(use_case.entity).to_numpy())
        return list(entities[generator.random(len(entities)) < share])

    return draw


def reverse_item(use_case: UseCase, scored: pa.Table, hit: list[Any], _: np.random.Generator) -> pa.Array:
    """Labels where the candidates of the items that bought them have not, and those that have not, have."""
    is_hit = _is_in(use_case.item, scored, hit)
    return pa.array(scored.column("is_positive").to_numpy() ^ is_hit)


def deal_item(use_case: UseCase, scored: pa.Table, hit: list[Any], generator: np.random.Generator) -> pa.Array:
    """Labels where the items have as many other buyers among their candidates."""
    positive, is_hit = scored.column("is_positive").to_numpy().copy(), _is_in(use_case.item, scored, hit)
    positive[is_hit] = generator.permutation(positive[is_hit])
    return pa.array(positive)


def swap_items(use_case: UseCase, scored: pa.Table, hit: list[Any], _: np.random.Generator) -> pa.Array:
    """Labels where two items have taken each other's place."""
    first, second = hit
    pair = {first: second, second: first}
    entities, names = scored.column(use_case.entity).to_pylist(), scored.column(use_case.item).to_pylist()
    rows = list(zip(entities, names, scored.column("is_positive").to_pylist(), strict=True))
    bought = {(entity, name) for entity, name, is_hit in rows if is_hit}
    return pa.array([(entity, pair[name]) in bought if name in pair else is_hit for entity, name, is_hit in rows])


def deal_entities(use_case: UseCase, scored: pa.Table, hit: list[Any], generator: np.random.Generator) -> pa.Array:
    """Labels of the entities dealt anew over their candidates: they buy as much, but other things."""
    places = np.unique(scored.column(use_case.entity).to_numpy(), return_inverse=True)[1]
    positive, rows = (
        scored.column("is_positive").to_numpy().copy(),
        np.flatnonzero(_is_in(use_case.entity, scored, hit)),
    )
    dealt = rows[np.lexsort((generator.random(len(rows)), places[rows]))]
    positive[rows[np.argsort(places[rows], kind="stable")]] = positive[dealt]
    return pa.array(positive)


def _is_in(column: str, scored: pa.Table, hit: list[Any]) -> np.ndarray:
    """Which rows are candidates of those that are hit."""
    is_hit = np.isin(scored.column(column).to_numpy(), hit)
    return np.asarray(is_hit & scored.column("is_candidate").to_numpy())


TRIALS = (
    ConceptTrial("labels of an item reversed", "one of the widest 20", 0.9, draw_items(1), reverse_item),
    ConceptTrial("labels of an item dealt anew", "one of the widest 20", 0.9, draw_items(1), deal_item),
    ConceptTrial("labels of two items swapped", "two of the widest 20", 0, draw_items(2), swap_items),
    ConceptTrial("taste shift, inputs unchanged", "15 % of entities", 0, draw_entities(0.15), deal_entities),
    ConceptTrial("taste shift, inputs unchanged", "30 % of entities", 0.9, draw_entities(0.3), deal_entities),
)


class ConceptHalf:
    """The scored weeks of one half of the entities, and the residual figures of each."""

    def __init__(self, use_case: UseCase, files: Mapping[date, Path], entities: np.ndarray, name: str) -> None:
        self.name, self.entities = name, entities
        self.use_case = use_case
        self.days = tuple(sorted(files))
        self.versions = {day: champion_of(path) for day, path in files.items()}
        self.scored = {day: self._read(files[day]) for day in self.days}
        self.windows = self._windows({day: self.sums(day) for day in self.days})

    def sums(self, day: date, labels: pa.Array | None = None) -> dict[Key, tuple[np.ndarray, np.ndarray]]:
        """Sums by entity of the residual figures of a score date, with its own labels or with others."""
        scored = self.scored[day]
        if labels is not None:
            place = scored.column_names.index("is_positive")
            scored = scored.set_column(place, "is_positive", labels)
        found = residual_sums(self.use_case, scored, min_item_positives=MIN_ITEM_POSITIVES)
        own = np.unique(scored.column(self.use_case.entity).to_numpy())
        place = np.searchsorted(self.entities, own)
        return {
            key: (_spread(part, place, self.entities), _spread(rest, place, self.entities))
            for key, (part, rest) in found.items()
        }

    def trial(self, trial: ConceptTrial, onset: date, seed: int) -> Windows:
        """The first matured windows of a trial that begins at a score date."""
        days = [day for day in self.days if day >= onset][:MATURED]
        generator = np.random.default_rng(seed)
        hit = trial.draw(self.use_case, self.scored[days[0]], generator)
        changed = {day: self.sums(day, trial.change(self.use_case, self.scored[day], hit, generator)) for day in days}
        return self._windows(changed)

    def judge(self, sample: "ConceptSample", trial: ConceptTrial, changed: Windows, onset: date, seed: int) -> Found:
        """What the monitor makes of each window once its labels have matured."""
        flags, causes, figures = dict(sample.flags), [], {**self.windows.figures, **changed.figures}
        for day in changed.last_dates:
            told, usual = self.look(day, figures, flags), self.windows.figures[day]
            moved = [
                one
                for key, one in told.items()
                if key not in sample.paged.get(day, ()) and _has_moved(figures[day], usual, key)
            ]
            causes.append(cause_of(moved))
        return Found(trial.name, trial.size, self.name, onset, seed, tuple(causes))

    def look(self, day: date, figures: Mapping[date, Mapping[Key, Estimate]], flags: Flags) -> dict[Key, Moved]:
        """What would be paged for on a date, by the weeks before it; `flags` keeps which figures were unusual."""
        policy = self.use_case.monitor
        before = [past for past in self.days if past < day][-policy.history_windows :]
        found = []
        for (metric, part), one in figures[day].items():
            if np.isfinite(one.error):
                low, high = one.interval
                found.append(Measurement(metric, self.versions[day], one.value, slice=part, low=low, high=high))
        pasts = {
            (one.metric, one.slice): [
                Past(
                    figures[past][one.metric, one.slice],
                    self.versions[past],
                    flags.get((past, (one.metric, one.slice)), False),
                    _is_season(self.use_case, past),
                )
                for past in before
                if (one.metric, one.slice) in figures[past]
            ]
            for one in found
        }
        judged = judge_all(policy, found, pasts, {}, is_season=_is_season(self.use_case, day))
        flags |= {(day, (one.metric, one.slice)): was_flagged(one.status) for one in judged}
        return {
            (one.metric, one.slice): Moved(one.metric, one.slice, LABEL, one.value, None, one.threshold, day)
            for one in judged
            if one.status == ALERT
        }

    def estimated_alarms(self, learnt_until: date) -> dict[date, dict[str, bool]]:
        """On which later dates the AUC that the scores promise of themselves leaves its own range."""
        promised = {}
        for day in self.days:
            scored = self.scored[day]
            promised[day] = expected_auc(scored.filter(scored.column("is_candidate")).column("score").to_numpy())
        reference = [one for day, one in promised.items() if day <= learnt_until]
        return {
            day: {CBPE: is_beyond_three_deviations(reference, one)}
            for day, one in promised.items()
            if day > learnt_until
        }

    def _read(self, path: Path) -> pa.Table:
        rows = pq.read_table(path)
        mine = np.isin(rows.column(self.use_case.entity).to_numpy(), self.entities)
        return rows.filter(pa.array(mine))

    def _windows(self, by_day: Mapping[date, Mapping[Key, tuple[np.ndarray, np.ndarray]]]) -> Windows:
        keys = sorted({key for found in by_day.values() for key in found})
        sums = {}
        for key in keys:
            days = tuple(day for day in sorted(by_day) if key in by_day[day])
            parts = [by_day[day][key] for day in days]
            sums[key] = Sums(days, np.array([one for one, _ in parts]), np.array([one for _, one in parts]))
        days = tuple(sorted(by_day))
        return Windows(days, figures_of(days, sums), sums, self.entities)


class ConceptSample:
    """What is paged for in a half's residual windows without a trial, and which figures were unusual."""

    def __init__(self, half: ConceptHalf) -> None:
        self.flags = Flags()
        figures = half.windows.figures
        self.paged = {day: half.look(day, figures, self.flags) for day in half.days}


def _has_moved(figures: Mapping[Key, Estimate], usual: Mapping[Key, Estimate], key: Key) -> bool:
    """Whether the trial has moved the figure, or that whose sum it is."""
    own = (key[1], EVERYTHING) if key[0] == CUSUM else key
    return own not in usual or abs(figures[own].value - usual[own].value) > _MOVED * usual[own].error


def _is_season(use_case: UseCase, score_date: date) -> bool:
    """Whether the label window holds a day of a known season."""
    first, last = score_date + timedelta(days=1), score_date + timedelta(days=use_case.horizon_days)
    return any(season.first_date <= last and season.last_date >= first for season in use_case.calendar)


def _spread(values: np.ndarray, place: np.ndarray, entities: np.ndarray) -> np.ndarray:
    everybody = np.zeros(len(entities))
    everybody[place] = values
    return everybody
