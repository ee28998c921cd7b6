"""Publishing: readers see the best rows, once, and never a refused set."""

import pyarrow as pa
import pytest
import sqlalchemy as sa
from corner_shop import LISTS, SHOP, day, keep_scores, open_shop, rows_of

from pipelines import tables, warehouse
from pipelines.errors import AuditRefused, MissingPartition
from pipelines.publishing import is_as_published, publish, record_erasure
from pipelines.scoring import rank_candidates

pytestmark = pytest.mark.usefixtures("database")

SCORES = tables.scores_table(SHOP)


@pytest.fixture
def shop(settings):
    open_shop(settings)
    return settings


def _published(settings):
    return [(row["household_id"], row["product_category"], row["rank"]) for row in rows_of(settings, SCORES)]


def test_publish_puts_the_top_n_of_each_household_before_readers(shop):
    keep_scores(shop, LISTS)
    report = publish(shop, SHOP, day(0), "run-1", "1")
    assert (report.rows, report.entities, report.is_changed) == (3, 2, True)
    assert _published(shop) == [(1, "BREAD", 1), (1, "BEER", 2), (2, "BEER", 1)]
    with warehouse.open_warehouse(shop) as connection:
        latest = connection.execute(sa.text("SELECT count(*) FROM scores__corner_shop_latest")).scalar()
    assert latest == 3


def test_publishing_the_same_rows_again_changes_nothing_and_logs_nothing(shop):
    keep_scores(shop, LISTS)
    publish(shop, SHOP, day(0), "run-1", "1")
    again = publish(shop, SHOP, day(0), "run-2", "1")
    assert not again.is_changed
    assert {row["run_id"] for row in rows_of(shop, SCORES)} == {"run-1"}
    assert len(rows_of(shop, tables.PUBLISH_LOG)) == 1


def test_publishing_another_model_replaces_the_whole_date(shop):
    keep_scores(shop, LISTS)
    publish(shop, SHOP, day(0), "run-1", "1")
    keep_scores(shop, [(1, "MILK", 0.5, 1), (2, "BEER", 0.4, 1)], version="2")
    assert publish(shop, SHOP, day(0), "run-2", "2").is_changed
    assert _published(shop) == [(1, "MILK", 1), (2, "BEER", 1)]
    assert {row["model_version"] for row in rows_of(shop, SCORES)} == {"2"}


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ([(1, "BREAD", 1.9, 1), (2, "BEER", 0.4, 1)], "score"),
        ([(1, "BREAD", 0.5, 1), (1, "BEER", 0.9, 2), (2, "BEER", 0.4, 1)], "scores_fall_with_rank"),
        ([(1, "BREAD", 0.5, 2), (2, "BEER", 0.4, 1)], "rank"),
        ([(1, "FUEL", 0.5, 1), (2, "BEER", 0.4, 1)], "product_category"),
        ([(1, "BREAD", 0.5, 1)], "score"),  # household 2 is missing
        ([(1, "BREAD", 0.5, 1)], "missing_rows"),
    ],
)
def test_a_faulty_set_is_refused_and_readers_keep_the_last_one(shop, fault, named):
    keep_scores(shop, LISTS)
    publish(shop, SHOP, day(0), "run-1", "1")
    before = rows_of(shop, SCORES)
    keep_scores(shop, fault, version="2")
    with pytest.raises(AuditRefused) as refused:
        publish(shop, SHOP, day(0), "run-2", "2")
    assert named in str(refused.value)
    assert rows_of(shop, SCORES) == before


def test_what_an_erasure_takes_out_is_told_to_the_log_and_an_edit_is_not(shop):
    keep_scores(shop, LISTS)
    publish(shop, SHOP, day(0), "run-1", "1")
    with warehouse.open_warehouse(shop) as connection:
        assert is_as_published(connection, SHOP, day(0))
        connection.execute(sa.delete(SCORES).where(SCORES.c.household_id == 2))
        assert not is_as_published(connection, SHOP, day(0))
        record_erasure(connection, SHOP, day(0), "erasure")
        assert is_as_published(connection, SHOP, day(0))
        connection.execute(sa.update(SCORES).values(score=0.95).where(SCORES.c.rank == 1))
        assert not is_as_published(connection, SHOP, day(0))
    assert [(row["status"], row["rows"]) for row in rows_of(shop, tables.PUBLISH_LOG)] == [
        ("published", 3),
        ("erased", 2),
    ]


def test_publishing_what_was_never_scored_is_an_error_with_the_remedy(shop):
    with pytest.raises(MissingPartition, match="nightjar score"):
        publish(shop, SHOP, day(0), "run-1", "7")


def test_ranks_run_from_one_and_ties_are_broken_by_the_item(settings):
    rows = pa.Table.from_pylist(
        [
            {"household_id": 1, "product_category": "MILK", "score": 0.5},
            {"household_id": 1, "product_category": "BEER", "score": 0.5},
            {"household_id": 1, "product_category": "BREAD", "score": 0.7},
        ]
    )
    ranked = rank_candidates(settings, SHOP, rows).to_pylist()
    assert [(row["product_category"], row["rank"]) for row in ranked] == [("BREAD", 1), ("BEER", 2), ("MILK", 3)]
