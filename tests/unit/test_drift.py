"""Drift: distributions of a few rows, in blocks of entities, that a person can count."""

from datetime import timedelta

import numpy as np
import pytest
from corner_shop import SHOP, day

from pipelines.column_drift import DETECTABLE, SEASON, SHARE, TRAINING, Before, drifted_columns, judge_columns
from pipelines.drift import (
    SMALLEST_THRESHOLD,
    ColumnReference,
    Far,
    build_reference,
    count_rows,
    far_from_past,
    far_from_training,
    limit_of,
)
from pipelines.measurements import ALERT, OK, WARN

FAR, NEAR = Far(0.5, 0.1, 0.2, 0.3), Far(0.1, 0.1, 0.2, 0.3)


def reference_of(*snapshots: list[float], weights: list[list[float]] | None = None) -> ColumnReference:
    matrices = [np.array(values, np.float32)[:, np.newaxis] for values in snapshots]
    weighed = weights or [[1.0] * len(values) for values in snapshots]
    return build_reference(["x"], matrices, [np.array(weight) for weight in weighed])["x"]


def counted(reference: ColumnReference, values: list[float], blocks: list[int] | None = None):
    where = np.zeros(len(values), np.int64) if blocks is None else np.array(blocks)
    return count_rows(reference, np.array(values, np.float32), where)


def distance(reference: ColumnReference, values: list[float]) -> float:
    return far_from_training(reference, counted(reference, values)).value


def test_the_training_data_is_no_distance_from_itself() -> None:
    assert distance(reference_of([1, 2, 3, 4], [1, 2, 3, 4]), [1, 2, 3, 4]) == 0


def test_distance_is_the_largest_gap_between_the_cumulative_shares() -> None:
    # below 4 lie 3 of 4 training rows and none of the new ones
    assert distance(reference_of([1, 2, 3, 4]), [4, 4]) == pytest.approx(0.75)


@pytest.mark.parametrize("value", [-100.0, 100.0])
def test_values_that_all_lie_outside_are_as_far_as_can_be(value: float) -> None:
    assert distance(reference_of([1, 2, 3, 4]), [value]) == pytest.approx(1)


def test_missing_values_are_a_place_of_their_own() -> None:
    assert distance(reference_of([1, 2]), [np.nan, np.nan, 1, 2]) == pytest.approx(0.5)
    assert distance(reference_of([np.nan, np.nan]), [np.nan]) == 0


def test_weights_count_a_sampled_row_as_the_rows_that_it_stands_for() -> None:
    # 0 stands for three rows: three quarters of the training data are 0
    reference = reference_of([0, 1], weights=[[3.0, 1.0]])

    assert distance(reference, [0, 0, 0, 1]) == 0
    assert distance(reference, [0, 1]) == pytest.approx(0.25)


def test_the_threshold_is_the_median_of_the_snapshots_distances_and_four_of_their_deviations() -> None:
    # ones: 0, 1 and 3 of 4, together 4 of 12; distances 1/3, 1/12, 5/12; median 1/3; deviations 0, 1/4, 1/12
    reference = reference_of([0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 1])

    assert reference.threshold == pytest.approx(1 / 3 + 4 / 12)


def test_the_threshold_of_equal_snapshots_is_the_smallest() -> None:
    assert reference_of([1, 2], [1, 2], [1, 2]).threshold == SMALLEST_THRESHOLD


def test_a_distance_that_other_entities_would_have_given_is_none() -> None:
    """Two entities of which one has all the ones: a draw may hold one of them twice, and be .5 away."""
    reference = reference_of([0, 0, 1, 1])

    two = far_from_training(reference, counted(reference, [0, 0, 1, 1], [0, 0, 1, 1]))
    alike = far_from_training(reference, counted(reference, [0, 1, 0, 1], [0, 0, 1, 1]))

    assert (two.threshold, alike.threshold) == (pytest.approx(0.5), SMALLEST_THRESHOLD)
    assert two.detectable > two.threshold


def test_the_past_is_the_mean_of_the_weeks_and_their_own_distances_are_usual() -> None:
    reference = reference_of([0, 1])
    # shares of 0: .5, .4 and .6; the mean is .5; each from the mean of the others: 0, .15 and .15
    past = [counted(reference, [0] * zeros + [1] * (10 - zeros)) for zeros in (5, 4, 6)]

    far = far_from_past(counted(reference, [0] * 9 + [1]), past, [])

    assert far is not None
    assert (far.value, far.usual) == (pytest.approx(0.4), pytest.approx(0.15))
    assert far.threshold == pytest.approx(0.15 + 4 * 0)  # half of them lie on the median
    assert far_from_past(past[0], past[:1], [0.1] * 8) is None


def test_earlier_distances_are_usual_too() -> None:
    reference = reference_of([0, 1])
    past = [counted(reference, [0, 1])] * 2

    far = far_from_past(past[0], past, [0.3, 0.4, 0.5])

    # 0, 0, .3, .4, .5: median .3, deviations .3, .3, 0, .1, .2
    assert far is not None
    assert far.threshold == pytest.approx(limit_of([0, 0, 0.3, 0.4, 0.5])) == pytest.approx(0.3 + 4 * 0.2)


def before(**beyond: list[int]) -> Before:
    """On which earlier days of the shop each column was beyond both of its limits."""
    known = {name: {day(0) - timedelta(days=back): (0.5, True) for back in days} for name, days in beyond.items()}
    return Before({(metric, name): told for metric in (TRAINING, SEASON) for name, told in known.items()}, day(0))


def judged(known: Before, training: Far = FAR, season: Far | None = FAR) -> list:
    far = {(TRAINING, "spend"): training, (TRAINING, "visits"): NEAR}
    far |= {(SEASON, "spend"): season, (SEASON, "visits"): NEAR} if season else {}
    return judge_columns(SHOP, "7", far, known, {"spend": 0.9, "visits": 0.1})


def statuses(found: list) -> dict:
    return {(one.metric, one.slice): one.status for one in found if one.metric in (TRAINING, SEASON)}


def test_one_window_warns_and_two_of_three_alert() -> None:
    assert statuses(judged(before()))[TRAINING, "spend"] == WARN
    assert statuses(judged(before(spend=[7])))[TRAINING, "spend"] == ALERT
    assert statuses(judged(before(spend=[14])))[TRAINING, "spend"] == ALERT
    assert statuses(judged(before(spend=[7, 14]), training=NEAR))[TRAINING, "spend"] == OK


def test_the_nights_nearest_to_a_week_and_two_weeks_ago_stand_for_them() -> None:
    assert statuses(judged(before(spend=[10])))[TRAINING, "spend"] == ALERT
    assert statuses(judged(before(spend=[3])))[TRAINING, "spend"] == WARN


def test_a_feature_drifts_when_it_is_far_from_the_training_data_and_from_the_last_weeks() -> None:
    week_ago = before(spend=[7])

    assert drifted_columns(judged(week_ago)) == ["spend"]
    assert drifted_columns(judged(week_ago, season=NEAR)) == []
    assert drifted_columns(judged(week_ago, training=NEAR)) == []
    assert drifted_columns(judged(week_ago, season=None)) == ["spend"]


def test_the_share_of_drifted_features_weighs_them_by_what_they_do_to_the_score() -> None:
    *_, share = judged(before(spend=[7]))

    assert (share.metric, share.slice, share.value, share.threshold) == (SHARE, "all", pytest.approx(0.9), 0.25)
    assert share.status == ALERT
    assert judged(before())[-1].value == 0


def test_what_can_be_detected_stands_beside_each_distance() -> None:
    found = {one.slice: one.value for one in judged(before()) if one.metric == DETECTABLE}

    assert found[f"{TRAINING} spend"] == found[f"{SEASON} visits"] == 0.3


def test_among_many_columns_a_small_excess_is_chance() -> None:
    """One of 200 columns is beyond its limit by a tenth of the way to it."""
    columns = {(TRAINING, f"c{number}"): NEAR for number in range(199)} | {
        (TRAINING, "spend"): Far(0.21, 0.1, 0.2, 0.3)
    }

    found = judge_columns(SHOP, "7", columns, before(spend=[7]), {})

    assert statuses(found)[TRAINING, "spend"] == WARN
