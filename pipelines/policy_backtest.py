"""Backtest of the policy on new models: the year as it would have gone under it, and under others, in US$.

Each week the champion of a policy loses what it loses beyond the best of all models that were trained before, which
only hindsight knows; a training costs what the policy's settings say. Ours decides by `retrain_policy.judge`, as every
night does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial

import numpy as np

from pipelines.control import Vector, cusum
from pipelines.labels import mature_on
from pipelines.promotion_log import PROMOTE
from pipelines.retrain_policy import REQUEST, Evidence, Matured, Request, judge
from pipelines.staleness import Cell
from pipelines.use_case import UseCase

ORACLE, OURS = "oracle", "Nightjar"
_CUSUM_LIMIT = 5.0  # standard deviations, with a slack of half a one: the usual choice (Page 1954)
_CALENDARS = range(1, 14)


@dataclass(frozen=True)
class Replay:
    """A policy on a row of weeks: its trainings, what the year cost, and which share of its trainings paid.

    A training paid when until the next one the model lost less than the one before it would have, by more than it cost;
    the last one is not judged where the weeks end before the horizon. `whole_usd` is what all log loss comes to.
    """

    name: str
    trained: tuple[date, ...]
    loss_usd: float
    training_usd: float
    whole_usd: float
    paid: float | None
    log_loss: float
    ndcg: float
    value_captured: float

    @property
    def total_usd(self) -> float:
        """What the weeks cost in all."""
        return self.loss_usd + self.training_usd


@dataclass(frozen=True)
class _Year:
    """The weeks that are replayed, and the cells by training and score date."""

    use_case: UseCase
    dates: Sequence[date]
    cells: Mapping[tuple[date, date], Cell]

    def usd(self, trained: date, place: int) -> float:
        """What the model of a date loses in a week beyond the best one that there could be."""
        day = self.dates[place]
        least = min(self.cells[before, day].log_loss for before in self.dates[:place])
        return (self.cells[trained, day].log_loss - least) * self.use_case.retraining.usd_per_nat_week


Policy = Callable[[_Year, int, Sequence[date]], bool]  # the year, a week's place, the champions so far


def replay_all(use_case: UseCase, cells: Sequence[Cell], dates: Sequence[date]) -> list[Replay]:
    """Never, weekly, every four weeks, the best calendar in hindsight, CUSUM, ours, and the oracle.

    All begin with a model that was trained at the first date; it is no part of the cost.
    """
    year = _Year(use_case, dates, {(one.train_date, one.score_date): one for one in cells})
    calendars = {weeks: _replay(year, f"every {weeks} weeks", partial(_every, weeks)) for weeks in _CALENDARS}
    best = min(calendars, key=lambda weeks: calendars[weeks].total_usd)
    return [
        _replay(year, "never", lambda *_: False),
        _replay(year, "weekly", partial(_every, 1)),
        calendars[4],
        _replay(year, f"best calendar: every {best} weeks", partial(_every, best)),
        _replay(year, "CUSUM of the residual log loss", _by_cusum),
        _replay(year, OURS, _by_policy),
        _replay(year, ORACLE, partial(_by_plan, _best_plan(year))),
    ]


def _replay(year: _Year, name: str, policy: Policy) -> Replay:
    champions, last = [0], len(year.dates) - 1  # places of the weeks in which they were trained
    served, loss = list[Cell](), 0.0
    for place in range(1, last + 1):
        champion = year.dates[champions[-1]]
        served.append(year.cells[champion, year.dates[place]])
        loss += year.usd(champion, place)
        if place < last and policy(year, place, [year.dates[one] for one in champions]):
            champions.append(place)
    paid = [_has_paid(year, *three) for three in zip(champions, champions[1:], [*champions[2:], last], strict=False)]
    if paid and last - champions[-1] < year.use_case.retraining.horizon_days // 7:
        paid.pop()
    log_loss, ndcg, captured = (
        float(np.mean([getattr(one, field) for one in served])) for field in ("log_loss", "ndcg", "value_captured")
    )
    policy_ = year.use_case.retraining
    cost = (len(champions) - 1) * policy_.cost_usd
    whole = log_loss * len(served) * policy_.usd_per_nat_week
    share = sum(paid) / len(paid) if paid else None
    trained = tuple(year.dates[one] for one in champions[1:])
    return Replay(name, trained, loss, cost, whole + cost, share, log_loss, ndcg, captured)


def _has_paid(year: _Year, before: int, place: int, until: int) -> bool:
    """Whether the model of a place saved its cost until that week, beside the model before it."""
    old, new = year.dates[before], year.dates[place]
    gain = sum(year.usd(old, week) - year.usd(new, week) for week in range(place + 1, until + 1))
    return gain > year.use_case.retraining.cost_usd


def _every(weeks: int, year: _Year, place: int, champions: Sequence[date]) -> bool:
    return place % weeks == 0


def _by_plan(plan: frozenset[int], year: _Year, place: int, champions: Sequence[date]) -> bool:
    return place in plan


def _by_cusum(year: _Year, place: int, champions: Sequence[date]) -> bool:
    own = [one for one in _matured(year, place, champions) if one.train_date == champions[-1]]
    return max(cusum([one.residual / one.residual_error for one in own])) > _CUSUM_LIMIT


def _by_policy(year: _Year, place: int, champions: Sequence[date]) -> bool:
    """What the nightly decision says to what it would have known."""
    evidence = Evidence(
        as_of=year.dates[place],
        model_version=str(champions[-1]),
        trained=champions[-1],
        matured=[Matured(one.score_date, one.train_date, one.avoidable) for one in _matured(year, place, champions)],
        requests=[Request(day, verdict=PROMOTE) for day in champions[1:]],
    )
    return judge(year.use_case.retraining, evidence).action == REQUEST


def _matured(year: _Year, place: int, champions: Sequence[date]) -> list[Cell]:
    """What was published, and had come true for good, by a week."""
    known = [day for day in year.dates[1:] if mature_on(year.use_case, day) <= year.dates[place]]
    return [year.cells[max(one for one in champions if one < day), day] for day in known]


def _best_plan(year: _Year) -> frozenset[int]:
    """The weeks at which to train, had one known everything: dynamic programming from the last week back."""
    weeks = len(year.dates)
    losses: Vector = np.zeros((weeks, weeks))  # of the model of a week, in a week
    for model in range(weeks):
        for place in range(model + 1, weeks):
            losses[model, place] = year.usd(year.dates[model], place)
    cost = year.use_case.retraining.cost_usd
    least, following = np.zeros(weeks), np.full(weeks, weeks)  # from the training of a week on
    for model in reversed(range(weeks)):
        ends = {weeks: losses[model, model + 1 :].sum()}
        for after in range(model + 1, weeks - 1):
            ends[after] = losses[model, model + 1 : after + 1].sum() + cost + least[after]
        following[model] = min(ends, key=lambda after: ends[after])
        least[model] = ends[int(following[model])]
    plan, model = set[int](), int(following[0])
    while model < weeks:
        plan.add(model)
        model = int(following[model])
    return frozenset(plan)


def as_markdown(use_case: UseCase, cells: Sequence[Cell], dates: Sequence[date]) -> str:
    """The replays of the whole row of weeks and of its halves, as tables."""
    policy, half = use_case.retraining, len(dates) // 2
    told = [
        f"A nat of log loss is worth {policy.usd_per_nat_week:,.0f} US$ a week, a training costs "
        f"{policy.cost_usd:,.0f} US$. *Lost* is what goes beyond the best model that a week could have had.",
    ]
    spans = {
        "All weeks": dates,
        "The first half, on which the settings were chosen": dates[: half + 1],
        "The second half": dates[half:],
    }
    for title, days in spans.items():
        told += [f"**{title}** ({days[1]} to {days[-1]})", _table(replay_all(use_case, cells, days))]
    return "\n\n".join(told)


def _table(replays: Sequence[Replay]) -> str:
    """One line for each; what it saves beside never is a share of what the oracle saves."""
    never, oracle = replays[0].total_usd, replays[-1]
    lines = [
        "| policy | trainings | they cost, US$ | lost, US$ | in all, US$ | saves, of the oracle | "
        "with all log loss, to the oracle | paid | log loss | NDCG |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in replays:
        paid = "–" if one.paid is None else f"{one.paid:.0%}"
        sums = " | ".join(f"{usd:,.0f}" for usd in (one.training_usd, one.loss_usd, one.total_usd))
        saved = (never - one.total_usd) / (never - oracle.total_usd) if never > oracle.total_usd else 1.0
        beside = f"{saved:.0%} | {one.whole_usd / oracle.whole_usd - 1:+.1%} | {paid}"
        lines.append(f"| {one.name} | {len(one.trained)} | {sums} | {beside} | {one.log_loss:.4f} | {one.ndcg:.4f} |")
    return "\n".join(lines)
