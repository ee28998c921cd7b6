from collections.abc import Sequence
from datetime import date, timedelta
from itertools import combinations

import pytest
from corner_shop import SHOP

from pipelines.policy_backtest import Replay, as_markdown, replay_all
from pipelines.staleness import Cell
from pipelines.use_case import RetrainPolicy

# A model loses 1 US$ a week for each week of its age beyond the first; a training costs 5 US$.
POLICY = RetrainPolicy(
    usd_per_nat_week=1000,
    training_usd=4,
    risk_usd=1,
    staleness_nats_per_week=0.0,
    usual_nats=0.0,
    cooldown_days=7,
    max_per_30_days=4,
)
USE_CASE = SHOP.model_copy(update={"retraining": POLICY, "horizon_days": 7, "late_window_days": 3})


def weeks(number: int) -> list[date]:
    return [date(2017, 3, 12) + timedelta(days=7 * week) for week in range(number)]


def cells(dates: Sequence[date], avoidable: float = 0.0) -> list[Cell]:
    return [
        Cell(
            train_date=trained,
            score_date=scored,
            log_loss=0.2 + 0.001 * ((scored - trained).days // 7 - 1),
            residual=0.0,
            residual_error=0.01,
            avoidable=avoidable,
            ece=0.01,
            ndcg=0.5,
            value_captured=0.3,
            value_usd=1000.0,
        )
        for trained in dates
        for scored in dates
        if scored > trained
    ]


def replays(dates: Sequence[date], found: Sequence[Cell]) -> dict[str, Replay]:
    return {one.name: one for one in replay_all(USE_CASE, found, dates)}


def cost_of(trained: Sequence[int], number: int) -> int:
    """By hand: 5 US$ for each training, and for each week the champion's age less one."""
    starts = [0, *trained]
    ages = [week - max(start for start in starts if start < week) for week in range(1, number)]
    return 5 * len(trained) + sum(age - 1 for age in ages)


def test_the_oracle_is_the_cheapest_of_all_plans() -> None:
    dates = weeks(11)
    every_plan = [plan for size in range(10) for plan in combinations(range(1, 10), size)]

    oracle = replays(dates, cells(dates))["oracle"]

    assert oracle.total_usd == pytest.approx(min(cost_of(plan, 11) for plan in every_plan))


def test_calendars_cost_what_they_train_and_what_age_loses() -> None:
    dates = weeks(9)

    found = replays(dates, cells(dates))

    assert found["never"].total_usd == pytest.approx(cost_of([], 9))  # 0 + 1 + … + 7
    assert found["weekly"].total_usd == pytest.approx(cost_of(range(1, 8), 9))
    assert found["every 4 weeks"].total_usd == pytest.approx(cost_of([4], 9))
    assert found["every 4 weeks"].trained == (dates[4],)
    best = min(range(1, 14), key=lambda every: cost_of(range(every, 8, every), 9))
    assert f"best calendar: every {best} weeks" in found


def test_a_training_pays_if_until_the_next_one_it_saves_more_than_it_cost() -> None:
    dates = weeks(9)
    found = replays(dates, cells(dates))
    # From week 4 on the old model would have been 4 weeks older than the new one, for four weeks: 16 US$.
    assert found["every 4 weeks"].paid == 1
    # Each week the old model would have been one week older: 1 US$. The last one is not judged: the weeks end.
    assert found["weekly"].paid == 0


def test_our_policy_sees_only_what_has_matured() -> None:
    dates = weeks(6)
    # Any score shows at once that the rates are wrong; its labels are final ten days later, so two Sundays later.
    found = replays(dates, cells(dates, avoidable=0.01))
    assert found["Nightjar"].trained[0] == dates[3]
    assert replays(dates, cells(dates))["Nightjar"].trained == ()


def test_the_tables_hold_all_policies_for_the_whole_and_for_its_halves() -> None:
    dates = weeks(16)

    text = as_markdown(USE_CASE, cells(dates), dates)

    assert text.count("| Nightjar |") == text.count("| oracle |") == 3
    for first, last in ((1, 15), (1, 8), (9, 15)):
        assert f"({dates[first]} to {dates[last]})" in text
    assert text.splitlines()[-1].startswith("| oracle | ")
    assert "| 100% | +0.0% | " in text.splitlines()[-1]
