"""Features of the real year: nothing of the future gets in, and equal inputs give equal versions."""

from datetime import date

import pyarrow.parquet as pq
import pytest

from pipelines import lake
from pipelines.errors import MissingPartition
from pipelines.features import build_features, feature_version
from pipelines.use_cases.category_propensity import USE_CASE

# In the second month, in the middle, and the last day before the closed one.
DATES = (date(2017, 2, 19), date(2017, 7, 5), date(2017, 12, 24))
TABLES = [table.name for table in USE_CASE.feature_tables]


@pytest.fixture(scope="module")
def whole(year_copy):
    """The whole year's home, in which the dates were built in ascending order."""
    settings = year_copy()
    for day in DATES:
        build_features(settings, USE_CASE, day, "test")
    return settings


def content(settings, table, day):
    return lake.content_hash(pq.read_table(lake.require_snapshot(settings.lake, table, day)[0], partitioning=None))


@pytest.mark.slow
@pytest.mark.parametrize("day", DATES, ids=str)
def test_later_data_does_not_change_the_features_of_a_date(whole, year_copy, day):
    cut = year_copy(until=day)
    on_disk = {file.parent.name for file in cut.lake.folder.glob("core__transactions/*/*.parquet")}
    assert max(on_disk) == f"business_date={day}"

    report = build_features(cut, USE_CASE, day, "test")

    assert report.rows > 10_000
    assert {name: content(cut, name, day) for name in TABLES} == {name: content(whole, name, day) for name in TABLES}
    assert report.feature_version == feature_version(whole, USE_CASE, day)


@pytest.mark.slow
def test_versions_depend_neither_on_the_order_of_dates_nor_on_threads(whole, year_copy):
    other = year_copy(threads=1)

    versions = {day: build_features(other, USE_CASE, day, "test").feature_version for day in reversed(DATES)}

    assert versions == {day: feature_version(whole, USE_CASE, day) for day in DATES}
    assert len(set(versions.values())) == len(DATES)


@pytest.mark.slow
def test_a_date_that_was_not_ingested_is_refused(year_copy):
    settings = year_copy(until=DATES[0])

    with pytest.raises(MissingPartition) as refused:
        build_features(settings, USE_CASE, date(2017, 2, 20), "test")

    assert "2017-02-20" in str(refused.value)
    assert not any((settings.lake.folder / name).exists() for name in TABLES)


def test_there_are_40_to_80_features_with_names_of_their_own():
    assert 40 <= len(USE_CASE.features) <= 80
    assert len(set(USE_CASE.features)) == len(USE_CASE.features)
