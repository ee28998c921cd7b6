"""A use case of the tests, of another grain: which stores will a household visit within seven days?

No shared code knows of it. It is registered with `NIGHTJAR_USE_CASES=toy` where `tests/` is on `PYTHONPATH`.
"""

from pipelines.use_case import BaseTable, FeatureTable, GatePolicy, Kpi, Reason, SimpleRule, TrainingPlan, UseCase

BASE = BaseTable(
    name="toy_trips",
    sql="""
        SELECT household_id, store_id::VARCHAR AS store_id, ($as_of - business_date)::INTEGER AS age_days,
               sum(sales_usd * 100)::BIGINT AS cents
        FROM core__transactions WHERE business_date > $as_of - 84 GROUP BY ALL
    """,
)
PAIR = FeatureTable(
    name="features__toy_household_store",
    keys=("household_id", "store_id"),
    source="SELECT * FROM toy_trips",
    aggregates={
        "visits_28d": "count(*) FILTER (age_days < 28)",
        "visits_84d": "count(*)",
        "days_since_visit": "min(age_days)",
        "spend_usd_84d": "sum(cents) / 100",
    },
)
HOUSEHOLD = FeatureTable(
    name="features__toy_household",
    keys=("household_id",),
    source="SELECT * FROM toy_trips",
    aggregates={"stores_84d": "count(DISTINCT store_id)", "trips_84d": "count(*)", "_last": "min(age_days)"},
    derived={"trips_per_store_84d": "trips_84d / stores_84d", "is_fresh": "_last < 7"},
)
USE_CASE = UseCase(
    name="toy_visits",
    title="Store visits",
    question="Probability that the household visits the store within the next 7 days.",
    owner="tests",
    entity="household_id",
    item="store_id",
    horizon_days=7,
    late_window_days=0,
    top_n=3,
    base_tables=(BASE,),
    feature_tables=(PAIR, HOUSEHOLD),
    positives_sql="""
        SELECT household_id, store_id::VARCHAR AS store_id, sum(sales_usd)::DECIMAL(12, 2) AS value_usd
        FROM core__transactions WHERE business_date BETWEEN $first_date AND $last_date GROUP BY ALL
    """,
    active_sql="SELECT DISTINCT household_id FROM core__transactions WHERE business_date > $as_of - 112",
    popular_sql="""
        SELECT store_id::VARCHAR AS store_id, count(DISTINCT household_id) / 2500 AS probability
        FROM core__transactions WHERE business_date > $as_of - 7 GROUP BY ALL
    """,
    rules=(
        SimpleRule(name="recency", expression="-days_since_visit"),
        SimpleRule(name="spend", expression="spend_usd_84d"),
    ),
    baseline_rule="spend",
    reasons=(
        Reason(
            name="visits",
            features=("visits_28d", "visits_84d"),
            words="format('visited {} times in 12 weeks', visits_84d)",
        ),
        Reason(
            name="last visit",
            features=("days_since_visit",),
            words="format('last visit {} days ago', days_since_visit)",
        ),
    ),
    slices={"lapsed": "days_since_visit >= 28"},
    gate=GatePolicy(max_calibration_error=0.05, max_slice_rate_gap=0.1),
    training=TrainingPlan(
        snapshots=4, folds=1, negative_keep_share=1.0, boosting_rounds=20, min_rows_in_leaf=20, learning_rate=0.2
    ),
    kpis=(
        Kpi(
            name="stores_visited",
            meaning="Stores with at least one line",
            unit="stores",
            sql="SELECT count(DISTINCT store_id) FROM core__transactions "
            "WHERE business_date BETWEEN $first_date AND $last_date",
        ),
    ),
    expectations_module="toy.expectations",
    feature_module="toy.feast_definitions",
)
