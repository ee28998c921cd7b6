"""A night in many small partitions leaves the same rows as in one, whoever scores it."""

from datetime import date

import pytest
from toy import USE_CASE

from pipelines import lake, partitions, registry
from pipelines.engine import open_engine
from pipelines.features import build_features
from pipelines.publishing import Force, publish
from pipelines.scoring import score
from pipelines.storage import sql_list

pytestmark = pytest.mark.slow
NIGHT = date(2017, 11, 26)


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
