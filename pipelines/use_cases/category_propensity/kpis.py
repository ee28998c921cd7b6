"""What the business reads: sales as the retailer counts them, and what the published lists were worth."""

from pipelines.use_case import Kpi

PERIOD = "business_date BETWEEN $first_date AND $last_date"
PURCHASES = """
    SELECT labels.as_of, labels.household_id, count(outcomes.rank) AS hits
    FROM labels LEFT JOIN outcomes
      ON outcomes.score_date = labels.as_of AND outcomes.household_id = labels.household_id
     AND outcomes.product_category = labels.product_category
    WHERE labels.is_positive GROUP BY ALL
"""
OF_WHOM = "over households that bought from a recommendable category in the 7 days that ended in the period"

KPIS = (
    Kpi(
        name="revenue_usd",
        meaning="Sales of every line, fuel and lines without a category included, after discounts",
        unit="usd",
        sql=f"SELECT coalesce(sum(sales_usd), 0) FROM core__transactions WHERE {PERIOD}",
    ),
    Kpi(
        name="active_households",
        meaning="Households with at least one line",
        unit="households",
        sql=f"SELECT count(DISTINCT household_id) FROM core__transactions WHERE {PERIOD}",
    ),
    Kpi(
        name="baskets",
        meaning="Baskets with at least one line",
        unit="baskets",
        sql=f"SELECT count(DISTINCT basket_id) FROM core__transactions WHERE {PERIOD}",
    ),
    Kpi(
        name="basket_value_usd",
        meaning="revenue_usd per basket",
        unit="usd",
        sql=f"SELECT sum(sales_usd) / nullif(count(DISTINCT basket_id), 0) FROM core__transactions WHERE {PERIOD}",
    ),
    Kpi(
        name="redemptions",
        meaning="Coupons redeemed; by week only, since single days are mostly noise",
        unit="redemptions",
        sql=f"SELECT count(*) FROM core__redemptions WHERE {PERIOD}",
        is_daily=False,
    ),
    Kpi(
        name="hit_rate_at_10",
        meaning=f"Share of households with a purchase from their published top 10, {OF_WHOM}",
        unit="share",
        sql=f"SELECT count(*) FILTER (hits > 0) / nullif(count(*), 0) FROM ({PURCHASES})",
    ),
    Kpi(
        name="precision_at_10",
        meaning=f"Categories of the published top 10 that were bought, divided by 10, mean {OF_WHOM}",
        unit="share",
        sql=f"SELECT sum(hits) / (10 * nullif(count(*), 0)) FROM ({PURCHASES})",
    ),
    Kpi(
        name="value_captured_share_at_10",
        meaning="Sales from the published top 10, as a share of all sales of recommendable categories, in "
        "the 7 days that ended in the period",
        unit="share",
        sql="SELECT (SELECT sum(value_usd) FROM outcomes) / nullif(sum(value_usd), 0) FROM labels",
    ),
)
