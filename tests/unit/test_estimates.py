from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from pipelines.estimates import estimate_errors, expected_quality


def test_the_expected_auc_counts_every_pair_by_its_chance() -> None:
    p = np.array([0.9, 0.3, 0.3, 0.1])
    won = pairs = 0.0
    for i, j in permutations(range(4), 2):
        chance = p[i] * (1 - p[j])
        won += chance * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
        pairs += chance

    assert expected_quality(p)["auc"] == pytest.approx(won / pairs)
    assert expected_quality(np.array([0.5, 0.5]))["log_loss"] == pytest.approx(np.log(2))
    assert expected_quality(p[:1]) == {}


def test_of_calibrated_scores_the_estimate_is_what_comes_true() -> None:
    random = np.random.default_rng(5)
    p = random.beta(1, 9, size=100_000)
    happened = random.uniform(size=len(p)) < p

    found = expected_quality(p)

    assert found["auc"] == pytest.approx(roc_auc_score(happened, p), abs=0.006)
    assert found["log_loss"] == pytest.approx(log_loss(happened, p), abs=0.003)


def test_the_error_is_the_estimate_less_what_came_true() -> None:
    (error,) = estimate_errors(np.array([0.8, 0.2]), {"auc": 0.5}, "7")

    assert (error.metric, error.model_version, error.reference) == ("estimate_error_auc", "7", 0.5)
    assert error.value == pytest.approx(0.64 / 0.68 - 0.5)
