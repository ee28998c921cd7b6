import numpy as np
import pyarrow as pa
import pytest
from corner_shop import DAY, SHOP

from pipelines.metrics import quality
from pipelines.realised import auc_by_entity, realised


def crowd(households: int = 300) -> pa.Table:
    """Households with six candidates each, which come true less often than their scores say."""
    random = np.random.default_rng(7)
    score = np.round(random.uniform(0.02, 0.7, size=6 * households), 2)
    return pa.table(
        {
            "as_of": [DAY] * len(score),
            "household_id": np.repeat(np.arange(households), 6),
            "product_category": np.tile([f"item {n}" for n in range(6)], households),
            "is_candidate": [True] * len(score),
            "is_positive": random.uniform(size=len(score)) < 0.6 * score,
            "value_usd": random.uniform(1, 9, size=len(score)),
            "score": score,
        }
    )


def test_figures_of_everything_are_those_of_metrics() -> None:
    scored = crowd()
    named = quality(SHOP, scored, is_probability=True).named(SHOP.top_n)

    found = realised(SHOP, scored, is_probability=True)

    assert {key: one.value for key, one in found.items()} == {
        (name, "all"): pytest.approx(value) for name, value in named.items()
    }


@pytest.mark.parametrize("metric", ["auc", "log_loss", "ece", "ndcg_at_2", "value_captured_at_2"])
def test_the_error_is_that_of_a_bootstrap_of_whole_households(metric: str) -> None:
    scored = crowd()
    # Each household counts twice over: as lines resemble each other, the second half of them tells nothing new.
    twin = pa.concat_tables([scored, scored.set_column(2, "product_category", pa.array(["twin"] * scored.num_rows))])
    found = realised(SHOP, twin, is_probability=True)[metric, "all"]
    entity, random = np.asarray(twin.column("household_id")), np.random.default_rng(1)
    rows_of = [np.flatnonzero(entity == who) for who in range(300)]
    draws = []
    for _ in range(200):
        drawn = random.integers(0, 300, size=300)
        picked = np.concatenate([rows_of[who] for who in drawn])
        names = pa.array(np.repeat(np.arange(300), [len(rows_of[who]) for who in drawn]))
        draw = twin.take(pa.array(picked)).set_column(1, "household_id", names)
        draws.append(realised(SHOP, draw, is_probability=True)[metric, "all"].value)

    assert found.error == pytest.approx(np.std(draws), rel=0.2)


def test_ties_count_half_and_rows_that_all_came_true_have_no_auc() -> None:
    score, entity = np.array([0.5, 0.5, 0.9]), np.array([1, 1, 2])

    assert auc_by_entity(np.array([True, False, False]), score, entity).value == 0.25
    assert np.isnan(auc_by_entity(np.array([True, True, True]), score, entity).value)


def test_a_slice_that_cuts_through_lists_has_no_figures_of_lists() -> None:
    scored = crowd()
    entity = np.asarray(scored.column("household_id"))
    slices = {"few": entity < 50, "likely": np.asarray(scored.column("score")) > 0.3}

    found = realised(SHOP, scored, slices=slices, is_probability=True)

    mine = scored.filter(pa.array(entity < 50))
    assert found["ndcg_at_2", "few"].value == pytest.approx(quality(SHOP, mine, is_probability=True).ndcg_at_n)
    assert ("auc", "likely") in found
    assert ("ndcg_at_2", "likely") not in found
