"""Text that looks like SQL, in whatever people, files and products may bring: it is text, or it is refused."""

import json
from datetime import date

import duckdb
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from corner_shop import SHOP
from deliveries import DAY, PRODUCTS, a_line, put, put_day
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from toy import USE_CASE

from pipelines import (
    access,
    explain,
    incidents,
    lake,
    publishing,
    quarantine,
    rollback,
    scoring,
    tables,
    trace,
    warehouse,
)
from pipelines.errors import BadInput, NightjarError, WrongManifest
from pipelines.features import build_features
from pipelines.incidents import Incident
from pipelines.ingest import ingest
from pipelines.profile import profile
from pipelines.promotion import promote
from pipelines.steps import measured
from pipelines.storage import sql_list, sql_text
from pipelines.use_cases import get_use_case

pytestmark = pytest.mark.attack("S9")
NIGHT = date(2017, 11, 19)
HOSTILE = [
    *(
        "'",
        "''",
        '"',
        "\\",
        "\\'",
        "';",
        "--",
        "/*",
        "*/",
        "`",
        "$as_of",
        "$1",
        ":rule",
        "?",
        "%s",
        "%(rule)s",
        "{table}",
    ),
    "1' OR '1'='1",
    "1) OR (1=1",
    "'; DROP TABLE ops__ingest_log; --",
    "'; DELETE FROM ops__publish_log WHERE '1'='1",
    "x' UNION SELECT pseudonym_key FROM secrets --",
    "'||(SELECT sqlite_version())||'",
    "x'); COPY (SELECT 1) TO '/tmp/copied'; --",
    "x', (SELECT max(score) FROM scores__toy_visits)) --",
    "../../../etc/passwd",
    "core__transactions/../core__transactions",
    "core__transactions; SELECT 1",
    "１' OR １=１",
    "a\nb'; --",
]
WHOLE = [text for text in HOSTILE if len(text) > 20]  # a step takes a second or two
TEXT = st.one_of(
    st.sampled_from(HOSTILE),
    st.lists(st.sampled_from(HOSTILE), min_size=2, max_size=4).map("".join),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
)


@effort(max_examples=300, deadline=None)
@given(st.lists(TEXT, max_size=4))
def test_a_text_in_sql_is_the_same_text_again(texts):
    with duckdb.connect() as connection:
        assert [row[0] for row in connection.sql(f"SELECT unnest({sql_list(texts)}::VARCHAR[])").fetchall()] == texts
        assert all(connection.sql(f"SELECT {sql_text(text)}").fetchall() == [(text,)] for text in texts)


def as_order(text):
    return rollback.RollbackOrder(text, text, text, first=NIGHT, last=NIGHT)


CALLS = {
    "use case": lambda home, text: get_use_case(text, home),
    "version to score with": lambda home, text: scoring.score(home, USE_CASE, NIGHT, text, model_version=text),
    "version to publish": lambda home, text: publishing.publish(home, USE_CASE, NIGHT, text, text),
    "version to go back to": lambda home, text: rollback.roll_back(home, USE_CASE, as_order(text), text),
    "version to promote": lambda home, text: promote(home, USE_CASE, text, text),
    "item to explain": lambda home, text: explain.explain(home, USE_CASE, NIGHT, 1, text),
    "item to trace": lambda home, text: trace.trace(home, USE_CASE, NIGHT, 1, text),
    "rule to count": lambda home, text: quarantine.count_rows(home, NIGHT, NIGHT, text),
    "rule to show": lambda home, text: quarantine.read_rows(home, NIGHT, NIGHT, text),
    "rule to drop": lambda home, text: quarantine.drop(home, NIGHT, text, text, text),
    "rule to replay": lambda home, text: quarantine.replay(home, NIGHT, text, text),
    "table to draw": lambda home, text: profile(home, text, NIGHT),
}


@pytest.fixture(scope="module")
def home(toy_copy):
    return toy_copy()


def everything(home):
    """Tables with their columns, and rows of all but the logs."""
    with warehouse.open_warehouse(home) as connection:
        inspector = sa.inspect(connection)
        columns = {name: [one["name"] for one in inspector.get_columns(name)] for name in inspector.get_table_names()}
        counts = {name: connection.scalar(sa.select(sa.func.count()).select_from(sa.table(name))) for name in columns}
    return columns, {
        name: number for name, number in counts.items() if name not in ("ops__run_costs", "ops__publish_fences")
    }


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_parameter_that_holds_sql_is_refused_by_a_named_error_and_changes_nothing(home, call):
    before = everything(home)
    for text in WHOLE:
        with pytest.raises(BadInput):
            call(home, text)
    assert everything(home) == before


@pytest.mark.slow
@effort(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXT)
def test_whatever_is_written_down_is_read_as_it_was_written(home, text):
    with measured(home, "fuzz", text[:60], text[:200]):
        pass
    told = Incident("fuzz", text[:100], text, text, text)
    incidents.open_incident(home, USE_CASE, NIGHT, told, text[:200])
    with warehouse.open_warehouse(home) as connection:
        newest = sa.select(tables.RUN_COSTS).order_by(tables.RUN_COSTS.c.cost_id.desc()).limit(1)
        (cost,) = warehouse.read_rows(connection, newest)
        query = sa.select(tables.INCIDENTS).where(tables.INCIDENTS.c.resolved_date.is_(None))
        (incident,) = warehouse.read_rows(connection, query)
    assert (cost["partition_key"], cost["run_id"]) == (text[:60], text[:200])
    assert [incident[name] for name in ("subject", "cause", "remedy")] == [text[:100], text, text]
    assert incidents.resolve(home, USE_CASE, NIGHT, ["fuzz"]) == 1


@pytest.mark.slow
def test_ids_and_a_reason_that_hold_sql_translate_to_nobody(home, tmp_path):
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    quoted = ['"' + text.replace('"', '""') + '"' for text in HOSTILE]
    source.write_text("\n".join(["household_id", *quoted]) + "\n")
    before = everything(home)[0]
    try:
        access.reidentify(home, source, target, HOSTILE[19], "r")
    except NightjarError:
        return
    assert everything(home)[0] == before
    assert not set(target.read_text().splitlines()[1:]) - {"", '""'}


CATEGORIES = [text for text in HOSTILE if "\n" not in text]
SNAPSHOT = SHOP.feature_tables[0].name
MARKET = SHOP.model_copy(
    update={
        "name": "market",
        "top_n": 50,
        "excluded_items": ("FUEL", "BABY'S \\FOOD'; --"),
        "popular_sql": "SELECT product_category, 0.5 AS probability FROM core__products GROUP BY ALL",
        "expectations_module": "hostile_market",
    }
)


@pytest.mark.slow
def test_categories_that_hold_sql_pass_from_the_tills_to_the_readers_unharmed(settings):
    market = MARKET
    products = [
        PRODUCTS[0] | {"product_id": number, "product_category": text} for number, text in enumerate(CATEGORIES)
    ]
    products.append(PRODUCTS[0] | {"product_id": 99, "product_category": "BABY'S \\FOOD'; --"})
    put_day(
        settings,
        DAY,
        *(a_line(number + 1, product_id=number, household_id=number) for number in [*range(len(CATEGORIES)), 99]),
    )
    put(settings, DAY, {"part-0.parquet": products}, name="products")
    ingest(settings, DAY, DAY, "'; DROP TABLE ops__ingest_log; --")
    warehouse.create_tables(settings, [market])
    build_features(settings, market, DAY, "r")
    report = scoring.score(settings, market, DAY, "r")
    publishing.publish(settings, market, DAY, "r", report.model_version)

    assert set(CATEGORIES) <= set(
        pq.read_table(lake.require_snapshot(settings.lake, SNAPSHOT, DAY)[0])["product_category"].to_pylist()
    )
    scores = tables.scores_table(market)
    with warehouse.open_warehouse(settings) as connection:
        seen = set(connection.scalars(sa.select(scores.c.product_category)))
        assert connection.scalars(sa.select(tables.INGEST_LOG.c.run_id).distinct()).all() == [
            "'; DROP TABLE ops__ingest_log; --"
        ]
    assert set(CATEGORIES) <= seen
    assert "BABY'S \\FOOD'; --" not in seen
    assert lake.files_where(settings.lake, market.scores_table, lake.scored_by(DAY, "1' OR '1'='1")) == []


@pytest.mark.parametrize("name", [f"{text}.parquet" for text in HOSTILE if text not in ("--",)])
def test_a_file_whose_name_holds_sql_is_refused_by_its_manifest(settings, name):
    put_day(settings, DAY, a_line(1))
    manifest = settings.landing.folder / "transactions" / f"date={DAY}" / "manifest.json"
    told = json.loads(manifest.read_text())
    told["files"][0]["name"] = name
    manifest.write_text(json.dumps(told))
    with pytest.raises(WrongManifest):
        ingest(settings, DAY, DAY, "r")
