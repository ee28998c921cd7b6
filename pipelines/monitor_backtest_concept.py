"""Trials of the monitor of the concept: inputs stay as they are, what they mean for the labels changes.

The ground is what a row of champions made of a year; a trial changes the labels from a score date on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.causes import Moved
from pipelines.control import Estimate
from pipelines.measurements import ALERT, LABEL, Measurement
from pipelines.monitor_backtest_data import Found, cause_of
from pipelines.monitor_backtest_rules import CBPE, expected_auc, is_beyond_three_deviations
from pipelines.quality_bands import Past, judge, was_flagged
from pipelines.residuals import residual_sums
from pipelines.signals import Key, Sums, Windows, figures_of
from pipelines.use_case import UseCase

MIN_ITEM_POSITIVES = 50  # a week's in one half; an item with fewer is mostly chance
MATURED = 2  # windows in which a shift should be found
_MOVED = 1.0  # of a figure's own errors: by less, a trial has not moved it
Flags = dict[tuple[date, Key], bool]


@dataclass(frozen=True)
class ConceptTrial:
    """A change of the labels: who is hit depends on the seed; `change` gives the labels of scored candidates anew."""

    name: str
    size: str
    change: Callable[[UseCase, pa.Table, int], pa.Array]


def swap_items(use_case: UseCase, scored: pa.Table, seed: int) -> pa.Array:
    """Labels where two of the twenty items with the most positives have taken each other's place."""
    items, positive = scored.column(use_case.item), scored.column("is_positive").to_numpy()
    widest = _widest(use_case, scored)
    first, second = np.random.default_rng(seed).choice(len(widest), 2, replace=False)
    pair = {widest[first]: widest[second], widest[second]: widest[first]}
    entities, names = scored.column(use_case.entity).to_pylist(), items.to_pylist()
    bought = {(entity, name) for entity, name, is_hit in zip(entities, names, positive, strict=True) if is_hit}
    return pa.array(
        [
            (entity, pair[name]) in bought if name in pair else bool(is_hit)
            for entity, name, is_hit in zip(entities, names, positive, strict=True)
        ]
    )


def shift_taste(share: float) -> Callable[[UseCase, pa.Table, int], pa.Array]:
    """Labels of a share of the entities dealt anew over their candidates: they buy as much, but other things."""

    def change(use_case: UseCase, scored: pa.Table, seed: int) -> pa.Array:
        generator = np.random.default_rng(seed)
        entities, places = np.unique(scored.column(use_case.entity).to_numpy(), return_inverse=True)
        is_hit = (generator.random(len(entities)) < share)[places] & scored.column("is_candidate").to_numpy()
        positive = scored.column("is_positive").to_numpy().copy()
        rows = np.flatnonzero(is_hit)
        dealt = rows[np.lexsort((generator.random(len(rows)), places[rows]))]
        positive[rows[np.argsort(places[rows], kind="stable")]] = positive[dealt]
        return pa.array(positive)

    return change


def deal_item(use_case: UseCase, scored: pa.Table, seed: int) -> pa.Array:
    """Labels where one of the twenty items with the most positives has the same number of other buyers."""
    generator = np.random.default_rng(seed)
    positive = scored.column("is_positive").to_numpy().copy()
    item = generator.choice(_widest(use_case, scored))
    is_hit = pc.equal(scored.column(use_case.item), item).to_numpy() & scored.column("is_candidate").to_numpy()
    positive[is_hit] = generator.permutation(positive[is_hit])
    return pa.array(positive)


def _widest(use_case: UseCase, scored: pa.Table) -> list[str]:
    counted = pc.value_counts(scored.column(use_case.item).filter(scored.column("is_positive"))).to_pylist()
    return [one["values"] for one in sorted(counted, key=lambda one: (-one["counts"], one["values"]))[:20]]


TRIALS = (
    ConceptTrial("labels of an item swapped among its candidates", "one of the widest 20", deal_item),
    ConceptTrial("labels of two items swapped", "two of the widest 20", swap_items),
    ConceptTrial("taste shift, inputs unchanged", "15 % of entities", shift_taste(0.15)),
    ConceptTrial("taste shift, inputs unchanged", "30 % of entities", shift_taste(0.3)),
)


class ConceptHalf:
    """The scored weeks of one half of the entities, and the residual figures of each."""

    def __init__(self, use_case: UseCase, files: Mapping[date, Path], entities: np.ndarray, name: str) -> None:
        self.name, self.entities = name, entities
        self.use_case = use_case
        self.days = tuple(sorted(files))
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
        changed = {day: self.sums(day, trial.change(self.use_case, self.scored[day], seed)) for day in days}
        return self._windows(changed)

    def judge(self, sample: "ConceptSample", trial: ConceptTrial, changed: Windows, onset: date, seed: int) -> Found:
        """What the monitor makes of each window once its labels have matured."""
        flags, causes = dict(sample.flags), []
        for day in changed.last_dates:
            figures, usual = changed.figures[day], self.windows.figures[day]
            told = self.look(day, figures, flags)
            moved = [
                one
                for key, one in told.items()
                if key not in sample.paged.get(day, ())
                and (key not in usual or abs(figures[key].value - usual[key].value) > _MOVED * usual[key].error)
            ]
            causes.append(cause_of(moved))
        return Found(trial.name, trial.size, self.name, onset, seed, tuple(causes))

    def look(self, day: date, figures: Mapping[Key, Estimate], flags: Flags) -> dict[Key, Moved]:
        """What would be paged for of these figures of a date, by earlier ones; `flags` keeps which were unusual."""
        policy, moved = self.use_case.monitor, {}
        before = [past for past in self.days if past < day][-policy.history_windows :]
        is_season = _is_season(self.use_case, day)
        for key, one in figures.items():
            if not np.isfinite(one.error):
                continue
            known = [past for past in before if key in self.windows.figures[past]]
            pasts = [Past(self.windows.figures[past][key], "", flags.get((past, key), False)) for past in known]
            low, high = one.interval
            found = Measurement(key[0], "", one.value, slice=key[1], low=low, high=high)
            judged = judge(policy, found, pasts, is_season=is_season)
            flags[day, key] = was_flagged(judged.status)
            if judged.status == ALERT:
                moved[key] = Moved(*key, LABEL, one.value, None, judged.threshold, day)
        return moved

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
        self.paged = {day: half.look(day, figures[day], self.flags) for day in half.days}


def _is_season(use_case: UseCase, score_date: date) -> bool:
    """Whether the label window holds a day of a known season."""
    first, last = score_date + timedelta(days=1), score_date + timedelta(days=use_case.horizon_days)
    return any(season.first_date <= last and season.last_date >= first for season in use_case.calendar)


def _spread(values: np.ndarray, place: np.ndarray, entities: np.ndarray) -> np.ndarray:
    everybody = np.zeros(len(entities))
    everybody[place] = values
    return everybody
