"""Feast over real snapshots: online equals offline, and a later correction does not reach back."""

from datetime import date, timedelta

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines import lake
from pipelines.errors import MissingPartition
from pipelines.feature_store import join_features, materialise, open_store
from pipelines.features import build_features, end_of_day
from pipelines.use_cases.category_propensity import USE_CASE

pytestmark = pytest.mark.slow
DAY, KEYS = date(2017, 3, 5), 10_000
PAIR = USE_CASE.feature_tables[0].name


@pytest.fixture(scope="module")
def home(year_copy):
    settings = year_copy()
    build_features(settings, USE_CASE, DAY, "test")
    return settings


def candidates(home, number):
    """Keys of so many candidates, the same ones each time."""
    keys = ", ".join(USE_CASE.keys)
    snapshot = home.lake.folder / lake.snapshot_name(PAIR, DAY)
    return duckdb.sql(
        f"SELECT {keys} FROM '{snapshot}' ORDER BY hash({keys}, 7), {keys} LIMIT {number}"
    ).to_arrow_table()


def at(entities, instant):
    stamp = pa.array([instant] * entities.num_rows, pa.timestamp("us", tz="UTC"))
    return entities.append_column("event_timestamp", stamp)


def test_online_features_equal_those_of_training(home):
    report = materialise(home, USE_CASE, DAY, "test")
    store = open_store(home, USE_CASE)
    asked = candidates(home, KEYS)

    online = store.get_online_features(
        features=store.get_feature_service("category_propensity__online"), entity_rows=asked.to_pylist()
    ).to_df()
    offline = join_features(home, USE_CASE, store, at(asked, end_of_day(home, DAY))).to_pandas()

    keys = list(USE_CASE.keys)
    online, offline = (frame.set_index(keys).sort_index() for frame in (online, offline))
    names = [name for name in USE_CASE.features if name in online.columns]
    assert report.rows > len(online) == len(offline) == KEYS
    assert len(names) > 20
    assert {"purchase_days_decayed_180d", "days_since_purchase"} < set(names)
    ours, theirs = online[names].astype("float32"), offline[names].astype("float32")
    assert ours["days_since_purchase"].notna().all()
    assert int((~((ours == theirs) | (ours.isna() & theirs.isna()))).to_numpy().sum()) == 0


@pytest.mark.fault("F27")
def test_a_correction_that_came_later_does_not_change_what_was_known(home):
    snapshot = home.lake.folder / lake.snapshot_name(PAIR, DAY)
    ends = end_of_day(home, DAY)
    known = pq.read_table(snapshot, partitioning=None).slice(0, 50)
    corrected = known.set_column(
        known.schema.get_field_index("created_timestamp"),
        known.schema.field("created_timestamp"),
        pa.array([ends + timedelta(hours=2)] * known.num_rows, known.schema.field("created_timestamp").type),
    )
    index = known.schema.get_field_index("purchase_days_84d")
    wrong = pc.cast(pc.add(known.column(index), 100), pa.float32())
    corrected = corrected.set_column(index, known.schema.field(index), wrong)
    asked = known.select(list(USE_CASE.keys))
    store = open_store(home, USE_CASE)
    late = snapshot.with_name("part-1.parquet")
    pq.write_table(corrected, late)
    try:
        before = join_features(home, USE_CASE, store, at(asked, ends))
        after = join_features(home, USE_CASE, store, at(asked, ends + timedelta(hours=3)))
    finally:
        late.unlink()

    assert in_order(before) == in_order(known)
    assert in_order(after) == in_order(corrected)


def test_a_row_without_a_snapshot_of_its_date_is_refused(home):
    asked = at(candidates(home, 10), end_of_day(home, DAY + timedelta(days=2)))

    with pytest.raises(MissingPartition):
        join_features(home, USE_CASE, open_store(home, USE_CASE), asked)


def in_order(rows):
    ordered = rows.sort_by([(key, "ascending") for key in USE_CASE.keys])
    return ordered.column("purchase_days_84d").to_pylist()
