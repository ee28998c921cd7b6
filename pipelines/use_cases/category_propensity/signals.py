"""What is watched of the purchases: prices, baskets, who comes, where and for what, and the quality of the lines.

Windows are whole weeks. "Usual" is what the 8 weeks before the window show. Fuel has no units, so no price.
"""

from datetime import date

from pipelines.use_case import BaseTable, Season, Signal

LOOKBACK = 56  # days
CATEGORIES = 40  # the widest bought ones; a smaller one's weeks are mostly chance

SIGNAL_TABLES = (
    BaseTable(
        name="watched_lines",
        sql="""
            SELECT household_id, store_id, basket_id, t.product_id, product_category, item_qty,
                   window_of(t.business_date) AS window_date, sales_usd::DOUBLE AS paid_usd,
                   (sales_usd + retail_discount_usd + coupon_match_discount_usd)::DOUBLE AS shelf_usd,
                   p.product_id IS NOT NULL AS is_known,
                   item_qty BETWEEN 1 AND 100 AND coalesce(product_category NOT IN ('COUPON/MISC ITEMS', 'FUEL'), false)
                       AS has_price
            FROM core__transactions t LEFT JOIN core__products p USING (product_id)
            WHERE window_of(t.business_date) IS NOT NULL
        """,
    ),
    BaseTable(
        name="watched_prices",
        sql=f"""
            SELECT product_id, window_date, sum(paid) OVER before / sum(qty) OVER before AS usual_paid_usd,
                   sum(shelf) OVER before / sum(qty) OVER before AS usual_shelf_usd
            FROM (
                SELECT product_id, window_date, sum(item_qty) AS qty, sum(paid_usd) AS paid, sum(shelf_usd) AS shelf
                FROM watched_lines WHERE has_price GROUP BY ALL
            ) WINDOW before AS (
                PARTITION BY product_id ORDER BY window_date
                RANGE BETWEEN INTERVAL {LOOKBACK} DAYS PRECEDING AND INTERVAL 1 DAY PRECEDING
            )
        """,
    ),
    BaseTable(
        name="watched_households",
        sql="""
            SELECT household_id, window_date, count(DISTINCT basket_id) AS baskets, count(*) AS lines,
                   sum(paid_usd) AS paid_usd
            FROM watched_lines GROUP BY ALL
        """,
    ),
    BaseTable(
        name="watched_categories",
        sql=f"""
            SELECT product_category FROM watched_lines
            WHERE product_category NOT IN ('COUPON', 'COUPONS/STORE & MFG')
            GROUP BY ALL ORDER BY count(DISTINCT (household_id, window_date)) DESC, product_category
            LIMIT {CATEGORIES}
        """,
        is_choice=True,
    ),
    BaseTable(name="watched_known", sql="SELECT DISTINCT household_id FROM watched_households", is_choice=True),
    BaseTable(name="watched_windows", sql="SELECT DISTINCT window_date FROM watched_lines"),
)


def _per_line(condition: str) -> str:
    return f"""
        SELECT window_date, household_id, 'all' AS slice, count(*) FILTER ({condition}) AS numerator,
               count(*) AS denominator
        FROM watched_lines GROUP BY ALL
    """


def _per_household(numerator: str, denominator: str = "1") -> str:
    return f"""
        SELECT window_date, household_id, 'all' AS slice, {numerator} AS numerator, {denominator} AS denominator
        FROM watched_households
    """


def _price(kind: str) -> str:
    return f"""
        SELECT window_date, household_id, 'all' AS slice, sum({kind}_usd) AS numerator,
               sum(item_qty * usual_{kind}_usd) AS denominator
        FROM watched_lines JOIN watched_prices USING (product_id, window_date)
        WHERE has_price AND usual_{kind}_usd > 0 GROUP BY ALL
    """


def _new_store(key: str) -> str:
    """Sales in stores where the last purchase, of the same key, was in no window of the lookback."""
    return f"""
        SELECT window_date, household_id, 'all' AS slice,
               sum(paid_usd) FILTER (before IS NULL OR before < window_date - {LOOKBACK}) AS numerator,
               sum(paid_usd) AS denominator
        FROM (
            SELECT household_id, store_id, window_date, sum(paid_usd) AS paid_usd,
                   max(window_date) OVER (
                       PARTITION BY {key} ORDER BY window_date
                       RANGE BETWEEN UNBOUNDED PRECEDING AND INTERVAL 1 DAY PRECEDING
                   ) AS before
            FROM watched_lines GROUP BY household_id, store_id, window_date
        ) GROUP BY ALL
    """


SIGNALS = (
    Signal(
        name="shelf_price",
        meaning="Shelf prices (before discounts) against each product's own mean of the 8 weeks before",
        sql=_price("shelf"),
        lookback_days=LOOKBACK,
        is_relative=True,
        min_change=0.02,
        season_change=0,
        fault_factor=3,
    ),
    Signal(
        name="paid_price",
        meaning="Prices paid (after discounts) against each product's own mean of the 8 weeks before",
        sql=_price("paid"),
        lookback_days=LOOKBACK,
        is_relative=True,
        season_change=0.2,
        min_change=0.04,
        fault_factor=3,
    ),
    Signal(
        name="discount_share",
        meaning="Discounts as a share of sales at shelf prices",
        sql="""
            SELECT window_date, household_id, 'all' AS slice, sum(shelf_usd - paid_usd) AS numerator,
                   sum(shelf_usd) AS denominator
            FROM watched_lines GROUP BY ALL
        """,
        is_relative=True,
        season_change=1,
        min_change=0.2,
    ),
    Signal(
        name="active_share",
        meaning="Households that bought, of those that had bought in the 8 weeks before",
        sql=f"""
            WITH known AS (
                SELECT DISTINCT w.window_date, h.household_id FROM watched_windows w
                JOIN watched_households h ON h.window_date BETWEEN w.window_date - {LOOKBACK} AND w.window_date - 1
            )
            SELECT window_date, household_id, 'all' AS slice, h.baskets IS NOT NULL AS numerator, 1 AS denominator
            FROM known LEFT JOIN watched_households h USING (window_date, household_id)
        """,
        lookback_days=LOOKBACK,
        is_relative=True,
        season_change=0.2,
        min_change=0.05,
        fault_factor=4,
    ),
    Signal(
        name="active_households",
        meaning="Households that bought, as a share of all that are watched",
        sql="""
            SELECT window_date, household_id, 'all' AS slice, h.baskets IS NOT NULL AS numerator, 1 AS denominator
            FROM watched_windows CROSS JOIN watched_known LEFT JOIN watched_households h
                USING (window_date, household_id)
        """,
        is_relative=True,
        season_change=0.2,
        min_change=0.05,
        fault_factor=4,
    ),
    Signal(
        name="baskets_per_household",
        meaning="Baskets per household that bought",
        sql=_per_household("baskets"),
        is_relative=True,
        min_change=0.1,
    ),
    Signal(
        name="lines_per_basket",
        meaning="Lines per basket",
        sql=_per_household("lines", "baskets"),
        is_relative=True,
        min_change=0.1,
    ),
    Signal(
        name="spend_per_household",
        meaning="Sales per household that bought, US$",
        sql=_per_household("paid_usd"),
        is_relative=True,
        min_change=0.1,
    ),
    Signal(
        name="units_per_line",
        meaning="Units per line of what is sold by the piece",
        sql="""
            SELECT window_date, household_id, 'all' AS slice, sum(item_qty) AS numerator, count(*) AS denominator
            FROM watched_lines WHERE has_price GROUP BY ALL
        """,
        is_relative=True,
        min_change=0.1,
    ),
    Signal(
        name="unseen_store_share",
        meaning="Share of sales in stores where nobody had bought in the 8 weeks before",
        sql=_new_store("store_id"),
        season_change=0,
        min_change=0.03,
        lookback_days=LOOKBACK,
    ),
    Signal(
        name="other_store_share",
        meaning="Share of sales in stores where the household had not bought in the 8 weeks before",
        sql=_new_store("household_id, store_id"),
        lookback_days=LOOKBACK,
    ),
    Signal(
        name="category_reach",
        meaning="Share of the households that bought which bought from the category",
        sql="""
            SELECT DISTINCT window_date, household_id, product_category AS slice, 1 AS numerator, 0 AS denominator
            FROM watched_lines JOIN watched_categories USING (product_category)
            UNION ALL SELECT window_date, household_id, NULL, 0, 1 FROM watched_households
        """,
        is_relative=True,
        season_change=1.0,
        min_change=0.5,
        moves_with_year=True,
        fault_factor=4,
    ),
    Signal(
        name="unknown_product_share",
        meaning="Share of lines whose product is in no list of products",
        sql=_per_line("NOT is_known"),
        is_quality=True,
        min_change=0.01,
    ),
    Signal(
        name="no_category_share",
        meaning="Share of lines whose product has no category",
        sql=_per_line("is_known AND product_category IS NULL"),
        is_quality=True,
        min_change=0.01,
    ),
    Signal(
        name="no_sales_share",
        meaning="Share of lines that brought no money",
        sql=_per_line("paid_usd = 0"),
        is_quality=True,
        min_change=0.01,
    ),
)

CALENDAR = (
    Season(name="New Year", first_date=date(2017, 1, 1), last_date=date(2017, 1, 2)),
    Season(name="Easter", first_date=date(2017, 4, 10), last_date=date(2017, 4, 16)),
    Season(name="Independence Day", first_date=date(2017, 6, 30), last_date=date(2017, 7, 4)),
    Season(name="Thanksgiving", first_date=date(2017, 11, 18), last_date=date(2017, 11, 23)),
    Season(name="Christmas", first_date=date(2017, 12, 16), last_date=date(2017, 12, 25)),
    Season(name="New Year", first_date=date(2017, 12, 26), last_date=date(2018, 1, 1)),
)
