from math import log2
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from corner_shop import DAY, SHOP

from pipelines.metrics import expected_calibration_error, lists_of, paired_interval, quality

# household, category, is_candidate, is_positive, value_usd, score; the lists have two places
ROWS = [
    (1, "BEER", True, True, 2.0, 0.9),
    (1, "BREAD", True, False, 0.0, 0.8),
    (1, "MILK", True, True, 1.0, 0.1),
    (1, "TEA", False, True, 1.0, None),  # bought, though never before: no candidate
    (2, "BEER", True, False, 0.0, 0.7),  # bought nothing
    (3, "BEER", True, False, 0.0, 0.6),
    (3, "BREAD", True, False, 0.0, 0.5),
    (3, "MILK", True, True, 4.0, 0.3),
]


def scored(rows: list[tuple[Any, ...]], as_of: Any = DAY) -> pa.Table:
    names = ["household_id", "product_category", "is_candidate", "is_positive", "value_usd", "score"]
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    columns["score"] = pa.array(columns["score"], pa.float64())
    return pa.table({"as_of": [as_of] * len(rows), **columns})


def test_lists_count_positives_that_were_no_candidates_in_recall_and_in_the_ideal_of_ndcg() -> None:
    lists = lists_of(SHOP, scored(ROWS)).set_index("household_id")

    first = lists.loc[1]
    assert first["precision_at_n"] == 1 / 2
    assert first["recall_at_n"] == pytest.approx(1 / 3)
    assert first["ndcg_at_n"] == pytest.approx(1 / (1 + 1 / log2(3)))
    assert first["hit_at_n"] == 1
    assert (first["value_captured_usd"], first["value_usd"]) == (2, 4)


def test_lists_leave_out_who_bought_nothing_and_keep_who_was_not_hit() -> None:
    lists = lists_of(SHOP, scored(ROWS)).set_index("household_id")

    assert list(lists.index) == [1, 3]
    figures = ["precision_at_n", "recall_at_n", "ndcg_at_n", "hit_at_n", "value_captured_usd"]
    assert lists.loc[3, figures].tolist() == [0, 0, 0, 0, 0]


def test_a_positive_in_second_place_is_discounted_by_the_logarithm_of_three() -> None:
    rows = [(1, "BEER", True, False, 0.0, 0.9), (1, "MILK", True, True, 1.0, 0.8)]

    assert lists_of(SHOP, scored(rows))["ndcg_at_n"].tolist() == [pytest.approx(1 / log2(3))]


def test_equal_scores_are_ordered_by_item_and_not_by_row() -> None:
    rows = [(1, item, True, item == "C", 1.0, 0.5) for item in "CBA"]

    assert lists_of(SHOP, scored(rows))["hit_at_n"].tolist() == [0]
    assert lists_of(SHOP, scored(rows[::-1]))["hit_at_n"].tolist() == [0]


def test_quality_gives_ranking_figures_as_means_over_lists_and_value_as_a_share_of_all_value() -> None:
    found = quality(SHOP, scored(ROWS), is_probability=True)

    assert found.precision_at_n == 1 / 4
    assert found.recall_at_n == pytest.approx(1 / 6)
    assert found.hit_at_n == 1 / 2
    assert found.value_captured_at_n == 2 / 8


def test_auc_is_the_share_of_candidate_pairs_in_the_right_order() -> None:
    # positives .9, .1, .3 against negatives .8, .7, .6, .5: only .9 wins, over all four, of 12 pairs
    assert quality(SHOP, scored(ROWS), is_probability=True).auc == pytest.approx(4 / 12)


def test_log_loss_is_the_mean_surprise_of_the_candidates() -> None:
    rows = [(1, "BEER", True, True, 1.0, 0.8), (1, "MILK", True, False, 0.0, 0.4)]

    assert quality(SHOP, scored(rows), is_probability=True).log_loss == pytest.approx(-np.log(0.8 * 0.6) / 2)


def test_a_rule_has_no_figures_of_probabilities_and_names_only_what_exists() -> None:
    found = quality(SHOP, scored(ROWS), is_probability=False)

    assert (found.log_loss, found.ece) == (None, None)
    assert set(found.named(10)) == {
        *("auc", "precision_at_10", "recall_at_10", "ndcg_at_10", "hit_at_10", "value_captured_at_10")
    }


def test_there_is_no_auc_without_a_negative() -> None:
    assert quality(SHOP, scored([(1, "BEER", True, True, 1.0, 0.8)]), is_probability=True).auc is None


def test_calibration_error_weighs_each_bin_by_its_rows() -> None:
    # bin 0: predicted .05, observed 0, three rows; bin 9: predicted .95, observed 0, one row
    positive, probability = np.array([False] * 4), np.array([0.05, 0.05, 0.05, 0.95])
    assert expected_calibration_error(positive, probability) == pytest.approx(0.05 * 3 / 4 + 0.95 / 4)


def test_calibration_error_keeps_certainty_in_the_last_bin() -> None:
    assert expected_calibration_error(np.array([True, False]), np.array([1.0, 0.0])) == 0


def test_a_bin_with_errors_that_cancel_has_no_calibration_error() -> None:
    assert expected_calibration_error(np.array([True, False]), np.array([0.5, 0.5])) == 0


def test_paired_interval_of_a_ranking_with_itself_is_zero() -> None:
    interval = paired_interval(SHOP, scored(ROWS), scored(ROWS))

    assert (interval.difference, interval.low, interval.high) == (0, 0, 0)


def test_paired_interval_draws_whole_households_and_repeats_itself() -> None:
    better = [(who, item, True, item == "A", 1.0, 0.9 if item == "A" else 0.5) for who in range(40) for item in "ABC"]
    worse = [
        (*row[:5], 0.1) if row[1] == "A" and row[0] < 10 else row for row in better
    ]  # a quarter of the households is not hit

    once, again = (paired_interval(SHOP, scored(better), scored(worse), figure="hit_at_n") for _ in range(2))

    assert once.difference == 0.25
    assert 0 < once.low < 0.25 < once.high < 0.5
    assert once == again
