"""Features that are not those of the date: never scored, and the online store neither goes back nor ahead."""

import shutil
from datetime import UTC, datetime, timedelta

import pytest
from deliveries import DAY, PRODUCTS, a_line, put, put_day

from pipelines import lake
from pipelines.errors import MissingPartition, SnapshotRefused
from pipelines.feature_store import materialise, open_store
from pipelines.features import build_features, end_of_day
from pipelines.ingest import ingest
from pipelines.scoring import candidate_features
from pipelines.use_cases.category_propensity import USE_CASE

pytestmark = pytest.mark.fault("F26")
NEXT = DAY + timedelta(days=1)
TABLES = [table.name for table in USE_CASE.feature_tables]


@pytest.fixture
def shop(settings):
    """Two ingested dates, of which the first has features."""
    put(settings, DAY, {"part-0.parquet": PRODUCTS}, name="products")
    for day in (DAY, NEXT):
        put_day(settings, day, *(a_line(number, day) for number in range(8)))
    ingest(settings, DAY, NEXT, "r")
    build_features(settings, USE_CASE, DAY, "r")
    return settings


def ends_of(settings):
    views = open_store(settings, USE_CASE).list_feature_views()
    return {end for view in views for _, end in view.materialization_intervals}


def test_a_date_whose_features_were_skipped_is_not_scored(shop):
    with pytest.raises(MissingPartition, match=f"nightjar features --date {NEXT}"):
        candidate_features(shop, USE_CASE, NEXT)


@pytest.mark.parametrize("table", TABLES)
def test_features_of_another_date_in_the_place_of_the_date_are_not_scored(shop, table):
    build_features(shop, USE_CASE, NEXT, "r")
    assert candidate_features(shop, USE_CASE, NEXT).num_rows > 0
    fresh, stale = (shop.lake.folder / lake.snapshot_name(table, day) for day in (NEXT, DAY))
    shutil.copyfile(stale, fresh)

    with pytest.raises(SnapshotRefused, match=f"nightjar features --use-case {USE_CASE.name} --date {NEXT}"):
        candidate_features(shop, USE_CASE, NEXT)


def test_the_online_store_never_goes_back(shop):
    build_features(shop, USE_CASE, NEXT, "r")
    assert materialise(shop, USE_CASE, NEXT, "r").rows > 0

    assert materialise(shop, USE_CASE, DAY, "r").rows == 0

    assert ends_of(shop) == {end_of_day(shop, NEXT)}


def test_an_end_in_the_future_does_not_keep_the_next_date_out(shop):
    store = open_store(shop, USE_CASE)
    for view in store.list_feature_views():
        future = datetime(2030, 1, 1, tzinfo=UTC)
        store.registry.apply_materialization(view, store.project, end_of_day(shop, DAY), future)

    assert materialise(shop, USE_CASE, DAY, "r").rows > 0
