"""Reasons in words: the strongest that speak for a row, then those against it."""

import numpy as np
import pyarrow as pa
import pytest
from corner_shop import SHOP

from pipelines.model import Contributions
from pipelines.reasons import add_reasons, group_sums
from pipelines.use_case import Reason

WHY = SHOP.model_copy(
    update={
        "reasons": (
            Reason(name="often", features=("purchases",), words="format('bought {} times', purchases::INT)"),
            Reason(name="money", features=("spend_usd",), words="format('spent {:.2f} $', spend_usd::DOUBLE)"),
            Reason(
                name="both", features=("purchases", "spend_usd"), words="CASE WHEN purchases > 1 THEN 'regular' END"
            ),
        )
    }
)
ROWS = pa.Table.from_pylist(
    [
        {"household_id": 1, "product_category": "MILK", "purchases": 3.0, "spend_usd": 1.5},
        {"household_id": 1, "product_category": "BEER", "purchases": 1.0, "spend_usd": 9.0},
        {"household_id": 2, "product_category": "MILK", "purchases": 2.0, "spend_usd": 4.0},
    ]
)
# What purchases and spend_usd add to each row.
ADDED = Contributions(np.array([[0.5, 0.2], [-0.9, 0.1], [-0.1, -0.6]]), np.zeros(3))


def told(settings, use_case):
    rows = add_reasons(settings, use_case, ROWS, ADDED).to_pylist()
    return [[row[f"reason_{place}"] for place in (1, 2, 3)] for row in rows]


def test_contributions_are_summed_by_group():
    assert group_sums(WHY, ADDED) == pytest.approx(np.array([[0.5, 0.2, 0.7], [-0.9, 0.1, -0.8], [-0.1, -0.6, -0.7]]))


def test_reasons_come_by_what_they_add_and_those_against_are_called_so(settings):
    assert told(settings, WHY) == [
        ["regular", "bought 3 times", "spent 1.50 $"],
        ["spent 9.00 $", "although bought 1 times", None],  # of one purchase the third group has nothing to say
        ["although regular", "although spent 4.00 $", "although bought 2 times"],
    ]


def test_a_use_case_with_fewer_groups_leaves_the_rest_empty(settings):
    fewer = WHY.model_copy(update={"reasons": WHY.reasons[:1]})

    assert told(settings, fewer)[0] == ["bought 3 times", None, None]
    assert told(settings, SHOP) == [[None, None, None]] * 3
