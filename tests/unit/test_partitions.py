"""Ranges of entities: each entity is in exactly one, in order, and what is computed range by range is the whole."""

from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import lake, partitions
from pipelines.engine import open_engine
from pipelines.partitions import WHOLE, entity_ranges, gathered

DAY = date(2017, 5, 1)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Of household 3 there are five rows, of the others two."""
    monkeypatch.setattr(partitions, "MOST_ROWS", 4)
    households = [1, 1, 2, 2, 3, 3, 3, 3, 3, 10, 10, 20, 20]
    pq.write_table(pa.table({"household_id": households, "row": range(13)}), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def read(settings, file, condition):
    with open_engine(settings) as connection:
        return connection.sql(f"SELECT * FROM '{file}' WHERE {condition} ORDER BY row").to_arrow_table()


def ranges_of(settings, file, entity="household_id"):
    with open_engine(settings) as connection:
        return entity_ranges(connection, f"'{file}'", entity)


def test_no_range_has_more_rows_than_the_limit_beside_its_first_entity(settings, file):
    ranges = ranges_of(settings, file)
    rows = [read(settings, file, one)["household_id"].to_pylist() for one in ranges]

    # rows are counted to the end of each entity, a limit of four at a time: 2 and 4, 9, 11, 13
    assert rows == [[1, 1, 2, 2], [3, 3, 3, 3, 3, 10, 10], [20, 20]]


def test_an_entity_that_the_file_does_not_have_is_in_one_range_too(settings, file):
    ranges = ranges_of(settings, file)
    with open_engine(settings) as connection:
        for stranger in (-5, 0, 4, 9, 11, 2**62):
            held = [
                connection.sql(f"SELECT {one} FROM (SELECT {stranger}::BIGINT AS household_id)").fetchall()[0][0]
                for one in ranges
            ]
            assert held.count(True) == 1


def test_few_rows_are_one_range(settings, file, monkeypatch):
    monkeypatch.setattr(partitions, "MOST_ROWS", 13)

    assert ranges_of(settings, file) == [WHOLE]


def test_entities_may_be_words(settings, file, tmp_path):
    pq.write_table(pa.table({"shop": ["a'b", "a'b", "a'b", "b", "b", "c", "c"]}), tmp_path / "words.parquet")
    ranges = ranges_of(settings, tmp_path / "words.parquet", "shop")

    assert ranges[0].startswith("shop < ")
    assert len(ranges) == 2


def test_what_is_gathered_are_the_rows_of_every_range_in_order(settings, file):
    ranges = ranges_of(settings, file)
    whole = read(settings, file, WHOLE)
    with gathered(settings, len(ranges), (read(settings, file, one) for one in ranges)) as rows:
        assert (rows.num_rows, rows.column_names) == (13, ["household_id", "row"])
        assert rows.to_reader().read_all().equals(whole)
        assert lake.content_hash(rows) == lake.content_hash(whole)
    assert not list((settings.home / "scratch").glob("tmp*"))


def test_a_snapshot_in_parts_is_that_of_the_whole(settings, file):
    words = [None, "a", "", None, "b", *["c"] * 8]
    flags = [True, None, False, *[True] * 10]

    def compute(condition):
        rows = read(settings, file, condition)
        picked = rows["row"].to_pylist()
        told = pa.array([words[row] for row in picked], pa.string()), pa.array([flags[row] for row in picked])
        return rows.append_column("word", told[0]).append_column("is_new", told[1])

    lake.replace_snapshot(settings.lake, "features__t", compute(WHOLE), DAY)
    whole = lake.require_snapshot(settings.lake, "features__t", DAY)
    ranges = ranges_of(settings, file)
    with gathered(settings, len(ranges), map(compute, ranges)) as rows:
        written = lake.replace_snapshot(settings.lake, "features__parts", rows, DAY)
    parts = lake.require_snapshot(settings.lake, "features__parts", DAY)

    assert written.version == parts[1] == whole[1]
    assert written.rows == 13
    assert pq.read_table(parts[0], partitioning=None).equals(pq.read_table(whole[0], partitioning=None))


def test_an_error_in_one_range_is_that_of_the_whole(settings, file):
    def fail(condition):
        raise ValueError(condition)

    ranges = ranges_of(settings, file)
    with pytest.raises(ValueError, match="household_id < "), gathered(settings, len(ranges), map(fail, ranges)):
        pass
