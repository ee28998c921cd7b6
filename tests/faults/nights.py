"""A shop so small that a whole night takes a second: its use case, its nights, and all that they leave."""

import gc
import hashlib
import itertools
import pickle
import resource
import signal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from deliveries import Line, a_line, after, put, put_day, rows_of
from great_expectations import expectations as gxe
from pandas.util import hash_pandas_object

from pipelines import audit, lake, tables, validation, warehouse
from pipelines import features as feature_step
from pipelines.contracts import CORE_TABLES, QUARANTINE_TRANSACTIONS
from pipelines.errors import EngineFailure, Superseded
from pipelines.features import build_features
from pipelines.ingest import ingest
from pipelines.outcomes import record_outcomes
from pipelines.publishing import publish
from pipelines.scoring import score
from pipelines.settings import Settings
from pipelines.use_case import FeatureTable, SimpleRule, UseCase

NIGHT = 5  # the night that things go wrong in; those before went well
CATEGORIES = ("MILK", "BREAD", "BEER", "TEA")
PRODUCTS = [
    {"product_id": 10 + number, "product_category": name, "product_type": name, "department": "FOOD"}
    for number, name in enumerate(CATEGORIES)
]
USE_CASE = UseCase(
    name="nights",
    title="Nights",
    question="Will the household buy from the category within two days?",
    owner="tests",
    entity="household_id",
    item="product_category",
    horizon_days=2,
    top_n=2,
    feature_tables=(
        FeatureTable(
            name="features__nights",
            keys=("household_id", "product_category"),
            source="SELECT household_id, product_category, sales_usd FROM core__transactions "
            "JOIN core__products USING (product_id)",
            aggregates={"purchases": "count(*)", "spend_usd": "sum(sales_usd)"},
        ),
    ),
    positives_sql="""
        SELECT household_id, product_category, sum(sales_usd)::DECIMAL(12, 2) AS value_usd
        FROM core__transactions JOIN core__products USING (product_id)
        WHERE core__transactions.business_date BETWEEN $first_date AND $last_date GROUP BY ALL
    """,
    active_sql="SELECT DISTINCT household_id FROM core__transactions WHERE business_date <= $as_of",
    popular_sql="""
        SELECT product_category, 0.1 AS probability FROM core__products WHERE product_category IN ('MILK', 'BREAD')
    """,
    rules=(SimpleRule(name="frequency", expression="purchases"),),
    baseline_rule="frequency",
    expectations_module="nights",
    feature_module="nights",
)


def features(table: str) -> list[Any]:
    """What must be true of the night's features."""
    return [gxe.ExpectColumnValuesToBeBetween(column="purchases", min_value=1)]


def published_scores() -> list[Any]:
    """What must be true of the night's lists."""
    return [gxe.ExpectColumnPairValuesToBeEqual(column_A="rank", column_B="expected_rank")]


def lines_of(number: int) -> list[Line]:
    """What was bought on a day: households 1 to 7 in turn, and a bad line."""
    lines = [
        a_line(100 * number + basket, after(number), product_id=10 + (basket * (number + 1)) % 4)
        for basket in range(12)
    ]
    return [*lines, a_line(100 * number + 50, after(number), quantity=-1)]


def deliver(settings: Settings, number: int, *, is_first_try: bool = False) -> None:
    """Put a day's drop into landing; at a first try it lacks lines, and has one that says otherwise later."""
    lines = lines_of(number)
    if is_first_try:
        lines = [lines[0] | {"sales_value": 99.0}, *lines[1:8], a_line(100 * number + 60, after(number))]
    put_day(settings, after(number), *lines)


def open_shop(settings: Settings) -> None:
    """Bring the shop to the evening before the night: five nights are over, the sixth is delivered."""
    put(settings, after(0), {"part-0.parquet": PRODUCTS}, name="products")
    warehouse.create_tables(settings, [USE_CASE])
    for number in range(NIGHT):
        deliver(settings, number)
        run_night(settings, number, f"night {number}")
    deliver(settings, NIGHT)
    gc.freeze()  # what was imported stays; to look through it takes as long as a night


def run_night(settings: Settings, number: int, run_id: str) -> None:
    """One night, from the drop to the outcomes of the lists of two days ago."""
    day = after(number)
    ingest(settings, day, day, run_id)
    build_features(settings, USE_CASE, day, run_id)
    scored = score(settings, USE_CASE, day, run_id)
    publish(settings, USE_CASE, day, run_id, scored.model_version)
    record_outcomes(settings, USE_CASE, day, run_id)


def night_at(settings: Settings, verdicts: Path, run_id: str = "child", most_bytes: int = 0) -> None:
    """The night, in a process of its own; no file can grow beyond so many bytes, if any are given."""
    remember(verdicts)
    if most_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    run_night(settings, NIGHT, run_id)


def night_when(start: Any, settings: Settings, verdicts: Path, run_id: str) -> None:
    """The night as soon as it starts; 75: another run was first, and said so."""
    start.wait(120)
    try:
        night_at(settings, verdicts, run_id)
    except (EngineFailure, Superseded):
        raise SystemExit(75) from None


VERDICTS: dict[bytes, Any] = {}
_JUDGE = validation.validate
ENGINES: list[duckdb.DuckDBPyConnection] = []
_START, _NUMBERS = duckdb.connect, itertools.count()


def remember(verdicts: Path, patch: pytest.MonkeyPatch | None = None) -> None:
    """Great Expectations judges each frame once, in whatever process: its verdict is a function of the frame."""
    if verdicts.exists():
        VERDICTS.update(pickle.loads(verdicts.read_bytes()))
    put = patch.setattr if patch else setattr
    for module in (validation, feature_step, audit):
        put(module, "validate", _remembered)
    put(duckdb, "connect", _connect)


def _connect(config: Any) -> duckdb.DuckDBPyConnection:
    """An empty database of the process's one DuckDB: a night opens forty, and half of its time is their start."""
    if not ENGINES:
        ENGINES.append(_START(config=config))
    connection = ENGINES[0].cursor()
    name = f"engine_{next(_NUMBERS)}"
    return connection.execute(f"ATTACH ':memory:' AS {name}").execute(f"USE {name}")


def write_down(verdicts: Path) -> None:
    """Keep what was judged for processes to come."""
    verdicts.write_bytes(pickle.dumps(VERDICTS))


def _remembered(frame: Any, expectations: Any, *, where: str, docs: Any = None) -> Any:
    rules = [expectation.configuration.to_json_dict() for expectation in expectations]
    told = f"{list(frame.columns)} {frame.dtypes.to_dict()} {rules}".encode()
    key = hashlib.sha256(told + hash_pandas_object(frame).to_numpy().tobytes()).digest()
    if key not in VERDICTS:
        VERDICTS[key] = _JUDGE(frame, expectations, where=where)
    return VERDICTS[key]


def left_by(settings: Settings) -> dict[str, Any]:
    """What the nights have left, but for who did what when: equal after any fault and its recovery."""
    found: dict[str, Any] = {name: rows_of(settings, name) for name in (*CORE_TABLES, QUARANTINE_TRANSACTIONS.name)}
    for name in settings.lake.names("features__"):
        found[name] = lake.content_hash(pq.read_table(settings.lake.fetch(name), partitioning=None))
    labels = lake.files_of(settings.lake, USE_CASE.labels_table, partition="as_of")
    found["labels"] = {Path(path).parent.name: pq.read_table(path, partitioning=None).to_pylist() for path in labels}
    scores, outcomes = tables.scores_table(USE_CASE), tables.outcomes_table(USE_CASE)
    with warehouse.open_warehouse(settings) as connection:
        for table in (scores, outcomes):
            columns = [column for column in table.columns if column.name != "run_id"]
            rows = connection.execute(sa.select(*columns).order_by(*table.primary_key.columns)).all()
            found[table.name] = [tuple(row) for row in rows]
        log = tables.PUBLISH_LOG.c
        newest = sa.select(log.score_date, log.content_hash).where(log.status == "published").order_by(log.publish_id)
        found["published"] = dict(connection.execute(newest).all())
        balance = sa.text("SELECT * FROM ops__reconciliation ORDER BY table_name, source_file, source_sha256")
        found["reconciliation"] = [tuple(row) for row in connection.execute(balance)]
    return found


def staged(settings: Settings) -> int:
    """Rows that wait for an audit."""
    with warehouse.open_warehouse(settings) as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(tables.staging_table(USE_CASE))) or 0)
