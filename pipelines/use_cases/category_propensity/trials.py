"""Known changes of purchases, to try the monitor on: each is made in the real lines from a day on.

Who or what a drawn change hits depends on a hash with the seed, so that a trial can be repeated.
"""

from pipelines.use_case import Trial

FAULT, COVARIATE, SEASON = "data fault", "covariate shift", "season or promotion"
_MONEY = ("sales_usd", "retail_discount_usd", "coupon_discount_usd", "coupon_match_discount_usd")
_DAY = "(business_date - getvariable('onset'))"
_IS_ON = "business_date >= getvariable('onset')"


def _draw(key: str) -> str:
    """A number from 0 to 99 that depends on the key and the seed."""
    return f"hash({key}, getvariable('seed')) % 100"


def _times(factor: str) -> str:
    """The lines with every amount of money times a factor from the onset on."""
    amounts = ", ".join(f"{name}::DOUBLE * CASE WHEN {_IS_ON} THEN {factor} ELSE 1 END AS {name}" for name in _MONEY)
    return f"SELECT * REPLACE ({amounts}) FROM untouched"


def _leave(share: int, days: int) -> str:
    """The lines without those of some households, who leave on the first day or one after the other."""
    return (
        f"SELECT * FROM untouched WHERE NOT ({_draw('household_id')} < {share} "
        f"AND {_DAY} >= hash(household_id) % {days})"
    )


def _move(share: int) -> str:
    """The lines with a share of the baskets in one of ten stores that nobody knew."""
    return f"""
        SELECT * REPLACE (CASE WHEN {_IS_ON} AND {_draw("basket_id")} < {share}
                          THEN 900000 + basket_id % 10 ELSE store_id END AS store_id) FROM untouched
    """


_OUTAGE = f"""
    SELECT * FROM untouched WHERE NOT ({_IS_ON} AND product_id IN (
        SELECT product_id FROM core__products WHERE product_category = (
            SELECT product_category FROM (
                SELECT product_category, count(*) AS lines FROM untouched JOIN core__products USING (product_id)
                WHERE product_category IS NOT NULL GROUP BY ALL ORDER BY lines DESC, product_category LIMIT 20
            ) ORDER BY hash(product_category, getvariable('seed')) LIMIT 1)))
"""
_PROMOTION = f"""
    SELECT * EXCLUDE (is_hit) REPLACE (
        CASE WHEN is_hit THEN sales_usd::DOUBLE * 0.75 ELSE sales_usd END AS sales_usd,
        CASE WHEN is_hit THEN retail_discount_usd::DOUBLE + sales_usd::DOUBLE * 0.25 ELSE retail_discount_usd END
            AS retail_discount_usd
    ) FROM (
        SELECT *, {_DAY} BETWEEN 0 AND 6 AND {_draw("product_id")} < 20 AS is_hit FROM untouched
    )
"""
_CLOCK = f"""
    SELECT * REPLACE (
        CASE WHEN {_IS_ON} AND epoch(transacted_at)::BIGINT % 86400 // 3600 = 3 THEN business_date + 1
        ELSE business_date END AS business_date
    ) FROM untouched
"""

TRIALS = (
    *(
        Trial(
            name="price rise",
            size=f"+{size} %",
            sql=_times(str(1 + size / 100)),
            cause=COVARIATE,
            aim=aim,
            within_weeks=within,
        )
        for size, aim, within in ((5, 0, 3), (10, 0.8, 3), (20, 0.95, 1))
    ),
    Trial(name="category outage", size="all lines", sql=_OUTAGE, cause=FAULT, aim=0.95, is_drawn=True),
    Trial(name="households leave", size="30 %", sql=_leave(30, 1), cause=COVARIATE, aim=0.95, is_drawn=True),
    Trial(
        name="households leave", size="10 %", sql=_leave(10, 1), cause=COVARIATE, aim=0, within_weeks=3, is_drawn=True
    ),
    Trial(name="new stores", size="20 % of baskets", sql=_move(20), cause=COVARIATE, aim=0.95, is_drawn=True),
    Trial(
        name="new stores",
        size="10 % of baskets",
        sql=_move(10),
        cause=COVARIATE,
        aim=0.8,
        within_weeks=3,
        is_drawn=True,
    ),
    Trial(name="cents for dollars", size="x 100", sql=_times("100"), cause=FAULT, aim=0.95),
    Trial(
        name="price ramp",
        size="+20 % in 12 weeks",
        sql=_times(f"(1 + 0.2 * least({_DAY} + 1, 84) / 84)"),
        cause=COVARIATE,
        weeks=12,
        aim=0.5,
        within_weeks=6,
    ),
    Trial(
        name="households leave slowly",
        size="30 % in 12 weeks",
        sql=_leave(30, 84),
        cause=COVARIATE,
        weeks=12,
        aim=0.5,
        within_weeks=6,
        is_drawn=True,
    ),
    Trial(
        name="promotion week", size="a fifth of the products, -25 %", sql=_PROMOTION, is_drawn=True, is_announced=True
    ),
    Trial(name="clock change", size="an hour of lines falls on the next day", sql=_CLOCK),
)
