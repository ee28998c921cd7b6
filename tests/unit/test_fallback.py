"""What stands in for a model: rates of a rule's values, and popular items on lists that are short."""

import numpy as np
import pyarrow as pa
import pytest
from corner_shop import SHOP, day, sell

from pipelines.fallback import as_probability, popular_lists

POPULAR = """
    SELECT * FROM (VALUES ('MILK', 0.5, 'north'), ('BEER', 0.4, 'north'), ('FUEL', 0.9, 'north'),
        ('BREAD', 0.6, NULL), ('MILK', 0.3, NULL), ('BEER', 0.2, NULL), ('FUEL', 0.9, NULL)
    ) AS t (product_category, probability, segment) WHERE $as_of IS NOT NULL
"""
SEGMENTS = """
    SELECT household_id, CASE household_id WHEN 1 THEN 'north' WHEN 2 THEN 'north' WHEN 3 THEN 'south' END AS region,
           'old' AS age FROM core__transactions GROUP BY household_id
"""
THREE = SHOP.model_copy(update={"top_n": 3, "popular_sql": POPULAR, "segments_sql": SEGMENTS})


@pytest.fixture
def shop(settings):
    """Four households have shopped by day 0; of the fourth no segment is known."""
    sell(settings, 0, purchases=[(0, household, 1, "1.00") for household in (1, 2, 3, 4)])
    return settings


def ranked(*rows):
    kinds = pa.schema([("household_id", pa.int64()), ("product_category", pa.string()), ("score", pa.float64())])
    given = [dict(zip((*kinds.names, "rank"), row, strict=True)) for row in rows]
    return pa.Table.from_pylist(given, kinds.append(pa.field("rank", pa.int32())))


def lists(shop, use_case, *candidates):
    with popular_lists(shop, use_case, day(0)) as fill:
        rows = fill(ranked(*candidates)).to_pylist()
    found = {}
    for row in rows:
        found.setdefault(row["household_id"], []).append((row["rank"], row["product_category"], row["score"]))
    return found, rows


def test_lists_are_filled_with_the_popular_items_of_the_segment_then_of_all(shop):
    found, rows = lists(shop, THREE)

    assert found[1] == found[2] == [(1, "MILK", 0.5), (2, "BEER", 0.4), (3, "BREAD", 0.4)]  # of all, but no higher
    assert found[3] == found[4] == [(1, "BREAD", 0.6), (2, "MILK", 0.3), (3, "BEER", 0.2)]
    reasons = {(row["household_id"], row["product_category"]): row["reason_1"] for row in rows}
    assert reasons[1, "MILK"] == "popular in the segment region north"
    assert reasons[1, "BREAD"] == reasons[3, "MILK"] == "popular with all"
    assert {(row["score_source"], row["is_low_confidence"]) for row in rows} == {("cold_start", True)}


def test_popular_items_follow_the_candidates_and_score_no_more_than_the_last_of_them(shop):
    found, _ = lists(shop, THREE, (1, "BEER", 0.9, 1), (1, "BREAD", 0.45, 2), (3, "MILK", 0.25, 1))

    assert found[1] == [(3, "MILK", 0.45)]
    assert found[3] == [(2, "BREAD", 0.25), (3, "BEER", 0.2)]


def test_a_full_list_is_left_alone_and_excluded_items_are_never_offered(shop):
    full = [(1, "BEER", 0.9, 1), (1, "BREAD", 0.5, 2), (1, "MILK", 0.4, 3)]
    found, rows = lists(shop, THREE, *full)

    assert 1 not in found
    assert "FUEL" not in {row["product_category"] for row in rows}


def test_a_use_case_without_segments_offers_what_is_popular_with_all(shop):
    found, rows = lists(shop, SHOP, (2, "BEER", 0.4, 1))

    assert found[1] == [(1, "MILK", 0.5)]
    assert found[2] == [(2, "MILK", 0.4)]
    assert {row["reason_1"] for row in rows} == {"popular with all"}


def test_an_entity_with_candidates_that_is_not_active_has_a_full_list_too(shop):
    found, _ = lists(shop, SHOP, (9, "BEER", 0.4, 1))

    assert found[9] == [(2, "MILK", 0.4)]


def test_lists_are_filled_the_same_for_some_entities_at_a_time(shop):
    candidates = [(1, "BEER", 0.9, 1), (2, "BREAD", 0.45, 1), (9, "MILK", 0.25, 1)]
    with popular_lists(shop, THREE, day(0)) as fill:
        whole = fill(ranked(*candidates)).to_pylist()
        parts = [
            *fill(ranked(*candidates[:1]), "household_id < '2'").to_pylist(),
            *fill(ranked(*candidates[1:]), "household_id >= '2'").to_pylist(),
        ]

    assert parts == whole
    assert {row["household_id"] for row in whole} == {1, 2, 3, 4, 9}


def test_a_rules_values_become_the_rates_that_they_had_and_never_fall():
    # 600 rows at value 1, of which 60 were positive; 600 at value 2, 300; 600 at 3, 240: no less than at 2
    past = np.repeat([1.0, 2.0, 3.0], 600)
    positive = np.concatenate([np.arange(600) < hits for hits in (60, 300, 240)])

    found = as_probability(past, positive, np.array([-5, 1, 1.5, 2, 2.5, 3, 99, np.finfo(float).min]))

    assert found == pytest.approx([0.1, 0.1, 0.275, 0.45, 0.45, 0.45, 0.45, 0.1])


def test_few_rows_give_one_rate_for_all():
    assert as_probability(np.array([1.0, 2, 3, 4]), np.array([True, False, False, False]), np.array([0.0, 9])) == (
        pytest.approx([0.25, 0.25])
    )
