"""What the business reads: sales as the retailer counts them, and what the published lists were worth."""

from pipelines.use_case import Kpi
from pipelines.use_cases.category_propensity.features import EXCLUDED

PERIOD = "business_date BETWEEN $first_date AND $last_date"
SALES, PLATFORM = "retail-controlling", "data-platform"
PURCHASES = """
    SELECT labels.as_of, labels.household_id, count(lists.rank) AS hits
    FROM labels LEFT JOIN lists USING (as_of, household_id, product_category)
    WHERE labels.is_positive GROUP BY ALL
"""
OF_WHOM = (
    "over households that bought from a recommendable category within 7 days of a score date whose labels became final "
    "in the period"
)
BOUGHT_LATELY = f"""
    SELECT DISTINCT product_category FROM core__products JOIN (
        SELECT DISTINCT product_id FROM core__transactions WHERE business_date BETWEEN $last_date - 83 AND $last_date
    ) USING (product_id) WHERE product_category NOT IN {EXCLUDED}
"""
ON_LAST_DATE = "FROM published WHERE score_date = $last_date"

KPIS = (
    Kpi(
        name="revenue_usd",
        meaning="Sales of every line, fuel and lines without a category included, after discounts",
        unit="usd",
        owner=SALES,
        sql=f"SELECT coalesce(sum(sales_usd), 0) FROM core__transactions WHERE {PERIOD}",
    ),
    Kpi(
        name="active_households",
        meaning="Households with at least one line",
        unit="households",
        owner=SALES,
        sql=f"SELECT count(DISTINCT household_id) FROM core__transactions WHERE {PERIOD}",
    ),
    Kpi(
        name="baskets",
        meaning="Baskets with at least one line",
        unit="baskets",
        owner=SALES,
        sql=f"SELECT count(DISTINCT basket_id) FROM core__transactions WHERE {PERIOD}",
    ),
    Kpi(
        name="basket_value_usd",
        meaning="revenue_usd per basket",
        unit="usd",
        owner=SALES,
        sql=f"SELECT sum(sales_usd) / nullif(count(DISTINCT basket_id), 0) FROM core__transactions WHERE {PERIOD}",
    ),
    Kpi(
        name="redemptions",
        meaning="Coupons redeemed; by week only, since single days are mostly noise",
        unit="redemptions",
        owner=SALES,
        sql=f"SELECT count(*) FROM core__redemptions WHERE {PERIOD}",
        is_daily=False,
        band_limit=5.5,  # they come in campaigns
    ),
    Kpi(
        name="hit_rate_at_10",
        meaning=f"Share of households with a purchase from their published top 10, {OF_WHOM}",
        unit="share",
        entity_sql=f"SELECT household_id, count(*) FILTER (hits > 0) AS numerator, count(*) AS denominator "
        f"FROM ({PURCHASES}) GROUP BY ALL",
    ),
    Kpi(
        name="precision_at_10",
        meaning=f"Categories of the published top 10 that were bought, divided by 10, mean {OF_WHOM}",
        unit="share",
        entity_sql=f"SELECT household_id, sum(hits) AS numerator, 10 * count(*) AS denominator "
        f"FROM ({PURCHASES}) GROUP BY ALL",
    ),
    Kpi(
        name="value_captured_share_at_10",
        meaning="Sales from the published top 10, as a share of all sales of recommendable categories, within 7 days "
        "of the score dates whose labels became final in the period",
        unit="share",
        entity_sql="""
            SELECT household_id, sum(CASE WHEN lists.rank IS NOT NULL THEN value_usd ELSE 0 END) AS numerator,
                   sum(value_usd) AS denominator
            FROM labels LEFT JOIN lists USING (as_of, household_id, product_category) GROUP BY ALL
        """,
    ),
    Kpi(
        name="category_coverage_share",
        meaning="Categories on any list published for the last date, of those bought in 12 weeks",
        unit="share",
        sql=f"""
            SELECT nullif(count(listed.product_category), 0) / count(*) FROM ({BOUGHT_LATELY})
            LEFT JOIN (SELECT DISTINCT product_category {ON_LAST_DATE}) AS listed USING (product_category)
        """,
    ),
    Kpi(
        name="household_coverage_share",
        meaning="Households with a list published for the last date, of those that bought in 12 weeks",
        unit="share",
        sql=f"""
            SELECT nullif(count(listed.household_id), 0) / count(*) FROM (
                SELECT DISTINCT household_id FROM core__transactions
                WHERE business_date BETWEEN $last_date - 83 AND $last_date
            ) LEFT JOIN (SELECT DISTINCT household_id {ON_LAST_DATE}) AS listed USING (household_id)
        """,
    ),
    Kpi(
        name="top_10_concentration_share",
        meaning="Share of the rows published for the last date that the 10 most listed categories take",
        unit="share",
        sql=f"""
            SELECT sum(listed) FILTER (place <= 10) / nullif(sum(listed), 0) FROM (
                SELECT count(*) AS listed, row_number() OVER (ORDER BY count(*) DESC, product_category) AS place
                {ON_LAST_DATE} GROUP BY product_category
            )
        """,
    ),
    Kpi(
        name="list_churn_share",
        meaning="Share of the rows published for the last date that were not on the household's list of the day before "
        "the period: by day of the night before, by week of seven days before",
        unit="share",
        entity_sql=f"""
            WITH earlier AS (
                SELECT household_id, product_category, rank FROM published WHERE score_date = $first_date - 1
            )
            SELECT household_id, count(*) FILTER (earlier.rank IS NULL) AS numerator, count(*) AS denominator
            FROM (SELECT household_id, product_category {ON_LAST_DATE})
            LEFT JOIN earlier USING (household_id, product_category)
            WHERE household_id IN (SELECT household_id FROM earlier) GROUP BY ALL
        """,
    ),
    Kpi(
        name="cost_per_thousand_scores_eur",
        meaning="Processor and memory of the first successful features, materialise, scores and publish steps of the "
        "period's nights, by the price table of the settings, per thousand candidates scored",
        unit="eur",
        owner=PLATFORM,
        sql="""
            SELECT 1000 * sum(euros) / nullif(sum(rows) FILTER (step LIKE 'scores%'), 0) FROM run_costs
            WHERE score_date BETWEEN $first_date AND $last_date
        """,
    ),
    Kpi(
        name="gain_per_cost_usd",
        meaning="Sales from the published lists beyond those from the simple rule's lists, within 7 days of the score "
        "dates whose labels became final in the period, for each euro that making these lists has cost",
        unit="usd per eur",
        sql="""
            SELECT (coalesce(sum(value_usd) FILTER (ours.rank IS NOT NULL), 0)
                    - coalesce(sum(value_usd) FILTER (theirs.rank IS NOT NULL), 0))
                   / nullif((SELECT sum(euros) FROM run_costs WHERE score_date IN (SELECT as_of FROM labels)), 0)
            FROM labels LEFT JOIN lists AS ours USING (as_of, household_id, product_category)
            LEFT JOIN rule_lists AS theirs USING (as_of, household_id, product_category)
        """,
        is_daily=False,
    ),
    Kpi(
        name="retrainings_paid_share",
        meaning="Of the trainings that were asked for up to the last date and judged by now, those whose model became "
        "champion and was not taken back",
        unit="share",
        sql="SELECT count(*) FILTER (verdict = 'promote') / nullif(count(verdict), 0) FROM retrainings",
        is_daily=False,
        has_band=False,
    ),
)
