"""Features of one range of households after the other are those of all at once."""

from collections import Counter

import duckdb
import pytest
from corner_shop import SHOP, day, sell

from pipelines import features, lake, partitions
from pipelines.checks import Check, require
from pipelines.engine import NEWEST
from pipelines.errors import ChecksFailed, MissingPartition
from pipelines.feature_sql import FeatureSql, keep
from pipelines.features import compute_snapshot, end_of_day, ranges_of
from pipelines.settings import Settings
from pipelines.use_case import BaseTable, FeatureTable
from pipelines.use_cases.category_propensity import USE_CASE as REFERENCE

LAST = 6
BASES = (
    BaseTable(
        name="lines",
        sql="SELECT household_id, product_category, sales_usd "
        "FROM core__transactions JOIN core__products USING (product_id)",
    ),
    BaseTable(name="spent", sql="SELECT household_id, product_category, sum(sales_usd) AS usd FROM lines GROUP BY ALL"),
    BaseTable(name="items", sql="SELECT product_category, max(usd) AS most_usd FROM spent GROUP BY ALL"),
)
ITEM = FeatureTable(
    name="features__item",
    keys=("product_category",),
    source="SELECT * FROM spent",
    aggregates={"buyers": "count(DISTINCT household_id)", "usd": "sum(usd)"},
    derived={"most": "most_usd"},
    joins="JOIN items USING (product_category)",
)
HOUSEHOLD = FeatureTable(
    name="features__buyer",
    keys=("household_id",),
    source="SELECT * FROM lines",
    aggregates={"lines_sum": "count(*)", "categories": "count(DISTINCT product_category)"},
)
TABLES = (ITEM, *SHOP.feature_tables, HOUSEHOLD)  # the table of all entities comes before those by entity
USE_CASE = SHOP.model_copy(update={"base_tables": BASES, "feature_tables": TABLES})


@pytest.fixture
def settings(tmp_path):
    settings = Settings(home=tmp_path, demo=True)
    sold = [
        (number, household, 1 + (number * household) % 4, f"{household}.{number}0")
        for number in range(LAST + 1)
        for household in range(1, 10)
        if (number + household) % 3
    ]
    sell(settings, *range(LAST + 1), purchases=sold)
    return settings


def versions(settings, use_case):
    made = compute_snapshot(settings, use_case, day(LAST), NEWEST)
    return {table.name: (rows.num_rows, lake.content_hash(rows)) for table, rows in made}


@pytest.mark.parametrize("use_case", [USE_CASE, REFERENCE, SHOP], ids=lambda use_case: use_case.name)
def test_ranges_have_the_rows_of_the_whole_in_the_same_order(settings, monkeypatch, use_case):
    whole = versions(settings, use_case)
    monkeypatch.setattr(partitions, "MOST_ROWS", 2)
    chosen = ranges_of(settings, FeatureSql(use_case, day(LAST), end_of_day(settings, day(LAST)), NEWEST))

    assert len(chosen) > 3
    assert versions(settings, use_case) == whole
    assert list(whole) == [table.name for table in use_case.feature_tables]
    assert min(rows for rows, _ in whole.values()) > 2
    assert not list((settings.home / "scratch").glob("tmp*"))


def test_base_tables_are_kept_once_and_only_where_they_are_read(settings, tmp_path):
    feature_sql = FeatureSql(USE_CASE, day(LAST), end_of_day(settings, day(LAST)), NEWEST)
    for condition in ("household_id < 5", "household_id >= 5"):
        _, base_tables = feature_sql.of_entities(settings, condition)
        assert base_tables.keys() == {"spent"}
        keep(settings, tmp_path / "kept", base_tables)

    with duckdb.connect(tmp_path / "kept") as connection:
        twice = "SELECT count(*) - count(DISTINCT (household_id, product_category)) FROM spent"
        assert connection.sql(twice).fetchall() == [(0,)]


def test_what_one_range_fails_for_leaves_every_snapshot_as_it_was(settings, monkeypatch):
    monkeypatch.setattr(features, "_audit", lambda *_: None)
    before = features.build_features(settings, SHOP, day(LAST), "before").feature_version
    monkeypatch.setattr(partitions, "MOST_ROWS", 2)
    seen = Counter()

    def refuse_the_third(_settings, _use_case, _as_of, table, _rows):
        seen[table.name] += 1
        require([Check("third", seen[table.name] < 3, "3", "2")], where=table.name, remedy="none")

    monkeypatch.setattr(features, "_audit", refuse_the_third)
    with pytest.raises(ChecksFailed):
        features.build_features(settings, USE_CASE, day(LAST), "test")

    assert features.feature_version(settings, SHOP, day(LAST)) == before
    with pytest.raises(MissingPartition):
        lake.require_snapshot(settings.lake, HOUSEHOLD.name, day(LAST))
