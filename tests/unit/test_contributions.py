"""What each feature adds to a score: the short way gives what LightGBM itself gives."""

import lightgbm
import numpy as np
import pytest

from pipelines.contributions import tree_contributions


@pytest.mark.parametrize("leaves", [2, 31, 100])
@pytest.mark.parametrize("objective", ["binary", "lambdarank"])
def test_contributions_by_distinct_rows_are_those_of_lightgbm(leaves, objective):
    drawn = np.random.default_rng(0)
    matrix = drawn.integers(-3, 4, (3000, 12)).astype(np.float32)
    matrix[drawn.random(matrix.shape) < 0.1] = np.nan
    label = (np.nan_to_num(matrix[:, 0]) + drawn.normal(size=3000) > 0).astype(float)
    groups = {"group": [30] * 100} if objective == "lambdarank" else {}
    booster = lightgbm.train(
        {"objective": objective, "num_leaves": leaves, "min_data_in_leaf": 5, "verbosity": -1},
        lightgbm.Dataset(matrix, label=label, **groups),
        num_boost_round=20,
    )

    found = tree_contributions(booster, matrix, threads=1)

    assert found == pytest.approx(booster.predict(matrix, pred_contrib=True), abs=1e-9)
    assert found.sum(axis=1) == pytest.approx(booster.predict(matrix, raw_score=True), abs=1e-9)


def test_trees_without_splits_leave_the_base_alone():
    matrix = np.zeros((4, 2), np.float32)
    booster = lightgbm.train(
        {"objective": "binary", "verbosity": -1, "boost_from_average": True},
        lightgbm.Dataset(matrix, label=[0, 1, 1, 1]),
        num_boost_round=3,
    )

    found = tree_contributions(booster, matrix, threads=1)

    assert found == pytest.approx(booster.predict(matrix, pred_contrib=True), abs=1e-12)
