from dataclasses import replace

import numpy as np
import pytest

from pipelines.control import Estimate
from pipelines.measurements import Measurement
from pipelines.quality_bands import Past, cusum_of, judge, judge_all, spreads
from pipelines.use_case import MonitorPolicy

POLICY = MonitorPolicy()
USUAL = [0.80, 0.79, 0.81, 0.80, 0.805, 0.795, 0.80, 0.81, 0.79, 0.80]


def weeks(values, flagged=(), version="1"):
    return [
        Past(Estimate(value, 0.002, 0), version, place in flagged)
        for place, value in zip(range(-len(values), 0), values, strict=True)
    ]


def now(value, metric="auc"):
    return Measurement(metric, "1", value, low=value - 0.004, high=value + 0.004)


@pytest.mark.parametrize(
    ("value", "flagged", "status"),
    [
        (0.80, (), "ok"),
        (0.90, (), "ok"),  # better than usual
        (0.755, (), "warn"),  # one week alone
        (0.755, (-2,), "alert"),  # two of three
        (0.755, (-3,), "warn"),  # the other one is too long ago
        (0.60, (), "alert"),  # grossly
        (0.80, (-2, -1), "ok"),  # over
    ],
)
def test_worse_than_usual_in_two_of_three_weeks_or_grossly_is_an_alert(value, flagged, status) -> None:
    found = judge(POLICY, now(value), weeks(USUAL, flagged))

    assert found.status == status
    assert 0.755 < found.threshold < 0.79


def test_a_calibrated_figure_is_judged_on_both_sides_and_a_loss_on_its_own() -> None:
    assert judge(POLICY, now(0.9, "rate_ratio"), weeks(USUAL, (-1,))).status == "alert"
    assert judge(POLICY, now(0.7, "rate_ratio"), weeks(USUAL, (-1,))).status == "alert"
    assert judge(POLICY, now(0.9, "log_loss"), weeks(USUAL, (-1,))).status == "alert"
    assert judge(POLICY, now(0.7, "log_loss"), weeks(USUAL, (-1,))).status == "ok"


def test_a_known_season_explains_what_began_in_it_and_not_what_was_there_before() -> None:
    before, within = weeks(USUAL, (-1,)), weeks(USUAL, (-1,))
    within[-1] = replace(within[-1], is_season=True)

    assert judge(POLICY, now(0.6), weeks(USUAL), is_season=True).status == "warn"
    assert judge(POLICY, now(0.6), within, is_season=True).status == "warn"
    assert judge(POLICY, now(0.6), before, is_season=True).status == "alert"
    assert judge(POLICY, now(0.755), within).status == "alert"  # it has outlasted the season


def test_many_slices_tell_together_how_far_is_unusual_and_few_do_not() -> None:
    random = np.random.default_rng(5)

    def slices(count: int) -> dict[tuple[str, str], list[Past]]:
        found = {("rate_ratio", f"item {place}"): random.normal(1, 0.02, size=8) for place in range(count)}
        return {
            key: [Past(Estimate(float(value), 0.02, 0), "1", is_flagged=False) for value in values]
            for key, values in found.items()
        }

    many = slices(30)
    assert spreads(slices(3)) == {}
    assert 0.7 < spreads(many)["rate_ratio"] < 1.1  # nothing beyond its own error
    one = Measurement("rate_ratio", "1", 1.1, slice="item 1", low=1.1 - 0.04, high=1.1 + 0.04)
    alone, together = (
        judge(POLICY, one, many["rate_ratio", "item 1"], usually=usually).threshold for usually in (None, 1.0)
    )
    assert 1 + 3.5 * 0.02 < together < alone  # never nearer than its own error allows


def test_before_four_weeks_the_folds_of_validation_count_as_weeks() -> None:
    assert judge(POLICY, now(0.6), weeks(USUAL[:3])).status == "info"
    assert judge(POLICY, now(0.8), weeks([]), folds=[0.80, 0.81, 0.79]).status == "ok"
    few = judge(POLICY, now(0.8), weeks(USUAL[:1]), folds=[0.80, 0.81, 0.79]).threshold
    assert few < judge(POLICY, now(0.8), weeks(USUAL)).threshold  # little is known: the limit is far


def test_small_changes_for_the_worse_add_up_and_a_new_version_starts_anew() -> None:
    slow = [value + 0.006 * step for step, value in enumerate([*USUAL, *USUAL])]
    found = cusum_of(POLICY, now(slow[-1], "residual_log_loss"), weeks(slow[:-1]))
    other = cusum_of(POLICY, now(slow[-1], "residual_log_loss"), weeks(slow[:-1], version="0"))

    assert (found.metric, found.slice, found.status) == ("cusum", "residual_log_loss", "alert")
    assert (other.status, other.value < found.value) == ("ok", True)
    falling = [1.6 - value for value in slow]
    assert cusum_of(POLICY, now(falling[-1], "residual_log_loss"), weeks(falling[:-1])).status == "ok"


def test_sums_are_kept_of_the_residual_figures_over_all_rows_alone() -> None:
    pasts = {("rate_ratio", "all"): weeks(USUAL), ("rate_ratio", "new"): weeks(USUAL), ("auc", "all"): weeks(USUAL)}
    found = [now(0.8, "rate_ratio"), now(0.8), Measurement("rate_ratio", "1", 0.8, slice="new")]

    judged = judge_all(POLICY, found, pasts, {}, is_season=False)

    assert [(one.metric, one.slice) for one in judged[3:]] == [("cusum", "rate_ratio")]


def test_in_ordinary_weeks_hardly_any_figure_is_flagged() -> None:
    random = np.random.default_rng(11)
    alerts = warnings = 0
    for _ in range(200):
        values = random.normal(0.8, 0.01, size=30)
        past: list[Past] = []
        for value in values:
            status = judge(POLICY, now(value), past[-24:]).status
            past.append(Past(Estimate(value, 0.002, 0), "1", status in ("warn", "alert")))
            alerts, warnings = alerts + (status == "alert"), warnings + (status == "warn")

    assert alerts <= 2  # of 6,000 weeks
    assert warnings <= 0.005 * 6_000
