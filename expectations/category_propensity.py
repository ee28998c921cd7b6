"""What must be true of the features and the published scores of category propensity."""

from great_expectations import expectations as gxe
from great_expectations.expectations.expectation import Expectation

DAYS = 168  # the widest window of the features
TOP_N = 10
SOURCES = ["champion", "cached", "baseline", "cold_start"]
EXCLUDED = ["COUPON/MISC ITEMS", "FUEL", "COUPON", "COUPONS/STORE & MFG"]


def features(table: str) -> list[Expectation]:
    """Expectations of one feature table's snapshot, by the table's name."""
    return {
        "features__household_category": _pairs,
        "features__household": _households,
        "features__category": _categories,
    }[table]()


def published_scores() -> list[Expectation]:
    """Expectations of one date's rows for readers.

    Besides the published columns there are `expected_rank` and `previous_score`, the rank and score that the row
    above allows, `missing_rows`, how many more the household's list could have, and a row of nulls for each active
    household that has none.
    """
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in ("household_id", "score", "rank")),
        gxe.ExpectColumnValuesToBeBetween(column="score", min_value=0, max_value=1),
        gxe.ExpectColumnValuesToBeBetween(column="rank", min_value=1, max_value=TOP_N),
        gxe.ExpectColumnValuesToBeBetween(column="missing_rows", min_value=0, max_value=0),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="rank",
            column_B="expected_rank",
            ignore_row_if="either_value_is_missing",
            meta={"rule_id": "ranks_have_no_gap"},
            description="each household's ranks count from 1",
        ),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="previous_score",
            column_B="score",
            or_equal=True,
            ignore_row_if="either_value_is_missing",
            meta={"rule_id": "scores_fall_with_rank"},
            description="no score above that of the row before it in the list",
        ),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["household_id", "product_category"]),
        gxe.ExpectColumnValuesToNotBeInSet(column="product_category", value_set=EXCLUDED),
        gxe.ExpectColumnValuesToBeInSet(column="score_source", value_set=SOURCES),
        *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in ("reason_1", "is_low_confidence")),
        gxe.ExpectColumnUniqueValueCountToBeBetween(column="model_version", min_value=1, max_value=1),
    ]


def _shares(*columns: str) -> list[Expectation]:
    return [gxe.ExpectColumnValuesToBeBetween(column=column, min_value=0, max_value=1) for column in columns]


def _ages(*columns: str) -> list[Expectation]:
    return [gxe.ExpectColumnValuesToBeBetween(column=column, min_value=0, max_value=DAYS) for column in columns]


def _pairs() -> list[Expectation]:
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["household_id", "product_category"]),
        gxe.ExpectColumnValuesToNotBeInSet(column="product_category", value_set=EXCLUDED),
        gxe.ExpectColumnValuesToBeBetween(column="purchase_days_7d", min_value=0, max_value=7),
        gxe.ExpectColumnValuesToBeBetween(column="purchase_days_decayed_180d", min_value=0, strict_min=True),
        *_ages("days_since_purchase", "gap_days_mean"),
        *_shares("trip_share_84d", "discount_share_84d"),
    ]


def _households() -> list[Expectation]:
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectColumnValuesToBeUnique(column="household_id"),
        gxe.ExpectColumnValuesToBeBetween(column="household_trips_7d", min_value=0, max_value=7),
        *_ages("household_days_since_trip"),
        *_shares("household_discount_share_84d"),
    ]


def _categories() -> list[Expectation]:
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectColumnValuesToBeUnique(column="product_category"),
        gxe.ExpectColumnValuesToNotBeNull(column="category_buyers_84d"),
        *_shares("category_repeat_share_84d", "category_discount_share_84d"),
    ]
