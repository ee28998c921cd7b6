import numpy as np
import pytest
from corner_shop import SHOP

from pipelines.drift import SMALLEST_THRESHOLD, ColumnReference, build_reference, distance
from pipelines.measurements import ALERT, OK
from pipelines.monitoring import compare_columns


def reference_of(*snapshots: list[float], weights: list[list[float]] | None = None) -> ColumnReference:
    matrices = [np.array(values, np.float32)[:, np.newaxis] for values in snapshots]
    weighed = weights or [[1.0] * len(values) for values in snapshots]
    return build_reference(["x"], matrices, [np.array(weight) for weight in weighed])["x"]


def test_the_training_data_is_no_distance_from_itself() -> None:
    assert distance(reference_of([1, 2, 3, 4], [1, 2, 3, 4]), np.array([1, 2, 3, 4])) == 0


def test_distance_is_the_largest_gap_between_the_cumulative_shares() -> None:
    # below 4 lie 3 of 4 training rows and none of the new ones
    assert distance(reference_of([1, 2, 3, 4]), np.array([4, 4])) == pytest.approx(0.75)


@pytest.mark.parametrize("value", [-100.0, 100.0])
def test_values_that_all_lie_outside_are_as_far_as_can_be(value: float) -> None:
    assert distance(reference_of([1, 2, 3, 4]), np.array([value])) == pytest.approx(1)


def test_missing_values_are_a_place_of_their_own() -> None:
    reference = reference_of([1, 2])

    assert distance(reference, np.array([np.nan, np.nan, 1, 2])) == pytest.approx(0.5)
    assert distance(reference_of([np.nan, np.nan]), np.array([np.nan])) == 0


def test_weights_count_a_sampled_row_as_the_rows_that_it_stands_for() -> None:
    # 0 stands for three rows: three quarters of the training data are 0
    reference = reference_of([0, 1], weights=[[3.0, 1.0]])

    assert distance(reference, np.array([0, 0, 0, 1])) == 0
    assert distance(reference, np.array([0, 1])) == pytest.approx(0.25)


def test_weights_of_the_new_rows_count_too() -> None:
    assert distance(reference_of([0, 0, 0, 1]), np.array([0.0, 1.0]), np.array([3.0, 1.0])) == 0


def test_the_threshold_is_the_median_of_the_snapshots_distances_and_four_of_their_deviations() -> None:
    # ones: 0, 1 and 3 of 4, together 4 of 12; distances 1/3, 1/12, 5/12; median 1/3; deviations 0, 1/4, 1/12
    reference = reference_of([0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 1])

    assert reference.threshold == pytest.approx(1 / 3 + 4 / 12)


def test_the_threshold_of_equal_snapshots_is_the_smallest() -> None:
    assert reference_of([1, 2], [1, 2], [1, 2]).threshold == SMALLEST_THRESHOLD


def test_columns_beyond_their_thresholds_are_alerts_and_the_score_is_not_in_the_share() -> None:
    near = ColumnReference(edges=(0.0, 1.0), cumulative=(0.5, 1.0), threshold=0.3)
    reference = {"a": near, "b": near, "score": near}
    columns = {"a": np.array([0.0, 1.0]), "b": np.array([1.0, 1.0]), "score": np.array([1.0])}

    *columns_found, share = compare_columns(SHOP, "7", reference, columns)

    assert [(one.slice, one.value, one.status) for one in columns_found] == [
        ("a", 0.0, OK),
        ("b", 0.5, ALERT),
        ("score", 0.5, ALERT),
    ]
    assert (share.metric, share.slice, share.value, share.threshold) == ("drift_share", "all", 0.5, 0.25)
    assert share.status == ALERT


def test_a_distance_equal_to_its_threshold_is_no_drift() -> None:
    reference = {"a": ColumnReference(edges=(0.0, 1.0), cumulative=(0.5, 1.0), threshold=0.5)}

    assert [one.status for one in compare_columns(SHOP, "7", reference, {"a": np.array([1.0])})] == [OK, OK]
