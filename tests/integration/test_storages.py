"""The chain from landing to published rows on folders and on S3, and two machines that share a lake on S3."""

from datetime import date, timedelta

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from toy import HOUSEHOLD, USE_CASE

from pipelines import lake, registry, warehouse
from pipelines.feature_store import materialise, open_store
from pipelines.features import build_features
from pipelines.ingest import ingest
from pipelines.landing import land
from pipelines.publishing import publish
from pipelines.scoring import score
from pipelines.settings import Settings
from pipelines.training import train
from pipelines.training_set import load_snapshot, snapshot_dates

pytestmark = pytest.mark.slow
FIRST, TRAINED = date(2017, 1, 15), date(2017, 3, 5)
NIGHT = TRAINED + timedelta(days=1)
NEWEST = snapshot_dates(USE_CASE, TRAINED)[-1]


def run_chain(settings):
    """What is published for the night after a model has learned from the first of seven weeks."""
    warehouse.create_tables(settings, [USE_CASE])
    land(settings, FIRST, NIGHT)
    ingest(settings, FIRST, NIGHT, "test")
    version = train(settings, USE_CASE, TRAINED, "test").model_version
    registry.set_alias(settings, USE_CASE, registry.CHAMPION, version)
    build_features(settings, USE_CASE, NIGHT, "test")
    return score_and_publish(settings)


def score_and_publish(settings):
    score(settings, USE_CASE, NIGHT, "test")
    return publish(settings, USE_CASE, NIGHT, "test")


def newest_snapshot(settings):
    return load_snapshot(settings, USE_CASE, open_store(settings, USE_CASE), NEWEST, only_sampled=False)


def test_the_chain_publishes_the_same_rows_from_both_storages_and_from_two_machines(s3, tmp_path):
    on_folders = run_chain(Settings(home=tmp_path / "folders", use_cases=["toy"]))
    one = Settings(home=tmp_path / "one", use_cases=["toy"], **s3)
    on_s3 = run_chain(one)

    assert on_s3.rows == on_folders.rows > 3000
    assert on_s3.content_hash == on_folders.content_hash

    shared = {"warehouse_url": one.warehouse, "mlflow_tracking_uri": one.mlflow_store, **s3}
    two = Settings(home=tmp_path / "two", use_cases=["toy"], **shared)
    again = score_and_publish(two)
    assert (again.content_hash, again.is_changed) == (on_s3.content_hash, False)
    assert materialise(two, USE_CASE, NIGHT, "test").rows == materialise(one, USE_CASE, NIGHT, "test").rows > 0
    here, there = newest_snapshot(one), newest_snapshot(two)
    assert there.rows.equals(here.rows)
    assert there.matrix.tobytes() == here.matrix.tobytes()

    replace_trips(one, lambda trips: pc.add(trips, 1000))
    replaced = newest_snapshot(two)
    column = USE_CASE.features.index("trips_84d")
    assert (replaced.matrix[:, column] == here.matrix[:, column] + 1000).all()


def replace_trips(settings, change):
    path, _ = lake.require_snapshot(settings.lake, HOUSEHOLD.name, NEWEST)
    rows = pq.read_table(path, partitioning=None)
    index = rows.schema.get_field_index("trips_84d")
    changed = pc.cast(change(rows.column(index)), rows.schema.field(index).type)
    lake.replace_snapshot(
        settings.lake, HOUSEHOLD.name, rows.set_column(index, rows.schema.field(index), changed), NEWEST
    )
