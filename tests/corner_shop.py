"""A shop small enough to check by eye: its purchases, published rows, scores and registry."""

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import lake, ledger, registry, tables, warehouse
from pipelines.contracts import CORE_PRODUCTS, CORE_TRANSACTIONS
from pipelines.engine import open_core
from pipelines.feature_sql import compute_features
from pipelines.features import end_of_day
from pipelines.ingest import COUNTS
from pipelines.pseudonyms import key_id
from pipelines.settings import Settings
from pipelines.use_case import FeatureTable, Kpi, SimpleRule, UseCase

DAY = date(2017, 5, 1)  # a Monday; day 0 of the shop
PRODUCTS = {1: "MILK", 2: "BREAD", 3: "BEER", 4: "FUEL"}
SHOP = UseCase(
    name="corner_shop",
    title="Corner shop",
    question="Will the household buy from the category within two days?",
    owner="tests",
    entity="household_id",
    item="product_category",
    horizon_days=2,
    late_window_days=0,
    top_n=2,
    feature_tables=(
        FeatureTable(
            name="features__corner_shop",
            keys=("household_id", "product_category"),
            source="SELECT * FROM core__transactions JOIN core__products USING (product_id)",
            aggregates={"purchases": "count(*)", "spend_usd": "sum(sales_usd)"},
        ),
    ),
    positives_sql="""
        SELECT household_id, product_category, sum(sales_usd) AS value_usd
        FROM core__transactions JOIN core__products USING (product_id)
        WHERE core__transactions.business_date BETWEEN $first_date AND $last_date GROUP BY ALL
    """,
    active_sql="SELECT DISTINCT household_id FROM core__transactions WHERE business_date <= $as_of",
    popular_sql="SELECT 'MILK' AS product_category, 0.5 AS probability",
    excluded_items=("FUEL",),
    rules=(
        SimpleRule(name="frequency", expression="purchases"),
        SimpleRule(name="thrift", expression="-spend_usd"),
    ),
    baseline_rule="frequency",
    kpis=(Kpi(name="lines", meaning="Lines", unit="lines", sql="SELECT count(*) FROM core__transactions"),),
    expectations_module="expectations.category_propensity",
    feature_module="feature_repo.category_propensity",
)

# Household 1 has three candidates of which two are published; household 2 has one.
LISTS = [(1, "BREAD", 0.9, 1), (1, "BEER", 0.6, 2), (1, "MILK", 0.2, 3), (2, "BEER", 0.4, 1)]


def day(number: int) -> date:
    """The shop's business date of that number."""
    return DAY + timedelta(days=number)


def sell(settings: Settings, *days: int, purchases: Iterable[tuple[int, int, int, str]]) -> None:
    """Ingest these days; `purchases` are day, household, product and US$, each a basket of its own."""
    rows = [
        {
            "business_date": day(number),
            "household_id": household,
            "store_id": 1,
            "basket_id": 1000 * number + position,
            "product_id": product,
            "item_qty": 1,
            "sales_usd": usd,
        }
        for position, (number, household, product, usd) in enumerate(purchases)
    ]
    text = pa.schema([field if field.name != "sales_usd" else pa.field("sales_usd", pa.string()) for field in _sold()])
    table = pa.Table.from_pylist(rows, schema=text).cast(_sold())
    for number in days:
        sold = table.filter(pa.compute.equal(table.column("business_date"), day(number)))
        lake.replace_dates(settings.lake, CORE_TRANSACTIONS.name, sold, first=day(number), last=day(number))
    products = [{"business_date": DAY, "product_id": key, "product_category": name} for key, name in PRODUCTS.items()]
    lake.replace_dates(
        settings.lake,
        CORE_PRODUCTS.name,
        pa.Table.from_pylist(products, schema=CORE_PRODUCTS.schema),
        first=DAY,
        last=DAY,
    )
    log(settings, *days)


def log(settings: Settings, *days: int) -> None:
    """Note these days as ingested, and create the warehouse where it is missing."""
    warehouse.create_tables(settings, [SHOP])
    done = {"run_id": "test", "table_name": CORE_TRANSACTIONS.name, "table_version": "1"}
    done |= {"attempt": 1, "status": "replaced", "key_id": key_id(settings)} | dict.fromkeys(COUNTS, 0)
    with warehouse.open_warehouse(settings) as connection:
        warehouse.append_rows(
            connection, tables.INGEST_LOG, [{**done, "business_date": day(number)} for number in days]
        )


def publish(
    settings: Settings,
    number: int,
    lists: Mapping[int, Iterable[str]],
    *,
    version: str = "1",
    use_case: UseCase = SHOP,
) -> None:
    """Publish these lists, best category first, for a day; scores fall from 0.9 by 0.1."""
    rows = [
        {
            "score_date": day(number),
            use_case.entity: entity,
            "rank": rank,
            use_case.item: item,
            "score": 1 - rank / 10,
            "score_source": "champion",
            "reason_1": "bought before",
            "is_low_confidence": False,
            "model_version": version,
            "feature_version": "f",
            "run_id": "test",
        }
        for entity, items in lists.items()
        for rank, item in enumerate(items, start=1)
    ]
    with warehouse.open_warehouse(settings) as connection:
        warehouse.replace_rows(connection, tables.scores_table(use_case), rows, score_date=day(number))


def note_publication(
    settings: Settings, number: int, status: str = "published", *, version: str = "1", use_case: UseCase = SHOP
) -> None:
    """Tell the publish log what became of a day."""
    entry = {"run_id": "test", "use_case": use_case.name, "score_date": day(number), "rows": 4, "content_hash": "0"}
    entry |= {"model_version": version, "feature_version": "f1", "status": status, "actor": "nightjar", "reason": ""}
    with warehouse.open_warehouse(settings) as connection:
        warehouse.append_rows(connection, tables.PUBLISH_LOG, [entry | {"audit": ""}])


def put_scores(
    settings: Settings, number: int, scores: Iterable[tuple[int, str, float, str]], version: str = "1"
) -> None:
    """Keep scores of a version in the lake: household, category, score and source."""
    rows = [
        {"household_id": who, "product_category": what, "score": score, "score_source": source}
        | {"as_of": day(number), "model_version": version}
        for who, what, score, source in scores
    ]
    lake.replace_where(
        settings.lake,
        SHOP.scores_table,
        pa.Table.from_pylist(rows),
        predicate=f"as_of = '{day(number)}' AND model_version = '{version}'",
        partition_by=["as_of", "model_version"],
    )


def know_features(settings: Settings, number: int, version: str) -> None:
    """Tell the ledger that the features of a day have this version."""
    inputs = ledger.Inputs(core_versions={}, files="", definition="")
    made = ledger.Made(as_of=day(number), version=version, content={}, inputs=inputs)
    ledger.record(settings, SHOP, ledger.FEATURES, made, "test")


def open_shop(settings: Settings) -> None:
    """The shop at the end of day 0: two households have shopped, and the features of the day are known as f1."""
    sell(settings, 0, purchases=[(0, 1, 2, "9.00"), (0, 1, 3, "5.00"), (0, 1, 1, "1.00"), (0, 2, 3, "1.00")])
    know_features(settings, 0, "f1")


def keep_scores(
    settings: Settings, rows: Iterable[tuple[int, str, float, int]], number: int = 0, version: str = "1"
) -> None:
    """Keep scores in the lake as the champion leaves them: household, category, score and rank."""
    table = [
        {
            "as_of": day(number),
            "model_version": version,
            "household_id": who,
            "product_category": what,
            "score": score,
            "rank": rank,
            "score_source": "champion",
            "feature_version": "f1",
            "reason_1": "bought before",
            "reason_2": None,
            "reason_3": None,
            "is_low_confidence": False,
        }
        for who, what, score, rank in rows
    ]
    where = f"as_of = '{day(number)}' AND model_version = '{version}'"
    texts = [pa.field(name, pa.string()) for name in ("reason_2", "reason_3")]
    kept = pa.Table.from_pylist(table)
    lake.replace_where(
        settings.lake,
        SHOP.scores_table,
        kept.cast(pa.schema([{one.name: one for one in texts}.get(field.name, field) for field in kept.schema])),
        predicate=where,
        partition_by=["as_of", "model_version"],
    )


def snapshot(settings: Settings, number: int) -> None:
    """Build the shop's features of a day."""
    table = SHOP.feature_tables[0]
    with open_core(settings, up_to=day(number)) as connection:
        rows = compute_features(connection, table, day(number), end_of_day(settings, day(number)))
    lake.replace_snapshot(settings.lake, table.name, rows, day(number))


def find(settings: Settings, number: int, clock: str = "label", action: str = "retrain", metric: str = "rate") -> None:
    """A finding of the day, seen since day 4."""
    row = {"use_case": SHOP.name, "finding_date": day(number), "metric": metric, "slice": "all", "clock": clock}
    row |= {"cause": "concept shift", "action": action, "first_date": day(4)}
    with warehouse.open_warehouse(settings) as connection:
        warehouse.append_rows(connection, tables.FINDINGS, [row | {"told": "households buy otherwise", "source": ""}])


def register(home: Path, *, params: Mapping[str, str], metrics: Mapping[str, float], reference: str) -> Settings:
    """Settings with a real MLflow store; version 1 of the shop's model comes from a run with these facts."""
    settings = Settings(home=home, mlflow_tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    client = registry.open_registry(settings)
    experiment = client.create_experiment("tests", artifact_location=(home / "artifacts").as_uri())
    run = client.create_run(experiment)
    for key, value in params.items():
        client.log_param(run.info.run_id, key, value)
    for key, figure in metrics.items():
        client.log_metric(run.info.run_id, key, figure)
    client.log_text(run.info.run_id, reference, registry.REFERENCE_FILE)
    client.create_registered_model(SHOP.name)
    client.create_model_version(SHOP.name, source=run.info.artifact_uri, run_id=run.info.run_id)
    return settings


def rows_of(settings: Settings, table: Any) -> list[dict[str, Any]]:
    """All rows of a warehouse table, in the order of its key."""
    with warehouse.open_warehouse(settings) as connection:
        return warehouse.read_rows(connection, table.select().order_by(*table.primary_key.columns))


def _sold() -> pa.Schema:
    return CORE_TRANSACTIONS.schema
