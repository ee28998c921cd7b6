"""The features of category propensity: the one list of names, each with the SQL that gives it.

Ages are days before the end of `as_of`: the day itself has age 0, and `_28d` means ages 0 to 27. Decayed counts
weigh a purchase day by exp(-age / days) in integer millionths, so that sums do not depend on the order of rows.
"""

from pipelines.use_case import BaseTable, FeatureTable

EXCLUDED = ("COUPON/MISC ITEMS", "FUEL", "COUPON", "COUPONS/STORE & MFG")  # categories that nobody is offered
LONG = 168  # days; the widest window, so that nothing grows with the length of the history


def _windows(expression: str, name: str, days: tuple[int, ...], per: int = 1) -> dict[str, str]:
    return {f"{name}_{d}d": f"coalesce({expression} FILTER (age_days < {d}), 0) / {per}" for d in days}


def _decayed(name: str, days: tuple[int, ...]) -> dict[str, str]:
    return {f"{name}_decayed_{d}d": f"sum(round(1e6 * exp(-age_days / {d}.0))::BIGINT) / 1e6" for d in days}


def _gaps(prefix: str) -> dict[str, str]:
    """Aggregates of the days between purchases, from integer sums."""
    return {
        "_gaps": f"count(gap_days) FILTER (age_days < {LONG})",
        "_gap_sum": f"sum(gap_days) FILTER (age_days < {LONG})",
        "_gap_squares": f"sum(gap_days * gap_days) FILTER (age_days < {LONG})",
        f"{prefix}gap_days_min": f"min(gap_days) FILTER (age_days < {LONG})",
        f"{prefix}gap_days_last": f"arg_min(gap_days, age_days) FILTER (age_days < {LONG})",
    }


def _gap_shape(prefix: str, since: str) -> dict[str, str]:
    return {
        f"{prefix}gap_days_mean": "_gap_sum / nullif(_gaps, 0)",
        f"{prefix}gap_days_std": ("sqrt(greatest(_gap_squares * _gaps - _gap_sum * _gap_sum, 0)) / nullif(_gaps, 0)"),
        f"{prefix}gaps_since_last": f"{since} * _gaps / nullif(_gap_sum, 0)",
    }


def _gap_of(partition: str) -> str:
    return f"least(lag(age_days) OVER (PARTITION BY {partition} ORDER BY age_days DESC) - age_days, {LONG})"


BASE_TABLES = (
    BaseTable(
        name="lines",
        sql="""
            SELECT household_id, product_category, basket_id, ($as_of - t.business_date)::INTEGER AS age_days,
                   item_qty, (sales_usd * 100)::BIGINT AS cents,
                   ((retail_discount_usd + coupon_discount_usd + coupon_match_discount_usd) * 100)::BIGINT
                       AS discount_cents
            FROM core__transactions t LEFT JOIN core__products USING (product_id)
        """,
    ),
    BaseTable(
        name="pair_days",
        sql=f"""
            SELECT *, {_gap_of("household_id, product_category")} AS gap_days
            FROM (
                SELECT household_id, product_category, age_days, count(*) AS lines, sum(item_qty) AS item_qty,
                       sum(cents) AS cents, sum(discount_cents) AS discount_cents
                FROM lines
                WHERE product_category IS NOT NULL AND product_category NOT IN
                      {EXCLUDED}
                GROUP BY ALL
            )
        """,
    ),
    BaseTable(
        name="household_days",
        sql=f"""
            SELECT *, {_gap_of("household_id")} AS gap_days
            FROM (
                SELECT household_id, age_days, count(DISTINCT basket_id) AS baskets, count(*) AS lines,
                       count(DISTINCT product_category) AS categories, sum(cents) AS cents,
                       sum(discount_cents) AS discount_cents
                FROM lines GROUP BY ALL
            )
        """,
    ),
)

PAIR = FeatureTable(
    name="features__household_category",
    keys=("household_id", "product_category"),
    source="SELECT * FROM pair_days",
    aggregates={
        **_windows("count(*)", "purchase_days", (7, 14, 28, 56, 84, LONG)),
        **_decayed("purchase_days", (14, 30, 90, 180)),
        "days_since_purchase": f"least(min(age_days), {LONG})",
        "days_since_second_purchase": f"least((min(age_days, 2))[2], {LONG})",
        **_windows("sum(cents)", "spend_usd_sum", (28, 84), per=100),
        **_windows("sum(item_qty)", "item_qty_sum", (28, 84)),
        **_windows("sum(lines)", "lines_sum", (84,)),
        "_cents": "sum(cents) FILTER (age_days < 84)",
        "_discount_cents": "sum(discount_cents) FILTER (age_days < 84)",
        **_gaps(""),
    },
    joins="""
        LEFT JOIN (
            SELECT household_id, count(*) FILTER (age_days < 28) AS _trips_28d,
                   count(*) FILTER (age_days < 84) AS _trips_84d,
                   sum(round(1e6 * exp(-age_days / 90.0))::BIGINT) / 1e6 AS _trips_decayed_90d,
                   sum(cents) FILTER (age_days < 84) AS _household_cents
            FROM household_days GROUP BY ALL
        ) USING (household_id)
    """,
    derived={
        **_gap_shape("", "days_since_purchase"),
        "discount_share_84d": "_discount_cents / nullif(_cents + _discount_cents, 0)",
        "trip_share_28d": "purchase_days_28d / nullif(_trips_28d, 0)",
        "trip_share_84d": "purchase_days_84d / nullif(_trips_84d, 0)",
        "trip_share_decayed_90d": "purchase_days_decayed_90d / _trips_decayed_90d",
        "spend_share_84d": "_cents / nullif(_household_cents, 0)",
    },
)

HOUSEHOLD = FeatureTable(
    name="features__household",
    keys=("household_id",),
    source="SELECT * FROM household_days",
    aggregates={
        **_windows("count(*)", "household_trips", (7, 14, 28, 84)),
        **_decayed("household_trips", (30,)),
        "household_days_since_trip": f"least(min(age_days), {LONG})",
        **_windows("sum(cents)", "household_spend_usd_sum", (7, 28, 84), per=100),
        "_lines": "sum(lines) FILTER (age_days < 84)",
        "_categories": "sum(categories) FILTER (age_days < 84)",
        "_cents": "sum(cents) FILTER (age_days < 84)",
        "_discount_cents": "sum(discount_cents) FILTER (age_days < 84)",
        "_baskets": "sum(baskets) FILTER (age_days < 84)",
        **_gaps("household_"),
    },
    joins="""
        LEFT JOIN (
            SELECT household_id, count(DISTINCT product_category) FILTER (age_days < 28) AS _categories_28d,
                   count(DISTINCT product_category) FILTER (age_days < 84) AS _categories_84d
            FROM pair_days GROUP BY ALL
        ) USING (household_id)
        LEFT JOIN (
            SELECT household_id, count(*) AS _redemptions FROM core__redemptions
            WHERE business_date > $as_of - 84 GROUP BY ALL
        ) USING (household_id)
    """,
    derived={
        **_gap_shape("household_", "household_days_since_trip"),
        "household_categories_28d": "coalesce(_categories_28d, 0)",
        "household_categories_84d": "coalesce(_categories_84d, 0)",
        "household_basket_usd_mean_84d": "_cents / nullif(_baskets, 0) / 100",
        "household_lines_per_basket_84d": "_lines / nullif(_baskets, 0)",
        "household_categories_per_trip_84d": "_categories / nullif(household_trips_84d, 0)",
        "household_discount_share_84d": "_discount_cents / nullif(_cents + _discount_cents, 0)",
        "household_redemptions_84d": "coalesce(_redemptions, 0)",
    },
)

CATEGORY = FeatureTable(
    name="features__category",
    keys=("product_category",),
    source="SELECT * FROM pair_days",
    aggregates={
        **_windows("count(DISTINCT household_id)", "category_buyers", (7, 28, 84)),
        **_windows("count(*)", "category_purchase_days", (7, 28, 84)),
        "_cents": "sum(cents) FILTER (age_days < 84)",
        "_lines": "sum(lines) FILTER (age_days < 84)",
        "_discount_cents": "sum(discount_cents) FILTER (age_days < 84)",
        "_discount_cents_7d": "sum(discount_cents) FILTER (age_days < 7)",
        "_cents_7d": "sum(cents) FILTER (age_days < 7)",
        "_gaps": f"count(gap_days) FILTER (age_days < {LONG})",
        "_gap_sum": f"sum(gap_days) FILTER (age_days < {LONG})",
    },
    derived={
        "category_purchase_days_per_buyer_84d": "category_purchase_days_84d / nullif(category_buyers_84d, 0)",
        "category_buyers_trend": "4 * category_buyers_7d / nullif(category_buyers_28d, 0)",
        "category_line_usd_mean_84d": "_cents / nullif(_lines, 0) / 100",
        "category_discount_share_84d": "_discount_cents / nullif(_cents + _discount_cents, 0)",
        "category_discount_share_7d": "_discount_cents_7d / nullif(_cents_7d + _discount_cents_7d, 0)",
        "category_gap_days_mean": "_gap_sum / nullif(_gaps, 0)",
        "category_repeat_share_84d": "_repeat_buyers / nullif(category_buyers_84d, 0)",
    },
    joins="""
        LEFT JOIN (
            SELECT product_category, count(*) AS _repeat_buyers FROM (
                SELECT household_id, product_category FROM pair_days
                WHERE age_days < 84 GROUP BY ALL HAVING count(*) > 1
            ) GROUP BY ALL
        ) USING (product_category)
    """,
)
