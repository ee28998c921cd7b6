"""Why a category is on a household's list, in words; and the groups of households that the gate looks at."""

from pipelines.use_case import Reason
from pipelines.use_cases.category_propensity.features import CATEGORY, HOUSEHOLD, PAIR

_RHYTHM = ("days_since_purchase", "days_since_second_purchase", "gap_days", "gaps_since_last")
_MONEY = ("spend_usd_sum", "spend_share")


def _of_pair(*starts: str) -> tuple[str, ...]:
    return tuple(name for name in PAIR.features if name.startswith(starts))


REASONS = (
    Reason(
        name="frequency",
        features=tuple(
            name for name in PAIR.features if not name.startswith((*_RHYTHM, *_MONEY, "item_qty_sum", "discount"))
        ),
        words="""CASE WHEN purchase_days_168d < 1 THEN 'not bought in 24 weeks'
            WHEN purchase_days_84d < 1 THEN format('bought on {} days in 24 weeks, none in 12', purchase_days_168d::INT)
            WHEN purchase_days_84d < 2 THEN 'bought once in 12 weeks'
            ELSE format('bought {} times in 12 weeks', purchase_days_84d::INT) END""",
    ),
    Reason(
        name="rhythm",
        features=_of_pair(*_RHYTHM),
        words="""CASE WHEN gap_days_mean IS NULL THEN '' ELSE format('usually every {} days, ',
            greatest(round(gap_days_mean), 1)::INT) END || CASE days_since_purchase::INT WHEN 0 THEN 'last today'
            WHEN 1 THEN 'last yesterday' ELSE format('last {} days ago', days_since_purchase::INT) END""",
    ),
    Reason(
        name="spend",
        features=_of_pair(*_MONEY, "item_qty_sum"),
        words="format('spent {:.2f} $ on it in 12 weeks', spend_usd_sum_84d::DOUBLE)",
    ),
    Reason(
        name="discount",
        features=(
            "discount_share_84d",
            "household_discount_share_84d",
            "household_redemptions_84d",
            "category_discount_share_84d",
            "category_discount_share_7d",
        ),
        words="""format('{} % off in the category this week', coalesce(round(100 * category_discount_share_7d), 0)::INT)
        """,
    ),
    Reason(
        name="household",
        features=tuple(name for name in HOUSEHOLD.features if "discount" not in name and "redemptions" not in name),
        words="""format('{} shopping trips in 4 weeks, last {} days ago', household_trips_28d::INT,
            household_days_since_trip::INT)""",
    ),
    Reason(
        name="category",
        features=tuple(name for name in CATEGORY.features if "discount" not in name),
        words="format('{} households bought it in 12 weeks', category_buyers_84d::INT)",
    ),
)
SLICES = {
    "reactivation": "days_since_purchase >= 28",
    "heavy shoppers": "household_spend_usd_sum_84d >= 700",
    "light shoppers": "household_spend_usd_sum_84d < 150",
}
SEGMENTS_SQL = """
    SELECT household_id, coalesce(CASE
               WHEN income IN ('Under 15K', '15-24K', '25-34K') THEN 'under 35K'
               WHEN income IN ('35-49K', '50-74K') THEN '35K to 74K'
               WHEN income IS NOT NULL THEN '75K and over' END, 'unknown') AS income,
           coalesce(age, 'unknown') AS age, CASE WHEN first_date > $as_of - 28 THEN 'new' ELSE 'known' END AS tenure
    FROM (SELECT household_id, min(business_date) AS first_date FROM core__transactions GROUP BY ALL)
    LEFT JOIN core__households USING (household_id)
"""
POPULAR_SQL = f"""
    WITH buyers AS (
        SELECT household_id, product_category, max(t.business_date) > $as_of - 7 AS is_buyer
        FROM core__transactions t JOIN core__products USING (product_id)
        WHERE t.business_date > $as_of - 84 AND product_category IS NOT NULL GROUP BY ALL
    ), bought AS (SELECT * FROM buyers JOIN (SELECT household_id, income FROM ({SEGMENTS_SQL})) USING (household_id))
    SELECT product_category, count(*) FILTER (is_buyer) / any_value(households) AS probability,
           income AS segment
    FROM bought JOIN (SELECT income, count(DISTINCT household_id) AS households FROM bought GROUP BY ALL)
    USING (income) GROUP BY ALL HAVING any_value(households) >= 100
    UNION ALL
    SELECT product_category, count(*) FILTER (is_buyer) / (SELECT count(DISTINCT household_id) FROM bought),
           NULL FROM bought GROUP BY ALL
"""
