"""A night in many small partitions leaves the same rows as in one; a training of a sample looks at whole entities."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from toy import USE_CASE

from pipelines import lake, partitions, registry
from pipelines.engine import open_engine
from pipelines.feature_store import open_store
from pipelines.features import build_features
from pipelines.lineage import rebuild_training_set
from pipelines.publishing import Force, publish
from pipelines.scoring import score
from pipelines.storage import sql_list
from pipelines.training import train
from pipelines.training_set import load_snapshot, missed_positives, snapshot_dates

pytestmark = pytest.mark.slow
NIGHT, TRAINED = date(2017, 11, 26), date(2017, 11, 12)


def scores(settings, version):
    """What the lake holds of a night, ordered."""
    files = lake.files_where(settings.lake, USE_CASE.scores_table, lake.scored_by(NIGHT, version))
    query = f"SELECT * FROM read_parquet({sql_list(files)}, hive_partitioning = true) ORDER BY household_id, rank"
    with open_engine(settings) as connection:
        return connection.sql(query).to_arrow_table()


@pytest.mark.parametrize("who", ["champion", "rule", "nobody"])
def test_scores_do_not_depend_on_the_number_of_partitions(toy_home, monkeypatch, who):
    if who != "champion":
        registry.set_alias(toy_home, USE_CASE, registry.CHAMPION, None)
    if who == "nobody":
        monkeypatch.setattr("pipelines.scoring.last_mature", lambda *_: date(2016, 1, 1))
    whole = score(toy_home, USE_CASE, NIGHT, "whole")
    expected = scores(toy_home, whole.model_version)
    monkeypatch.setattr(partitions, "MOST_ROWS", 900)

    report = score(toy_home, USE_CASE, NIGHT, "parts")

    assert report == whole
    assert report.score_source == ("champion" if who == "champion" else "baseline")
    assert report.rows == expected.num_rows > 6000
    assert scores(toy_home, report.model_version).equals(expected)


def test_features_and_publication_do_not_depend_on_the_number_of_partitions(toy_home, monkeypatch):
    built = build_features(toy_home, USE_CASE, NIGHT, "whole")
    score(toy_home, USE_CASE, NIGHT, "whole")
    whole = publish(toy_home, USE_CASE, NIGHT, "whole")
    monkeypatch.setattr(partitions, "MOST_ROWS", 90_000)  # four times as many lines: some ranges of the year
    again = build_features(toy_home, USE_CASE, NIGHT, "parts")
    monkeypatch.setattr(partitions, "MOST_ROWS", 900)
    parts = publish(toy_home, USE_CASE, NIGHT, "parts", force=Force("test", "the same rows in parts"))

    assert again == built
    assert (parts.content_hash, parts.rows, parts.entities) == (whole.content_hash, whole.rows, whole.entities)


def test_a_training_of_more_rows_than_it_looks_at_takes_a_sample_of_whole_entities(toy_home):
    plan = USE_CASE.training.model_copy(update={"most_rows": 2000})
    few = USE_CASE.model_copy(update={"training": plan})

    report = train(toy_home, few, TRAINED, "sample")

    store, day = open_store(toy_home, few), snapshot_dates(few, TRAINED)[-1]
    whole, part = (load_snapshot(toy_home, one, store, day, only_sampled=False) for one in (USE_CASE, few))
    is_in = np.isin(whole.entities, np.unique(part.entities))
    assert 1500 < len(part.matrix) < 2500 < len(whole.matrix)
    assert part.rows.equals(whole.rows.filter(pa.array(is_in)))
    assert np.array_equal(part.matrix, whole.matrix[is_in], equal_nan=True)
    missed, of_part = (missed_positives(toy_home, one, day).num_rows for one in (USE_CASE, few))
    assert 0 < of_part < missed
    rebuilt = rebuild_training_set(toy_home, USE_CASE, report.model_version)
    assert rebuilt.rows == report.rows < 2500 * plan.snapshots
