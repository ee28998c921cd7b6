"""Forged baskets that push one product: what they gain on the lists, and what notices them.

Forged are shares of all baskets of eight weeks, each with one line of a seldom bought product, by cards that exist.

| forged | lists with its category | days that the checks against history stop or report beyond the usual two |
|---|---|---|
| none | 0.65 % | – |
| 1 % | 0.65 % | 0 |
| 5 % | 2.65 % | 0 |

No check notices so few: a promotion lifts a single product's share of baskets by 4 points on the median day. What a
forger gains is bounded by what a model gives for one purchase among many, and that is what is tested here.
"""

from datetime import date, timedelta

import duckdb
import pyarrow as pa
import pytest

from pipelines import lake, registry
from pipelines.contracts import CORE_TRANSACTIONS
from pipelines.engine import open_engine
from pipelines.features import build_features
from pipelines.history import history_checks
from pipelines.scoring import candidate_features
from pipelines.training import train
from pipelines.use_case import TrainingPlan
from pipelines.use_cases import get_use_case

pytestmark = [pytest.mark.slow, pytest.mark.attack("S6")]
TRAINED, FORGED_FROM = date(2017, 11, 12), date(2017, 9, 18)
PLAN = TrainingPlan(snapshots=3, holdout=1, folds=1, boosting_rounds=40, learning_rate=0.15, negative_keep_share=0.1)
TARGET = "SELECT min(product_id) FROM products WHERE product_category = 'DRIED FRUIT'"


def forge(home, share):
    """Add forged lines to the core table; the days' lines as they are then."""
    files = lake.files_of(home.lake, "core__transactions", first=FORGED_FROM, last=TRAINED)
    products = lake.files_of(home.lake, "core__products")
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW products AS SELECT * FROM read_parquet({products})")
        lines = f"read_parquet({files}, hive_partitioning = true, hive_types = {{'business_date': DATE}})"
        forged = connection.sql(
            f"""
            SELECT * FROM {lines} WHERE basket_id > 0 UNION ALL BY NAME
            SELECT DISTINCT ON (basket_id) * REPLACE (-basket_id AS basket_id, ({TARGET}) AS product_id,
                1 AS item_qty, 1 AS sales_usd, 0 AS retail_discount_usd, 0 AS coupon_discount_usd,
                0 AS coupon_match_discount_usd)
            FROM {lines} WHERE basket_id > 0 AND hash(basket_id) % 1000 < {round(share * 1000)}
            """
        ).to_arrow_table()
    forged = forged.cast(pa.schema([CORE_TRANSACTIONS.schema.field(name) for name in forged.column_names]))
    lake.replace_dates(home.lake, "core__transactions", forged, first=FORGED_FROM, last=TRAINED)


def share_of_lists(home, use_case, version):
    """Share of the households on whose list of ten the pushed category is."""
    build_features(home, use_case, TRAINED, "test")
    features = candidate_features(home, use_case, TRAINED)
    model, _ = registry.load(home, use_case, registry.get_version(home, use_case, version))
    scored = features.select(list(use_case.keys)).append_column("score", pa.array(model.predict(features, 2)))
    with open_engine(home) as connection:
        connection.register("scored", scored)
        query = """
            SELECT count(*) FILTER (product_category = 'DRIED FRUIT') / count(DISTINCT household_id) FROM (
                SELECT *, row_number() OVER (PARTITION BY household_id ORDER BY score DESC, product_category) AS rank
                FROM scored) WHERE rank <= 10"""
        return connection.sql(query).fetchall()[0][0]


def alarms(home):
    """Days on which the checks of a day against its history stop or report something, from the forged lines on."""
    found = set()
    files = lake.files_of(home.lake, "core__transactions")
    with duckdb.connect() as connection:
        lines = f"read_parquet({files}, hive_partitioning = true, hive_types = {{'business_date': DATE}})"
        products = lake.files_of(home.lake, "core__products")
        connection.execute(f"CREATE TABLE kept AS SELECT * FROM {lines} WHERE business_date <= DATE '{TRAINED}'")
        connection.execute("CREATE TABLE history AS FROM kept LIMIT 0")
        connection.execute(f"CREATE VIEW products_known AS SELECT * FROM read_parquet({products})")
        days = [FORGED_FROM + timedelta(days=number) for number in range((TRAINED - FORGED_FROM).days + 1)]
        for day, checks in history_checks(connection, days).items():
            if any(not check.success for check in checks):
                found.add(day)
    return found


@pytest.fixture(scope="module")
def use_case(year):
    return get_use_case("category_propensity", year).model_copy(update={"training": PLAN})


@pytest.mark.parametrize(("share", "highest_rise"), [(0.01, 0.005), (0.05, 0.03)])
def test_forged_baskets_gain_few_lists(year_copy, use_case, clean_share, share, highest_rise):
    home, share_before = year_copy(), clean_share
    usual = alarms(home)
    forge(home, share)
    version = train(home, use_case, TRAINED, "forged").model_version
    rise = share_of_lists(home, use_case, version) - share_before

    assert abs(rise) <= highest_rise
    assert not alarms(home) - usual  # told honestly: promotions move single products more than this every week


@pytest.fixture(scope="module")
def clean_share(year_copy, use_case):
    home = year_copy()
    return share_of_lists(home, use_case, train(home, use_case, TRAINED, "clean").model_version)
