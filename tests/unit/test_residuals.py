from datetime import date
from math import log

import numpy as np
import pyarrow as pa
import pytest
from corner_shop import SHOP

from pipelines.residuals import CALIBRATION_SLOPE, NDCG_GAIN, RATE_RATIO, RESIDUAL_LOG_LOSS, estimates, residual_sums

ROWS = [(1, "MILK", 0.8, True), (1, "BREAD", 0.5, False), (2, "MILK", 0.2, False), (2, "BEER", 0.5, True)]


def scored(rows, as_of=date(2017, 5, 1)):
    names = ("household_id", "product_category", "score", "is_positive")
    told = [dict(zip(names, row, strict=True)) for row in rows]
    return pa.Table.from_pylist(
        [one | {"as_of": as_of, "is_candidate": one["score"] is not None, "value_usd": 1.0} for one in told]
    )


def figure(rows, name, slice_="all", **more):
    return estimates(residual_sums(SHOP, scored(rows), **more))[name, slice_]


def test_the_residual_is_the_log_loss_less_what_the_probabilities_expected() -> None:
    observed = -(log(0.8) + log(0.5) + log(0.8) + log(0.5)) / 4
    entropy = -(0.8 * log(0.8) + 0.2 * log(0.2))
    expected = (2 * entropy + 2 * log(2)) / 4

    assert figure(ROWS, RESIDUAL_LOG_LOSS).value == pytest.approx(observed - expected)


def test_the_rate_ratio_is_observed_by_expected_and_its_error_is_by_household() -> None:
    # Household 1: one of 1.3 expected; household 2: one of 0.7. Their residuals about the ratio 1 are -0.3 and 0.3.
    found = figure(ROWS, RATE_RATIO)

    assert (found.value, found.entities) == (pytest.approx(1.0), 2)
    assert found.error == pytest.approx((2 * (0.3**2 + 0.3**2)) ** 0.5 / 2)


def test_a_slice_counts_its_candidates_and_a_missed_positive_counts_nowhere() -> None:
    rows = [*ROWS, (3, "BEER", None, True)]

    assert figure(rows, RATE_RATIO, "sure", slices={"sure": np.array([True, False, True, False])}).value == 1 / 1.0
    assert figure(rows, RATE_RATIO).value == pytest.approx(2 / 2.0)


def test_only_an_item_with_enough_expected_positives_is_a_slice() -> None:
    found = residual_sums(SHOP, scored(ROWS), min_item_positives=0.9)

    assert [name for figure_, name in found if figure_ == RATE_RATIO] == ["all", "product_category MILK"]
    assert estimates(found)[RATE_RATIO, "product_category MILK"].value == pytest.approx(1 / 1.0)


def test_the_gain_over_a_rule_is_paired_by_list() -> None:
    # Household 1 buys MILK: first of ours, third of the rule's list of two. Household 2: first of both.
    rows = [(1, "MILK", 0.9, True), (1, "BREAD", 0.5, False), (1, "BEER", 0.2, False), (2, "BEER", 0.5, True)]
    theirs = [(1, "MILK", 1.0, True), (1, "BREAD", 3.0, False), (1, "BEER", 2.0, False), (2, "BEER", 5.0, True)]

    assert figure(rows, NDCG_GAIN, rule=scored(theirs)).value == pytest.approx((1 + 0) / 2)


def crowd(truth):
    """2,000 households of five candidates each, whose outcomes are drawn from `truth` of the probability."""
    random = np.random.default_rng(3)
    probability = random.uniform(0.02, 0.6, size=10_000)
    happened = random.uniform(size=10_000) < truth(probability)
    rows = zip(np.repeat(np.arange(2_000), 5), map("item {}".format, np.tile(np.arange(5), 2_000)), strict=True)
    return [(int(who), what, float(p), bool(y)) for (who, what), p, y in zip(rows, probability, happened, strict=True)]


def logistic(intercept, slope):
    return lambda p: 1 / (1 + np.exp(-(intercept + slope * np.log(p / (1 - p)))))


@pytest.mark.parametrize(
    ("truth", "moved"),
    [
        (logistic(0, 1), set()),
        (logistic(0.2, 1), {RATE_RATIO, RESIDUAL_LOG_LOSS}),  # a better season
        # Tastes: the likely came true less often, the unlikely more often, the rate is what it was.
        (lambda p: p.mean() + 0.4 * (p - p.mean()), {CALIBRATION_SLOPE, RESIDUAL_LOG_LOSS}),
    ],
)
def test_each_figure_moves_with_its_own_kind_of_change(truth, moved) -> None:
    found = estimates(residual_sums(SHOP, scored(crowd(truth))))
    usual = {RESIDUAL_LOG_LOSS: 0.0, RATE_RATIO: 1.0, CALIBRATION_SLOPE: 1.0}

    far = {name: abs(found[name, "all"].value - value) / found[name, "all"].error for name, value in usual.items()}
    assert {name for name, distance in far.items() if distance > 3.5} == moved
