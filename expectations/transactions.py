"""What must be true of a delivery of transactions: of each row, and of each day as a whole."""

from dataclasses import dataclass

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.row_conditions import Column

from pipelines.contracts import TRANSACTIONS_DROP

LATE = "late"  # too late to count; says nothing about the quality of the delivery
MAX_QUANTITY = 100
AMOUNTS = ("sales_value", "retail_disc", "coupon_disc", "coupon_match_disc")
MAX_AMOUNT_USD = 9_999_999_999  # what decimal(12, 2) holds
# The highest shares on a day of 2017 were .0072 (orphan), .0041 (uncategorised) and .0190 (zero sales); the
# limits are 2.6 times as much or more. On a day with few lines one line is a large share, which says nothing.
MAX_ORPHAN_SHARE, MAX_UNCATEGORISED_SHARE, MAX_ZERO_SALES_SHARE = 0.02, 0.015, 0.05
MIN_LINES_FOR_SHARES = 500
MAX_QUARANTINED_SHARE = 0.05
MIN_QUARANTINED_LINES_FOR_SHARE = 10
MIN_WEEKDAYS = 4


@dataclass(frozen=True)
class Band:
    """How far a day's figure may lie from the same weekday's median: beyond `warn` it is odd, beyond `block` wrong.

    Both are least distances, a factor where `is_ratio` and else a difference; a weekday whose figures vary gets
    more, that many times their median absolute deviation (MAD).
    """

    warn: float
    block: float
    warn_mads: float = 4
    block_mads: float = 8
    is_ratio: bool = False


# Calibrated on 2017 (336 days with four of their weekday before them): nothing blocked, Thanksgiving and Christmas
# included; 42 warnings on 28 days, .69 % of 6,046 checks. tests/integration/test_history_year.py holds it to that.
_VOLUME = Band(1.4, 2.5, is_ratio=True)  # the day before Thanksgiving has 1.87 times the usual sales
_RARE = Band(0.015, 0.05)
_REPEATED = Band(0.04, 0.1)  # the commonest amount but 0: where it jumps, a code took the place of amounts
HISTORY_BANDS = {
    "lines": _VOLUME,
    "active_households": _VOLUME,
    "baskets": _VOLUME,
    "sales_usd": _VOLUME,
    "sales_usd_per_basket": Band(1.25, 1.75, is_ratio=True),
    "department_mix_distance": Band(0.12, 0.25),  # total variation distance from the pooled revenue; at most .15
    "silent_category_share": Band(
        0.006, 0.006
    ),  # of a category that has none today; at most .0054, stone fruit in autumn
    "sales_usd_zero_share": Band(0.008, 0.04),
    "item_qty_zero_share": Band(0.008, 0.04),
    "retail_discount_usd_zero_share": Band(0.06, 0.09, warn_mads=3, block_mads=4),
    "coupon_discount_usd_zero_share": _RARE,
    "coupon_match_discount_usd_zero_share": _RARE,
    "sales_usd_repeated_share": Band(0.08, 0.1, block_mads=5),
    "item_qty_repeated_share": Band(0.035, 0.1),
    "retail_discount_usd_repeated_share": _REPEATED,
    "coupon_discount_usd_repeated_share": _REPEATED,
    "coupon_match_discount_usd_repeated_share": _REPEATED,
    # Lines without a loyalty discount among those of a product and store in which another line had one.
    "retail_discount_usd_uneven_share": Band(0.06, 0.09, block_mads=5),
}


def row_expectations() -> list[Expectation]:
    """Rules for a delivered line; the first that it breaks is its reason for quarantine.

    Sees the delivered columns, the `business_date` on which the line is to count, the purchase's `local_date` in the
    stores' zone, `is_readable`, `is_fuel`, `is_in_late_window`, `is_line_unique` (no other line of its drop, or of an
    earlier one, says otherwise) and `is_basket_consistent`: its basket has one household, one store and one time.
    """
    return [
        gxe.ExpectColumnValuesToBeInSet(
            column="is_readable",
            value_set=[True],
            **_rule("values_readable", "every value is of its column's type"),
        ),
        *(
            gxe.ExpectColumnValuesToNotBeNull(column=name, **_rule(f"{name}_not_null", f"{name} is given"))
            for name in TRANSACTIONS_DROP.schema.names
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="is_line_unique", value_set=[True], **_rule("line_unique", "a product is in a basket once")
        ),
        *_range_expectations(),
        gxe.ExpectColumnValuesToBeInSet(
            column="is_basket_consistent",
            value_set=[True],
            **_rule("basket_consistent", "a basket has one household, one store and one time"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="is_in_late_window",
            value_set=[True],
            **_rule(LATE, "the purchase was delivered within the late window"),
        ),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="local_date",
            column_B="business_date",
            ignore_row_if="either_value_is_missing",
            **_rule("local_date_is_business_date", "the purchase is on the drop's date in the stores' time zone"),
        ),
    ]


def day_expectations() -> list[Expectation]:
    """Rules for an open day, on one summary row for each: all of them block."""
    shares = (
        ("orphan_share", MAX_ORPHAN_SHARE, "lines whose product is unknown"),
        ("uncategorised_share", MAX_UNCATEGORISED_SHARE, "lines whose product has no category"),
        ("zero_sales_share", MAX_ZERO_SALES_SHARE, "lines sold for nothing"),
    )
    return [
        gxe.ExpectColumnValuesToBeBetween(
            column="kept_lines", min_value=1, **_rule("kept_lines", "at least one line is good")
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="quarantined_share",
            max_value=MAX_QUARANTINED_SHARE,
            row_condition=Column("quarantined_lines") > MIN_QUARANTINED_LINES_FOR_SHARE,
            **_rule("quarantined_share", f"at most {MAX_QUARANTINED_SHARE:.1%} of the lines are bad"),
        ),
        *(
            gxe.ExpectColumnValuesToBeBetween(
                column=column,
                max_value=limit,
                row_condition=Column("lines") >= MIN_LINES_FOR_SHARES,
                **_rule(column, f"at most {limit:.1%} {what}"),
            )
            for column, limit, what in shares
        ),
    ]


def _range_expectations() -> list[Expectation]:
    return [
        *(
            gxe.ExpectColumnValuesToBeBetween(
                column=name,
                min_value=0,
                max_value=MAX_AMOUNT_USD,
                **_rule(f"{name}_not_negative", f"{name} is an amount of 0 or more"),
            )
            for name in AMOUNTS
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="quantity", min_value=0, **_rule("quantity_not_negative", "quantity is 0 or more")
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="quantity",
            max_value=MAX_QUANTITY,
            row_condition=Column("is_fuel") == False,  # noqa: E712  # builds a condition
            **_rule("quantity_not_above_limit", f"quantity is at most {MAX_QUANTITY} unless the product is fuel"),
        ),
    ]


def _rule(rule_id: str, description: str) -> dict[str, object]:
    return {"meta": {"rule_id": rule_id}, "description": description}
